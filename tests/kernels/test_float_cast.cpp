#include "detent/float_cast.h"

#include "problem.h"
#ifdef DETENT_WITH_CUDA
#include "cuda_device.h"
#endif

using namespace detent_test;

namespace
{

const detent_float_format formats[] = {{10, -14, 65504.0}, {7, -126, 0x1.fep127}, {3, -6, 448.0},
                                       {2, -14, 57344.0},  {1, 0, 6.0},           {23, -126, 0x1.fffffep127}};

Array scales_of(const Problem &p)
{
    Array scale(p.dtype == DETENT_F64 ? DETENT_F64 : DETENT_F32, p.shape.groups);
    for (size_t g = 0; g < p.shape.groups; ++g) scale.set(g, p.affine[g].scale);
    return scale;
}

/* The header's formula; the division and the last product are those of the arithmetic, what is between is exact. */
double expected(const Problem &p, size_t i, double scale, const detent_float_format &format, bool *inside)
{
    const bool wide = p.dtype == DETENT_F64;
    const double ratio = wide ? p.x[i] / scale : (double)((float)p.x[i] / (float)scale);
    *inside = std::fabs(ratio) <= format.max;
    if (std::isnan(ratio)) return ratio;
    const double clamped = std::min(std::max(ratio, -format.max), format.max);
    const double rounded = rounded_to(clamped, format.mantissa_bits + 1, format.min_exponent, infinity);
    return stored(wide ? rounded * scale : (double)((float)rounded * (float)scale), p.dtype,
                  wide ? DETENT_F64 : DETENT_F32);
}

TEST(float_cast, equals_the_formula_on_every_shape_and_type)
{
    for_each_problem(Specials::all, false, [&](const Problem &p) {
        if (p.encoding.scale == nullptr) return;
        const Array scale = scales_of(p);
        for (const detent_float_format &format : formats) {
            Array y(p.dtype, p.size()), mask(DETENT_U8, (p.size() + 7) / 8);
            ASSERT_EQ(
                detent_float_cast_cpu(p.x.data(), y.data(), mask.u8(), p.dtype, p.shape, scale.data(), format, nullptr),
                DETENT_OK);
            EXPECT_INTACT(y);
            EXPECT_INTACT(mask);
            for (size_t i = 0; i < p.size(); ++i) {
                bool inside = false;
                const double want = expected(p, i, scale[i / p.shape.inner % p.shape.groups], format, &inside);
                ASSERT_TRUE(y[i] == want || (std::isnan(y[i]) && std::isnan(want)))
                    << p.describe() << ", element " << i << ": x " << p.x[i] << ", got " << y[i] << ", want " << want;
                ASSERT_EQ((mask.u8()[i / 8] >> i % 8 & 1) != 0, inside) << p.describe() << ", element " << i;
            }
        }
    });
}

TEST(float_cast, bad_input_is_refused)
{
    float x[2] = {1, 2}, y[2] = {7, 7};
    const float one = 1;
    const detent_shape3 shape = {1, 1, 2};
    const auto status = [&](const void *scale, detent_float_format format, detent_dtype dtype) {
        return detent_float_cast_cpu(x, y, nullptr, dtype, shape, scale, format, nullptr);
    };
    EXPECT_EQ(status(&one, {24, -6, 448.0}, DETENT_F32), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(status(&one, {-1, -6, 448.0}, DETENT_F32), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(status(&one, {3, 128, 448.0}, DETENT_F32), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(status(&one, {3, -147, 448.0}, DETENT_F32), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(status(&one, {3, -6, 0.0}, DETENT_F32), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(status(&one, {3, -6, not_a_number}, DETENT_F32), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(status(&one, {3, -6, infinity}, DETENT_F32), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(status(nullptr, {3, -6, 448.0}, DETENT_F32), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(status(&one, {3, -6, 448.0}, DETENT_I8), DETENT_BAD_DTYPE);
    EXPECT_EQ(detent_float_cast_cpu(x, nullptr, nullptr, DETENT_F32, shape, &one, formats[0], nullptr),
              DETENT_BAD_ARGUMENT);
    EXPECT_EQ(y[0], 7);
    EXPECT_EQ(detent_float_cast_cpu(nullptr, nullptr, nullptr, DETENT_F32, {1, 0, 2}, nullptr, formats[0], nullptr),
              DETENT_OK);
}

#ifdef DETENT_WITH_CUDA
TEST_F(Cuda, float_casts_equal_the_cpus)
{
    for_each_problem(Specials::all, false, [&](const Problem &p) {
        if (p.encoding.scale == nullptr) return;
        const Array scale = scales_of(p);
        const OnDevice x(p.x), scale_there(scale);
        for (const detent_float_format &format : formats) {
            Array y(p.dtype, p.size()), mask(DETENT_U8, (p.size() + 7) / 8);
            const OnDevice y_there(y), mask_there(mask);
            ASSERT_EQ(
                detent_float_cast_cpu(p.x.data(), y.data(), mask.u8(), p.dtype, p.shape, scale.data(), format, nullptr),
                DETENT_OK);
            ASSERT_EQ(detent_float_cast_cuda(x.data(), y_there.data(), mask_there.u8(), p.dtype, p.shape,
                                             scale_there.data(), format, stream),
                      DETENT_OK);
            wait();
            expect_same_values(y_there.back("y"), y, p.describe() + ", y");
            expect_same_bits(mask_there.back("mask"), mask, p.describe() + ", mask");
        }
    });
}
#endif

} // namespace
