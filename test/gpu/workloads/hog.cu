/*
 * Takes GPU memory away from others, and tells in /tmp/state.json what it holds.
 *
 * usage: hog <MiB to leave free> [now]
 *   now   leaves nothing for anybody else from the start on; otherwise it waits until somebody takes from what it left
 *         (a restore that begins), and takes all the rest then
 * It lets everything go when /tmp/release exists, and ends.
 * nvcc -O2 -o hog hog.cu, or c++ -x c++ -DHOST_ONLY -O2 -o hog hog.cu for a machine without a GPU: it takes nothing then.
 */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

static void tell(const char *phase, size_t held, size_t left) {
  FILE *file = fopen("/tmp/state.new", "w");
  if (file != nullptr) {
    fprintf(file, "{\"phase\":\"%s\",\"heldMib\":%zu,\"freeMib\":%zu}\n", phase, held >> 20, left >> 20);
    fclose(file);
    rename("/tmp/state.new", "/tmp/state.json");
  }
}

#ifdef HOST_ONLY
static size_t free_bytes() { return 0; }
static bool take(size_t) { return false; }
#else
#include <cuda_runtime.h>
static size_t free_bytes() {
  size_t left = 0, total = 0;
  return cudaMemGetInfo(&left, &total) == cudaSuccess ? left : 0;
}
static bool take(size_t bytes) {
  void *memory = nullptr;
  bool taken = cudaMalloc(&memory, bytes) == cudaSuccess;
  cudaGetLastError();
  return taken;
}
#endif

static const size_t MIB = 1 << 20;

static size_t take_all() {
  size_t held = 0;
  for (size_t piece = 256 * MIB; piece >= 2 * MIB; piece /= 2) {
    while (take(piece)) {
      held += piece;
    }
  }
  return held;
}

int main(int argc, char **argv) {
  size_t leave = (argc > 1 ? atol(argv[1]) : 0) * MIB;
  size_t held = 0;
  for (size_t piece = 1024 * MIB; piece >= 2 * MIB; piece /= 2) {
    while (free_bytes() >= leave + piece && take(piece)) {
      held += piece;
    }
  }
  size_t left = free_bytes();
  bool waits = argc < 3 || strcmp(argv[2], "now") != 0;
  tell(waits ? "waiting" : "grabbed", held, left);
  while (access("/tmp/release", F_OK) != 0) {
    if (!waits) {
      held += take_all();
      usleep(1000);
      continue;
    }
    // No sleep: what a restore takes first is a context, which lasts some hundred milliseconds.
    size_t now = free_bytes();
    if (now != 0 && now + 8 * MIB < left) {
      held += take_all();
      tell("grabbed", held, now);
      waits = false;
    }
  }
  return 0;
}
