#include "block.h"

#include "../math/half.h"
#include "../math/int4.h"

#define DETENT_SAME(value) (value)

#define DETENT_DEFINE_CONVERSION(NAME, FROM, TO, CONVERT)                                                              \
    DETENT_CLONES static void NAME(const FROM *restrict from, TO *restrict to, size_t n)                               \
    {                                                                                                                  \
        for (size_t i = 0; i < n; ++i) to[i] = (TO)CONVERT(from[i]);                                                   \
    }

/* Packed codes from an even element on. */
#define DETENT_DEFINE_UNPACKING(NAME, TO, CODE)                                                                        \
    DETENT_CLONES static void NAME(const uint8_t *restrict from, TO *restrict to, size_t n)                            \
    {                                                                                                                  \
        for (size_t i = 0; i < n / 2; ++i) {                                                                           \
            to[2 * i] = (TO)CODE(from[i]);                                                                             \
            to[2 * i + 1] = (TO)CODE((uint32_t)from[i] >> 4);                                                          \
        }                                                                                                              \
        if (n % 2 != 0) to[n - 1] = (TO)CODE(from[n / 2]);                                                             \
    }
#define DETENT_DEFINE_PACKING(NAME, FROM)                                                                              \
    DETENT_CLONES static void NAME(const FROM *restrict from, uint8_t *restrict to, size_t n)                          \
    {                                                                                                                  \
        for (size_t i = 0; i < n / 2; ++i)                                                                             \
            to[i] = detent_pair_of_codes((int32_t)from[2 * i], (int32_t)from[2 * i + 1]);                              \
        if (n % 2 != 0) to[n / 2] = detent_pair_of_codes((int32_t)from[n - 1], 0);                                     \
    }

/* The two 16-bit types go through float: exact into double, one rounding out of it is left to the caller's value,
 * which the double arithmetic has already rounded once. */
#define DETENT_DEFINE_BLOCKS(SUFFIX, REAL, OTHER, OWN, OTHER_DTYPE)                                                    \
    DETENT_DEFINE_CONVERSION(read_f16_##SUFFIX, uint16_t, REAL, detent_f16_to_f32)                                     \
    DETENT_DEFINE_CONVERSION(read_bf16_##SUFFIX, uint16_t, REAL, detent_bf16_to_f32)                                   \
    DETENT_DEFINE_CONVERSION(read_other_##SUFFIX, OTHER, REAL, DETENT_SAME)                                            \
    DETENT_DEFINE_CONVERSION(read_i8_##SUFFIX, int8_t, REAL, DETENT_SAME)                                              \
    DETENT_DEFINE_CONVERSION(read_u8_##SUFFIX, uint8_t, REAL, DETENT_SAME)                                             \
    DETENT_DEFINE_CONVERSION(read_i16_##SUFFIX, int16_t, REAL, DETENT_SAME)                                            \
    DETENT_DEFINE_CONVERSION(read_i32_##SUFFIX, int32_t, REAL, DETENT_SAME)                                            \
    DETENT_DEFINE_UNPACKING(read_i4_##SUFFIX, REAL, detent_i4_code)                                                    \
    DETENT_DEFINE_UNPACKING(read_u4_##SUFFIX, REAL, detent_u4_code)                                                    \
    DETENT_DEFINE_CONVERSION(write_f16_##SUFFIX, REAL, uint16_t, detent_f32_to_f16)                                    \
    DETENT_DEFINE_CONVERSION(write_bf16_##SUFFIX, REAL, uint16_t, detent_f32_to_bf16)                                  \
    DETENT_DEFINE_CONVERSION(write_other_##SUFFIX, REAL, OTHER, DETENT_SAME)                                           \
    DETENT_DEFINE_CONVERSION(write_i8_##SUFFIX, REAL, int8_t, DETENT_SAME)                                             \
    DETENT_DEFINE_CONVERSION(write_u8_##SUFFIX, REAL, uint8_t, DETENT_SAME)                                            \
    DETENT_DEFINE_CONVERSION(write_i16_##SUFFIX, REAL, int16_t, DETENT_SAME)                                           \
    DETENT_DEFINE_CONVERSION(write_i32_##SUFFIX, REAL, int32_t, DETENT_SAME)                                           \
    DETENT_DEFINE_PACKING(write_pairs_##SUFFIX, REAL)                                                                  \
                                                                                                                       \
    const REAL *detent_read_##SUFFIX(const void *x, detent_dtype dtype, size_t at, size_t n, REAL *buffer)             \
    {                                                                                                                  \
        switch (dtype) {                                                                                               \
        case OWN: return (const REAL *)x + at;                                                                         \
        case OTHER_DTYPE: read_other_##SUFFIX((const OTHER *)x + at, buffer, n); break;                                \
        case DETENT_F16: read_f16_##SUFFIX((const uint16_t *)x + at, buffer, n); break;                                \
        case DETENT_BF16: read_bf16_##SUFFIX((const uint16_t *)x + at, buffer, n); break;                              \
        case DETENT_I8: read_i8_##SUFFIX((const int8_t *)x + at, buffer, n); break;                                    \
        case DETENT_U8: read_u8_##SUFFIX((const uint8_t *)x + at, buffer, n); break;                                   \
        case DETENT_I16: read_i16_##SUFFIX((const int16_t *)x + at, buffer, n); break;                                 \
        case DETENT_I32: read_i32_##SUFFIX((const int32_t *)x + at, buffer, n); break;                                 \
        case DETENT_I4: read_i4_##SUFFIX((const uint8_t *)x + at / 2, buffer, n); break;                               \
        case DETENT_U4: read_u4_##SUFFIX((const uint8_t *)x + at / 2, buffer, n); break;                               \
        default: break;                                                                                                \
        }                                                                                                              \
        return buffer;                                                                                                 \
    }                                                                                                                  \
                                                                                                                       \
    REAL *detent_target_##SUFFIX(void *y, detent_dtype dtype, size_t at, REAL *buffer)                                 \
    {                                                                                                                  \
        return dtype == OWN ? (REAL *)y + at : buffer;                                                                 \
    }                                                                                                                  \
                                                                                                                       \
    void detent_write_##SUFFIX(void *y, detent_dtype dtype, size_t at, size_t n, const REAL *values)                   \
    {                                                                                                                  \
        switch (dtype) {                                                                                               \
        case OTHER_DTYPE: write_other_##SUFFIX(values, (OTHER *)y + at, n); break;                                     \
        case DETENT_F16: write_f16_##SUFFIX(values, (uint16_t *)y + at, n); break;                                     \
        case DETENT_BF16: write_bf16_##SUFFIX(values, (uint16_t *)y + at, n); break;                                   \
        case DETENT_I8: write_i8_##SUFFIX(values, (int8_t *)y + at, n); break;                                         \
        case DETENT_U8: write_u8_##SUFFIX(values, (uint8_t *)y + at, n); break;                                        \
        case DETENT_I16: write_i16_##SUFFIX(values, (int16_t *)y + at, n); break;                                      \
        case DETENT_I32: write_i32_##SUFFIX(values, (int32_t *)y + at, n); break;                                      \
        case DETENT_I4:                                                                                                \
        case DETENT_U4: write_pairs_##SUFFIX(values, (uint8_t *)y + at / 2, n); break;                                 \
        default: break;                                                                                                \
        }                                                                                                              \
    }

DETENT_DEFINE_BLOCKS(f32, float, double, DETENT_F32, DETENT_F64)
DETENT_DEFINE_BLOCKS(f64, double, float, DETENT_F64, DETENT_F32)

#define DETENT_DEFINE_ADD(NAME, T, ADD)                                                                                \
    DETENT_CLONES static const void *NAME(const T *restrict x, const T *restrict residual, T *restrict to, size_t n)   \
    {                                                                                                                  \
        for (size_t i = 0; i < n; ++i) to[i] = ADD(x[i], residual[i]);                                                 \
        return to;                                                                                                     \
    }
#define DETENT_PLUS(a, b) ((a) + (b))
DETENT_DEFINE_ADD(add_f32, float, DETENT_PLUS)
DETENT_DEFINE_ADD(add_f64, double, DETENT_PLUS)
DETENT_DEFINE_ADD(add_f16, uint16_t, detent_add_f16)
DETENT_DEFINE_ADD(add_bf16, uint16_t, detent_add_bf16)

const void *detent_add(const void *x, const void *residual, void *sum, detent_dtype dtype, size_t at, size_t n,
                       detent_block *room)
{
#define DETENT_ADD_AT(ADD, T, ROOM)                                                                                    \
    ADD((const T *)x + at, (const T *)residual + at, sum != NULL ? (T *)sum + at : (ROOM), n)
    switch (dtype) {
    case DETENT_F32: return DETENT_ADD_AT(add_f32, float, room->f32);
    case DETENT_F64: return DETENT_ADD_AT(add_f64, double, room->f64);
    case DETENT_F16: return DETENT_ADD_AT(add_f16, uint16_t, room->half);
    default: return DETENT_ADD_AT(add_bf16, uint16_t, room->half);
    }
#undef DETENT_ADD_AT
}
