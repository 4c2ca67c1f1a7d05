/* How fast the threads that the process may use read memory together.
 *
 *     read_bandwidth THREADS [MIB = 2048] [PASSES = 7]
 *
 * Sums a buffer that is larger than every cache; prints one JSON object with the passes in bytes a second.
 */
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 32 };

static uint64_t sum(const uint64_t *words, size_t count) {
    uint64_t lanes[LANES] = {0}, total = 0;
    for (size_t i = 0; i + LANES <= count; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            lanes[lane] += words[i + lane];
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        total += lanes[lane];
    }
    return total;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 0;
    size_t mib = argc > 2 ? strtoull(argv[2], NULL, 10) : 2048;
    int passes = argc > 3 ? atoi(argv[3]) : 7;
    if (threads < 1 || mib < 1 || passes < 1) {
        fprintf(stderr, "usage: read_bandwidth THREADS [MIB] [PASSES]\n");
        return 2;
    }
    size_t share = (mib << 20) / sizeof(uint64_t) / threads / LANES * LANES;
    uint64_t *buffer = malloc(share * threads * sizeof(uint64_t));
    if (buffer == NULL) {
        fprintf(stderr, "read_bandwidth: no memory for %zu MiB\n", mib);
        return 1;
    }
    omp_set_num_threads(threads);
    #pragma omp parallel
    memset(buffer + share * omp_get_thread_num(), 1, share * sizeof(uint64_t));
    uint64_t total = 0;
    printf("{\"threads\": %d, \"bytes_per_second\": [", threads);
    for (int pass = -1; pass < passes; pass++) { /* the first one warms up */
        double started = omp_get_wtime();
        #pragma omp parallel reduction(+ : total)
        total += sum(buffer + share * omp_get_thread_num(), share);
        double seconds = omp_get_wtime() - started;
        if (pass >= 0) {
            printf("%s%.0f", pass ? ", " : "", share * threads * sizeof(uint64_t) / seconds);
        }
    }
    printf("], \"sum\": %llu}\n", (unsigned long long)total); /* printed, so that no compiler leaves it out */
    free(buffer);
    return 0;
}
