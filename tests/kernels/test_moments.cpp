// Moments: number, sums of magnitudes, values and squares of what counts, added to what was there.
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "detent/observe.h"

namespace
{

const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();

TEST(Moments, of_every_shape_in_double)
{
    for (const detent_shape3 shape :
         {detent_shape3{1, 1, 40009}, {7, 5, 33}, {50, 3, 2}, {2, 300, 1}, {3, 4, 600}, {0, 3, 5}, {1, 1, 1}}) {
        const size_t n = shape.outer * shape.groups * shape.inner, groups = shape.groups;
        std::vector<float> x(n), min(groups, inf), max(groups, -inf);
        std::vector<int64_t> ignored(groups, 2);
        std::vector<double> moments(4 * groups, 0.5), expected(4 * groups, 0.5);
        for (size_t i = 0; i < n; ++i) x[i] = 0.37F * (float)((i * 31) % 97) - 12.0F;
        if (n > 9) x[4] = inf, x[6] = nan, x[8] = 3e38F;
        for (size_t i = 0; i < n; ++i) {
            const size_t group = i / shape.inner % groups;
            if (!(std::fabs(x[i]) < 1.7e38F)) continue;
            const double terms[] = {1, std::fabs(x[i]), x[i], (double)x[i] * x[i]};
            for (size_t k = 0; k < 4; ++k) expected[k * groups + group] += terms[k];
        }
        size_t bytes = 0;
        ASSERT_EQ(detent_observe_moments_workspace(shape, &bytes), DETENT_OK);
        std::vector<double> room(bytes / sizeof(double) + 1);
        ASSERT_EQ(detent_observe_moments_cpu(x.data(), min.data(), max.data(), ignored.data(), moments.data(),
                                             DETENT_F32, shape, room.data(), bytes, nullptr),
                  DETENT_OK);
        double counted = 0, left_out = 0;
        for (size_t group = 0; group < groups; ++group) {
            counted += moments[group] - 0.5;
            left_out += (double)ignored[group] - 2;
        }
        EXPECT_EQ(counted + left_out, (double)n);
        for (size_t i = 0; i < moments.size(); ++i)
            EXPECT_NEAR(moments[i], expected[i], 1e-12 * (1 + expected[i / groups == 2 ? groups + i % groups : i]))
                << i;
    }
}

TEST(Moments, bad_arguments)
{
    float x = 1, low = inf, high = -inf;
    int64_t ignored = 0;
    double moments[4] = {0, 0, 0, 0}, room[64];
    const auto status = [&](double *to, detent_dtype dtype, size_t bytes) {
        return detent_observe_moments_cpu(&x, &low, &high, &ignored, to, dtype, {1, 1, 1}, room, bytes, nullptr);
    };
    EXPECT_EQ(status(nullptr, DETENT_F32, sizeof room), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(status(moments, DETENT_U8, sizeof room), DETENT_BAD_DTYPE);
    EXPECT_EQ(status(moments, DETENT_F32, 8), DETENT_WORKSPACE_SMALL);
    EXPECT_EQ(detent_observe_moments_workspace({1, 1, 1}, nullptr), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(moments[0], 0);
}

} // namespace
