// Rounding to block formats: every element once, within its block's steps, whatever the shape; mask bits; error codes.
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "detent/block_cast.h"

namespace
{

const detent_float_format e4m3 = {3, -6, 448}, e2m1 = {1, 0, 6}, int8 = {6, 0, 127.0 / 64};
const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> values(size_t n)
{
    std::vector<float> x(n);
    uint32_t state = 12345;
    for (float &value : x) {
        state = state * 1664525U + 1013904223U;
        value = std::ldexp((float)(int32_t)state, (int)(state >> 7 & 31) - 40);
    }
    if (n > 9) x[3] = inf, x[5] = nan, x[7] = -0.0F, x[9] = -inf;
    return x;
}

/* One element by the definition, in double. */
double rounded(double x, double scale, const detent_float_format &format)
{
    if (std::isnan(x)) return x;
    const double v = std::fmin(std::fmax(x / scale, -format.max), format.max);
    const int exponent = v == 0 ? format.min_exponent : std::max(std::ilogb(v), (int)format.min_exponent);
    const double step = std::ldexp(1.0, exponent - format.mantissa_bits);
    return std::nearbyint(v / step) * step * scale;
}

void check(detent_shape3 shape, size_t block, const detent_float_format &format)
{
    const size_t n = shape.outer * shape.groups * shape.inner;
    const std::vector<float> x = values(n);
    std::vector<float> y(n, 12345.0F);
    std::vector<uint8_t> mask((n + 7) / 8 + 1, 0xa5);
    ASSERT_EQ(
        detent_block_cast_cpu(x.data(), y.data(), mask.data(), DETENT_F32, shape, block, format, nullptr, nullptr),
        DETENT_OK);
    EXPECT_EQ(mask.back(), 0xa5) << "the mask was written outside its end";
    for (size_t outer = 0; outer < shape.outer; ++outer)
        for (size_t inner = 0; inner < shape.inner; ++inner)
            for (size_t first = 0; first < shape.groups; first += block) {
                const auto at = [&](size_t row) { return (outer * shape.groups + row) * shape.inner + inner; };
                const size_t last = first + std::min(block, shape.groups - first);
                float largest = 0;
                for (size_t row = first; row < last; ++row)
                    if (std::isfinite(x[at(row)])) largest = std::max(largest, std::fabs(x[at(row)]));
                const int exponent = largest == 0 ? -127 : std::ilogb(largest) - std::ilogb(format.max);
                const double scale = std::ldexp(1.0, std::max(exponent, -127));
                for (size_t row = first; row < last; ++row) {
                    const size_t i = at(row);
                    const double expected = rounded(x[i], scale, format);
                    EXPECT_TRUE(y[i] == expected || (std::isnan(y[i]) && std::isnan(expected)))
                        << "element " << i << " of " << n << ", block " << block << ": x " << x[i] << ", got " << y[i]
                        << ", expected " << expected;
                    EXPECT_EQ(mask[i / 8] >> i % 8 & 1, std::isfinite(x[i]) ? 1 : 0) << "element " << i;
                }
            }
}

TEST(BlockCast, every_shape_and_block)
{
    for (const auto &format : {e4m3, e2m1, int8})
        for (const detent_shape3 shape :
             {detent_shape3{1, 64, 1}, {3, 33, 1}, {2, 40, 9}, {1, 5, 700}, {2, 1100, 1}, {1, 70, 17}, {2, 3, 1}})
            for (const size_t block : {size_t{1}, size_t{3}, size_t{16}, size_t{32}, size_t{1} << 60})
                check(shape, block, format);
}

TEST(BlockCast, the_second_level_is_a_float8)
{
    std::vector<float> x(32), y(32), expected(32);
    for (size_t i = 0; i < 32; ++i) x[i] = i < 16 ? 0.37F * (float)i : 1e-6F * (float)i;
    const float tensor_scale = 0.01F;
    /* 0.37 * 15 / 6 / 0.01 = 92.5 lies between 88 and 96; the second block's is the smallest float8. */
    for (size_t i = 0; i < 32; ++i)
        expected[i] = (float)rounded(x[i], i < 16 ? 96 * tensor_scale : 0x1p-9F * tensor_scale, e2m1);
    ASSERT_EQ(
        detent_block_cast_cpu(x.data(), y.data(), nullptr, DETENT_F32, {1, 32, 1}, 16, e2m1, &tensor_scale, nullptr),
        DETENT_OK);
    for (size_t i = 0; i < 32; ++i) EXPECT_NEAR(y[i], expected[i], 1e-6 * std::fabs(expected[i])) << i;
}

TEST(BlockCast, bad_arguments_write_nothing)
{
    float x = 1, y = 5;
    const auto status = [&](const void *from, void *to, detent_dtype dtype, detent_shape3 shape, size_t block,
                            detent_float_format format) {
        return detent_block_cast_cpu(from, to, nullptr, dtype, shape, block, format, nullptr, nullptr);
    };
    EXPECT_EQ(status(&x, &y, DETENT_F32, {1, 1, 1}, 0, e4m3), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(status(nullptr, &y, DETENT_F32, {1, 1, 1}, 32, e4m3), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(status(&x, &y, DETENT_F32, {1, 1, 1}, 32, {24, 0, 1.0}), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(status(&x, &y, DETENT_I8, {1, 1, 1}, 32, e4m3), DETENT_BAD_DTYPE);
    EXPECT_EQ(status(&x, &y, DETENT_F32, {SIZE_MAX, 2, 1}, 32, e4m3), DETENT_BAD_SHAPE);
    EXPECT_EQ(status(nullptr, nullptr, DETENT_F32, {0, 4, 1}, 32, e4m3), DETENT_OK);
    EXPECT_EQ(y, 5);
}

} // namespace
