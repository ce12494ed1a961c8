// Codes and values. Their gradients are in test_quantize_bwd.cpp.
#include "detent/quantize.h"

#include "detent/fake_quantize.h"
#include "problem.h"

using namespace detent_test;

namespace
{

constexpr detent_dtype integer_dtypes[] = {DETENT_I8, DETENT_U8, DETENT_I16, DETENT_I32};

bool holds(detent_dtype dtype, detent_grid grid)
{
    const int64_t one = 1;
    const int64_t low[] = {-(one << 24), -2048, -256, INT32_MIN, -128, 0, -32768, INT32_MIN};
    const int64_t high[] = {one << 24, 2048, 256, UINT32_MAX, 127, 255, 32767, INT32_MAX};
    return grid.qmin >= low[dtype] && grid.qmax <= high[dtype];
}

// The code types that can hold the problem's grid: integers, and the type of x.
std::vector<detent_dtype> code_types(const Problem &p)
{
    std::vector<detent_dtype> all(std::begin(integer_dtypes), std::end(integer_dtypes));
    all.push_back(p.dtype);
    all.erase(std::remove_if(all.begin(), all.end(), [&](detent_dtype q) { return !holds(q, p.encoding.grid); }),
              all.end());
    return all;
}

Array codes(const Problem &p, detent_dtype q_dtype, detent_parallel_for parallel = nullptr)
{
    Array q(q_dtype, p.size());
    EXPECT_EQ(detent_quantize_cpu(p.x.data(), q.data(), p.dtype, q_dtype, p.shape, &p.encoding, parallel), DETENT_OK);
    EXPECT_INTACT(q);
    return q;
}

Array values(const Problem &p, const Array &q, detent_parallel_for parallel = nullptr)
{
    const detent_dtype real = detent_dequantize_math_dtype(q.dtype(), p.dtype);
    Array scale(real, p.shape.groups), zero_point(real, p.shape.groups), x(p.dtype, p.size());
    for (size_t g = 0; g < p.shape.groups; ++g) {
        scale.set(g, p.affine[g].scale);
        zero_point.set(g, p.affine[g].zero_point);
    }
    const detent_encoding encoding = affine_encoding({0, 0}, scale, &zero_point); // the grid is ignored
    EXPECT_EQ(detent_dequantize_cpu(q.data(), x.data(), q.dtype(), p.dtype, p.shape, &encoding, parallel), DETENT_OK);
    EXPECT_INTACT(x);
    return x;
}

bool explained(const Problem &p, size_t i, double q, bool integer)
{
    const oracle::Affine &a = p.at(i);
    if (std::isnan(p.x[i])) return integer ? q == oracle::integer_code(p.x[i], a, p.grid) : std::isnan(q);
    const double ratio = p.x[i] / a.scale, r = std::rint(ratio);
    if (q == oracle::code(r, a.zero_point, p.grid)) return true;
    const bool doubtful = std::isfinite(ratio) && distance_to_half(ratio) <= tie_width(p, ratio);
    return doubtful &&
           (q == oracle::code(r - 1, a.zero_point, p.grid) || q == oracle::code(r + 1, a.zero_point, p.grid));
}

void expect_codes(const Problem &p)
{
    for (const detent_dtype q_dtype : code_types(p)) {
        const Array q = codes(p, q_dtype);
        for (size_t i = 0; i < p.size(); ++i) {
            if (explained(p, i, q[i], q_dtype >= DETENT_I8)) continue;
            ADD_FAILURE() << p.describe() << ", codes " << name_of(q_dtype) << ", index " << i << ", x " << p.x[i]
                          << ", got " << q[i] << ", expected " << oracle::integer_code(p.x[i], p.at(i), p.grid);
            break;
        }
    }
}

void expect_round_trip(const Problem &p)
{
    Array expected(p.dtype, p.size());
    ASSERT_EQ(
        detent_fake_quantize_cpu(p.x.data(), expected.data(), nullptr, p.dtype, p.shape, &p.encoding, nullptr, nullptr),
        DETENT_OK);
    for (const detent_dtype q_dtype : code_types(p)) {
        const detent_dtype real = detent_dequantize_math_dtype(q_dtype, p.dtype);
        const bool same_encoding = std::all_of(p.affine.begin(), p.affine.end(), [&](const oracle::Affine &a) {
            return real == DETENT_F64 || a.scale == (double)(float)a.scale;
        });
        if (!same_encoding) continue;
        Array got = values(p, codes(p, q_dtype));
        const size_t width = bytes_of(p.dtype);
        for (size_t i = 0; i < p.size(); ++i)
            if (std::isnan(p.x[i]))
                std::memcpy((char *)got.data() + i * width, (char *)expected.data() + i * width, width);
        expect_same_bits(got, expected, p.describe() + ", codes " + name_of(q_dtype));
    }
}

std::vector<double> codes_of(const std::vector<double> &x, detent_dtype q_dtype, double scale, double zero_point,
                             detent_grid grid)
{
    const detent_dtype real = detent_math_dtype(DETENT_F32, grid);
    const Array in = array_of(DETENT_F32, x), scales = array_of(real, {scale}),
                zero_points = array_of(real, {zero_point});
    const detent_encoding encoding = affine_encoding(grid, scales, &zero_points);
    Array q(q_dtype, x.size());
    EXPECT_EQ(detent_quantize_cpu(in.data(), q.data(), DETENT_F32, q_dtype, {1, 1, x.size()}, &encoding, nullptr),
              DETENT_OK);
    std::vector<double> out;
    for (size_t i = 0; i < q.size(); ++i) out.push_back(q[i]);
    return out;
}

} // namespace

TEST(Quantize, equals_the_oracle_on_every_shape_dtype_and_parametrization)
{
    for_each_problem(Specials::all, true, expect_codes);
}

TEST(Quantize, equals_the_oracle_on_every_grid)
{
    for (const detent_shape3 shape : {detent_shape3{3, 5, 67}, detent_shape3{211, 7, 1}})
        for_each_grid(shape, Specials::all, true, expect_codes);
}

TEST(Quantize, dequantizing_the_codes_equals_fake_quantize_bit_for_bit)
{
    for_each_problem(Specials::all, true, expect_round_trip);
    for (const detent_shape3 shape : {detent_shape3{3, 5, 67}, detent_shape3{211, 7, 1}})
        for_each_grid(shape, Specials::all, true, expect_round_trip);
}

TEST(Quantize, halves_round_to_even_before_the_zero_point_is_added)
{
    EXPECT_EQ(codes_of({-1.5, -.5, .5, 1.5, 2.5}, DETENT_U8, 1, 3, {0, 255}), (std::vector<double>{1, 3, 3, 5, 5}));
}

TEST(Quantize, nan_becomes_the_code_of_zero_in_integers_and_stays_nan_in_floats)
{
    for (const detent_dtype q_dtype : {DETENT_I16, DETENT_I32}) {
        EXPECT_EQ(codes_of({not_a_number}, q_dtype, 1, 3, {0, 255})[0], 3);
        EXPECT_EQ(codes_of({not_a_number}, q_dtype, 1, 0, {5, 255})[0], 5); // 0 is off the grid: its nearest end
        EXPECT_EQ(codes_of({not_a_number}, q_dtype, 1, 300, {0, 255})[0], 255);
    }
    EXPECT_TRUE(std::isnan(codes_of({not_a_number}, DETENT_F32, 1, 3, {0, 255})[0]));
}

TEST(Quantize, infinities_land_on_the_ends)
{
    for (const detent_dtype q_dtype : {DETENT_I8, DETENT_I16, DETENT_I32, DETENT_F32})
        EXPECT_EQ(codes_of({-infinity, infinity, 3e38, -3e38}, q_dtype, .001, 0, {-128, 127}),
                  (std::vector<double>{-128, 127, 127, -128}));
    EXPECT_EQ(codes_of({-infinity, infinity}, DETENT_I32, 1, 0, {INT32_MIN, INT32_MAX}),
              (std::vector<double>{INT32_MIN, INT32_MAX}));
}

TEST(Quantize, a_grid_the_codes_cannot_hold_is_refused)
{
    const Array x = array_of(DETENT_F32, {1});
    for (const GridCase &on : grids())
        for (const detent_dtype dtype : float_dtypes) {
            const Array scale = array_of(detent_math_dtype(dtype, on.grid), {1}), in = array_of(dtype, {1});
            const detent_encoding encoding = affine_encoding(on.grid, scale, nullptr);
            for (const detent_dtype q_dtype :
                 {DETENT_I8, DETENT_U8, DETENT_I16, DETENT_I32, (decltype(DETENT_F32))dtype}) {
                Array q(q_dtype, 1);
                const detent_status status =
                    detent_quantize_cpu(in.data(), q.data(), dtype, q_dtype, {1, 1, 1}, &encoding, nullptr);
                EXPECT_EQ(status, holds(q_dtype, on.grid) ? DETENT_OK : DETENT_BAD_GRID)
                    << name_of(dtype) << " to " << name_of(q_dtype) << ", " << on.grid.qmin << " .. " << on.grid.qmax;
                EXPECT_EQ(q.untouched(), status != DETENT_OK);
            }
        }
}

TEST(Quantize, the_partition_changes_no_bit)
{
    for (const detent_shape3 shape : {detent_shape3{1, 1, 200003}, detent_shape3{40009, 5, 1}})
        for (const detent_dtype dtype : float_dtypes) {
            const Problem p = make_problem(dtype, shape, {{-128, 127}, false}, Form::affine, false, 80, Specials::all);
            for (const detent_dtype q_dtype : code_types(p)) {
                const Array q = codes(p, q_dtype), x = values(p, q);
                for (const detent_parallel_for parallel : {reversed_chunks, threads}) {
                    expect_same_bits(codes(p, q_dtype, parallel), q, p.describe());
                    expect_same_bits(values(p, q, parallel), x, p.describe());
                }
            }
        }
}

TEST(Quantize, bad_calls_are_named_and_write_nothing)
{
    const Array x = array_of(DETENT_F32, {1}), scale = array_of(DETENT_F32, {1});
    Array q(DETENT_I8, 1);
    const detent_encoding good = affine_encoding({-8, 7}, scale, nullptr), none = encoding_on({-8, 7}, true);
    detent_encoding bad = good;
    bad.grid = {7, -8};
    const auto call = [](const void *from, void *to, detent_dtype dtype, detent_dtype q_dtype, detent_shape3 shape,
                         const detent_encoding *e) {
        return detent_quantize_cpu(from, to, dtype, q_dtype, shape, e, nullptr);
    };
    EXPECT_EQ(call(nullptr, q.data(), DETENT_F32, DETENT_I8, {1, 1, 1}, &good), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x.data(), nullptr, DETENT_F32, DETENT_I8, {1, 1, 1}, &good), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x.data(), q.data(), DETENT_F32, DETENT_I8, {1, 1, 1}, nullptr), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x.data(), q.data(), DETENT_F32, DETENT_I8, {1, 1, 1}, &none), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x.data(), q.data(), DETENT_F32, DETENT_I8, {1, 1, 1}, &bad), DETENT_BAD_GRID);
    EXPECT_EQ(call(x.data(), q.data(), DETENT_I8, DETENT_I8, {1, 1, 1}, &good), DETENT_BAD_DTYPE);
    EXPECT_EQ(call(x.data(), q.data(), DETENT_F32, DETENT_F16, {1, 1, 1}, &good), DETENT_BAD_DTYPE);
    EXPECT_EQ(call(x.data(), q.data(), DETENT_F32, DETENT_U4 + 1, {1, 1, 1}, &good), DETENT_BAD_DTYPE);
    EXPECT_EQ(call(x.data(), q.data(), DETENT_F32, -1, {1, 1, 1}, &good), DETENT_BAD_DTYPE);
    EXPECT_EQ(call(x.data(), q.data(), DETENT_F32, DETENT_I8, {SIZE_MAX, 2, 1}, &good), DETENT_BAD_SHAPE);
    EXPECT_EQ(call(nullptr, nullptr, DETENT_F32, DETENT_I8, {3, 0, 1}, &good), DETENT_OK);
    EXPECT_TRUE(q.untouched());
}

TEST(Dequantize, arithmetic_is_double_for_double_values_and_for_32_bit_codes)
{
    for (const detent_dtype dtype : float_dtypes) {
        EXPECT_EQ(detent_dequantize_math_dtype(DETENT_I32, dtype), DETENT_F64);
        for (const detent_dtype q_dtype : {DETENT_I8, DETENT_U8, DETENT_I16, (decltype(DETENT_F32))dtype})
            EXPECT_EQ(detent_dequantize_math_dtype(q_dtype, dtype), dtype == DETENT_F64 ? DETENT_F64 : DETENT_F32);
    }
}

TEST(Dequantize, equals_the_oracle_for_every_code_type)
{
    std::mt19937_64 random(81);
    for (const detent_dtype dtype : float_dtypes)
        for (const detent_dtype q_dtype : {DETENT_I8, DETENT_U8, DETENT_I16, DETENT_I32, (decltype(DETENT_F32))dtype})
            for (const detent_shape3 shape :
                 {detent_shape3{1, 1, 1031}, detent_shape3{37, 5, 3}, detent_shape3{2, 5, 600}}) {
                const detent_dtype real = detent_dequantize_math_dtype(q_dtype, dtype);
                Array q(q_dtype, elements_of(shape)), scale(real, shape.groups), zero_point(real, shape.groups),
                    x(dtype, q.size());
                for (size_t i = 0; i < q.size(); ++i) {
                    const uint64_t word = random(); // any code at all: the grid plays no part
                    if (q_dtype >= DETENT_I8)
                        std::memcpy((char *)q.data() + i * bytes_of(q_dtype), &word, bytes_of(q_dtype));
                    else
                        q.set(i, (double)(int8_t)word);
                }
                for (size_t g = 0; g < shape.groups; ++g) {
                    scale.set(g, (1.0 + (double)(random() % 1000) / 1000) / 512);
                    zero_point.set(g, (double)(random() % 200) - 100 + 0.25);
                }
                const detent_encoding encoding = affine_encoding({0, 0}, scale, &zero_point);
                ASSERT_EQ(detent_dequantize_cpu(q.data(), x.data(), q_dtype, dtype, shape, &encoding, nullptr),
                          DETENT_OK);
                EXPECT_INTACT(x);
                for (size_t i = 0; i < q.size(); ++i) {
                    const size_t g = group_at(shape, i);
                    const double expected =
                        stored(oracle::dequantize(q[i], {scale[g], std::rint(zero_point[g])}), dtype, real);
                    ASSERT_EQ(x[i], expected)
                        << name_of(q_dtype) << " to " << name_of(dtype) << ", index " << i << ", code " << q[i];
                }
            }
}

TEST(Dequantize, bad_calls_are_named_and_write_nothing)
{
    const Array q = array_of(DETENT_I8, {1}), scale = array_of(DETENT_F32, {1});
    Array x(DETENT_F32, 1);
    const detent_encoding good = affine_encoding({0, 0}, scale, nullptr),
                          range = range_encoding({0, 15}, false, scale, scale);
    const auto call = [](const void *from, void *to, detent_dtype q_dtype, detent_dtype dtype, detent_shape3 shape,
                         const detent_encoding *e) {
        return detent_dequantize_cpu(from, to, q_dtype, dtype, shape, e, nullptr);
    };
    EXPECT_EQ(call(nullptr, x.data(), DETENT_I8, DETENT_F32, {1, 1, 1}, &good), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(q.data(), nullptr, DETENT_I8, DETENT_F32, {1, 1, 1}, &good), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(q.data(), x.data(), DETENT_I8, DETENT_F32, {1, 1, 1}, nullptr), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(q.data(), x.data(), DETENT_I8, DETENT_F32, {1, 1, 1}, &range), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(q.data(), x.data(), DETENT_I8, DETENT_I8, {1, 1, 1}, &good), DETENT_BAD_DTYPE);
    EXPECT_EQ(call(q.data(), x.data(), DETENT_F16, DETENT_F32, {1, 1, 1}, &good), DETENT_BAD_DTYPE);
    EXPECT_EQ(call(q.data(), x.data(), DETENT_U4 + 1, DETENT_F32, {1, 1, 1}, &good), DETENT_BAD_DTYPE);
    EXPECT_EQ(call(q.data(), x.data(), DETENT_I8, DETENT_F32, {SIZE_MAX, 2, 1}, &good), DETENT_BAD_SHAPE);
    EXPECT_EQ(call(nullptr, nullptr, DETENT_I8, DETENT_F32, {0, 1, 1}, &good), DETENT_OK);
    EXPECT_TRUE(x.untouched());
}
