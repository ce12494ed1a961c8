#include "detent/encode.h"
#include "reduction.h"

using namespace detent_test;

namespace
{

void expect_gradients(const Problem &p)
{
    const Backward out = fake_quantize_backward(p);
    for (size_t i = 0; i < p.size(); ++i) {
        const double expected = oracle::grad_x(p.grad_y[i], p.x[i], p.at(i), p.grid);
        if (out.grad_x[i] == expected) continue;
        ADD_FAILURE() << p.describe() << ", index " << i << ", x " << p.x[i] << ", got " << out.grad_x[i]
                      << ", expected " << expected;
        break;
    }
    const Sums want = fake_quantize_sums(p);
    expect_sums(out.first, want.first, p.real, p.describe() + ", first sum");
    expect_sums(out.second, want.second, p.real, p.describe() + ", second sum");
}

struct Gradients {
    double first, second;
    std::vector<double> x;
};

// One group in float32 or float64.
Gradients gradients(const std::vector<double> &g, const std::vector<double> &x, detent_dtype dtype,
                    const detent_encoding &encoding)
{
    const Array grad_y = array_of(dtype, g), in = array_of(dtype, x);
    Array grad_x(dtype, x.size()), first(dtype, 1), second(dtype, 1);
    Array workspace(DETENT_U8, backward_workspace({1, 1, x.size()}));
    EXPECT_EQ(detent_fake_quantize_bwd_cpu(grad_y.data(), in.data(), grad_x.data(), first.data(), second.data(), dtype,
                                           {1, 1, x.size()}, &encoding, nullptr, 1.0, workspace.data(),
                                           workspace.size(), nullptr),
              DETENT_OK);
    Gradients out{first[0], second[0], {}};
    for (size_t i = 0; i < x.size(); ++i) out.x.push_back(grad_x[i]);
    return out;
}

Gradients range_gradients(const std::vector<double> &g, const std::vector<double> &x, double min, double max,
                          detent_grid grid, bool symmetric, detent_dtype dtype = DETENT_F64)
{
    const Array low = array_of(dtype, {min}), high = array_of(dtype, {max});
    return gradients(g, x, dtype, range_encoding(grid, symmetric, low, high));
}

const std::vector<double> golden_x = {-2, -1.1, -0.6, -0.26, 0, 0.2, 0.49, 0.9, 1.4, 3};
const std::vector<double> golden_g = {1, -1, .5, 2, 1, -2, 1, .25, -1, 1.5};

#define EXPECT_NEAR_TO(got, expected, tolerance)                                                                       \
    EXPECT_TRUE(std::fabs((got) - (expected)) <= (tolerance)) << "got " << (got) << ", expected " << (expected)

} // namespace

TEST(FakeQuantizeBackward, equals_the_oracle_on_every_shape_dtype_and_parametrization)
{
    for_each_problem(Specials::infinities, false, expect_gradients);
}

TEST(FakeQuantizeBackward, equals_the_oracle_on_every_grid)
{
    for (const detent_shape3 shape : {detent_shape3{3, 5, 67}, detent_shape3{211, 7, 1}})
        for_each_grid(shape, Specials::infinities, true, expect_gradients);
}

TEST(FakeQuantizeBackward, golden_vector_of_an_asymmetric_grid)
{
    for (const detent_dtype dtype : {DETENT_F32, DETENT_F64}) {
        const Array scale = array_of(dtype, {1 / 6.}), zero_point = array_of(dtype, {6});
        const Gradients affine = gradients(golden_g, golden_x, dtype, affine_encoding({0, 15}, scale, &zero_point));
        const Gradients range = range_gradients(golden_g, golden_x, -1, 1.5, {0, 15}, false, dtype);
        const std::vector<double> dx = {0, 0, .5, 2, 1, -2, 1, .25, -1, 0};
        EXPECT_EQ(affine.x, dx);
        EXPECT_EQ(range.x, dx);
        EXPECT_NEAR_TO(affine.first, 13.18, 1e-5);
        EXPECT_NEAR_TO(affine.second, -0.25, 1e-6); // the reference's offset is -zero_point
        EXPECT_NEAR_TO(range.first, 0.0213333, 1e-6);
        EXPECT_NEAR_TO(range.second, 1.4786667, 1e-6);
    }
}

TEST(FakeQuantizeBackward, golden_vector_of_a_symmetric_grid)
{
    for (const detent_dtype dtype : {DETENT_F32, DETENT_F64}) {
        const Array scale = array_of(dtype, {.125});
        const Gradients affine = gradients(golden_g, golden_x, dtype, affine_encoding({-8, 7}, scale, nullptr));
        const Gradients range = range_gradients(golden_g, golden_x, -1, .875, {-8, 7}, true, dtype);
        const std::vector<double> dx = {0, 0, .5, 2, 1, -2, 1, .25, 0, 0};
        EXPECT_EQ(affine.x, dx);
        EXPECT_EQ(range.x, dx);
        EXPECT_NEAR_TO(affine.first, 2.79, 1e-5);
        EXPECT_NEAR_TO(range.first, -.186, 1e-6);
        EXPECT_NEAR_TO(range.second, .186, 1e-6);
    }
}

TEST(FakeQuantizeBackward, gradient_passes_up_to_half_a_step_outside)
{
    const Array scale = array_of(DETENT_F32, {1});
    const Gradients out =
        gradients({1, 1, 1, 1}, {7.4, 7.5, -8.5, -8.6}, DETENT_F32, affine_encoding({-8, 7}, scale, nullptr));
    EXPECT_EQ(out.x, (std::vector<double>{1, 0, 1, 0})); // 7.5 rounds to 8, off the grid; -8.5 to -8, on it
}

TEST(FakeQuantizeBackward, infinite_gradients_outside_the_grid_become_exactly_zero)
{
    for (const detent_dtype dtype : {DETENT_F32, DETENT_F64}) {
        const Array scale = array_of(dtype, {1});
        const Gradients out =
            gradients({infinity, -infinity, not_a_number, infinity, 1, 1}, {100, -100, 100, 0, infinity, -infinity},
                      dtype, affine_encoding({-8, 7}, scale, nullptr));
        EXPECT_EQ(out.x, (std::vector<double>{0, 0, 0, infinity, 0, 0}));
    }
}

TEST(FakeQuantizeBackward, nan_in_x_gives_zero_there_and_nan_sums_of_its_group_only)
{
    for (const detent_shape3 shape :
         {detent_shape3{5, 4, 3}, detent_shape3{2, 4, 700}, detent_shape3{700, 4, 1}, detent_shape3{1, 4, 33000}})
        for (const detent_dtype dtype : float_dtypes)
            for (const Form form : {Form::affine, Form::scale_only, Form::range}) {
                Problem p = make_problem(dtype, shape, {{0, 255}, false}, form, true, 9, Specials::none);
                const Backward clean = fake_quantize_backward(p);
                const size_t poisoned = p.size() / 2, group = group_at(shape, poisoned);
                p.x.set(poisoned, not_a_number);
                const Backward out = fake_quantize_backward(p);
                EXPECT_EQ(out.grad_x[poisoned], 0.0) << p.describe();
                for (size_t g = 0; g < shape.groups; ++g) {
                    EXPECT_TRUE(g == group ? std::isnan(out.first[g]) : out.first[g] == clean.first[g])
                        << p.describe() << ", " << g;
                    EXPECT_TRUE(g == group ? std::isnan(out.second[g]) : out.second[g] == clean.second[g])
                        << p.describe() << ", " << g;
                }
            }
}

TEST(FakeQuantizeBackward, collapsed_ranges_keep_a_finite_scale_and_a_gradient)
{
    const std::vector<double> x = {-50, -7, 3, 4, 11, 50}, g = {1, .5, -2, 3, .25, 1};
    const double ranges[][2] = {{0, 0}, {1, -1}, {-5, -4.9999}, {3, 3}, {-1e-30, 1e-30}};
    for (const auto &range : ranges)
        for (const GridCase &on : grids())
            for (const detent_dtype dtype : {DETENT_F32, DETENT_F64}) {
                const detent_dtype real = detent_math_dtype(dtype, on.grid);
                const Array min = array_of(real, {range[0]}), max = array_of(real, {range[1]}), in = array_of(dtype, x),
                            up = array_of(dtype, g);
                const detent_encoding encoding = range_encoding(on.grid, on.symmetric, min, max);
                const oracle::Grid grid = oracle_grid(encoding);
                Array scale(real, 1), zero_point(real, 1), y(dtype, 6), grad_x(dtype, 6), first(real, 1),
                    second(real, 1);
                Array workspace(DETENT_U8, backward_workspace({1, 1, 6}));
                ASSERT_EQ(detent_encode_affine_cpu(min.data(), max.data(), scale.data(), zero_point.data(), real, 1,
                                                   &encoding),
                          DETENT_OK);
                ASSERT_EQ(detent_fake_quantize_cpu(in.data(), y.data(), nullptr, dtype, {1, 1, 6}, &encoding, nullptr,
                                                   nullptr),
                          DETENT_OK);
                ASSERT_EQ(detent_fake_quantize_bwd_cpu(up.data(), in.data(), grad_x.data(), first.data(), second.data(),
                                                       dtype, {1, 1, 6}, &encoding, nullptr, 1.0, workspace.data(),
                                                       workspace.size(), nullptr),
                          DETENT_OK);
                EXPECT_TRUE(scale[0] > 0 && std::isfinite(scale[0]));
                EXPECT_TRUE(zero_point[0] >= grid.qmin && zero_point[0] <= grid.qmax &&
                            zero_point[0] == std::rint(zero_point[0]));
                Sum ds, dzp;
                for (size_t i = 0; i < 6; ++i) {
                    const oracle::Affine a = {scale[0], zero_point[0]};
                    const oracle::Pair terms = oracle::fake_quantize_terms(g[i], x[i], a, grid);
                    ds.add(terms.first, std::fabs(terms.first) +
                                            (oracle::mask(x[i], a, grid) ? 2 * std::fabs(g[i] * x[i] / a.scale) : 0));
                    dzp.add(terms.second, terms.second);
                    EXPECT_TRUE(std::isfinite(y[i]));
                    EXPECT_EQ(grad_x[i], oracle::grad_x(g[i], x[i], a, grid));
                }
                const oracle::Pair want = oracle::range_gradients(ds.value, dzp.value, min[0], max[0], grid);
                const double s = scale[0],
                             through_scale =
                                 (ds.magnitude + dzp.magnitude * std::fabs(min[0]) / (s * s)) / grid.steps();
                expect_sums(first, {{want.first, 2 * through_scale + 2 * dzp.magnitude / s}}, real, "grad_min");
                expect_sums(second, {{want.second, 2 * through_scale}}, real, "grad_max");
                EXPECT_TRUE(second[0] != 0 || ds.value == 0) << "the floor must let the gradient through";
            }
}

TEST(FakeQuantizeBackward, min_above_max_turns_the_sign)
{
    const Gradients up = range_gradients(golden_g, golden_x, -1, .875, {-8, 7}, true);
    const Gradients down = range_gradients(golden_g, golden_x, .875, -1, {-8, 7}, true);
    EXPECT_EQ(down.first, -up.first);
    EXPECT_EQ(down.second, -up.second);
    EXPECT_EQ(down.x, up.x);
}

TEST(FakeQuantizeBackward, equal_min_and_max_count_as_rising)
{
    const Gradients out = range_gradients({1, 1}, {5, 6}, 0, 0, {-8, 7}, true);
    EXPECT_NEAR_TO(out.second, 14.0 / 15, 1e-12);
    EXPECT_NEAR_TO(out.first, -14.0 / 15, 1e-12);
}

TEST(FakeQuantizeBackward, a_clamped_zero_point_passes_no_gradient)
{
    for (const bool above : {true, false}) { // the range lies wholly above, or wholly below, zero
        const double min = above ? 1 : -3, max = above ? 3 : -1;
        const Gradients out = range_gradients({1, 2, -1, .5}, {-4, 4, 2.03, -2.03}, min, max, {0, 15}, false);
        EXPECT_EQ(out.first, -out.second); // through the scale alone
        EXPECT_TRUE(out.second != 0);
    }
    const Gradients edge =
        range_gradients({1, 2}, {-4, 40}, 0, 15, {0, 15}, false); // free zero_point is qmin: it still moves
    EXPECT_NEAR_TO(edge.second, 2.0, 1e-12);
    EXPECT_NEAR_TO(edge.first, -2.0 + 3.0, 1e-12);
}

TEST(FakeQuantizeBackward, gradient_scale_multiplies_both_sums)
{
    for (const Form form : {Form::affine, Form::scale_only, Form::range}) {
        const Problem p = make_problem(DETENT_F32, {4, 5, 60}, {{0, 15}, false}, form, true, 31, Specials::none);
        const Backward plain = fake_quantize_backward(p), scaled = fake_quantize_backward(p, nullptr, 0.0078125);
        expect_same_bits(scaled.grad_x, plain.grad_x, "grad_x");
        for (size_t g = 0; g < 5; ++g) {
            EXPECT_EQ(scaled.first[g], plain.first[g] * 0.0078125);
            EXPECT_EQ(scaled.second[g], plain.second[g] * 0.0078125);
        }
    }
}

TEST(FakeQuantizeBackward, outputs_that_may_be_null_change_nothing_else)
{
    for (const detent_shape3 shape : {detent_shape3{3, 4, 50}, detent_shape3{50, 4, 3}}) {
        const Problem p = make_problem(DETENT_BF16, shape, {{-8, 7}, true}, Form::scale_only, true, 32, Specials::none);
        const Backward all = fake_quantize_backward(p);
        Array first(p.real, 4), workspace(DETENT_U8, backward_workspace(shape));
        ASSERT_EQ(detent_fake_quantize_bwd_cpu(p.grad_y.data(), p.x.data(), nullptr, first.data(), nullptr, p.dtype,
                                               shape, &p.encoding, nullptr, 1.0, workspace.data(), workspace.size(),
                                               nullptr),
                  DETENT_OK);
        expect_same_bits(first, all.first, p.describe());
    }
}

TEST(FakeQuantizeBackward, the_partition_changes_no_bit)
{
    for (const detent_shape3 shape : {detent_shape3{1, 1, 200003}, detent_shape3{40009, 5, 1},
                                      detent_shape3{7, 3, 5003}, detent_shape3{1, 20011, 3}, detent_shape3{90, 40, 33}})
        for (const detent_dtype dtype : float_dtypes)
            for (const Form form : {Form::affine, Form::range}) {
                const Problem p =
                    make_problem(dtype, shape, {{0, 255}, false}, form, form == Form::range, 78, Specials::infinities);
                const Backward expected = fake_quantize_backward(p);
                for (const detent_parallel_for parallel : partitions)
                    expect_same_bits(fake_quantize_backward(p, parallel), expected, p.describe());
            }
}

TEST(FakeQuantizeBackward, sums_of_equal_terms_stay_accurate)
{
    std::mt19937_64 random(6);
    const Array scale = array_of(DETENT_F32, {1});
    const detent_encoding encoding = affine_encoding({-8, 7}, scale, nullptr);
    double worst = 0;
    for (const size_t n : {512, 511, 16384, 100003})
        for (int i = 0; i < (n < 1000 ? 400 : 4); ++i) {
            const double g = (double)(0x800000u + random() % 0x800000u);
            const Gradients out =
                gradients(std::vector<double>(n, g), std::vector<double>(n, 100.0), DETENT_F32, encoding);
            const double want = (double)n * g * 7;
            worst = std::max(worst, std::fabs(out.first - want) / want);
        }
    EXPECT_TRUE(worst <= 0x1p-20) << "2^" << std::log2(worst);
}

TEST(FakeQuantizeBackward, an_empty_tensor_writes_zero_sums)
{
    for (const detent_shape3 shape : {detent_shape3{0, 3, 5}, detent_shape3{5, 3, 0}, detent_shape3{5, 0, 5}})
        for (const detent_dtype dtype : float_dtypes)
            for (const Form form : {Form::affine, Form::range}) {
                const Problem p = make_problem(dtype, shape, {{0, 15}, false}, form, true, 33, Specials::none);
                EXPECT_EQ(backward_workspace(shape), 0u);
                const Backward out = fake_quantize_backward(p);
                for (size_t g = 0; g < shape.groups; ++g)
                    EXPECT_TRUE(out.first[g] == 0 && out.second[g] == 0) << p.describe();
                Array first(p.real, shape.groups), second(p.real, shape.groups);
                EXPECT_EQ(detent_fake_quantize_bwd_cpu(nullptr, nullptr, nullptr, first.data(), second.data(), dtype,
                                                       shape, &p.encoding, nullptr, 1.0, nullptr, 0, nullptr),
                          DETENT_OK);
            }
}

TEST(FakeQuantizeBackward, bad_calls_are_named_and_write_nothing)
{
    const Problem p = make_problem(DETENT_F32, {2, 3, 40}, {{0, 15}, false}, Form::affine, true, 34, Specials::none);
    const size_t bytes = backward_workspace(p.shape);
    ASSERT_GT(bytes, 0u);
    Array grad_x(DETENT_F32, p.size()), first(DETENT_F32, 3), second(DETENT_F32, 3), workspace(DETENT_U8, bytes);
    const auto call = [&](const void *g, const void *x, void *ds, void *dzp, detent_dtype dtype, detent_shape3 shape,
                          const detent_encoding *encoding, void *room, size_t size) {
        return detent_fake_quantize_bwd_cpu(g, x, grad_x.data(), ds, dzp, dtype, shape, encoding, nullptr, 1.0, room,
                                            size, nullptr);
    };
    const void *g = p.grad_y.data(), *x = p.x.data();
    void *ds = first.data(), *dzp = second.data(), *room = workspace.data();
    detent_encoding bad_grid = p.encoding, no_arrays = p.encoding;
    bad_grid.grid = {4, 4};
    no_arrays.scale = no_arrays.zero_point = nullptr;
    EXPECT_EQ(call(nullptr, x, ds, dzp, DETENT_F32, p.shape, &p.encoding, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(g, nullptr, ds, dzp, DETENT_F32, p.shape, &p.encoding, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(g, x, nullptr, dzp, DETENT_F32, p.shape, &p.encoding, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(g, x, ds, nullptr, DETENT_F32, p.shape, &p.encoding, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(g, x, ds, dzp, DETENT_F32, p.shape, nullptr, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(g, x, ds, dzp, DETENT_F32, p.shape, &no_arrays, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(g, x, ds, dzp, DETENT_F32, p.shape, &bad_grid, room, bytes), DETENT_BAD_GRID);
    EXPECT_EQ(call(g, x, ds, dzp, DETENT_I8, p.shape, &p.encoding, room, bytes), DETENT_BAD_DTYPE);
    EXPECT_EQ(call(g, x, ds, dzp, DETENT_F32, {SIZE_MAX, 3, 1}, &p.encoding, room, bytes), DETENT_BAD_SHAPE);
    EXPECT_EQ(call(g, x, ds, dzp, DETENT_F32, p.shape, &p.encoding, room, bytes - 1), DETENT_WORKSPACE_SMALL);
    EXPECT_EQ(call(g, x, ds, dzp, DETENT_F32, p.shape, &p.encoding, nullptr, bytes), DETENT_WORKSPACE_SMALL);
    EXPECT_TRUE(grad_x.untouched() && first.untouched() && second.untouched() && workspace.untouched());

    size_t out = 7;
    EXPECT_EQ(detent_fake_quantize_bwd_workspace(p.shape, nullptr), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(detent_fake_quantize_bwd_workspace({SIZE_MAX, 1, 2}, &out), DETENT_BAD_SHAPE);
}
