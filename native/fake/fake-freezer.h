/* Is the cgroup of a process frozen? v1 (freezer.state) and v2 (cgroup.events), where the host has them mounted. */
#ifndef KYBERNATE_FAKE_FREEZER_H
#define KYBERNATE_FAKE_FREEZER_H
#include "fake-gpu.h"

/* Mount point and root of the freezer (v1) or of the unified hierarchy (v2). */
static int find_mount(int v1, char *point, char *root)
{
	char line[2048], options[1024], type[64];
	FILE *mounts = fopen("/proc/self/mountinfo", "re");
	int found = 0;
	while (mounts && !found && fgets(line, sizeof(line), mounts)) {
		char *rest = strstr(line, " - ");
		if (!rest || sscanf(line, "%*d %*d %*s %255s %255s", root, point) != 2 ||
		    sscanf(rest, " - %63s %*s %1023s", type, options) != 2)
			continue;
		found = v1 ? !strcmp(type, "cgroup") && strstr(options, "freezer") : !strcmp(type, "cgroup2");
	}
	if (mounts)
		fclose(mounts);
	return found;
}

static int frozen_in(int v1, const char *cgroup)
{
	char point[256], root[256], path[2048], text[256];
	if (!find_mount(v1, point, root))
		return 0;
	size_t length = strlen(root);
	if (length > 1 && !strncmp(cgroup, root, length))
		cgroup += length;
	snprintf(path, sizeof(path), "%s%s/%s", point, cgroup, v1 ? "freezer.state" : "cgroup.events");
	if (slurp(path, text, sizeof(text)) <= 0)
		return 0;
	return v1 ? !strncmp(text, "FR", 2) : strstr(text, "frozen 1") != NULL;
}

static int is_frozen(int pid)
{
	char path[64], text[4096], *save = NULL;
	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	if (slurp(path, text, sizeof(text)) <= 0)
		return 0;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *controllers = strchr(line, ':'), *cgroup = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!cgroup)
			continue;
		*cgroup++ = 0;
		int v1 = strstr(controllers, "freezer") != NULL;
		if ((v1 || controllers[1] == 0) && frozen_in(v1, cgroup))
			return 1;
	}
	return 0;
}

#endif
