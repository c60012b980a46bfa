/* Fake libnvidia-ml.so.1 with the real ABI (nvml.h 12); devices and processes as fake-gpu.h says. */
#include "fake-gpu.h"

typedef struct device *nvmlDevice_t;
typedef struct {
	unsigned long long total, free, used;
} nvmlMemory_t;
typedef struct {
	unsigned int pid;
	unsigned long long usedGpuMemory;
	unsigned int gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_t;

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };

static struct device devices[MAX_DEVICES];
static int device_count = -1;

int nvmlInit_v2(void)
{
	device_count = fake_devices(devices);
	return device_count < 0 ? DRIVER_NOT_LOADED : OK;
}

int nvmlShutdown(void)
{
	return OK;
}

const char *nvmlErrorString(int code)
{
	switch (code) {
	case OK:
		return "Success";
	case NOT_SUPPORTED:
		return "Not Supported";
	case INSUFFICIENT_SIZE:
		return "Insufficient Size";
	case DRIVER_NOT_LOADED:
		return "Driver Not Loaded";
	default:
		return "Unknown Error";
	}
}

int nvmlSystemGetDriverVersion(char *into, unsigned int length)
{
	snprintf(into, length, "580.0.fake");
	return OK;
}

int nvmlDeviceGetCount_v2(unsigned int *count)
{
	if (device_count < 0)
		return UNINITIALIZED;
	*count = device_count;
	return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
	if ((int)index >= device_count)
		return INVALID_ARGUMENT;
	*device = &devices[index];
	return OK;
}

int nvmlDeviceGetUUID(nvmlDevice_t device, char *into, unsigned int length)
{
	snprintf(into, length, "%s", device->uuid);
	return OK;
}

int nvmlDeviceGetName(nvmlDevice_t device, char *into, unsigned int length)
{
	snprintf(into, length, "%s", device->name);
	return OK;
}

int nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor)
{
	*minor = device->minor;
	return OK;
}

/* A test may change a device while a worker lives. */
static void refresh(nvmlDevice_t device)
{
	struct device now[MAX_DEVICES];
	int count = fake_devices(now);
	for (int i = 0; i < count; i++)
		if (!strcmp(now[i].uuid, device->uuid))
			*device = now[i];
}

int nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
	refresh(device);
	memory->total = device->total;
	memory->free = free_bytes(device);
	memory->used = memory->total - memory->free;
	return OK;
}

int nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
	(void)device;
	*major = 9;
	*minor = 0;
	return OK;
}

/* A device whose name ends with "MIG" is in MIG mode. */
int nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
	refresh(device);
	size_t length = strlen(device->name);
	if (strstr(device->name, "no MIG"))
		return NOT_SUPPORTED;
	*current = *pending = length >= 3 && !strcmp(device->name + length - 3, "MIG");
	return OK;
}

struct listing {
	const char *uuid;
	nvmlProcessInfo_t *infos;
	unsigned int count, max;
};

static void list_process(const struct process *p, void *with)
{
	struct listing *listing = with;
	if (used_on(p, listing->uuid) == 0)
		return;
	if (listing->count < listing->max)
		listing->infos[listing->count] = (nvmlProcessInfo_t){ p->pid, used_on(p, listing->uuid), ~0u, ~0u };
	listing->count++;
}

int nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos)
{
	struct listing listing = { device->uuid, infos, 0, infos ? *count : 0 };
	each_process(list_process, &listing);
	*count = listing.count;
	return listing.count > listing.max ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos)
{
	(void)device;
	(void)infos;
	*count = 0;
	return OK;
}
