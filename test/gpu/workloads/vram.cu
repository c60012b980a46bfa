/*
 * Fills GPU memory with numbers that a kernel can compute again, checks every one of them in each tick, and tells in
 * /tmp/state.json. Three random tokens are made at the start: one lives in GPU memory alone, one in CPU memory, one in
 * a file of the container's own layer (open all the time, and read again by its path).
 *
 * usage: vram <MiB> [name=<word>] [spin=<ms>] [tick=<ms>] [managed]
 *   name     tells in /tmp/<word>.json, its token file is /data/<word>: for several of them in one container
 * A second thread beats every 5 ms without a CUDA call. When it finds that it stood still for long, as in a dump, it counts
 * how often it beats before the first thread comes out of its next CUDA call: /tmp/<word>-held.json.
 *   spin     a kernel of that length in every tick
 *   managed  16 MiB of managed memory, too, which no driver saves
 * nvcc -O2 -o vram vram.cu, or c++ -x c++ -DHOST_ONLY -O2 -o vram vram.cu for a machine without a GPU: host memory then.
 */
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <pthread.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

static char name[40] = "state";
static char state_file[80], new_file[80], token_file[80], held_file[80];
static volatile long gap_ms = 0, beats = 0;
static volatile int after_gap = 0;
static const uint64_t SEED = 0x6b79626572;

static void write_text(const char *path, const char *text) {
  FILE *file = fopen(path, "w");
  if (file != nullptr) {
    fputs(text, file);
    fclose(file);
  }
}

static void *beat(void *) {
  const long long_ms = 400;
  timespec last, now;
  clock_gettime(CLOCK_MONOTONIC, &last);
  for (;;) {
    usleep(5000);
    clock_gettime(CLOCK_MONOTONIC, &now);
    long ms = (now.tv_sec - last.tv_sec) * 1000 + (now.tv_nsec - last.tv_nsec) / 1000000;
    if (ms > long_ms) {
      gap_ms = ms;
      beats = 0;
      after_gap = 1;
    }
    beats = beats + 1;
    last = now;
  }
}

static void tell_held() {
  char text[80];
  snprintf(text, sizeof text, "{\"gapMs\":%ld,\"beats\":%ld}\n", (long)gap_ms, (long)beats);
  after_gap = 0;
  write_text(held_file, text);
}

static void publish(const char *text) {
  FILE *file = fopen(new_file, "w");
  if (file == nullptr) {
    return;
  }
  fputs(text, file);
  fclose(file);
  rename(new_file, state_file);
}

#ifdef HOST_ONLY
#define DEVICE
#else
#include <cuda_runtime.h>
#define DEVICE __host__ __device__
static void check(cudaError_t result, const char *what) {
  if (result != cudaSuccess) {
    char text[400];
    snprintf(text, sizeof text, "{\"failed\":\"%s: %s\",\"code\":%d}\n", what, cudaGetErrorString(result), result);
    publish(text);
    fputs(text, stderr);
    exit(3);
  }
}
#define CHECK(call) check((call), #call)
#endif

DEVICE static uint64_t expected(size_t at) {
  uint64_t x = at * 0xd1342543de82ef95ull + SEED;
  x ^= x >> 29;
  return x * 0x94d049bb133111ebull;
}

#ifdef HOST_ONLY
static uint64_t *cells, *token_cell;
static void prepare(size_t count, uint64_t token, bool) {
  cells = (uint64_t *)malloc(count * 8);
  token_cell = (uint64_t *)malloc(8);
  *token_cell = token;
  for (size_t at = 0; at < count; at++) {
    cells[at] = expected(at);
  }
}
static void verify(size_t count, long spin_ms, unsigned long long *bad, uint64_t *token) {
  usleep(spin_ms * 1000);
  *bad = 0;
  for (size_t at = 0; at < count; at++) {
    *bad += cells[at] != expected(at);
  }
  *token = *token_cell;
}
#else
__global__ void fill(uint64_t *cells, size_t count) {
  for (size_t at = blockIdx.x * (size_t)blockDim.x + threadIdx.x; at < count; at += (size_t)gridDim.x * blockDim.x) {
    cells[at] = expected(at);
  }
}
__global__ void compare(const uint64_t *cells, size_t count, unsigned long long *bad) {
  for (size_t at = blockIdx.x * (size_t)blockDim.x + threadIdx.x; at < count; at += (size_t)gridDim.x * blockDim.x) {
    if (cells[at] != expected(at)) {
      atomicAdd(bad, 1ull);
    }
  }
}
__global__ void busy(unsigned long long ns) {
  unsigned long long begin, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < ns);
}
static uint64_t *cells, *token_cell;
static unsigned long long *bad_cell;
static void prepare(size_t count, uint64_t token, bool managed) {
  CHECK(cudaMalloc(&cells, count * 8));
  CHECK(cudaMalloc(&bad_cell, 8));
  CHECK(cudaMalloc(&token_cell, 8));
  CHECK(cudaMemcpy(token_cell, &token, 8, cudaMemcpyHostToDevice));
  if (managed) {
    uint64_t *shared;
    CHECK(cudaMallocManaged(&shared, 16 << 20));
    fill<<<64, 256>>>(shared, 2 << 20);
  }
  fill<<<1024, 256>>>(cells, count);
  CHECK(cudaDeviceSynchronize());
}
static void verify(size_t count, long spin_ms, unsigned long long *bad, uint64_t *token) {
  CHECK(cudaMemset(bad_cell, 0, 8));
  if (spin_ms > 0) {
    busy<<<1, 1>>>(spin_ms * 1000000ull);
  }
  compare<<<1024, 256>>>(cells, count, bad_cell);
  CHECK(cudaMemcpy(bad, bad_cell, 8, cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy(token, token_cell, 8, cudaMemcpyDeviceToHost));
}
#endif

static void read_token(int fd, char *text) {
  text[0] = 0;
  if (fd >= 0 && pread(fd, text, 16, 0) == 16) {
    text[16] = 0;
  }
}

int main(int argc, char **argv) {
  size_t count = (argc > 1 ? atol(argv[1]) : 256) * (1048576ull / 8);
  long spin_ms = 0, tick_ms = 20;
  bool managed = false;
  for (int at = 2; at < argc; at++) {
    sscanf(argv[at], "name=%39s", name);
    sscanf(argv[at], "spin=%ld", &spin_ms);
    sscanf(argv[at], "tick=%ld", &tick_ms);
    managed = managed || strcmp(argv[at], "managed") == 0;
  }
  snprintf(state_file, sizeof state_file, "/tmp/%s.json", name);
  snprintf(new_file, sizeof new_file, "/tmp/%s.new", name);
  snprintf(held_file, sizeof held_file, "/tmp/%s-held.json", name);
  snprintf(token_file, sizeof token_file, "/data/%s", name);
  uint64_t tokens[3];
  if (getrandom(tokens, sizeof tokens, 0) != sizeof tokens) {
    return 2;
  }
  // On the heap, and nowhere else: the array is cleared below.
  volatile uint64_t *cpu = (uint64_t *)malloc(8);
  *cpu = tokens[1];
  mkdir("/data", 0755);
  int fd = open(token_file, O_RDWR | O_CREAT | O_TRUNC, 0644);
  char text[400];
  snprintf(text, sizeof text, "%016llx", (unsigned long long)tokens[2]);
  if (fd < 0 || write(fd, text, 16) != 16) {
    return 2;
  }
  prepare(count, tokens[0], managed);
  memset(tokens, 0, sizeof tokens);
  pthread_t thread;
  if (pthread_create(&thread, nullptr, beat, nullptr) != 0) {
    return 2;
  }
  for (long tick = 1;; tick++) {
    unsigned long long bad = 0;
    uint64_t token = 0;
    verify(count, spin_ms, &bad, &token);
    if (after_gap) {
      tell_held();
    }
    char held[17], named[17];
    read_token(fd, held);
    int again = open(token_file, O_RDONLY);
    read_token(again, named);
    close(again);
    snprintf(text, sizeof text,
             "{\"tick\":%ld,\"bad\":%llu,\"vram\":\"%016llx\",\"cpu\":\"%016llx\",\"file\":\"%s\",\"path\":\"%s\"}\n",
             tick, bad, (unsigned long long)token, (unsigned long long)*cpu, held, named);
    publish(text);
    usleep(tick_ms * 1000);
  }
}
