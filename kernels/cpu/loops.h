/* The loops a family brings to walk.h, over rows of n elements that lie one after another. A row has one scale and one
 * zero point.
 *
 * DETENT_DEFINE_MAP(NAME, ENTER, ONE)
 *     to[i] = ONE(ENTER(from[i], within), scale, zero_point, qmin, qmax)
 * DETENT_DEFINE_MASKED_MAP(NAME, ENTER, PASSES, ONE, MASK)
 *     the same, and inside[i] = PASSES(from[i], within) & MASK(ENTER(from[i], within), scale, zero_point, qmin, qmax)
 * DETENT_DEFINE_TERMS(NAME, ENTER, LEAVE, GRAD, FIRST, SECOND)
 *     grad[i] = LEAVE(GRAD(g[i], ENTER(x[i], within), scale, zero_point, qmin, qmax), x[i], within), and
 *     FIRST and SECOND of what GRAD is given, summed over each row
 *
 * ENTER, PASSES and LEAVE are an activation, whether its slope is 1, and its derivative, with `within` its bounds; or
 * DETENT_AS_GIVEN, DETENT_ALWAYS and DETENT_AS_MADE. Each makes two: NAME_rows, and NAME_varying over one row whose
 * elements have a scale and zero point each; the latter adds the terms of an element to what is there for it. Rows go
 * sixteen elements at a time, at the end the last sixteen, of which some are then computed twice. */
#ifndef DETENT_CPU_LOOPS_H
#define DETENT_CPU_LOOPS_H

#include <string.h>

#include "block.h"

#define DETENT_AS_GIVEN(x, within) ((void)(within), (x))
#define DETENT_ALWAYS(x, within) ((void)(x), (void)(within), 1)
#define DETENT_AS_MADE(grad, x, within) ((void)(within), (grad))

/* A sum is kept in sixteen lanes, then a tree: the same order whatever the instruction set. As vectors they stay in
 * registers. A vector of masks, which are bytes, has more. */
enum { DETENT_LANES = 16, DETENT_HALF_LANES = DETENT_LANES / 2, DETENT_MASK_LANES = 32 };

/* Groups of sixteen or more that a block may hold. */
enum { DETENT_ROWS = DETENT_BLOCK / DETENT_LANES };
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

#define DETENT_DEFINE_MAP(NAME, ENTER, ONE)                                                                            \
    static inline __attribute__((always_inline)) void DETENT_REAL(NAME##_run)(                                         \
        const real *restrict from, real *restrict to, size_t n, real scale, real zero_point, real qmin, real qmax,     \
        DETENT_REAL(detent_interval) within)                                                                           \
    {                                                                                                                  \
        for (size_t i = 0; i < n; ++i) to[i] = ONE(ENTER(from[i], within), scale, zero_point, qmin, qmax);             \
    }                                                                                                                  \
    DETENT_CLONES static void DETENT_REAL(NAME##_rows)(const real *restrict from, real *restrict to, size_t rows,      \
                                                       size_t n, const real *scale, const real *zero_point, real qmin, \
                                                       real qmax, DETENT_REAL(detent_interval) within)                 \
    {                                                                                                                  \
        for (size_t row = 0; row < rows; ++row, from += n, to += n) {                                                  \
            const real s = scale[row], zp = zero_point[row];                                                           \
            size_t at = 0;                                                                                             \
            for (; at + DETENT_LANES <= n; at += DETENT_LANES)                                                         \
                DETENT_REAL(NAME##_run)(from + at, to + at, DETENT_LANES, s, zp, qmin, qmax, within);                  \
            if (at < n && at > 0)                                                                                      \
                at = n - DETENT_LANES,                                                                                 \
                DETENT_REAL(NAME##_run)(from + at, to + at, DETENT_LANES, s, zp, qmin, qmax, within);                  \
            else if (at < n)                                                                                           \
                DETENT_REAL(NAME##_run)(from, to, n, s, zp, qmin, qmax, within);                                       \
        }                                                                                                              \
    }                                                                                                                  \
    DETENT_CLONES static void DETENT_REAL(NAME##_varying)(const real *restrict from, real *restrict to, size_t n,      \
                                                          const real *restrict scale, const real *restrict zero_point, \
                                                          real qmin, real qmax, DETENT_REAL(detent_interval) within)   \
    {                                                                                                                  \
        for (size_t i = 0; i < n; ++i) to[i] = ONE(ENTER(from[i], within), scale[i], zero_point[i], qmin, qmax);       \
    }

/* One loop, so that what ONE and MASK have in common, a division, is computed once. */
#define DETENT_DEFINE_MASKED_MAP(NAME, ENTER, PASSES, ONE, MASK)                                                       \
    static inline __attribute__((always_inline)) void DETENT_REAL(NAME##_run)(                                         \
        const real *restrict from, real *restrict to, uint8_t *restrict inside, size_t n, real scale, real zero_point, \
        real qmin, real qmax, DETENT_REAL(detent_interval) within)                                                     \
    {                                                                                                                  \
        for (size_t i = 0; i < n; ++i) {                                                                               \
            const real at = ENTER(from[i], within);                                                                    \
            to[i] = ONE(at, scale, zero_point, qmin, qmax);                                                            \
            inside[i] = (uint8_t)(PASSES(from[i], within) & MASK(at, scale, zero_point, qmin, qmax));                  \
        }                                                                                                              \
    }                                                                                                                  \
    DETENT_CLONES static void DETENT_REAL(NAME##_rows)(                                                                \
        const real *restrict from, real *restrict to, uint8_t *restrict inside, size_t rows, size_t n,                 \
        const real *scale, const real *zero_point, real qmin, real qmax, DETENT_REAL(detent_interval) within)          \
    {                                                                                                                  \
        for (size_t row = 0; row < rows; ++row, from += n, to += n, inside += n) {                                     \
            const real s = scale[row], zp = zero_point[row];                                                           \
            size_t at = 0;                                                                                             \
            for (; at + DETENT_MASK_LANES <= n; at += DETENT_MASK_LANES) DETENT_REAL(NAME##_run)                       \
            (from + at, to + at, inside + at, DETENT_MASK_LANES, s, zp, qmin, qmax, within);                           \
            if (at < n && at > 0)                                                                                      \
                at = n - DETENT_MASK_LANES, DETENT_REAL(NAME##_run)(from + at, to + at, inside + at,                   \
                                                                    DETENT_MASK_LANES, s, zp, qmin, qmax, within);     \
            else if (at < n)                                                                                           \
                DETENT_REAL(NAME##_run)(from, to, inside, n, s, zp, qmin, qmax, within);                               \
        }                                                                                                              \
    }                                                                                                                  \
    DETENT_CLONES static void DETENT_REAL(NAME##_varying)(                                                             \
        const real *restrict from, real *restrict to, uint8_t *restrict inside, size_t n, const real *restrict scale,  \
        const real *restrict zero_point, real qmin, real qmax, DETENT_REAL(detent_interval) within)                    \
    {                                                                                                                  \
        for (size_t i = 0; i < n; ++i) {                                                                               \
            const real at = ENTER(from[i], within);                                                                    \
            to[i] = ONE(at, scale[i], zero_point[i], qmin, qmax);                                                      \
            inside[i] = (uint8_t)(PASSES(from[i], within) & MASK(at, scale[i], zero_point[i], qmin, qmax));            \
        }                                                                                                              \
    }

/* Sixteen elements at a time, and at the end the last sixteen, of which those that were there before (`seen`) count for
 * nothing. Rows of fewer are padded with zeros, whose terms are zero. */
#define DETENT_DEFINE_TERMS(NAME, ENTER, LEAVE, GRAD, FIRST, SECOND)                                                   \
    static inline __attribute__((always_inline)) void DETENT_REAL(NAME##_lanes)(                                       \
        const real *restrict g, const real *restrict x, real *restrict grad, DETENT_REAL(detent_lanes) * first,        \
        DETENT_REAL(detent_lanes) * second, size_t seen, real scale, real zero_point, real qmin, real qmax,            \
        DETENT_REAL(detent_interval) within)                                                                           \
    {                                                                                                                  \
        real first_terms[DETENT_LANES], second_terms[DETENT_LANES];                                                    \
        for (size_t k = 0; k < DETENT_LANES; ++k) {                                                                    \
            const real at = ENTER(x[k], within);                                                                       \
            grad[k] = LEAVE(GRAD(g[k], at, scale, zero_point, qmin, qmax), x[k], within);                              \
            first_terms[k] = k < seen ? 0 : FIRST(g[k], at, scale, zero_point, qmin, qmax);                            \
            if (second != NULL) second_terms[k] = k < seen ? 0 : SECOND(g[k], at, scale, zero_point, qmin, qmax);      \
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
            size_t i = 0;                                                                                              \
            for (; i + DETENT_LANES <= n; i += DETENT_LANES)                                                           \
                DETENT_REAL(NAME##_lanes)(g + i, x + i, grad + i, &of_first, wanted, 0, s, zp, qmin, qmax, within);    \
            if (i < n && i > 0) {                                                                                      \
                const size_t last = n - DETENT_LANES;                                                                  \
                DETENT_REAL(NAME##_lanes)                                                                              \
                (g + last, x + last, grad + last, &of_first, wanted, i - last, s, zp, qmin, qmax, within);             \
            } else if (i < n) {                                                                                        \
                real few_g[DETENT_LANES] = {0}, few_x[DETENT_LANES] = {0}, few_grad[DETENT_LANES];                     \
                memcpy(few_g, g, n * sizeof(real));                                                                    \
                memcpy(few_x, x, n * sizeof(real));                                                                    \
                DETENT_REAL(NAME##_lanes)(few_g, few_x, few_grad, &of_first, wanted, 0, s, zp, qmin, qmax, within);    \
                memcpy(grad, few_grad, n * sizeof(real));                                                              \
            }                                                                                                          \
            g += n, x += n, grad += n;                                                                                 \
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
                first[i] += FIRST(g[i], at, scale[i], zero_point[i], qmin, qmax);                                      \
            }                                                                                                          \
        else                                                                                                           \
            for (size_t i = 0; i < n; ++i) {                                                                           \
                const real at = ENTER(x[i], within);                                                                   \
                grad[i] = LEAVE(GRAD(g[i], at, scale[i], zero_point[i], qmin, qmax), x[i], within);                    \
                first[i] += FIRST(g[i], at, scale[i], zero_point[i], qmin, qmax);                                      \
                second[i] += SECOND(g[i], at, scale[i], zero_point[i], qmin, qmax);                                    \
            }                                                                                                          \
    }

#endif
