/*
 * Fake libcuda.so.1: the real ABI of the calls that native/cuda makes (cuda.h 12.8, 13.0 for the map), on processes of
 * this machine that pretend to use a GPU. Files and processes: fake-gpu.h. Behaves as driver 580 was seen to:
 *
 *   - a call in the wrong state is 401; no CUDA process 3; no process 304
 *   - GetState waits while the process is saved or restored
 *   - a call on a process whose cgroup is frozen waits until the thaw (calls.log has a line "frozen" then)
 *   - Restore without room is 2 and then 304 for ever; with a map it needs every device of the process in it
 *   - VRAM is moved into the memory of the process, and its device files are closed and opened again
 *
 * A line of `control` is <call> <pid|*> <nth|*> <action>, call without its prefix (GetState, Lock, ...), nth counted
 * since control was written:
 *
 *   error=<code>       nothing done            late-error=<code>   done, and yet an error
 *   slow=<ms>          takes that long         hang                goes on when `release` exists
 *   oom                2, then 304 for ever    not-ready           600 when the timeout of Lock is over
 *   gone               the process is killed   kill-caller         the calling process is killed
 *   corrupt            VRAM comes back wrong   failed              999, the process is in state FAILED
 *   together=<n>       goes on when n such calls have begun (304 after 5 s); only as the first line
 */
#include "fake-gpu.h"
#include "fake-memory.h"
#include "fake-freezer.h"

typedef struct {
	unsigned char bytes[16];
} CUuuid;
typedef struct {
	unsigned int timeoutMs, reserved0;
	uint64_t reserved1[7];
} CUcheckpointLockArgs;
typedef struct {
	CUuuid oldUuid, newUuid;
} CUcheckpointGpuPair;
typedef struct {
	CUcheckpointGpuPair *gpuPairs;
	unsigned int gpuPairsCount;
	char reserved[52 - sizeof(CUcheckpointGpuPair *)];
	uint64_t reserved1;
} CUcheckpointRestoreArgs;

static void pause_ms(long ms)
{
	struct timespec time = { ms / 1000, ms % 1000 * 1000000L };
	nanosleep(&time, NULL);
}

static double now_ms(void)
{
	struct timespec time;
	clock_gettime(CLOCK_REALTIME, &time);
	return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static void log_call(const char *call, int pid, const char *what, int result, double began)
{
	char path[512], line[256];
	double now = now_ms();
	int n = snprintf(line, sizeof(line),
			 "{\"time\":%.3f,\"call\":\"%s\",\"pid\":%d,\"what\":\"%s\",\"result\":%d,\"ms\":%.3f,\"caller\":%d}\n", now,
			 call, pid, what, result, now - began, getpid());
	int fd = open(fake_path(path, "calls.log"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd >= 0 && write(fd, line, n) < 0)
		errno = 0;
	close(fd);
}

/* Counts how often a line of control matched, over all processes that call. */
static int count_match(int line)
{
	char path[512], text[32];
	int fd = open(fake_path(path, "counts/%d", line), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return 0;
	flock(fd, LOCK_EX);
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	text[n < 0 ? 0 : n] = 0;
	int count = atoi(text) + 1;
	n = snprintf(text, sizeof(text), "%d", count);
	if (pwrite(fd, text, n, 0) != n)
		count = 0;
	close(fd);
	return count;
}

/* The action of the first line of control that says something about this call. */
static void find_action(const char *call, int pid, char *action, size_t max)
{
	char path[512], text[4096], *save = NULL, name[32], whom[16], nth[16], what[64];
	int number = 0;
	action[0] = 0;
	if (slurp(fake_path(path, "control"), text, sizeof(text)) <= 0)
		return;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save), number++) {
		if (sscanf(line, "%31s %15s %15s %63s", name, whom, nth, what) != 4 || strcmp(name, call) ||
		    (strcmp(whom, "*") && atoi(whom) != pid))
			continue;
		int count = count_match(number);
		if (!action[0] && (!strcmp(nth, "*") || atoi(nth) == count))
			snprintf(action, max, "%s", what);
	}
}

static int value_of(const char *action, const char *name, int *value)
{
	size_t length = strlen(name);
	if (strncmp(action, name, length) || action[length] != '=')
		return 0;
	*value = atoi(action + length + 1);
	return 1;
}

static void hang_until_released(int pid)
{
	char path[512];
	while (access(fake_path(path, "release"), F_OK) && process_alive(pid))
		pause_ms(5);
}

/* The line of control counts the calls; this one is the first of the file. */
static int wait_for_others(int wanted)
{
	char path[512], text[32];
	for (int i = 0; i < 1000; i++, pause_ms(5))
		if (slurp(fake_path(path, "counts/0"), text, sizeof(text)) > 0 && atoi(text) >= wanted)
			return -1;
	return 304;
}

/* What an action does before the call does anything; -1: the call goes on. */
static int before(const char *action, int pid, unsigned timeout_ms)
{
	int value;
	if (value_of(action, "together", &value))
		return wait_for_others(value);
	if (value_of(action, "error", &value))
		return value;
	if (value_of(action, "slow", &value))
		pause_ms(value);
	if (!strcmp(action, "hang"))
		hang_until_released(pid);
	if (!strcmp(action, "kill-caller"))
		kill(getpid(), SIGKILL);
	if (!strcmp(action, "gone")) {
		kill(pid, SIGKILL);
		return 304;
	}
	if (!strcmp(action, "not-ready")) {
		pause_ms(timeout_ms);
		return 600;
	}
	return -1;
}

/* The real driver may use as much of the stack as a thread has. */
static void use_stack(void)
{
	volatile char stack[4 << 20];
	for (size_t i = 0; i < sizeof(stack); i += 4096)
		stack[i] = 1;
}

static void wait_for_thaw(const char *call, int pid, double began)
{
	if (!is_frozen(pid))
		return;
	log_call(call, pid, "frozen", 0, began);
	while (is_frozen(pid) && process_alive(pid))
		pause_ms(5);
}

static int open_busy(const struct process *p)
{
	char path[512];
	return open(fake_path(path, "processes/%d-%llu.busy", p->pid, p->start), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

typedef int (*act_t)(struct process *, void *, const char *action);

/* The frame of Lock, Checkpoint, Restore and Unlock. */
static int transition(const char *call, int pid, int from, act_t act, void *args, unsigned timeout_ms)
{
	struct process p;
	char action[64];
	double began = now_ms();
	int busy = -1, late;
	/* counted before it is told: whoever is killed once it is seen to begin has had its turn */
	find_action(call, pid, action, sizeof(action));
	log_call(call, pid, "begin", 0, began);
	use_stack();
	wait_for_thaw(call, pid, began);
	int result = find_process(pid, &p);
	if (!result && (from == CHECKPOINTED || act == checkpoint_act)) {
		busy = open_busy(&p);
		flock(busy, LOCK_EX);
	}
	if (!result)
		result = (result = before(action, pid, timeout_ms)) < 0 ? find_process(pid, &p) : result;
	if (!result && p.state != from)
		result = 401;
	if (!result)
		result = act(&p, args, action);
	if (!result && !strcmp(action, "failed")) {
		p.state = FAILED;
		result = 999;
		keep_state(&p);
	} else if (!result) {
		keep_state(&p);
	}
	if (!result && value_of(action, "late-error", &late))
		result = late;
	if (busy >= 0)
		close(busy);
	log_call(call, pid, "end", result, began);
	return result;
}

static int lock_act(struct process *p, void *args, const char *action)
{
	(void)args;
	(void)action;
	p->state = LOCKED;
	return 0;
}

static int unlock_act(struct process *p, void *args, const char *action)
{
	(void)args;
	(void)action;
	p->state = RUNNING;
	return 0;
}

int cuCheckpointProcessGetState(int pid, int *state)
{
	struct process p;
	char action[64];
	double began = now_ms();
	find_action("GetState", pid, action, sizeof(action));
	int result = find_process(pid, &p);
	if (!result) {
		wait_for_thaw("GetState", pid, began);
		int busy = open_busy(&p);
		flock(busy, LOCK_SH);
		result = (result = before(action, pid, 0)) < 0 ? find_process(pid, &p) : result;
		close(busy);
	}
	if (!result)
		*state = p.state;
	log_call("GetState", pid, "end", result, began);
	return result;
}

int cuCheckpointProcessGetRestoreThreadId(int pid, int *tid)
{
	struct process p;
	int result = find_process(pid, &p);
	*tid = pid;
	return result;
}

int cuCheckpointProcessLock(int pid, CUcheckpointLockArgs *args)
{
	return transition("Lock", pid, RUNNING, lock_act, NULL, args ? args->timeoutMs : 0);
}

int cuCheckpointProcessCheckpoint(int pid, void *args)
{
	(void)args;
	return transition("Checkpoint", pid, LOCKED, checkpoint_act, NULL, 0);
}

int cuCheckpointProcessUnlock(int pid, void *args)
{
	(void)args;
	return transition("Unlock", pid, LOCKED, unlock_act, NULL, 0);
}

static void uuid_text(const CUuuid *uuid, char *into)
{
	char *at = into + sprintf(into, "GPU-");
	for (int i = 0; i < 16; i++)
		at += sprintf(at, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid->bytes[i]);
}

int cuCheckpointProcessRestore(int pid, CUcheckpointRestoreArgs *args)
{
	struct map map = { 0 };
	for (unsigned i = 0; args && i < args->gpuPairsCount && i < MAX_DEVICES; i++, map.count++) {
		uuid_text(&args->gpuPairs[i].oldUuid, map.from[i]);
		uuid_text(&args->gpuPairs[i].newUuid, map.to[i]);
	}
	return transition("Restore", pid, CHECKPOINTED, restore_act, &map, 0);
}

int cuGetErrorName(int code, const char **name)
{
	static const struct {
		int code;
		const char *name;
	} names[] = { { 0, "CUDA_SUCCESS" },
		      { 1, "CUDA_ERROR_INVALID_VALUE" },
		      { 2, "CUDA_ERROR_OUT_OF_MEMORY" },
		      { 3, "CUDA_ERROR_NOT_INITIALIZED" },
		      { 100, "CUDA_ERROR_NO_DEVICE" },
		      { 101, "CUDA_ERROR_INVALID_DEVICE" },
		      { 304, "CUDA_ERROR_OPERATING_SYSTEM" },
		      { 401, "CUDA_ERROR_ILLEGAL_STATE" },
		      { 600, "CUDA_ERROR_NOT_READY" },
		      { 801, "CUDA_ERROR_NOT_SUPPORTED" },
		      { 999, "CUDA_ERROR_UNKNOWN" } };
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].code == code) {
			*name = names[i].name;
			return 0;
		}
	*name = NULL;
	return 1;
}

int cuDriverGetVersion(int *version)
{
	char path[512], text[32];
	*version = slurp(fake_path(path, "api-version"), text, sizeof(text)) > 0 ? atoi(text) : 13000;
	return 0;
}
