// What the tests share: arrays with guards around them, number formats, seeds, ways to run in parallel, random
// problems.
#ifndef DETENT_TEST_SUPPORT_H
#define DETENT_TEST_SUPPORT_H

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>
#include <ostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "detent/base.h"
#include "oracle.h"

namespace detent_test
{

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
using oracle::infinity;

// --- number formats, independent of kernels/math/half.h
// ---------------------------------------------------------------- value rounded half-even to `bits` significant bits,
// not below the subnormal spacing, to infinity beyond `largest`.
inline double rounded_to(double value, int bits, int smallest_exponent, double largest)
{
    if (value == 0 || !std::isfinite(value)) return value;
    const int exponent = std::max(std::ilogb(value), smallest_exponent) - (bits - 1);
    const double result = std::ldexp(std::rint(std::ldexp(value, -exponent)), exponent);
    return std::fabs(result) > largest ? std::copysign(infinity, value) : result;
}

inline double round_f16(double value)
{
    return rounded_to(value, 11, -14, 65504.0);
}
inline double round_bf16(double value)
{
    return rounded_to(value, 8, -126, 0x1.fep127);
}

inline double value_of_f16(uint16_t bits)
{
    const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    const double sign = bits & 0x8000 ? -1.0 : 1.0;
    if (exponent == 31) return mantissa != 0 ? not_a_number : sign * infinity;
    return sign * (exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25));
}

inline double value_of_bf16(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}

inline uint16_t bits_of_f16(double value) // already a binary16 number
{
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const double magnitude = std::fabs(value);
    if (std::isnan(value)) return 0x7e00;
    if (std::isinf(value)) return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x1p-14) return (uint16_t)(sign | (int)std::ldexp(magnitude, 24));
    const int exponent = std::ilogb(magnitude);
    return (uint16_t)(sign | (exponent + 15) << 10 | ((int)std::ldexp(magnitude, 10 - exponent) - 1024));
}

inline uint16_t bits_of_bf16(double value) // already a bfloat16 number
{
    const float narrow = (float)value;
    uint32_t bits;
    std::memcpy(&bits, &narrow, sizeof bits);
    return (uint16_t)(bits >> 16);
}

inline double distance_to_half(double ratio)
{
    return std::fabs(ratio - std::floor(ratio) - 0.5);
}

inline size_t bytes_of(detent_dtype dtype)
{
    static const size_t bytes[] = {4, 2, 2, 8, 1, 1, 2, 4};
    return bytes[dtype];
}

inline double largest_of(detent_dtype dtype)
{
    static const double largest[] = {std::numeric_limits<float>::max(), 65504.0, 0x1.fep127,
                                     std::numeric_limits<double>::max()};
    return dtype <= DETENT_F64 ? largest[dtype] : 0; // the compiler does not know that only float types come here
}

inline double smallest_of(detent_dtype dtype)
{
    static const double smallest[] = {0x1p-149, 0x1p-24, 0x1p-133, 0x1p-1074};
    return smallest[dtype];
}

// A value computed as `real` and stored as `dtype`. Half types are written through float.
inline double stored(double value, detent_dtype dtype, detent_dtype real)
{
    if (real == DETENT_F32 || dtype != DETENT_F64) value = (double)(float)value;
    return dtype == DETENT_F16 ? round_f16(value) : dtype == DETENT_BF16 ? round_bf16(value) : value;
}

inline std::string name_of(detent_dtype dtype)
{
    static const char *const names[] = {"f32", "f16", "bf16", "f64", "i8", "u8", "i16", "i32"};
    return names[dtype];
}

// --- arrays
// ------------------------------------------------------------------------------------------------------------ n
// elements between two guards of 64 bytes; everything starts as the guard's pattern. 8-byte aligned.
class Array
{
  public:
    static constexpr unsigned char pattern = 0xa5;
    static constexpr size_t guard = 64;

    Array() : Array(DETENT_U8, 0) {}
    Array(detent_dtype dtype, size_t n) : dtype_(dtype), n_(n), words_((2 * guard + n * bytes_of(dtype) + 7) / 8)
    {
        std::memset(words_.data(), pattern, words_.size() * 8);
    }

    void *data() { return (unsigned char *)words_.data() + guard; }
    const void *data() const { return (const unsigned char *)words_.data() + guard; }
    uint8_t *u8() { return (uint8_t *)data(); }
    const uint8_t *u8() const { return (const uint8_t *)data(); }
    size_t size() const { return n_; }
    size_t bytes() const { return n_ * bytes_of(dtype_); }
    detent_dtype dtype() const { return dtype_; }

    double operator[](size_t i) const
    {
        switch (dtype_) {
        case DETENT_F32: return ((const float *)data())[i];
        case DETENT_F16: return value_of_f16(((const uint16_t *)data())[i]);
        case DETENT_BF16: return value_of_bf16(((const uint16_t *)data())[i]);
        case DETENT_F64: return ((const double *)data())[i];
        case DETENT_I8: return ((const int8_t *)data())[i];
        case DETENT_U8: return ((const uint8_t *)data())[i];
        case DETENT_I16: return ((const int16_t *)data())[i];
        default: return ((const int32_t *)data())[i];
        }
    }

    void set(size_t i, double value)
    {
        switch (dtype_) {
        case DETENT_F32: ((float *)data())[i] = (float)value; break;
        case DETENT_F16: ((uint16_t *)data())[i] = bits_of_f16(round_f16(value)); break;
        case DETENT_BF16: ((uint16_t *)data())[i] = bits_of_bf16(round_bf16(value)); break;
        case DETENT_F64: ((double *)data())[i] = value; break;
        case DETENT_I8: ((int8_t *)data())[i] = (int8_t)value; break;
        case DETENT_U8: ((uint8_t *)data())[i] = (uint8_t)value; break;
        case DETENT_I16: ((int16_t *)data())[i] = (int16_t)value; break;
        default: ((int32_t *)data())[i] = (int32_t)value; break;
        }
    }

    bool guards_intact() const
    {
        const unsigned char *all = (const unsigned char *)words_.data();
        const size_t end = guard + bytes();
        for (size_t i = 0; i < guard; ++i)
            if (all[i] != pattern || all[end + i] != pattern) return false;
        return true;
    }

    bool untouched() const
    {
        const unsigned char *all = (const unsigned char *)words_.data();
        return std::all_of(all, all + words_.size() * 8, [](unsigned char byte) { return byte == pattern; });
    }

    bool same_bits(const Array &other) const
    {
        return dtype_ == other.dtype_ && n_ == other.n_ && std::memcmp(data(), other.data(), bytes()) == 0;
    }

  private:
    detent_dtype dtype_;
    size_t n_;
    std::vector<uint64_t> words_;
};

inline Array array_of(detent_dtype dtype, const std::vector<double> &values)
{
    Array out(dtype, values.size());
    for (size_t i = 0; i < values.size(); ++i) out.set(i, values[i]);
    return out;
}

inline void expect_same_bits(const Array &got, const Array &expected, const std::string &what)
{
    if (got.same_bits(expected)) return;
    ASSERT_EQ(got.size(), expected.size()) << what;
    for (size_t i = 0; i < got.size(); ++i) {
        const size_t width = bytes_of(got.dtype());
        if (std::memcmp((const char *)got.data() + i * width, (const char *)expected.data() + i * width, width) == 0)
            continue;
        ADD_FAILURE() << what << ": index " << i << ", got " << got[i] << ", expected " << expected[i];
        return;
    }
}

inline bool bit_at(const Array &mask, size_t i)
{
    return mask.u8()[i / 8] >> (i % 8) & 1;
}

// --- partitions
// --------------------------------------------------------------------------------------------------------
inline std::vector<std::pair<int64_t, int64_t>> uneven_chunks(int64_t begin, int64_t end)
{
    std::vector<std::pair<int64_t, int64_t>> chunks;
    for (int64_t at = begin, step = 1; at < end; step = step * 2 % 7 + 1) {
        const int64_t next = std::min(end, at + step);
        chunks.push_back({at, next});
        at = next;
    }
    return chunks;
}

inline void reversed_chunks(int64_t begin, int64_t end, int64_t, detent_parallel_body body, void *context)
{
    const auto chunks = uneven_chunks(begin, end);
    for (auto chunk = chunks.rbegin(); chunk != chunks.rend(); ++chunk) body(chunk->first, chunk->second, context);
}

inline void threads(int64_t begin, int64_t end, int64_t, detent_parallel_body body, void *context)
{
    const auto chunks = uneven_chunks(begin, end);
    std::atomic<size_t> next{0};
    std::vector<std::thread> pool;
    for (int k = 0; k < 3; ++k)
        pool.emplace_back([&] {
            for (size_t i = next++; i < chunks.size(); i = next++) body(chunks[i].first, chunks[i].second, context);
        });
    for (std::thread &thread : pool) thread.join();
}

constexpr detent_parallel_for partitions[] = {nullptr, reversed_chunks, threads};

// --- shapes, grids, problems
// -------------------------------------------------------------------------------------------
inline size_t elements_of(detent_shape3 shape)
{
    return shape.outer * shape.groups * shape.inner;
}
inline size_t group_at(detent_shape3 shape, size_t i)
{
    return i / shape.inner % shape.groups;
}

constexpr detent_dtype float_dtypes[] = {DETENT_F32, DETENT_F16, DETENT_BF16, DETENT_F64};

// One group of sizes around 8, 16, 32, 512 and 16384; groups on the first, middle and last axis; skewed shapes.
inline std::vector<detent_shape3> shapes()
{
    std::vector<detent_shape3> all;
    for (const size_t n : {0, 1, 2, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 97, 511, 512, 513, 1021, 16383, 16384, 16385})
        all.push_back({1, 1, n});
    for (const size_t inner : {1, 2, 9, 31, 32, 33, 511, 512, 513}) {
        all.push_back({1, 3, inner});
        all.push_back({5, 3, inner});
        all.push_back({inner, 3, 1});
        all.push_back({inner, 1, 2});
    }
    const detent_shape3 skewed[] = {{9001, 2, 1}, {1, 5003, 1}, {1, 1201, 9}, {1, 2, 33001}, {301, 71, 2},
                                    {600, 1, 33}, {3, 600, 3},  {0, 4, 3},    {2, 0, 3},     {2, 3, 0}};
    all.insert(all.end(), std::begin(skewed), std::end(skewed));
    return all;
}

struct GridCase {
    detent_grid grid;
    bool symmetric;
};

inline std::vector<GridCase> grids()
{
    const int64_t one = 1;
    return {{{-2, 1}, true},
            {{-1, 1}, true},
            {{0, 3}, false},
            {{-8, 7}, true},
            {{0, 15}, false},
            {{-128, 127}, true},
            {{-127, 127}, true},
            {{0, 255}, false},
            {{0, 255}, true},
            {{-128, 127}, false},
            {{-32768, 32767}, true},
            {{0, 65535}, false},
            {{-(one << 23), one << 23}, true},
            {{0, one << 23}, false},
            {{-(one << 23) - 1, 5}, false},
            {{-(one << 31), (one << 31) - 1}, true},
            {{0, (one << 32) - 1}, false}};
}

inline oracle::Grid oracle_grid(const detent_encoding &encoding)
{
    return {(double)encoding.grid.qmin, (double)encoding.grid.qmax, (double)encoding.centre, encoding.symmetric != 0};
}

inline detent_encoding encoding_on(detent_grid grid, bool symmetric)
{
    return {nullptr, nullptr, nullptr, nullptr, grid, detent_grid_centre(grid), symmetric, 0};
}

inline detent_encoding affine_encoding(detent_grid grid, const Array &scale, const Array *zero_point)
{
    detent_encoding encoding = encoding_on(grid, zero_point == nullptr);
    encoding.scale = scale.data();
    encoding.zero_point = zero_point != nullptr ? zero_point->data() : nullptr;
    return encoding;
}

inline detent_encoding range_encoding(detent_grid grid, bool symmetric, const Array &min, const Array &max)
{
    detent_encoding encoding = encoding_on(grid, symmetric);
    encoding.min = min.data();
    encoding.max = max.data();
    return encoding;
}

} // namespace detent_test

inline std::ostream &operator<<(std::ostream &out, detent_shape3 shape)
{
    return out << "[" << shape.outer << ", " << shape.groups << ", " << shape.inner << "]";
}

#define EXPECT_INTACT(array) EXPECT_TRUE((array).guards_intact()) << #array << " was written outside its ends"

#endif
