/* VideoMamba's recurrence and its gradient, for `scan.py`; compiled for REAL float and double.

   Of every (scan, clip) pair: u, delta, y [L, pairs, D]; A [scans, N, D]; B, C [L, pairs, N]; states [pairs, L, N, D];
   pair = scan * clips + clip. Channels are innermost: what a step does to them is one vector loop. */
#include <math.h>
#include <string.h>

#ifndef REAL
#define REAL float
#define EXP expf
#define NAME(x) x##_float
#include "scan.c"
#undef REAL
#undef EXP
#undef NAME
#define REAL double
#define EXP exp
#define NAME(x) x##_double
#endif

void NAME(scan)(const REAL *u, const REAL *delta, const REAL *A, const REAL *B, const REAL *C, REAL *states, REAL *y,
                long L, long pairs, long clips, long D, long N) {
#pragma omp parallel for schedule(static)
    for (long pair = 0; pair < pairs; ++pair) {
        const REAL *own_A = A + pair / clips * N * D;
        for (long t = 0; t < L; ++t) {
            const long row = t * pairs + pair;
            const REAL *restrict x = u + row * D, *restrict d = delta + row * D, *restrict a = own_A;
            REAL *restrict out = y + row * D, *restrict h = states + (pair * L + t) * N * D;
            memset(out, 0, D * sizeof(REAL));
            for (long n = 0; n < N; ++n, a += D, h += D) {
                const REAL b = B[row * N + n], c = C[row * N + n];
                const REAL *restrict before = h - N * D;
                if (t)
                    for (long i = 0; i < D; ++i) h[i] = EXP(d[i] * a[i]) * before[i] + d[i] * x[i] * b;
                else
                    for (long i = 0; i < D; ++i) h[i] = d[i] * x[i] * b;
                for (long i = 0; i < D; ++i) out[i] += h[i] * c;
            }
        }
    }
}

/* grad is y's; sums for A are of every pair, [pairs, N, D], zero before, as are `work` [pairs, N, D] and grad_delta. */
void NAME(scan_gradient)(const REAL *u, const REAL *delta, const REAL *A, const REAL *B, const REAL *C,
                         const REAL *states, const REAL *grad, REAL *work, REAL *grad_u, REAL *grad_delta,
                         REAL *grad_A, REAL *grad_B, REAL *grad_C, long L, long pairs, long clips, long D, long N) {
#pragma omp parallel for schedule(static)
    for (long pair = 0; pair < pairs; ++pair) {
        for (long t = L - 1; t >= 0; --t) {
            const long row = t * pairs + pair;
            const REAL *restrict x = u + row * D, *restrict d = delta + row * D, *restrict up = grad + row * D;
            const REAL *restrict a = A + pair / clips * N * D, *restrict h = states + (pair * L + t) * N * D;
            REAL *restrict to_x = grad_u + row * D, *restrict to_d = grad_delta + row * D;
            REAL *restrict g = work + pair * N * D, *restrict to_a = grad_A + pair * N * D;
            memset(to_x, 0, D * sizeof(REAL));
            for (long n = 0; n < N; ++n, a += D, h += D, g += D, to_a += D) {
                const REAL b = B[row * N + n], c = C[row * N + n];
                REAL to_b = 0, to_c = 0;
                for (long i = 0; i < D; ++i) {
                    g[i] += up[i] * c;
                    to_c += up[i] * h[i];
                    to_b += g[i] * d[i] * x[i];
                    to_x[i] += g[i] * b;
                }
                grad_B[row * N + n] = to_b;
                grad_C[row * N + n] = to_c;
                if (!t) continue;
                const REAL *restrict before = h - N * D;
                for (long i = 0; i < D; ++i) {
                    g[i] *= EXP(d[i] * a[i]);
                    const REAL exponent = g[i] * before[i];
                    to_d[i] += exponent * a[i];
                    to_a[i] += exponent * d[i];
                }
            }
            for (long i = 0; i < D; ++i) {
                to_d[i] += to_x[i] * x[i];
                to_x[i] *= d[i];
            }
        }
    }
}
