/* Prints sizes and offsets of what native/cuda/abi.ts describes, from the cuda.h of this machine. */
#include <cuda.h>
#include <stddef.h>
#include <stdio.h>

#define SIZE(type) printf("%s size %zu\n", #type, sizeof(type))
#define OFFSET(type, field) printf("%s %s %zu\n", #type, #field, offsetof(type, field))
#define VALUE(name, value) printf("value %s %d\n", name, (int)(value))

int main(void)
{
	VALUE("CUDA_VERSION", CUDA_VERSION);
	SIZE(CUuuid);
	SIZE(CUcheckpointLockArgs);
	OFFSET(CUcheckpointLockArgs, timeoutMs);
	OFFSET(CUcheckpointLockArgs, reserved0);
	OFFSET(CUcheckpointLockArgs, reserved1);
	SIZE(CUcheckpointCheckpointArgs);
	OFFSET(CUcheckpointCheckpointArgs, reserved);
	SIZE(CUcheckpointRestoreArgs);
#if CUDA_VERSION >= 13000
	SIZE(CUcheckpointGpuPair);
	OFFSET(CUcheckpointGpuPair, oldUuid);
	OFFSET(CUcheckpointGpuPair, newUuid);
	OFFSET(CUcheckpointRestoreArgs, gpuPairs);
	OFFSET(CUcheckpointRestoreArgs, gpuPairsCount);
	OFFSET(CUcheckpointRestoreArgs, reserved);
	OFFSET(CUcheckpointRestoreArgs, reserved1);
#endif
	SIZE(CUcheckpointUnlockArgs);
	OFFSET(CUcheckpointUnlockArgs, reserved);
	VALUE("SUCCESS", CUDA_SUCCESS);
	VALUE("INVALID_VALUE", CUDA_ERROR_INVALID_VALUE);
	VALUE("OUT_OF_MEMORY", CUDA_ERROR_OUT_OF_MEMORY);
	VALUE("NOT_INITIALIZED", CUDA_ERROR_NOT_INITIALIZED);
	VALUE("NO_DEVICE", CUDA_ERROR_NO_DEVICE);
	VALUE("OPERATING_SYSTEM", CUDA_ERROR_OPERATING_SYSTEM);
	VALUE("ILLEGAL_STATE", CUDA_ERROR_ILLEGAL_STATE);
	VALUE("NOT_READY", CUDA_ERROR_NOT_READY);
	VALUE("NOT_SUPPORTED", CUDA_ERROR_NOT_SUPPORTED);
	VALUE("running", CU_PROCESS_STATE_RUNNING);
	VALUE("locked", CU_PROCESS_STATE_LOCKED);
	VALUE("checkpointed", CU_PROCESS_STATE_CHECKPOINTED);
	VALUE("failed", CU_PROCESS_STATE_FAILED);
	VALUE("CAPABILITY_MAJOR", CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
	VALUE("CAPABILITY_MINOR", CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
	return 0;
}
