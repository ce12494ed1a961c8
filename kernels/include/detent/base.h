/* What every family shares: statuses, data types, the shape of a quantized tensor, its encoding.
 *
 * The library allocates nothing, prints nothing and keeps no state. Sizes are counts of elements unless the name says
 * _bytes. Pointers are borrowed for the call (CPU) or until the stream has passed the work (CUDA). */
#ifndef DETENT_BASE_H
#define DETENT_BASE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef DETENT_API
#define DETENT_API
#endif

/* Numbers are frozen; new ones go at the end. */
typedef int32_t detent_status;
enum {
    DETENT_OK = 0,
    DETENT_BAD_ARGUMENT = 1,    /* a pointer that must not be NULL is, or two options contradict each other */
    DETENT_BAD_SHAPE = 2,       /* outer * groups * inner overflows size_t */
    DETENT_BAD_GRID = 3,        /* qmin >= qmax, or an end outside -2^31 .. 2^32 - 1 */
    DETENT_BAD_DTYPE = 4,       /* this operation has no form for that data type */
    DETENT_WORKSPACE_SMALL = 5, /* the workspace is smaller than the matching _workspace function asks */
    DETENT_LAUNCH_FAILED = 6    /* CUDA refused a launch; the error is left for cudaGetLastError */
};
DETENT_API const char *detent_status_text(detent_status status);

typedef int32_t detent_dtype;
enum {
    DETENT_F32 = 0,
    DETENT_F16 = 1,  /* IEEE binary16, passed as uint16_t bits */
    DETENT_BF16 = 2, /* bfloat16, passed as uint16_t bits */
    DETENT_F64 = 3,
    DETENT_I8 = 4,
    DETENT_U8 = 5,
    DETENT_I16 = 6,
    DETENT_I32 = 7,
    DETENT_I4 = 8, /* two codes a byte, the first in its low half; (n + 1) / 2 bytes, a last high half is 0 */
    DETENT_U4 = 9  /* the same, unsigned */
};

/* A tensor seen as [outer, groups, inner] in memory order: contiguous, one encoding per group.
 * Per tensor is [1, 1, n]; per channel and per block reduce to it. An empty tensor has a 0 somewhere. */
typedef struct detent_shape3 {
    size_t outer, groups, inner;
} detent_shape3;

/* Inclusive ends of the integer grid; -2^31 <= qmin < qmax <= 2^32 - 1. */
typedef struct detent_grid {
    int64_t qmin, qmax;
} detent_grid;

/* The arithmetic of a call: DETENT_F64 for float64 data and for grids that reach beyond +-2^23 (there q - zero_point
 * would not be exact in float32), else DETENT_F32. Encodings and their gradients are arrays of this type, "real" below.
 */
DETENT_API detent_dtype detent_math_dtype(detent_dtype data, detent_grid grid);

/* One encoding per group, in one of two parametrizations.
 *
 *   scale, zero_point   [groups] real; scale finite and > 0, zero_point in grid units, rounded half-even where it is
 *                       used (both promised: checking would stall a stream). zero_point NULL means 0.
 *   min, max            [groups] real, used where scale is NULL. With N = qmax - qmin the kernel derives
 *                           scale      = max(|max - min| / N, min(2^-23, 0.01 / N))
 *                           zero_point = centre                                              if symmetric
 *                                        clamp(qmin - rint(min / scale), qmin, qmax)         otherwise
 *   centre              the fixed zero_point of a symmetric grid; detent_grid_centre() is the usual one
 *   trained             scale and zero_point are whatever an optimizer made of them. The kernel takes
 *                           max(|scale|, min(2^-23, 0.01 / N)) and clamp(zero_point, qmin, qmax)
 *                       with slope 1 at the floor, at 0 and beyond the grid, so that they recover; NaN stays NaN */
typedef struct detent_encoding {
    const void *scale, *zero_point;
    const void *min, *max;
    detent_grid grid;
    int64_t centre;
    int32_t symmetric;
    int32_t trained;
} detent_encoding;

/* round((qmin + qmax) / 2), halves to even: 0 on -128 .. 127 and on -127 .. 127, 128 on 0 .. 255. */
DETENT_API int64_t detent_grid_centre(detent_grid grid);

/* Runs body(begin, end, context) over a partition of [begin, end), perhaps on several threads, and returns when all of
 * it is done. NULL where one is asked for means: on this thread. No result depends on the partition. */
typedef void (*detent_parallel_body)(int64_t begin, int64_t end, void *context);
typedef void (*detent_parallel_for)(int64_t begin, int64_t end, int64_t grain, detent_parallel_body body,
                                    void *context);

/* A cudaStream_t. Every CUDA function queues its work there and returns at once. */
typedef void *detent_stream;

/* The instruction set the CPU loops dispatch to on this machine, for reports: "x86-64-v4", "x86-64-v3", "default". */
DETENT_API const char *detent_cpu_dispatch(void);

#ifdef __cplusplus
}
#endif
#endif
