// A scale and zero point that an optimizer moves: what counts of them, and the slope of it.
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "detent/encode.h"
#include "detent/fake_quantize.h"

namespace
{

const float nan = std::numeric_limits<float>::quiet_NaN();
const std::vector<float> scale = {0.5F, -0.5F, 0.0F, -1e-20F, nan}, usable = {0.5F, 0.5F, 0x1p-23F, 0x1p-23F, nan};
const std::vector<float> zero_point = {3.0F, -2.0F, 400.0F, 2.6F, 1.0F}, on_grid = {3.0F, 0.0F, 15.0F, 2.6F, 1.0F};
const detent_shape3 shape = {3, 5, 37};

detent_encoding encoding_of(const std::vector<float> &scales, const std::vector<float> &zero_points, int32_t trained)
{
    detent_encoding encoding = {};
    encoding.scale = scales.data();
    encoding.zero_point = zero_points.data();
    encoding.grid = {0, 15};
    encoding.trained = trained;
    return encoding;
}

std::vector<float> ramp()
{
    std::vector<float> x(shape.outer * shape.groups * shape.inner);
    for (size_t i = 0; i < x.size(); ++i) x[i] = 0.11F * (float)((i * 37) % 101) - 4.0F;
    return x;
}

bool same(const std::vector<float> &a, const std::vector<float> &b)
{
    bool equal = a.size() == b.size();
    for (size_t i = 0; equal && i < a.size(); ++i) equal = a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]));
    return equal;
}

TEST(Trained, encodes_what_counts)
{
    const detent_encoding encoding = encoding_of(scale, zero_point, 0);
    std::vector<float> s(5), z(5);
    ASSERT_EQ(detent_encode_trained_cpu(scale.data(), zero_point.data(), s.data(), z.data(), DETENT_F32, 5, &encoding),
              DETENT_OK);
    EXPECT_TRUE(same(s, usable));
    EXPECT_TRUE(same(z, on_grid));
    EXPECT_EQ(detent_encode_trained_cpu(scale.data(), nullptr, s.data(), z.data(), DETENT_F32, 5, &encoding),
              DETENT_BAD_ARGUMENT);
    EXPECT_EQ(detent_encode_trained_cpu(scale.data(), zero_point.data(), s.data(), z.data(), DETENT_F16, 5, &encoding),
              DETENT_BAD_DTYPE);
}

TEST(Trained, equals_the_usable_numbers_and_turns_the_gradient_of_a_negative_scale)
{
    const std::vector<float> x = ramp(), grad_y = ramp();
    const detent_encoding trained = encoding_of(scale, zero_point, 1), plain = encoding_of(usable, on_grid, 0);
    std::vector<float> y(x.size()), expected(x.size()), grad_x(x.size()), expected_grad_x(x.size());
    std::vector<float> first(5), expected_first(5), second(5), expected_second(5);
    std::vector<uint8_t> mask(x.size() / 8 + 1), expected_mask(mask.size());
    ASSERT_EQ(detent_fake_quantize_cpu(x.data(), y.data(), mask.data(), DETENT_F32, shape, &trained, nullptr, nullptr),
              DETENT_OK);
    ASSERT_EQ(detent_fake_quantize_cpu(x.data(), expected.data(), expected_mask.data(), DETENT_F32, shape, &plain,
                                       nullptr, nullptr),
              DETENT_OK);
    EXPECT_TRUE(same(y, expected));
    EXPECT_EQ(mask, expected_mask);

    size_t bytes = 0;
    ASSERT_EQ(detent_fake_quantize_bwd_workspace(shape, &bytes), DETENT_OK);
    std::vector<double> workspace(bytes / sizeof(double) + 1);
    ASSERT_EQ(detent_fake_quantize_bwd_cpu(grad_y.data(), x.data(), grad_x.data(), first.data(), second.data(),
                                           DETENT_F32, shape, &trained, nullptr, 0.3, workspace.data(), bytes, nullptr),
              DETENT_OK);
    ASSERT_EQ(detent_fake_quantize_bwd_cpu(grad_y.data(), x.data(), expected_grad_x.data(), expected_first.data(),
                                           expected_second.data(), DETENT_F32, shape, &plain, nullptr, 0.3,
                                           workspace.data(), bytes, nullptr),
              DETENT_OK);
    for (size_t i = 0; i < 5; ++i)
        if (scale[i] < 0) expected_first[i] = -expected_first[i];
    EXPECT_TRUE(same(grad_x, expected_grad_x));
    EXPECT_TRUE(same(first, expected_first));
    EXPECT_TRUE(same(second, expected_second));
}

} // namespace
