/*
 * criu-keeper: stands in front of `criu` in the PATH that runc gets, and keeps a container from running when CRIU dies.
 *
 * While CRIU dumps, the container's cgroup is thawed and its tasks are held by ptrace alone. When CRIU is killed, the
 * kernel lets its tracees run at once, with their TCP sockets still in repair mode: their next recv or send fails with
 * EPERM. Nobody who merely notices the death is in time. A tracer of CRIU is: the kernel stops CRIU at the beginning of
 * its exit (PTRACE_EVENT_EXIT), before it lets go of anything, and the tracer closes the freezer there. It is C because
 * it sits between runc and CRIU in every dump, must add no more than about a millisecond, and needs fork and ptrace.
 *
 * runc's child forks the keeper, waits until it is traced, and becomes the real CRIU itself: runc sees CRIU's own pid,
 * exit code and signals, and a keeper that dies leaves CRIU unharmed (the kernel detaches it). The keeper is an orphan,
 * since CRIU waits for any child of its own. Whenever something fails before, CRIU simply runs without a keeper.
 *
 *   PATH                 the next `criu` in it that is not this program is the real one
 *   KYBERNATE_FREEZER    freezer.state (cgroup v1) or cgroup.freeze (v2) of the container; absent: no keeper
 *   KYBERNATE_INIT_PID   the container's init: the freezer is closed only while CRIU traces it, so never for a CRIU
 *                        that was killed before the operation's freeze began, which nobody would undo
 *
 * A second SIGKILL that arrives before the freezer is closed ends the stop early: the window is then as without it.
 * Source: ptrace(2), PTRACE_EVENT_EXIT and "Group-stop"; kernel/exit.c, do_exit: ptrace_event comes before exit_files
 * and exit_notify.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int traces(pid_t tracer, const char *pid)
{
	char path[64], line[128];
	int found = 0;
	snprintf(path, sizeof(path), "/proc/%s/status", pid);
	FILE *status = fopen(path, "re");
	while (status && fgets(line, sizeof(line), status))
		if (!strncmp(line, "TracerPid:", 10))
			found = atoi(line + 10) == tracer;
	if (status)
		fclose(status);
	return found;
}

static void close_freezer(int fd, const char *path)
{
	const char *name = strrchr(path, '/');
	const char *word = name && !strcmp(name, "/freezer.state") ? "FROZEN" : "1";
	/* v1 interrupts the write when the task has a signal pending; all signals are blocked here, so once is enough. */
	if (write(fd, word, strlen(word)) < 0)
		return; /* the container is gone: nothing runs */
}

static int is_stop_signal(int sig)
{
	return sig == SIGSTOP || sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU;
}

/* Traces CRIU until it exits. `ready` is closed when CRIU may begin, at the latest by the exit of this process. */
static void keep(pid_t criu, int ready, const char *path, const char *init)
{
	int status;
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL); /* it ends when CRIU does, and not before */
	setsid();
	prctl(PR_SET_NAME, "criu-keeper");
	int freezer = open(path, O_WRONLY | O_CLOEXEC);
	/* Of all that was inherited only these two stay open: runc must see the end of the RPC socket when CRIU dies. */
	if (freezer < 0 || dup2(ready, 0) < 0 || dup2(freezer, 1) < 0 || close_range(2, ~0U, 0) < 0)
		return;
	if (ptrace(PTRACE_SEIZE, criu, NULL, (void *)PTRACE_O_TRACEEXIT) < 0)
		return;
	close(0);
	while (waitpid(criu, &status, __WALL) == criu && WIFSTOPPED(status)) {
		int sig = WSTOPSIG(status), event = status >> 16;
		unsigned long code = 0;
		if (event == PTRACE_EVENT_EXIT) {
			long known = ptrace(PTRACE_GETEVENTMSG, criu, NULL, &code);
			if ((known < 0 || WIFSIGNALED((int)code)) && traces(criu, init))
				close_freezer(1, path);
			ptrace(PTRACE_DETACH, criu, NULL, NULL);
			return;
		}
		if (event == PTRACE_EVENT_STOP && is_stop_signal(sig))
			ptrace(PTRACE_LISTEN, criu, NULL, NULL);
		else
			ptrace(PTRACE_CONT, criu, NULL, (void *)(long)(event ? 0 : sig));
	}
}

static void start_keeper(const char *freezer, const char *init)
{
	int ready[2];
	char byte;
	pid_t criu = getpid();
	if (pipe2(ready, O_CLOEXEC) < 0)
		return;
	pid_t child = fork();
	if (child == 0) {
		if (fork() == 0)
			keep(criu, ready[1], freezer, init);
		_exit(0);
	}
	close(ready[1]);
	if (child > 0)
		waitpid(child, NULL, 0);
	/* End of file: it traces this process, or it has given up. */
	while (read(ready[0], &byte, 1) < 0 && errno == EINTR)
		continue;
	close(ready[0]);
}

/* Becomes the next `criu` of PATH; returns when there is none. */
static void exec_criu(char **argv)
{
	struct stat self, file;
	char path[4096];
	if (stat("/proc/self/exe", &self) < 0)
		return;
	for (const char *dir = getenv("PATH"); dir && *dir; dir += *dir == ':') {
		int length = (int)strcspn(dir, ":");
		snprintf(path, sizeof(path), "%.*s/criu", length, dir);
		dir += length;
		if (length == 0 || stat(path, &file) < 0 || (file.st_dev == self.st_dev && file.st_ino == self.st_ino))
			continue;
		execv(path, argv);
	}
}

int main(int argc, char **argv)
{
	const char *freezer = getenv("KYBERNATE_FREEZER"), *init = getenv("KYBERNATE_INIT_PID");
	/* The service that runc speaks to; everything else is a question that ends at once. */
	if (argc > 1 && !strcmp(argv[1], "swrk") && freezer && init)
		start_keeper(freezer, init);
	exec_criu(argv);
	fprintf(stderr, "criu-keeper: no criu on PATH that runs\n");
	return 127;
}
