/*
 * What the fake libcuda and the fake NVML share: devices, processes and their state. Nothing lives in the library, so
 * that a worker, its runner, an agent and a test see the same machine. All of it lies below the directory that
 * KYBERNATE_FAKE_GPU names (test/harness/fake-gpu.ts makes it):
 *
 *   devices              a line each: uuid minor totalBytes name
 *   control              a line each: <call> <pid|*> <nth|*> <action>, see libcuda.c
 *   counts/              how often a line of control was looked at
 *   calls.log            a JSON line when a call begins and when it ends
 *   processes/<pid>-<start time>        state of a CUDA process: "<state> <poisoned>"
 *   processes/<pid>-<start time>.busy   locked while it is saved or restored
 *   vram/<id>-<pid>      what the process holds in VRAM (a token); gone while it is checkpointed
 *   release              when it exists, hanging calls go on
 *
 * A CUDA process is known by a page at a fixed address of its memory, `struct area`, that it made itself
 * (test/workloads/fake-gpu.py, or cuCtxCreate of the fake libcuda). Checkpoint copies the VRAM there and Restore takes
 * it from there, as the real driver does: a restore that lost memory has lost the VRAM, a process that comes back from
 * an image under another pid is found checkpointed, and clones have what the original had. A fork is no CUDA process,
 * since the pid in its copy of the page is its parent's. A process without the page counts when its environment has
 * FAKE_CUDA_BARE=<id> (and FAKE_CUDA_VRAM, FAKE_CUDA_DEVICES); it keeps nothing.
 */
#ifndef KYBERNATE_FAKE_GPU_H
#define KYBERNATE_FAKE_GPU_H
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define AREA_ADDRESS 0x6b7962000000UL
#define AREA_MAGIC "FAKECUDA"
#define MAX_DEVICES 16

struct area {
	char magic[8];
	uint32_t ns_pid; /* of its owner, innermost namespace */
	uint32_t saved;  /* 1: the rest holds what Checkpoint put there */
	uint64_t bytes;  /* of the mapping, this page included */
	uint64_t vram;   /* bytes on each of its devices */
	uint32_t wanted; /* 1: the process is to have its device files open, 0: closed */
	uint32_t holds;  /* its answer; 2: it could not open one */
	uint32_t uses_nodes;
	uint32_t token_bytes;
	char id[80];
	char devices[1024]; /* UUIDs, by commas */
	char nodes[368];    /* paths, by commas */
	uint64_t alloc_address; /* first allocation of a process that uses the fake libcuda itself */
	uint64_t alloc_bytes;
	char token[2560];
};

struct device {
	char uuid[48], name[80];
	int minor;
	unsigned long long total;
};

enum { RUNNING, LOCKED, CHECKPOINTED, FAILED };

struct process {
	int pid, state, poisoned, bare;
	unsigned long long start;
	struct area area;
};

static const char *fake_path(char *into, const char *format, ...)
{
	const char *dir = getenv("KYBERNATE_FAKE_GPU");
	va_list list;
	int n = snprintf(into, 512, "%s/", dir ? dir : "/nonexistent");
	va_start(list, format);
	vsnprintf(into + n, 512 - n, format, list);
	va_end(list);
	return into;
}

/* Whole file, zero-terminated; -1 when it is not there. */
static ssize_t slurp(const char *path, char *into, size_t max)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	size_t have = 0;
	ssize_t n;
	while (have + 1 < max && (n = read(fd, into + have, max - 1 - have)) > 0)
		have += n;
	close(fd);
	into[have] = 0;
	return have;
}

static void spill(const char *path, const void *bytes, size_t count)
{
	char temp[600];
	snprintf(temp, sizeof(temp), "%s.%d", path, gettid());
	int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	if (write(fd, bytes, count) != (ssize_t)count)
		unlink(temp);
	close(fd);
	rename(temp, path);
}

static int fake_devices(struct device *list)
{
	char path[512], text[8192], *save = NULL;
	int count = 0;
	if (slurp(fake_path(path, "devices"), text, sizeof(text)) < 0)
		return -1;
	for (char *line = strtok_r(text, "\n", &save); line && count < MAX_DEVICES; line = strtok_r(NULL, "\n", &save)) {
		struct device *d = &list[count];
		if (sscanf(line, "%47s %d %llu %79[^\n]", d->uuid, &d->minor, &d->total, d->name) == 4)
			count++;
	}
	return count;
}

/* Field of /proc/<pid>/stat behind the name: 1 is the state, 20 the start time; 0 when the process is gone. */
static int proc_stat(int pid, char *state, unsigned long long *start, int *parent)
{
	char path[64], text[1024];
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (slurp(path, text, sizeof(text)) <= 0)
		return 0;
	char *rest = strrchr(text, ')');
	return rest && sscanf(rest + 2, "%c %d %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
			      state, parent, start) == 3;
}

static int process_alive(int pid)
{
	char state;
	unsigned long long start;
	int parent;
	return proc_stat(pid, &state, &start, &parent) && state != 'Z' && state != 'X';
}

static unsigned innermost_pid(int pid)
{
	char path[64], text[4096];
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if (slurp(path, text, sizeof(text)) <= 0)
		return 0;
	char *line = strstr(text, "\nNSpid:"), *end = line ? strchr(line + 1, '\n') : NULL;
	if (!end)
		return 0;
	*end = 0;
	char *last = strrchr(line, '\t');
	return last ? atoi(last + 1) : 0;
}

static int area_copy(int pid, unsigned long address, void *bytes, size_t count, int write)
{
	struct iovec ours = { bytes, count }, theirs = { (void *)address, count };
	ssize_t n = write ? process_vm_writev(pid, &ours, 1, &theirs, 1, 0) : process_vm_readv(pid, &ours, 1, &theirs, 1, 0);
	return n == (ssize_t)count;
}

static void environment_value(const char *text, size_t bytes, const char *name, char *into, size_t max)
{
	size_t length = strlen(name);
	for (const char *at = text; at < text + bytes; at += strlen(at) + 1)
		if (!strncmp(at, name, length) && at[length] == '=')
			snprintf(into, max, "%s", at + length + 1);
}

static int bare_process(struct process *p)
{
	static __thread char text[65536];
	char path[64], vram[32] = "";
	snprintf(path, sizeof(path), "/proc/%d/environ", p->pid);
	ssize_t bytes = slurp(path, text, sizeof(text));
	if (bytes <= 0)
		return 0;
	memset(&p->area, 0, sizeof(p->area));
	environment_value(text, bytes, "FAKE_CUDA_BARE", p->area.id, sizeof(p->area.id));
	environment_value(text, bytes, "FAKE_CUDA_VRAM", vram, sizeof(vram));
	environment_value(text, bytes, "FAKE_CUDA_DEVICES", p->area.devices, sizeof(p->area.devices));
	p->area.vram = strtoull(vram, NULL, 10);
	p->bare = 1;
	return p->area.id[0] != 0;
}

/* 0: found; 3: no CUDA process; 304: gone. */
static int find_process(int pid, struct process *p)
{
	char state, path[512], text[64];
	int parent;
	memset(p, 0, sizeof(*p));
	p->pid = pid;
	if (pid <= 0 || !proc_stat(pid, &state, &p->start, &parent))
		return 304;
	if (state == 'Z' || state == 'X')
		return 3; /* the real driver answers so, too */
	int has = area_copy(pid, AREA_ADDRESS, &p->area, sizeof(p->area), 0) && !memcmp(p->area.magic, AREA_MAGIC, 8);
	if (has && p->area.ns_pid != innermost_pid(pid))
		return 3;
	if (!has && !bare_process(p))
		return 3;
	p->state = p->area.saved ? CHECKPOINTED : RUNNING;
	if (slurp(fake_path(path, "processes/%d-%llu", pid, p->start), text, sizeof(text)) > 0)
		sscanf(text, "%d %d", &p->state, &p->poisoned);
	return 0;
}

static void keep_state(struct process *p)
{
	char path[512], text[64];
	int n = snprintf(text, sizeof(text), "%d %d\n", p->state, p->poisoned);
	spill(fake_path(path, "processes/%d-%llu", p->pid, p->start), text, n);
}

static int holds_device(const struct process *p, const char *uuid)
{
	return strstr(p->area.devices, uuid) != NULL;
}

static unsigned long long used_on(const struct process *p, const char *uuid)
{
	return p->state != CHECKPOINTED && holds_device(p, uuid) ? p->area.vram : 0;
}

/* Calls `visit` for every CUDA process of the machine. */
static void each_process(void (*visit)(const struct process *, void *), void *with)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	struct process p;
	while (proc && (entry = readdir(proc)))
		if (atoi(entry->d_name) > 0 && find_process(atoi(entry->d_name), &p) == 0)
			visit(&p, with);
	if (proc)
		closedir(proc);
}

struct usage {
	const char *uuid;
	unsigned long long used;
};

static void add_usage(const struct process *p, void *with)
{
	struct usage *usage = with;
	usage->used += used_on(p, usage->uuid);
}

static unsigned long long free_bytes(const struct device *device)
{
	struct usage usage = { device->uuid, 0 };
	each_process(add_usage, &usage);
	return usage.used > device->total ? 0 : device->total - usage.used;
}

#endif
