#include "detent/encode.h"

#include "support.h"

using namespace detent_test;

namespace
{

detent_encoding rules(GridCase on)
{
    return encoding_on(on.grid, on.symmetric);
}

struct Two {
    Array first, second;
};

Two affine(const std::vector<double> &min, const std::vector<double> &max, detent_dtype real,
           const detent_encoding &encoding)
{
    const Array low = array_of(real, min), high = array_of(real, max);
    Two out{Array(real, min.size()), Array(real, min.size())};
    EXPECT_EQ(detent_encode_affine_cpu(low.data(), high.data(), out.first.data(), out.second.data(), real, min.size(),
                                       &encoding),
              DETENT_OK);
    EXPECT_INTACT(out.first);
    EXPECT_INTACT(out.second);
    return out;
}

Two min_max(const std::vector<double> &lo, const std::vector<double> &hi, detent_dtype real,
            const detent_encoding &encoding)
{
    const Array low = array_of(real, lo), high = array_of(real, hi);
    Two out{Array(real, lo.size()), Array(real, lo.size())};
    EXPECT_EQ(detent_encode_min_max_cpu(low.data(), high.data(), out.first.data(), out.second.data(), real, lo.size(),
                                        &encoding),
              DETENT_OK);
    EXPECT_INTACT(out.first);
    EXPECT_INTACT(out.second);
    return out;
}

double ulps(detent_dtype real)
{
    return real == DETENT_F32 ? 0x1p-22 : 0x1p-50;
}

bool near(double got, double expected, detent_dtype real)
{
    return std::fabs(got - expected) <= ulps(real) * std::fabs(expected);
}

// Wide grids are not exact in float.
bool fits(GridCase on, detent_dtype real)
{
    return real == DETENT_F64 || detent_math_dtype(DETENT_F32, on.grid) == DETENT_F32;
}

template <typename F> void for_each_case(F f)
{
    for (const GridCase &on : grids())
        for (const detent_dtype real : {DETENT_F32, DETENT_F64})
            if (fits(on, real)) f(on, real);
}

std::string describe(GridCase on, detent_dtype real)
{
    return name_of(real) + ", grid " + std::to_string(on.grid.qmin) + " .. " + std::to_string(on.grid.qmax) +
           (on.symmetric ? ", symmetric" : "");
}

} // namespace

TEST(EncodeAffine, equals_the_oracle)
{
    for_each_case([](GridCase on, detent_dtype real) {
        std::mt19937_64 random(41);
        std::uniform_real_distribution<double> draw(-3, 3);
        std::vector<double> min, max;
        for (int i = 0; i < 500; ++i) {
            min.push_back((float)std::ldexp(draw(random), (int)(random() % 40) - 20));
            max.push_back((float)std::ldexp(draw(random), (int)(random() % 40) - 20));
        }
        const detent_encoding encoding = rules(on);
        const oracle::Grid grid = oracle_grid(encoding);
        const Two out = affine(min, max, real, encoding);
        for (size_t i = 0; i < min.size(); ++i) {
            const oracle::Affine expected = oracle::affine_of_range(min[i], max[i], grid);
            EXPECT_TRUE(near(out.first[i], expected.scale, real)) << describe(on, real) << ", index " << i << ", scale "
                                                                  << out.first[i] << ", expected " << expected.scale;
            // The scale's own rounding may carry min / scale over a half.
            const double ratio = min[i] / expected.scale, slack = std::fabs(ratio) * ulps(real);
            const bool doubtful = !grid.symmetric && (distance_to_half(ratio) <= slack || slack > 0.25);
            EXPECT_TRUE(doubtful ? std::fabs(out.second[i] - expected.zero_point) <= 1 + slack
                                 : out.second[i] == expected.zero_point)
                << describe(on, real) << ", index " << i << ", zero_point " << out.second[i] << ", expected "
                << expected.zero_point;
        }
    });
}

TEST(EncodeAffine, golden_ranges)
{
    for (const detent_dtype real : {DETENT_F32, DETENT_F64}) {
        const Two asymmetric = affine({-1, 0, -3, 1}, {1.5, 15, 0, 2.5}, real, rules({{0, 15}, false}));
        EXPECT_TRUE(near(asymmetric.first[0], 1 / 6., real) && asymmetric.second[0] == 6);
        EXPECT_TRUE(asymmetric.first[1] == 1 && asymmetric.second[1] == 0);
        EXPECT_TRUE(near(asymmetric.first[2], .2, real) && asymmetric.second[2] == 15);
        EXPECT_TRUE(near(asymmetric.first[3], .1, real) && asymmetric.second[3] == 0);
        const Two symmetric = affine({-1}, {.875}, real, rules({{-8, 7}, true}));
        EXPECT_TRUE(symmetric.first[0] == .125 && symmetric.second[0] == 0);
        const Two unsigned_centre = affine({-1}, {1}, real, rules({{0, 255}, true}));
        EXPECT_EQ(unsigned_centre.second[0], 128);
    }
}

TEST(EncodeAffine, zero_point_rounds_halves_to_even)
{
    const Two out = affine({-.5, -1.5, -2.5}, {14.5, 13.5, 12.5}, DETENT_F32, rules({{0, 15}, false}));
    EXPECT_EQ(out.second[0], 0);
    EXPECT_EQ(out.second[1], 2);
    EXPECT_EQ(out.second[2], 2);
}

TEST(EncodeAffine, collapsed_ranges_give_a_positive_scale_and_a_zero_point_on_the_grid)
{
    for_each_case([](GridCase on, detent_dtype real) {
        const detent_encoding encoding = rules(on);
        const oracle::Grid grid = oracle_grid(encoding);
        const Two out = affine({0, 1, -5, 7, -7, -1e-38}, {0, -1, -4.9999, 7, -7, 1e-38}, real, encoding);
        for (size_t i = 0; i < out.first.size(); ++i) {
            EXPECT_TRUE(out.first[i] >= oracle::scale_floor(grid) * (1 - ulps(real)) && std::isfinite(out.first[i]))
                << describe(on, real);
            EXPECT_TRUE(out.second[i] >= grid.qmin && out.second[i] <= grid.qmax) << describe(on, real);
        }
        EXPECT_TRUE(near(out.first[0], oracle::scale_floor(grid), real))
            << describe(on, real) << ", got " << out.first[0];
    });
}

TEST(EncodeAffine, swapped_ends_give_the_same_scale)
{
    for_each_case([](GridCase on, detent_dtype real) {
        const Two up = affine({-1.25, -3, .5}, {.75, 2, 4}, real, rules(on)),
                  down = affine({.75, 2, 4}, {-1.25, -3, .5}, real, rules(on));
        expect_same_bits(up.first, down.first, describe(on, real));
    });
}

TEST(EncodeMinMax, equals_the_oracle)
{
    for_each_case([](GridCase on, detent_dtype real) {
        std::mt19937_64 random(42);
        std::uniform_real_distribution<double> draw(-3, 3);
        std::vector<double> lo = {0, 1, -2, 5, -1e-9, infinity, -0.0, 1e-12},
                            hi = {0, 2, -1, 5, 1e-9, -infinity, 0.0, 2e-12};
        for (int i = 0; i < 500; ++i) {
            const double a = (float)std::ldexp(draw(random), (int)(random() % 30) - 20),
                         b = (float)std::ldexp(draw(random), (int)(random() % 30) - 20);
            lo.push_back(std::min(a, b));
            hi.push_back(std::max(a, b));
        }
        const detent_encoding encoding = rules(on);
        const Two out = min_max(lo, hi, real, encoding);
        for (size_t i = 0; i < lo.size(); ++i) {
            const oracle::Pair expected =
                oracle::range_of_observed(real == DETENT_F32 ? (float)lo[i] : lo[i],
                                          real == DETENT_F32 ? (float)hi[i] : hi[i], oracle_grid(encoding));
            EXPECT_TRUE(near(out.first[i], expected.first, real) && near(out.second[i], expected.second, real))
                << describe(on, real) << ", index " << i << ", lo " << lo[i] << ", hi " << hi[i] << ", got "
                << out.first[i] << " .. " << out.second[i] << ", expected " << expected.first << " .. "
                << expected.second;
            EXPECT_TRUE(out.first[i] <= 0 && out.second[i] >= 0 && out.first[i] < out.second[i])
                << describe(on, real) << ", index " << i;
        }
    });
}

TEST(EncodeMinMax, nothing_observed_gives_a_small_range_that_quantizes)
{
    for_each_case([](GridCase on, detent_dtype real) {
        const Two nothing = min_max({infinity}, {-infinity}, real, rules(on)),
                  zeros = min_max({0}, {0}, real, rules(on));
        expect_same_bits(nothing.first, zeros.first, describe(on, real));
        expect_same_bits(nothing.second, zeros.second, describe(on, real));
        const Two encoded = affine({nothing.first[0]}, {nothing.second[0]}, real, rules(on));
        EXPECT_TRUE(encoded.first[0] > 0 && std::isfinite(encoded.first[0])) << describe(on, real);
    });
}

TEST(EncodeMinMax, symmetric_ranges_cover_what_was_observed)
{
    const Two out = min_max({-1, -1, 0}, {.5, 4, 2}, DETENT_F64, rules({{-128, 127}, true}));
    EXPECT_TRUE(near(out.first[0], -1, DETENT_F64) && near(out.second[0], 127 / 128., DETENT_F64));
    EXPECT_TRUE(near(out.first[1], -512 / 127., DETENT_F64) && near(out.second[1], 4, DETENT_F64));
    EXPECT_TRUE(near(out.first[2], -256 / 127., DETENT_F64) && near(out.second[2], 2, DETENT_F64));
}

TEST(EncodeMinMax, the_signed_2_bit_grid_lets_its_top_clip)
{
    const Two signed_grid = min_max({-1}, {1}, DETENT_F32, rules({{-2, 1}, true}));
    EXPECT_TRUE(signed_grid.first[0] == -1 && signed_grid.second[0] == .5);
    const Two strict = min_max({-1}, {1}, DETENT_F32, rules({{-1, 1}, true}));
    EXPECT_TRUE(strict.first[0] == -1 && strict.second[0] == 1);
}

TEST(EncodeMinMax, a_centre_at_an_end_of_the_grid_gives_a_one_sided_range)
{
    detent_encoding encoding = rules({{0, 255}, true});
    encoding.centre = 0;
    const Two out = min_max({0, -1}, {2, 2}, DETENT_F64, encoding);
    EXPECT_TRUE(out.first[0] == 0 && near(out.second[0], 2, DETENT_F64));
    EXPECT_TRUE(out.first[1] == 0 && near(out.second[1], 2, DETENT_F64));
}

TEST(Encode, in_place_use_is_allowed)
{
    for_each_case([](GridCase on, detent_dtype real) {
        const std::vector<double> lo = {-1, 0, -3, 1, 0}, hi = {1.5, 15, 0, 2.5, 0};
        const detent_encoding encoding = rules(on);
        const Two range = min_max(lo, hi, real, encoding), expected = affine(lo, hi, real, encoding);
        Array a = array_of(real, lo), b = array_of(real, hi);
        ASSERT_EQ(detent_encode_min_max_cpu(a.data(), b.data(), a.data(), b.data(), real, 5, &encoding), DETENT_OK);
        expect_same_bits(a, range.first, describe(on, real));
        expect_same_bits(b, range.second, describe(on, real));
        a = array_of(real, lo), b = array_of(real, hi);
        ASSERT_EQ(detent_encode_affine_cpu(a.data(), b.data(), a.data(), b.data(), real, 5, &encoding), DETENT_OK);
        expect_same_bits(a, expected.first, describe(on, real));
        expect_same_bits(b, expected.second, describe(on, real));
    });
}

TEST(Encode, bad_calls_are_named_and_write_nothing)
{
    const Array in = array_of(DETENT_F32, {1});
    Array out(DETENT_F32, 1);
    const detent_encoding good = rules({{0, 15}, false});
    detent_encoding bad = good;
    bad.grid = {5, 5};
    for (const auto encode : {detent_encode_min_max_cpu, detent_encode_affine_cpu}) {
        EXPECT_EQ(encode(in.data(), in.data(), out.data(), out.data(), DETENT_F32, 1, nullptr), DETENT_BAD_ARGUMENT);
        EXPECT_EQ(encode(nullptr, in.data(), out.data(), out.data(), DETENT_F32, 1, &good), DETENT_BAD_ARGUMENT);
        EXPECT_EQ(encode(in.data(), nullptr, out.data(), out.data(), DETENT_F32, 1, &good), DETENT_BAD_ARGUMENT);
        EXPECT_EQ(encode(in.data(), in.data(), nullptr, out.data(), DETENT_F32, 1, &good), DETENT_BAD_ARGUMENT);
        EXPECT_EQ(encode(in.data(), in.data(), out.data(), nullptr, DETENT_F32, 1, &good), DETENT_BAD_ARGUMENT);
        EXPECT_EQ(encode(in.data(), in.data(), out.data(), out.data(), DETENT_F32, 1, &bad), DETENT_BAD_GRID);
        for (const detent_dtype dtype : std::initializer_list<detent_dtype>{DETENT_F16, DETENT_BF16, DETENT_I32, 9})
            EXPECT_EQ(encode(in.data(), in.data(), out.data(), out.data(), dtype, 1, &good), DETENT_BAD_DTYPE) << dtype;
        EXPECT_EQ(encode(nullptr, nullptr, nullptr, nullptr, DETENT_F64, 0, &good), DETENT_OK);
    }
    EXPECT_TRUE(out.untouched());
}
