// What the machine can do with one thread: 128-bit pmaddubsw, 32 operations each, and reading memory.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define ROUNDS 15

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

// Twelve independent chains: more than latency times throughput of any core so far.
#define STEP(i) "vpmaddubsw %%xmm15, %%xmm" #i ", %%xmm" #i "\n"
#define STEPS                                                                                     \
  STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7) STEP(8) STEP(9) STEP(10) STEP(11)

// As assembly: gcc -O2 keeps an array of sums in memory, and then store forwarding is what is timed.
#define LOAD(i) "vpaddb " #i "*16(%0), %%xmm" #i ", %%xmm" #i "\n"
#define LOADS LOAD(0) LOAD(1) LOAD(2) LOAD(3) LOAD(4) LOAD(5) LOAD(6) LOAD(7)

int main(void) {
  const long count = 2000000;
  const size_t bytes = 256 << 20; // far beyond the last-level cache
  double operations = 0, read = 0;
  for (int round = 0; round < ROUNDS; round++) {
    double start = seconds();
    for (long i = 0; i < count; i++)
      asm volatile(STEPS ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                   "xmm9", "xmm10", "xmm11", "xmm15");
    double rate = count * 12.0 * 32 / (seconds() - start);
    if (rate > operations) operations = rate;
  }
  char *memory = aligned_alloc(2 << 20, bytes);
  madvise(memory, bytes, MADV_HUGEPAGE);
  memset(memory, 1, bytes);
  for (int round = 0; round < ROUNDS; round++) {
    double start = seconds();
    for (char *at = memory; at < memory + bytes; at += 128)
      asm volatile(LOADS ::"r"(at) : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                   "memory");
    double rate = bytes / (seconds() - start);
    if (rate > read) read = rate;
  }
  printf("{\"peakGop\": %.1f, \"readGb\": %.2f}\n", operations / 1e9, read / 1e9);
}
