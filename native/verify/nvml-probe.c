/* Prints sizes and offsets of what native/nvml/abi.ts describes, from the nvml.h of this machine. */
#include <nvml.h>
#include <stddef.h>
#include <stdio.h>

#define SIZE(type) printf("%s size %zu\n", #type, sizeof(type))
#define OFFSET(type, field) printf("%s %s %zu\n", #type, #field, offsetof(type, field))
#define VALUE(name, value) printf("value %s %d\n", name, (int)(value))

int main(void)
{
	SIZE(nvmlMemory_t);
	OFFSET(nvmlMemory_t, total);
	OFFSET(nvmlMemory_t, free);
	OFFSET(nvmlMemory_t, used);
	SIZE(nvmlProcessInfo_t);
	OFFSET(nvmlProcessInfo_t, pid);
	OFFSET(nvmlProcessInfo_t, usedGpuMemory);
	OFFSET(nvmlProcessInfo_t, gpuInstanceId);
	OFFSET(nvmlProcessInfo_t, computeInstanceId);
	VALUE("SUCCESS", NVML_SUCCESS);
	VALUE("NOT_SUPPORTED", NVML_ERROR_NOT_SUPPORTED);
	VALUE("INSUFFICIENT_SIZE", NVML_ERROR_INSUFFICIENT_SIZE);
	VALUE("DRIVER_NOT_LOADED", NVML_ERROR_DRIVER_NOT_LOADED);
	return 0;
}
