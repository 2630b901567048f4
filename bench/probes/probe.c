// What this machine's memory and vector units can do, as one JSON line: the limits that benches are held
// against. Usage: probe <threads>
//
// - read bandwidth: each thread sums its own buffer, far larger than any cache; the best of several rounds;
//   with pages of 4 KB, and with pages of 2 MB where the system grants them.
// - multiply-add peak at 128 bits: pmaddubsw on registers, 16 products and 16 sums an instruction.
// - the same of f32: mulps and addps, whose results are rounded apart, 4 products and 4 sums a pair.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { ROUNDS = 9, MAX_THREADS = 256, OPERATIONS = 32, REGISTERS = 12 };
static const size_t BUFFER_BYTES = (size_t)384 << 20;
static const long LOOPS = 20 * 1000 * 1000;

static pthread_barrier_t barrier;
static int threads;

static double seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec * 1e-9;
}

struct work {
  uint64_t *buffer;
  double begun[ROUNDS], ended[ROUNDS];
  uint64_t sum;
};

static uint64_t read_all(const uint64_t *buffer) {
  uint64_t sums[16] = {0};
  for (size_t i = 0; i < BUFFER_BYTES / sizeof *buffer; i += 16) {
    for (int lane = 0; lane < 16; lane++) sums[lane] += buffer[i + lane];
  }
  uint64_t sum = 0;
  for (int lane = 0; lane < 16; lane++) sum += sums[lane];
  return sum;
}

static void *read_rounds(void *argument) {
  struct work *work = argument;
  memset(work->buffer, 1, BUFFER_BYTES);
  for (int round = 0; round < ROUNDS; round++) {
    pthread_barrier_wait(&barrier);
    work->begun[round] = seconds();
    work->sum += read_all(work->buffer);
    work->ended[round] = seconds();
  }
  return NULL;
}

static void *multiply_rounds(void *argument) {
  struct work *work = argument;
  for (int round = 0; round < ROUNDS; round++) {
    pthread_barrier_wait(&barrier);
    work->begun[round] = seconds();
#if defined(__x86_64__)
    for (long loop = 0; loop < LOOPS; loop++) {
      __asm__ volatile(
          "pmaddubsw %%xmm15, %%xmm0\n\tpmaddubsw %%xmm15, %%xmm1\n\tpmaddubsw %%xmm15, %%xmm2\n\t"
          "pmaddubsw %%xmm15, %%xmm3\n\tpmaddubsw %%xmm15, %%xmm4\n\tpmaddubsw %%xmm15, %%xmm5\n\t"
          "pmaddubsw %%xmm15, %%xmm6\n\tpmaddubsw %%xmm15, %%xmm7\n\tpmaddubsw %%xmm15, %%xmm8\n\t"
          "pmaddubsw %%xmm15, %%xmm9\n\tpmaddubsw %%xmm15, %%xmm10\n\tpmaddubsw %%xmm15, %%xmm11"
          :
          :
          : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
            "xmm11");
    }
#endif
    work->ended[round] = seconds();
  }
  return NULL;
}

static void *multiply_float_rounds(void *argument) {
  struct work *work = argument;
  for (int round = 0; round < ROUNDS; round++) {
    pthread_barrier_wait(&barrier);
    work->begun[round] = seconds();
#if defined(__x86_64__)
    __asm__ volatile("xorps %%xmm14, %%xmm14\n\txorps %%xmm15, %%xmm15" : : : "xmm14", "xmm15");
    for (long loop = 0; loop < LOOPS; loop++) {
#define PAIR(sum) "vmulps %%xmm14, %%xmm15, %%xmm13\n\tvaddps %%xmm13, %%xmm" #sum ", %%xmm" #sum "\n\t"
      __asm__ volatile(PAIR(0) PAIR(1) PAIR(2) PAIR(3) PAIR(4) PAIR(5) PAIR(6) PAIR(7) PAIR(8) PAIR(9)
                           PAIR(10) PAIR(11)
                       :
                       :
                       : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                         "xmm10", "xmm11", "xmm13");
    }
#endif
    work->ended[round] = seconds();
  }
  return NULL;
}

// Seconds of the best round, from the first thread's start to the last one's end.
static double best_round(void *(*run)(void *), struct work *works) {
  pthread_t handles[MAX_THREADS];
  pthread_barrier_init(&barrier, NULL, threads);
  for (int i = 0; i < threads; i++) pthread_create(&handles[i], NULL, run, &works[i]);
  for (int i = 0; i < threads; i++) pthread_join(handles[i], NULL);
  double best = 1e9;
  for (int round = 0; round < ROUNDS; round++) {
    double begun = 1e18, ended = 0;
    for (int i = 0; i < threads; i++) {
      if (works[i].begun[round] < begun) begun = works[i].begun[round];
      if (works[i].ended[round] > ended) ended = works[i].ended[round];
    }
    if (ended - begun < best) best = ended - begun;
  }
  return best;
}

static double read_bandwidth(int advice) {
  static struct work works[MAX_THREADS];
  for (int i = 0; i < threads; i++) {
    works[i].buffer = mmap(NULL, BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (works[i].buffer == MAP_FAILED) {
      fprintf(stderr, "Cannot probe the memory: %d buffers of %zu bytes do not fit.\n", threads, BUFFER_BYTES);
      exit(1);
    }
    madvise(works[i].buffer, BUFFER_BYTES, advice);
  }
  const double best = best_round(read_rounds, works);
  for (int i = 0; i < threads; i++) munmap(works[i].buffer, BUFFER_BYTES);
  return (double)BUFFER_BYTES * threads / best;
}

int main(int count, char **arguments) {
  threads = count > 1 ? atoi(arguments[1]) : 1;
  if (threads < 1 || threads > MAX_THREADS) {
    fprintf(stderr, "Cannot probe with %d threads: 1 to %d are possible.\n", threads, MAX_THREADS);
    return 1;
  }
  const double small = read_bandwidth(MADV_NOHUGEPAGE);
  const double huge = read_bandwidth(MADV_HUGEPAGE);
  static struct work works[MAX_THREADS];
  const double operations = (double)OPERATIONS * REGISTERS * LOOPS * threads;
#if defined(__x86_64__)
  const double peak = operations / best_round(multiply_rounds, works);
  const double float_peak = operations / 4 / best_round(multiply_float_rounds, works);
#else
  const double peak = 0 * operations, float_peak = peak;
#endif
  printf("{\"threads\":%d,\"readGBps4K\":%.2f,\"readGBps2M\":%.2f,\"multiplyAddGops128\":%.1f,"
         "\"floatGflops128\":%.1f}\n",
         threads, small / 1e9, huge / 1e9, peak / 1e9, float_peak / 1e9);
  return 0;
}
