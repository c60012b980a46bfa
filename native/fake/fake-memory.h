/* The acts that move "VRAM" (see fake-gpu.h), and the calls by which a process uses the fake GPU itself. */
#ifndef KYBERNATE_FAKE_MEMORY_H
#define KYBERNATE_FAKE_MEMORY_H
#include "fake-gpu.h"
#include <sys/mman.h>

struct map {
	int count;
	char from[MAX_DEVICES][48], to[MAX_DEVICES][48];
};

#define FIELD(name) (AREA_ADDRESS + offsetof(struct area, name))
#define CHUNK (1 << 20)

static int put(struct process *p, unsigned long address, const void *bytes, size_t count)
{
	return area_copy(p->pid, address, (void *)bytes, count, 1);
}

/* The process opens or closes its device files by itself, as the driver's thread inside it does. */
static int ask_device_files(struct process *p, uint32_t wanted)
{
	uint32_t holds = !wanted;
	if (!p->area.uses_nodes)
		return 0;
	put(p, FIELD(wanted), &wanted, sizeof(wanted));
	for (int i = 0; i < 1000; i++) {
		if (!area_copy(p->pid, FIELD(holds), &holds, sizeof(holds), 0))
			return 304;
		if (holds == wanted)
			return 0;
		if (holds == 2)
			return 801;
		struct timespec time = { 0, 5000000 };
		nanosleep(&time, NULL);
	}
	return 999;
}

/* VRAM that the workload has room for behind its page; charged to its memory cgroup, as with the real driver. */
static uint64_t content_bytes(const struct process *p)
{
	uint64_t room = p->area.bytes > sizeof(struct area) ? p->area.bytes - sizeof(struct area) : 0;
	return p->area.vram < room ? p->area.vram : room;
}

static int move_content(struct process *p, int save)
{
	static __thread unsigned char chunk[CHUNK], expected[CHUNK];
	memset(expected, 0x5a, CHUNK);
	for (uint64_t at = 0; at < content_bytes(p); at += CHUNK) {
		uint64_t left = content_bytes(p) - at, n = left < CHUNK ? left : CHUNK;
		unsigned long address = AREA_ADDRESS + sizeof(struct area) + at;
		if (!area_copy(p->pid, address, save ? expected : chunk, n, save))
			return 304;
		if (!save && memcmp(chunk, expected, n))
			return 999;
	}
	return 0;
}

static int checkpoint_act(struct process *p, void *args, const char *action)
{
	char path[512];
	uint32_t saved = 1;
	(void)args;
	(void)action;
	fake_path(path, "vram/%s-%d", p->area.id, p->pid);
	p->state = CHECKPOINTED;
	if (p->bare)
		return 0;
	int result = ask_device_files(p, 0);
	if (!result)
		result = move_content(p, 1);
	ssize_t n = slurp(path, p->area.token, sizeof(p->area.token));
	p->area.token_bytes = n < 0 ? 0 : n;
	if (!result && (!put(p, FIELD(token), p->area.token, sizeof(p->area.token)) ||
			!put(p, FIELD(token_bytes), &p->area.token_bytes, sizeof(uint32_t)) ||
			!put(p, FIELD(saved), &saved, sizeof(saved))))
		result = 304;
	if (!result)
		unlink(path);
	return result;
}

/* New devices and device files of the process; 1 when the map is not complete or a device is not there. */
static int apply_map(struct process *p, const struct map *map)
{
	struct device devices[MAX_DEVICES];
	char wanted[sizeof(p->area.devices)] = "", nodes[sizeof(p->area.nodes)] = "/dev/nvidiactl", was[sizeof(wanted)], *save = NULL;
	int count = fake_devices(devices), held = 0;
	snprintf(was, sizeof(was), "%s", p->area.devices);
	for (char *uuid = strtok_r(was, ",", &save); uuid; uuid = strtok_r(NULL, ",", &save), held++) {
		const char *to = map->count ? NULL : uuid;
		int found = 0;
		for (int i = 0; i < map->count; i++)
			to = strcmp(map->from[i], uuid) ? to : map->to[i];
		for (int i = 0; to && i < count; i++)
			if (!strcmp(devices[i].uuid, to)) {
				size_t w = strlen(wanted), n = strlen(nodes);
				found = 1;
				snprintf(wanted + w, sizeof(wanted) - w, "%s%s", w ? "," : "", to);
				snprintf(nodes + n, sizeof(nodes) - n, ",/dev/nvidia%d", devices[i].minor);
			}
		if (!found)
			return to ? 801 : 1;
	}
	if (map->count && map->count != held)
		return 1;
	memcpy(p->area.devices, wanted, sizeof(wanted));
	memcpy(p->area.nodes, nodes, sizeof(nodes));
	return 0;
}

static int has_room(struct process *p)
{
	struct device devices[MAX_DEVICES];
	int count = fake_devices(devices);
	for (int i = 0; i < count; i++)
		if (holds_device(p, devices[i].uuid) && free_bytes(&devices[i]) < p->area.vram)
			return 0;
	return 1;
}

static int restore_act(struct process *p, void *args, const char *action)
{
	char path[512];
	uint32_t saved = 0;
	if (p->poisoned)
		return 304;
	int result = apply_map(p, args);
	if (result)
		return result;
	if (!strcmp(action, "oom") || !has_room(p)) {
		p->poisoned = 1;
		keep_state(p);
		return 2;
	}
	p->state = LOCKED;
	if (p->bare)
		return 0;
	put(p, FIELD(devices), p->area.devices, sizeof(p->area.devices));
	put(p, FIELD(nodes), p->area.nodes, sizeof(p->area.nodes));
	if ((result = ask_device_files(p, 1)) || (result = move_content(p, 0)))
		return result;
	if (!strcmp(action, "corrupt")) {
		p->area.token[0] ^= 1;
		put(p, p->area.alloc_address + p->area.alloc_bytes / 2, "?", p->area.alloc_bytes ? 1 : 0);
	}
	spill(fake_path(path, "vram/%s-%d", p->area.id, p->pid), p->area.token, p->area.token_bytes);
	return put(p, FIELD(saved), &saved, sizeof(saved)) ? 0 : 304;
}

/* What follows is for a process that uses the fake GPU through this library: a page of its own, and plain memory. */
static struct area *own_area;

int cuInit(unsigned int flags)
{
	(void)flags;
	struct device devices[MAX_DEVICES];
	return fake_devices(devices) > 0 ? 0 : 100;
}

int cuDeviceGetCount(int *count)
{
	struct device devices[MAX_DEVICES];
	*count = fake_devices(devices);
	return *count < 0 ? 100 : 0;
}

int cuDeviceGet(int *device, int ordinal)
{
	struct device devices[MAX_DEVICES];
	*device = ordinal;
	return ordinal < fake_devices(devices) ? 0 : 101;
}

int cuDeviceGetName(char *into, int length, int device)
{
	struct device devices[MAX_DEVICES];
	snprintf(into, length, "%s", device < fake_devices(devices) ? devices[device].name : "");
	return 0;
}

int cuDeviceGetUuid_v2(unsigned char *into, int device)
{
	struct device devices[MAX_DEVICES];
	if (device >= fake_devices(devices))
		return 101;
	int n = 0;
	for (const char *at = devices[device].uuid + 4; *at && n < 16; at += *at == '-' ? 1 : 2)
		if (*at != '-' && sscanf(at, "%2hhx", &into[n]) == 1)
			n++;
	return 0;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device)
{
	struct device devices[MAX_DEVICES];
	*bytes = device < fake_devices(devices) ? devices[device].total : 0;
	return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
	(void)device;
	*value = attribute == 75 ? 9 : 0;
	return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device)
{
	struct device devices[MAX_DEVICES];
	if (device >= fake_devices(devices))
		return 101;
	void *at = mmap((void *)AREA_ADDRESS, sizeof(struct area), PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (at != (void *)AREA_ADDRESS)
		return 999;
	own_area = at;
	own_area->ns_pid = getpid();
	own_area->bytes = sizeof(struct area);
	snprintf(own_area->id, sizeof(own_area->id), "own");
	snprintf(own_area->devices, sizeof(own_area->devices), "%s", devices[device].uuid);
	memcpy(own_area->magic, AREA_MAGIC, 8);
	*context = at;
	return 0;
}

int cuCtxSetCurrent(void *context)
{
	return context == own_area ? 0 : 1;
}

int cuDevicePrimaryCtxRelease_v2(int device)
{
	(void)device;
	munmap(own_area, sizeof(struct area));
	own_area = NULL;
	return 0;
}

int cuMemAlloc_v2(uint64_t *address, size_t bytes)
{
	struct process self;
	if (!own_area || find_process(getpid(), &self))
		return 3;
	self.area.vram += bytes;
	self.state = CHECKPOINTED; /* what it has already does not count against it */
	if (!has_room(&self))
		return 2;
	void *memory = malloc(bytes);
	own_area->vram += bytes;
	own_area->alloc_address = *address = (uint64_t)memory;
	own_area->alloc_bytes = bytes;
	return 0;
}

int cuMemFree_v2(uint64_t address)
{
	free((void *)address);
	return 0;
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes)
{
	memcpy((void *)to, from, bytes);
	return 0;
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes)
{
	memcpy(to, (const void *)from, bytes);
	return 0;
}

int cuMemsetD32_v2(uint64_t to, unsigned int value, size_t count)
{
	for (size_t i = 0; i < count; i++)
		((unsigned int *)to)[i] = value;
	return 0;
}

#endif
