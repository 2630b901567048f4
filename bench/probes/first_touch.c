// How fast memory that nobody has touched is written for the first time, as one JSON line: what loading into
// fresh memory can not beat. Usage: first_touch <threads> <bytes> <huge pages: 0 or 1>
//
// There are two rounds, the first and the better one are told: in a virtual machine, memory that was free for some
// seconds must first come back from the host, which can take several times as long as all else.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { ROUNDS = 2, MAX_THREADS = 256 };

static char *memory;
static size_t part;

static double seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec * 1e-9;
}

static void *touch(void *thread) {
  memset(memory + (size_t)thread * part, 1, part);
  return NULL;
}

typedef struct {
  double first, best;
} Rates;

static Rates rates(int threads, size_t bytes, int advice) {
  Rates rates = {0, 0};
  for (int round = 0; round < ROUNDS; round++) {
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      fprintf(stderr, "Cannot probe the memory: %zu bytes do not fit.\n", bytes);
      exit(1);
    }
    madvise(memory, bytes, advice);
    part = bytes / threads;
    pthread_t handles[MAX_THREADS];
    const double begun = seconds();
    for (size_t i = 0; i < (size_t)threads; i++) pthread_create(&handles[i], NULL, touch, (void *)i);
    for (int i = 0; i < threads; i++) pthread_join(handles[i], NULL);
    const double found = bytes / (seconds() - begun);
    if (round == 0) rates.first = found / 1e9;
    if (found / 1e9 > rates.best) rates.best = found / 1e9;
    munmap(memory, bytes);
  }
  return rates;
}

int main(int count, char **arguments) {
  const int threads = count > 1 ? atoi(arguments[1]) : 1;
  const size_t bytes = count > 2 ? strtoull(arguments[2], NULL, 10) : (size_t)1 << 30;
  if (threads < 1 || threads > MAX_THREADS) {
    fprintf(stderr, "Cannot probe with %d threads: 1 to %d are possible.\n", threads, MAX_THREADS);
    return 1;
  }
  const int huge = count > 3 && atoi(arguments[3]);
  const Rates found = rates(threads, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  printf("{\"first\":%.2f,\"best\":%.2f}\n", found.first, found.best);
  return 0;
}
