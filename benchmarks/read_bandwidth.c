// read_bandwidth THREADS: bytes per second read from memory, the best of ten passes over 1 GiB.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef uint64_t vec __attribute__((vector_size(64)));
static const vec *buffer;
static size_t share;  // vectors of each thread

static void *reader(void *index) {
  const vec *p = buffer + (size_t)index * share, *end = p + share;
  vec sums[8] = {0};
  for (; p < end; p += 8)
    for (int i = 0; i < 8; ++i) sums[i] ^= p[i];
  for (int i = 1; i < 8; ++i) sums[0] ^= sums[i];
  return (void *)(uintptr_t)(sums[0][0] ^ sums[0][7]);  // a result, so that nothing is left out
}

int main(int argc, char **argv) {
  const size_t bytes = (size_t)1 << 30, threads = argc > 1 ? atoi(argv[1]) : 1;
  pthread_t ids[64];
  double best = 1e9;
  void *memory = aligned_alloc(64, bytes);
  if (!memory || threads < 1 || threads > 64) return 1;
  memset(memory, 1, bytes);
  buffer = memory;
  share = bytes / sizeof(vec) / threads / 8 * 8;
  for (int pass = 0; pass < 10; ++pass) {
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (size_t i = 0; i < threads; ++i) pthread_create(&ids[i], 0, reader, (void *)i);
    for (size_t i = 0; i < threads; ++i) pthread_join(ids[i], 0);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = (end.tv_sec - start.tv_sec) + (end.tv_nsec - start.tv_nsec) * 1e-9;
    if (seconds < best) best = seconds;
  }
  printf("%.0f\n", share * threads * sizeof(vec) / best);
}
