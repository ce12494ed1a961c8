/* The loops a family brings to walk.h, over rows of n elements that lie one after another. A row has one scale and one
 * zero point.
 *
 * DETENT_DEFINE_MAP(NAME, TO, ENTER, ONE)
 *     to[i] = ONE(ENTER(from[i], within), scale, zero_point, qmin, qmax)
 * DETENT_DEFINE_TERMS(NAME, ENTER, LEAVE, GRAD, FIRST, SECOND)
 *     grad[i] = LEAVE(GRAD(g[i], ENTER(x[i], within), scale, zero_point, qmin, qmax), x[i], within), and
 *     FIRST and SECOND of what GRAD is given, summed over each row
 *
 * ENTER and LEAVE are an activation and its derivative, with `within` its bounds, or DETENT_AS_GIVEN and
 * DETENT_AS_MADE. ONE may read to[i] too: what the map's `before` put there. Each makes two: NAME_rows, and
 * NAME_varying over one row whose elements have a scale and zero point each; the terms of the latter are not summed. */
#ifndef DETENT_CPU_LOOPS_H
#define DETENT_CPU_LOOPS_H

#include <string.h>

#include "block.h"

#define DETENT_AS_GIVEN(x, within) ((void)(within), (x))
#define DETENT_AS_MADE(grad, x, within) ((void)(within), (grad))

/* A sum is kept in sixteen lanes, then a tree: the same order whatever the instruction set. As vectors they stay in
 * registers. */
enum { DETENT_LANES = 16, DETENT_HALF_LANES = DETENT_LANES / 2 };
typedef float detent_half_lanes_f32 __attribute__((vector_size(DETENT_HALF_LANES * sizeof(float))));
typedef double detent_half_lanes_f64 __attribute__((vector_size(DETENT_HALF_LANES * sizeof(double))));
typedef struct detent_lanes_f32 {
    detent_half_lanes_f32 low, high;
} detent_lanes_f32;
typedef struct detent_lanes_f64 {
    detent_half_lanes_f64 low, high;
} detent_lanes_f64;

#define DETENT_DEFINE_LANES(SUFFIX, REAL)                                                                              \
    static inline                                                                                                      \
        __attribute__((always_inline)) void detent_add_lanes_##SUFFIX(detent_lanes_##SUFFIX *lanes, const REAL *terms) \
    {                                                                                                                  \
        detent_lanes_##SUFFIX more;                                                                                    \
        memcpy(&more, terms, sizeof more);                                                                             \
        lanes->low += more.low;                                                                                        \
        lanes->high += more.high;                                                                                      \
    }                                                                                                                  \
    static inline __attribute__((always_inline)) REAL detent_sum_of_lanes_##SUFFIX(const detent_lanes_##SUFFIX *lanes) \
    {                                                                                                                  \
        const detent_half_lanes_##SUFFIX sums = lanes->low + lanes->high;                                              \
        REAL sum[DETENT_HALF_LANES];                                                                                   \
        memcpy(sum, &sums, sizeof sum);                                                                                \
        for (size_t half = DETENT_HALF_LANES / 2; half > 0; half /= 2)                                                 \
            for (size_t lane = 0; lane < half; ++lane) sum[lane] += sum[lane + half];                                  \
        return sum[0];                                                                                                 \
    }
DETENT_DEFINE_LANES(f32, float)
DETENT_DEFINE_LANES(f64, double)

#define DETENT_DEFINE_MAP(NAME, TO, ENTER, ONE)                                                                        \
    DETENT_CLONES static void DETENT_REAL(NAME##_rows)(const real *restrict from, TO *restrict to, size_t rows,        \
                                                       size_t n, const real *scale, const real *zero_point, real qmin, \
                                                       real qmax, DETENT_REAL(detent_interval) within)                 \
    {                                                                                                                  \
        for (size_t row = 0; row < rows; ++row, from += n, to += n) {                                                  \
            const real s = scale[row], zp = zero_point[row];                                                           \
            for (size_t i = 0; i < n; ++i) to[i] = (TO)ONE(ENTER(from[i], within), s, zp, qmin, qmax);                 \
        }                                                                                                              \
    }                                                                                                                  \
    DETENT_CLONES static void DETENT_REAL(NAME##_varying)(const real *restrict from, TO *restrict to, size_t n,        \
                                                          const real *restrict scale, const real *restrict zero_point, \
                                                          real qmin, real qmax, DETENT_REAL(detent_interval) within)   \
    {                                                                                                                  \
        for (size_t i = 0; i < n; ++i) to[i] = (TO)ONE(ENTER(from[i], within), scale[i], zero_point[i], qmin, qmax);   \
    }

/* Sixteen elements at a time; the last few of a row are padded with zeros, whose terms are zero. */
#define DETENT_DEFINE_TERMS(NAME, ENTER, LEAVE, GRAD, FIRST, SECOND)                                                   \
    static inline __attribute__((always_inline)) void DETENT_REAL(NAME##_lanes)(                                       \
        const real *restrict g, const real *restrict x, real *restrict grad, DETENT_REAL(detent_lanes) * first,        \
        DETENT_REAL(detent_lanes) * second, real scale, real zero_point, real qmin, real qmax,                         \
        DETENT_REAL(detent_interval) within)                                                                           \
    {                                                                                                                  \
        real first_terms[DETENT_LANES], second_terms[DETENT_LANES];                                                    \
        for (size_t k = 0; k < DETENT_LANES; ++k) {                                                                    \
            const real at = ENTER(x[k], within);                                                                       \
            grad[k] = LEAVE(GRAD(g[k], at, scale, zero_point, qmin, qmax), x[k], within);                              \
            first_terms[k] = FIRST(g[k], at, scale, zero_point, qmin, qmax);                                           \
            if (second != NULL) second_terms[k] = SECOND(g[k], at, scale, zero_point, qmin, qmax);                     \
        }                                                                                                              \
        DETENT_REAL(detent_add_lanes)(first, first_terms);                                                             \
        if (second != NULL) DETENT_REAL(detent_add_lanes)(second, second_terms);                                       \
    }                                                                                                                  \
    static inline __attribute__((always_inline)) void DETENT_REAL(NAME##_sums)(                                        \
        const real *restrict g, const real *restrict x, real *restrict grad, real *restrict first,                     \
        real *restrict second, size_t rows, size_t n, const real *scale, const real *zero_point, real qmin, real qmax, \
        DETENT_REAL(detent_interval) within)                                                                           \
    {                                                                                                                  \
        for (size_t row = 0; row < rows; ++row) {                                                                      \
            const real s = scale[row], zp = zero_point[row];                                                           \
            DETENT_REAL(detent_lanes) of_first = {0}, of_second = {0}, *wanted = second == NULL ? NULL : &of_second;   \
            for (size_t i = 0; i + DETENT_LANES <= n; i += DETENT_LANES)                                               \
                DETENT_REAL(NAME##_lanes)(g + i, x + i, grad + i, &of_first, wanted, s, zp, qmin, qmax, within);       \
            g += n, x += n, grad += n;                                                                                 \
            const size_t rest = n % DETENT_LANES;                                                                      \
            if (rest > 0) {                                                                                            \
                real last_g[DETENT_LANES] = {0}, last_x[DETENT_LANES] = {0}, last_grad[DETENT_LANES];                  \
                memcpy(last_g, g - rest, rest * sizeof(real));                                                         \
                memcpy(last_x, x - rest, rest * sizeof(real));                                                         \
                DETENT_REAL(NAME##_lanes)(last_g, last_x, last_grad, &of_first, wanted, s, zp, qmin, qmax, within);    \
                memcpy(grad - rest, last_grad, rest * sizeof(real));                                                   \
            }                                                                                                          \
            first[row] = DETENT_REAL(detent_sum_of_lanes)(&of_first);                                                  \
            if (second != NULL) second[row] = DETENT_REAL(detent_sum_of_lanes)(&of_second);                            \
        }                                                                                                              \
    }                                                                                                                  \
    DETENT_CLONES static void DETENT_REAL(NAME##_rows)(                                                                \
        const real *restrict g, const real *restrict x, real *restrict grad, real *restrict first,                     \
        real *restrict second, size_t rows, size_t n, const real *scale, const real *zero_point, real qmin, real qmax, \
        DETENT_REAL(detent_interval) within)                                                                           \
    {                                                                                                                  \
        if (second == NULL)                                                                                            \
            DETENT_REAL(NAME##_sums)(g, x, grad, first, NULL, rows, n, scale, zero_point, qmin, qmax, within);         \
        else                                                                                                           \
            DETENT_REAL(NAME##_sums)(g, x, grad, first, second, rows, n, scale, zero_point, qmin, qmax, within);       \
    }                                                                                                                  \
    DETENT_CLONES static void DETENT_REAL(NAME##_varying)(                                                             \
        const real *restrict g, const real *restrict x, real *restrict grad, real *restrict first,                     \
        real *restrict second, size_t n, const real *restrict scale, const real *restrict zero_point, real qmin,       \
        real qmax, DETENT_REAL(detent_interval) within)                                                                \
    {                                                                                                                  \
        if (second == NULL)                                                                                            \
            for (size_t i = 0; i < n; ++i) {                                                                           \
                const real at = ENTER(x[i], within);                                                                   \
                grad[i] = LEAVE(GRAD(g[i], at, scale[i], zero_point[i], qmin, qmax), x[i], within);                    \
                first[i] = FIRST(g[i], at, scale[i], zero_point[i], qmin, qmax);                                       \
            }                                                                                                          \
        else                                                                                                           \
            for (size_t i = 0; i < n; ++i) {                                                                           \
                const real at = ENTER(x[i], within);                                                                   \
                grad[i] = LEAVE(GRAD(g[i], at, scale[i], zero_point[i], qmin, qmax), x[i], within);                    \
                first[i] = FIRST(g[i], at, scale[i], zero_point[i], qmin, qmax);                                       \
                second[i] = SECOND(g[i], at, scale[i], zero_point[i], qmin, qmax);                                     \
            }                                                                                                          \
    }

#endif
