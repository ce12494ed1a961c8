// Forward and mask. The backward and the dynamic range have files of their own.
#include "detent/fake_quantize.h"

#include "detent/encode.h"
#include "problem.h"

using namespace detent_test;

namespace
{

struct Forward {
    Array y, mask;
};

Forward forward(const Problem &p, detent_parallel_for parallel = nullptr)
{
    Forward out{Array(p.dtype, p.size()), Array(DETENT_U8, (p.size() + 7) / 8)};
    EXPECT_EQ(detent_fake_quantize_cpu(p.x.data(), out.y.data(), out.mask.u8(), p.dtype, p.shape, &p.encoding, nullptr,
                                       parallel),
              DETENT_OK);
    EXPECT_INTACT(out.y);
    EXPECT_INTACT(out.mask);
    return out;
}

// y and m must both come from one r: rint(x / scale), or its neighbour where x / scale is all but a half.
bool explained(const Problem &p, size_t i, double y, bool m)
{
    const oracle::Affine &a = p.at(i);
    const double ratio = p.x[i] / a.scale, r = std::rint(ratio);
    std::vector<double> candidates = {r};
    if (std::isfinite(ratio) && distance_to_half(ratio) <= tie_width(p, ratio))
        candidates.insert(candidates.end(), {r - 1, r + 1});
    for (const double candidate : candidates) {
        const double expected =
            stored((oracle::code(candidate, a.zero_point, p.grid) - a.zero_point) * a.scale, p.dtype, p.real);
        if (std::isnan(p.x[i]) ? std::isnan(y) && !m
                               : y == expected && m == oracle::on_grid(candidate, a.zero_point, p.grid))
            return true;
    }
    return false;
}

void expect_explained(const Problem &p, const Forward &out)
{
    int shown = 0;
    for (size_t i = 0; i < p.size() && shown < 3; ++i) {
        if (explained(p, i, out.y[i], bit_at(out.mask, i))) continue;
        ++shown;
        ADD_FAILURE() << p.describe() << ", index " << i << ", x " << p.x[i] << ", scale " << p.at(i).scale
                      << ", zero_point " << p.at(i).zero_point << ", got " << out.y[i] << " and mask "
                      << bit_at(out.mask, i) << ", expected " << oracle::fake_quantize(p.x[i], p.at(i), p.grid)
                      << " and " << oracle::mask(p.x[i], p.at(i), p.grid);
    }
    if (p.size() % 8 != 0) {
        EXPECT_EQ(out.mask.u8()[p.size() / 8] >> p.size() % 8, 0) << p.describe() << ": bits beyond the end";
    }
}

std::vector<double> fake_quantized(const std::vector<double> &x, detent_dtype dtype, double scale, double zero_point,
                                   detent_grid grid)
{
    const detent_dtype real = detent_math_dtype(dtype, grid);
    const Array in = array_of(dtype, x), scales = array_of(real, {scale}), zero_points = array_of(real, {zero_point});
    Array y(dtype, x.size());
    const detent_encoding encoding = affine_encoding(grid, scales, &zero_points);
    EXPECT_EQ(
        detent_fake_quantize_cpu(in.data(), y.data(), nullptr, dtype, {1, 1, x.size()}, &encoding, nullptr, nullptr),
        DETENT_OK);
    std::vector<double> out;
    for (size_t i = 0; i < y.size(); ++i) out.push_back(y[i]);
    return out;
}

} // namespace

TEST(FakeQuantize, equals_the_oracle_on_every_shape_dtype_and_parametrization)
{
    for_each_problem(Specials::all, true, [](const Problem &p) { expect_explained(p, forward(p)); });
}

TEST(FakeQuantize, equals_the_oracle_on_every_grid)
{
    for (const detent_shape3 shape : {detent_shape3{3, 5, 67}, detent_shape3{211, 7, 1}})
        for_each_grid(shape, Specials::all, true, [](const Problem &p) { expect_explained(p, forward(p)); });
}

TEST(FakeQuantize, golden_vector_of_an_asymmetric_grid)
{
    const std::vector<double> x = {-2, -1.1, -0.6, -0.26, 0, 0.2, 0.49, 0.9, 1.4, 3};
    const double y[] = {-1, -1, -2 / 3., -1 / 3., 0, 1 / 6., 0.5, 5 / 6., 4 / 3., 1.5};
    for (const detent_dtype dtype : {DETENT_F32, DETENT_F64}) {
        const Array in = array_of(dtype, x), min = array_of(dtype, {-1}), max = array_of(dtype, {1.5}),
                    scale = array_of(dtype, {1 / 6.}), zero_point = array_of(dtype, {6});
        for (const detent_encoding &encoding :
             {range_encoding({0, 15}, false, min, max), affine_encoding({0, 15}, scale, &zero_point)}) {
            Array out(dtype, 10), mask(DETENT_U8, 2);
            ASSERT_EQ(detent_fake_quantize_cpu(in.data(), out.data(), mask.u8(), dtype, {1, 1, 10}, &encoding, nullptr,
                                               nullptr),
                      DETENT_OK);
            for (size_t i = 0; i < 10; ++i)
                EXPECT_TRUE(std::fabs(out[i] - y[i]) <= 2e-7) << i << ": " << out[i] << ", expected " << y[i];
            EXPECT_EQ(mask.u8()[0], 0xfc); // elements 0, 1 clipped
            EXPECT_EQ(mask.u8()[1], 0x01); // element 9 clipped
        }
    }
}

TEST(FakeQuantize, golden_vector_of_a_symmetric_grid)
{
    const std::vector<double> x = {-2, -1.1, -0.6, -0.26, 0, 0.2, 0.49, 0.9, 1.4, 3};
    const double y[] = {-1, -1, -0.625, -0.25, 0, 0.25, 0.5, 0.875, 0.875, 0.875};
    for (const detent_dtype dtype : float_dtypes) {
        const detent_dtype real = detent_math_dtype(dtype, {-8, 7});
        const Array in = array_of(dtype, x), min = array_of(real, {-1}), max = array_of(real, {0.875}),
                    scale = array_of(real, {0.125});
        for (const detent_encoding &encoding :
             {range_encoding({-8, 7}, true, min, max), affine_encoding({-8, 7}, scale, nullptr)}) {
            Array out(dtype, 10), mask(DETENT_U8, 2);
            ASSERT_EQ(detent_fake_quantize_cpu(in.data(), out.data(), mask.u8(), dtype, {1, 1, 10}, &encoding, nullptr,
                                               nullptr),
                      DETENT_OK);
            for (size_t i = 0; i < 10; ++i) EXPECT_EQ(out[i], y[i]) << name_of(dtype) << ", index " << i;
            EXPECT_EQ(mask.u8()[0], 0xfc);
            EXPECT_EQ(mask.u8()[1], 0x00);
        }
    }
}

TEST(FakeQuantize, halves_round_to_even)
{
    const std::vector<double> x = {-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5}, even = {-2, -2, 0, 0, 2, 2, 4};
    for (const detent_dtype dtype : float_dtypes)
        EXPECT_EQ(fake_quantized(x, dtype, 1, 0, {-8, 7}), even) << name_of(dtype);
}

TEST(FakeQuantize, moving_the_grid_never_changes_which_way_a_half_goes)
{
    const std::vector<double> x = {-2.5, -1.5, -0.5, 0.5, 1.5, 2.5};
    for (const double zero_point : {-3, -1, 0, 1, 2, 3})
        EXPECT_EQ(fake_quantized(x, DETENT_F32, 1, zero_point, {-8, 7}), fake_quantized(x, DETENT_F32, 1, 0, {-8, 7}))
            << zero_point;
}

TEST(FakeQuantize, zero_point_is_rounded_half_even_where_it_is_used)
{
    const std::vector<double> x = {-20, 20};
    const struct {
        double zero_point, rounded;
    } cases[] = {{0.5, 0}, {1.5, 2}, {-0.5, 0}, {-1.5, -2}, {2.5, 2}, {0.49, 0}, {0.51, 1}};
    for (const auto &c : cases) {
        const std::vector<double> expected = {-8 - c.rounded, 7 - c.rounded};
        EXPECT_EQ(fake_quantized(x, DETENT_F32, 1, c.zero_point, {-8, 7}), expected) << c.zero_point;
    }
}

TEST(FakeQuantize, infinities_land_on_the_ends_and_nan_stays_nan)
{
    for (const detent_dtype dtype : float_dtypes)
        for (const detent_grid grid : {detent_grid{-8, 7}, detent_grid{INT32_MIN, INT32_MAX}}) {
            const auto y = fake_quantized({-infinity, infinity, not_a_number, -not_a_number}, dtype, 0.5, 0, grid);
            EXPECT_EQ(y[0], stored(0.5 * (double)grid.qmin, dtype, DETENT_F64));
            EXPECT_EQ(y[1], stored(0.5 * (double)grid.qmax, dtype, DETENT_F64));
            EXPECT_TRUE(std::isnan(y[2]) && std::isnan(y[3])) << name_of(dtype);
        }
}

TEST(FakeQuantize, zero_and_subnormals_become_zero)
{
    for (const detent_dtype dtype : float_dtypes) {
        const double tiny = smallest_of(dtype);
        for (const double y : fake_quantized({0.0, -0.0, tiny, -tiny, 3 * tiny}, dtype, 0.25, 3, {-8, 7}))
            EXPECT_EQ(y, 0.0);
    }
}

TEST(FakeQuantize, bit_i_of_the_mask_is_element_i)
{
    for (const detent_dtype dtype : float_dtypes)
        for (size_t n : {size_t{1}, size_t{8}, size_t{9}, size_t{1030}})
            for (size_t inside = 0; inside<n; inside += n> 100 ? 37 : 1) {
                Array x(dtype, n), y(dtype, n), mask(DETENT_U8, (n + 7) / 8);
                for (size_t i = 0; i < n; ++i) x.set(i, i == inside ? 1 : 100);
                const Array scale = array_of(detent_math_dtype(dtype, {-8, 7}), {1});
                const detent_encoding encoding = affine_encoding({-8, 7}, scale, nullptr);
                ASSERT_EQ(detent_fake_quantize_cpu(x.data(), y.data(), mask.u8(), dtype, {1, 1, n}, &encoding, nullptr,
                                                   nullptr),
                          DETENT_OK);
                for (size_t byte = 0; byte < mask.size(); ++byte)
                    ASSERT_EQ(mask.u8()[byte], byte == inside / 8 ? 1 << inside % 8 : 0)
                        << "n " << n << ", element " << inside;
            }
}

TEST(FakeQuantize, y_does_not_depend_on_the_mask_being_asked_for)
{
    for_each_grid({3, 5, 33}, Specials::all, true, [](const Problem &p) {
        Array y(p.dtype, p.size());
        ASSERT_EQ(
            detent_fake_quantize_cpu(p.x.data(), y.data(), nullptr, p.dtype, p.shape, &p.encoding, nullptr, nullptr),
            DETENT_OK);
        expect_same_bits(y, forward(p).y, p.describe());
    });
}

TEST(FakeQuantize, the_partition_changes_no_bit)
{
    for (const detent_shape3 shape :
         {detent_shape3{1, 1, 200003}, detent_shape3{40009, 5, 1}, detent_shape3{7, 3, 5003}})
        for (const detent_dtype dtype : float_dtypes) {
            const Problem p = make_problem(dtype, shape, {{0, 255}, false}, Form::affine, false, 77, Specials::all);
            const Forward expected = forward(p);
            for (const detent_parallel_for parallel : {reversed_chunks, threads}) {
                const Forward got = forward(p, parallel);
                expect_same_bits(got.y, expected.y, p.describe());
                expect_same_bits(got.mask, expected.mask, p.describe());
            }
        }
}

TEST(FakeQuantize, a_range_gives_what_its_scale_and_zero_point_give)
{
    std::mt19937_64 random(3);
    std::uniform_real_distribution<double> draw(-4, 4);
    for (const GridCase &on : grids())
        for (const detent_dtype dtype : float_dtypes) {
            const detent_dtype real = detent_math_dtype(dtype, on.grid);
            const size_t groups = 41;
            Array min(real, groups), max(real, groups), scale(real, groups), zero_point(real, groups),
                x(dtype, groups * 50);
            for (size_t g = 0; g < groups; ++g) { // any order: min > max too
                min.set(g, draw(random));
                max.set(g, draw(random));
            }
            for (size_t i = 0; i < x.size(); ++i) x.set(i, draw(random));
            const detent_encoding range = range_encoding(on.grid, on.symmetric, min, max);
            ASSERT_EQ(
                detent_encode_affine_cpu(min.data(), max.data(), scale.data(), zero_point.data(), real, groups, &range),
                DETENT_OK);
            const detent_encoding affine = affine_encoding(on.grid, scale, &zero_point);
            Array of_range(dtype, x.size()), of_affine(dtype, x.size());
            const detent_shape3 shape = {1, groups, 50};
            ASSERT_EQ(
                detent_fake_quantize_cpu(x.data(), of_range.data(), nullptr, dtype, shape, &range, nullptr, nullptr),
                DETENT_OK);
            ASSERT_EQ(
                detent_fake_quantize_cpu(x.data(), of_affine.data(), nullptr, dtype, shape, &affine, nullptr, nullptr),
                DETENT_OK);
            expect_same_bits(of_range, of_affine, name_of(dtype));
        }
}

TEST(FakeQuantize, bad_calls_are_named_and_write_nothing)
{
    const Array x = array_of(DETENT_F32, std::vector<double>(8, 1.0)), scale = array_of(DETENT_F32, {1}),
                zero_point = array_of(DETENT_F32, {0});
    Array y(DETENT_F32, 8), mask(DETENT_U8, 1);
    const detent_encoding good = affine_encoding({-8, 7}, scale, &zero_point);
    const auto status = [&](const detent_encoding *encoding, detent_dtype dtype = DETENT_F32,
                            detent_shape3 shape = {1, 1, 8}) {
        return detent_fake_quantize_cpu(x.data(), y.data(), mask.u8(), dtype, shape, encoding, nullptr, nullptr);
    };
    EXPECT_EQ(status(nullptr), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(detent_fake_quantize_cpu(nullptr, y.data(), nullptr, DETENT_F32, {1, 1, 8}, &good, nullptr, nullptr),
              DETENT_BAD_ARGUMENT);
    EXPECT_EQ(detent_fake_quantize_cpu(x.data(), nullptr, nullptr, DETENT_F32, {1, 1, 8}, &good, nullptr, nullptr),
              DETENT_BAD_ARGUMENT);

    detent_encoding both = good, neither = encoding_on({-8, 7}, true), half = neither, mixed = neither;
    both.min = both.max = scale.data();
    half.min = scale.data();
    mixed.min = mixed.max = mixed.zero_point = scale.data();
    for (const detent_encoding &bad : {both, neither, half, mixed}) EXPECT_EQ(status(&bad), DETENT_BAD_ARGUMENT);

    const int64_t low = INT32_MIN, high = UINT32_MAX;
    for (const detent_grid grid : {detent_grid{3, 3}, detent_grid{4, 3}, detent_grid{low - 1, 0},
                                   detent_grid{0, high + 1}, detent_grid{INT64_MIN, INT64_MAX}}) {
        detent_encoding bad = good;
        bad.grid = grid;
        EXPECT_EQ(status(&bad), DETENT_BAD_GRID) << grid.qmin << " .. " << grid.qmax;
    }
    for (const detent_dtype dtype :
         std::initializer_list<detent_dtype>{DETENT_I8, DETENT_U8, DETENT_I16, DETENT_I32, 8, -1})
        EXPECT_EQ(status(&good, dtype), DETENT_BAD_DTYPE) << dtype;
    for (const detent_shape3 shape :
         {detent_shape3{SIZE_MAX, 2, 1}, detent_shape3{1, SIZE_MAX / 2, 3}, detent_shape3{1 << 30, 1 << 30, 1 << 30}})
        EXPECT_EQ(status(&good, DETENT_F32, shape), DETENT_BAD_SHAPE) << shape;
    EXPECT_TRUE(y.untouched() && mask.untouched());
}

TEST(FakeQuantize, an_empty_tensor_needs_no_pointers)
{
    const Array scale = array_of(DETENT_F32, {1});
    const detent_encoding encoding = affine_encoding({-8, 7}, scale, nullptr);
    for (const detent_shape3 shape : {detent_shape3{0, 1, 5}, detent_shape3{5, 0, 5}, detent_shape3{5, 1, 0}})
        EXPECT_EQ(detent_fake_quantize_cpu(nullptr, nullptr, nullptr, DETENT_F32, shape, &encoding, nullptr, nullptr),
                  DETENT_OK);
}
