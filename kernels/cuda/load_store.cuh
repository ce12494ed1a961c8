/* Elements in memory and as reals; vectors of them, whole or in part. */
#ifndef DETENT_CUDA_LOAD_STORE_CUH
#define DETENT_CUDA_LOAD_STORE_CUH

#include "../math/half.h"
#include "../math/int4.h"
#include "geometry.h"

namespace detent_cuda
{

struct F16 {
    uint16_t bits;
};
struct BF16 {
    uint16_t bits;
};

/* Codes that lie two in a byte; in registers each has its own. */
struct I4 {
    int8_t code;
};
struct U4 {
    uint8_t code;
};

/* Integer codes of a type that the launch knows: one kernel serves them all, and all of its threads choose alike. */
struct Codes {
    void *memory;
    detent_dtype dtype;
};
/* One of them in registers. */
struct Code {
    int32_t value;
};

/* Where elements of type T lie. */
template <typename T> struct Memory {
    typedef T *Pointer;
    static Pointer at(const void *memory, detent_dtype) { return (T *)memory; }
};
template <> struct Memory<Code> {
    typedef Codes Pointer;
    static Pointer at(const void *memory, detent_dtype dtype) { return {(void *)memory, dtype}; }
};
template <> struct Memory<const Code> : Memory<Code> {
};

/* How many elements share a byte, and how one is read from it. */
template <typename T> struct Packing {
    enum : unsigned { SHARERS = 1 };
};
template <> struct Packing<I4> {
    enum : unsigned { SHARERS = 2 };
    static __device__ __forceinline__ I4 unpack(uint32_t bits) { return {(int8_t)detent_i4_code(bits)}; }
};
template <> struct Packing<U4> {
    enum : unsigned { SHARERS = 2 };
    static __device__ __forceinline__ U4 unpack(uint32_t bits) { return {(uint8_t)detent_u4_code(bits)}; }
};

template <typename real, typename T> struct Convert {
    static __device__ __forceinline__ real load(T value) { return (real)value; }
    static __device__ __forceinline__ T store(real value) { return (T)value; }
};
template <typename real> struct Convert<real, F16> {
    static __device__ __forceinline__ real load(F16 value) { return (real)detent_f16_to_f32(value.bits); }
    static __device__ __forceinline__ F16 store(real value) { return {detent_f32_to_f16((float)value)}; }
};
template <typename real> struct Convert<real, BF16> {
    static __device__ __forceinline__ real load(BF16 value) { return (real)detent_bf16_to_f32(value.bits); }
    static __device__ __forceinline__ BF16 store(real value) { return {detent_f32_to_bf16((float)value)}; }
};

template <typename real> struct Convert<real, I4> {
    static __device__ __forceinline__ real load(I4 value) { return (real)value.code; }
    static __device__ __forceinline__ I4 store(real value) { return {(int8_t)value}; }
};
template <typename real> struct Convert<real, U4> {
    static __device__ __forceinline__ real load(U4 value) { return (real)value.code; }
    static __device__ __forceinline__ U4 store(real value) { return {(uint8_t)value}; }
};

template <typename real> struct Convert<real, Code> {
    static __device__ __forceinline__ real load(Code code) { return (real)code.value; }
    static __device__ __forceinline__ Code store(real value) { return {(int32_t)value}; }
};

/* Rounded to their type. */
static __device__ __forceinline__ float sum_of(float a, float b)
{
    return a + b;
}
static __device__ __forceinline__ double sum_of(double a, double b)
{
    return a + b;
}
static __device__ __forceinline__ F16 sum_of(F16 a, F16 b)
{
    return {detent_add_f16(a.bits, b.bits)};
}
static __device__ __forceinline__ BF16 sum_of(BF16 a, BF16 b)
{
    return {detent_add_bf16(a.bits, b.bits)};
}

/* Elements of a 16-byte vector of the wider type; codes go along with what they stand for. */
template <typename A, typename B> struct VectorOf {
    enum : unsigned { SIZE = 16 / (sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B)) };
};
template <typename A> struct VectorOf<A, Code> : VectorOf<A, A> {
};
template <typename B> struct VectorOf<Code, B> : VectorOf<B, B> {
};

template <typename T, unsigned V> struct alignas(sizeof(T) * V) Pack {
    T at[V];
};

template <typename T, unsigned V> bool is_aligned(const void *pointer)
{
    return (uintptr_t)pointer % (sizeof(Pack<T, V>) / Packing<T>::SHARERS) == 0;
}

template <typename T, unsigned V> bool is_aligned(Codes codes)
{
    switch (codes.dtype) {
    case DETENT_I32: return is_aligned<int32_t, V>(codes.memory);
    case DETENT_I16: return is_aligned<int16_t, V>(codes.memory);
    case DETENT_I4:
    case DETENT_U4: return is_aligned<I4, V>(codes.memory);
    default: return is_aligned<int8_t, V>(codes.memory);
    }
}

/* Elements low .. high - 1 of a vector lie in a run. */
struct Span {
    int low, high;
};

template <unsigned V> __device__ __forceinline__ Span span_of(size_t vector, Run run)
{
    const size_t first = vector * V;
    return {run.begin > first ? (int)(run.begin - first) : 0, run.end >= first + V ? (int)V
                                                              : run.end > first    ? (int)(run.end - first)
                                                                                   : 0};
}

/* A whole vector in one access where the tensors are aligned; elements outside the span are left alone and read as 0.
 * Spans of packed elements begin at 0; the half byte that an odd one leaves over is written 0. */
template <typename T, unsigned V>
__device__ __forceinline__ Pack<T, V> load(const T *from, size_t vector, Span span, bool aligned)
{
    Pack<T, V> values = {};
    if constexpr (Packing<T>::SHARERS == 2) {
        const Span pairs = {0, (span.high + 1) / 2};
        const Pack<uint8_t, V / 2> bytes = load<uint8_t, V / 2>((const uint8_t *)from, vector, pairs, aligned);
#pragma unroll
        for (unsigned k = 0; k < V; ++k) values.at[k] = Packing<T>::unpack((uint32_t)bytes.at[k / 2] >> k % 2 * 4);
    } else {
        if (aligned && span.low == 0 && span.high == (int)V)
            return *reinterpret_cast<const Pack<T, V> *>(from + vector * V);
#pragma unroll
        for (int k = 0; k < (int)V; ++k)
            if (k >= span.low && k < span.high) values.at[k] = from[vector * V + k];
    }
    return values;
}

template <typename T, unsigned V>
__device__ __forceinline__ void store(T *to, size_t vector, Span span, bool aligned, const Pack<T, V> &values)
{
    if constexpr (Packing<T>::SHARERS == 2) {
        const Span pairs = {0, (span.high + 1) / 2};
        Pack<uint8_t, V / 2> bytes;
#pragma unroll
        for (int k = 0; k < (int)V; k += 2)
            bytes.at[k / 2] = detent_pair_of_codes(values.at[k].code, k + 1 < span.high ? values.at[k + 1].code : 0);
        store<uint8_t, V / 2>((uint8_t *)to, vector, pairs, aligned, bytes);
    } else {
        if (aligned && span.low == 0 && span.high == (int)V) {
            *reinterpret_cast<Pack<T, V> *>(to + vector * V) = values;
            return;
        }
#pragma unroll
        for (int k = 0; k < (int)V; ++k)
            if (k >= span.low && k < span.high) to[vector * V + k] = values.at[k];
    }
}

template <typename T, unsigned V>
__device__ __forceinline__ Pack<Code, V> load_codes(const void *from, size_t vector, Span span, bool aligned)
{
    const Pack<T, V> narrow = load<T, V>((const T *)from, vector, span, aligned);
    Pack<Code, V> codes;
#pragma unroll
    for (unsigned k = 0; k < V; ++k) codes.at[k].value = Convert<int32_t, T>::load(narrow.at[k]);
    return codes;
}

template <typename T, unsigned V>
__device__ __forceinline__ Pack<T, V> load(Codes from, size_t vector, Span span, bool aligned)
{
    switch (from.dtype) {
    case DETENT_I8: return load_codes<int8_t, V>(from.memory, vector, span, aligned);
    case DETENT_U8: return load_codes<uint8_t, V>(from.memory, vector, span, aligned);
    case DETENT_I16: return load_codes<int16_t, V>(from.memory, vector, span, aligned);
    case DETENT_I4: return load_codes<I4, V>(from.memory, vector, span, aligned);
    case DETENT_U4: return load_codes<U4, V>(from.memory, vector, span, aligned);
    default: return load_codes<int32_t, V>(from.memory, vector, span, aligned);
    }
}

template <typename T, unsigned V>
__device__ __forceinline__ void store_codes(void *to, size_t vector, Span span, bool aligned,
                                            const Pack<Code, V> &codes)
{
    Pack<T, V> narrow;
#pragma unroll
    for (unsigned k = 0; k < V; ++k) narrow.at[k] = Convert<int32_t, T>::store(codes.at[k].value);
    store<T, V>((T *)to, vector, span, aligned, narrow);
}

/* Signed and unsigned codes of one width have the same bits. */
template <typename T, unsigned V>
__device__ __forceinline__ void store(Codes to, size_t vector, Span span, bool aligned, const Pack<T, V> &codes)
{
    switch (to.dtype) {
    case DETENT_I32: return store_codes<int32_t, V>(to.memory, vector, span, aligned, codes);
    case DETENT_I16: return store_codes<int16_t, V>(to.memory, vector, span, aligned, codes);
    case DETENT_I4:
    case DETENT_U4: return store_codes<I4, V>(to.memory, vector, span, aligned, codes);
    default: return store_codes<int8_t, V>(to.memory, vector, span, aligned, codes);
    }
}

template <typename T> __device__ __forceinline__ T element(const T *from, size_t index)
{
    return from[index];
}
template <typename T> __device__ __forceinline__ Code element(Codes from, size_t index) /* not of packed ones */
{
    switch (from.dtype) {
    case DETENT_I8: return {((const int8_t *)from.memory)[index]};
    case DETENT_U8: return {((const uint8_t *)from.memory)[index]};
    case DETENT_I16: return {((const int16_t *)from.memory)[index]};
    default: return {((const int32_t *)from.memory)[index]};
    }
}

} // namespace detent_cuda

#endif
