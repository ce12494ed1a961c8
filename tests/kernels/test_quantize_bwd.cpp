#include "detent/quantize.h"
#include "reduction.h"

using namespace detent_test;

namespace
{

Backward quantize_backward(const Problem &p, detent_parallel_for parallel = nullptr)
{
    Backward out{Array(p.dtype, p.size()), Array(p.real, p.shape.groups), Array(p.real, p.shape.groups)};
    Array workspace(DETENT_U8, backward_workspace(p.shape));
    EXPECT_EQ(detent_quantize_bwd_cpu(p.grad_y.data(), p.x.data(), out.grad_x.data(), out.first.data(),
                                      out.second.data(), p.dtype, p.shape, &p.encoding, workspace.data(),
                                      workspace.size(), parallel),
              DETENT_OK);
    EXPECT_INTACT(out.grad_x);
    EXPECT_INTACT(out.first);
    EXPECT_INTACT(out.second);
    EXPECT_INTACT(workspace);
    return out;
}

void expect_quantize_gradients(const Problem &p)
{
    if (p.form == Form::range) return; // scale/zero_point only
    const Backward out = quantize_backward(p);
    for (size_t i = 0; i < p.size(); ++i) {
        const double expected = stored(oracle::quantize_grad_x(p.grad_y[i], p.x[i], p.at(i), p.grid), p.dtype, p.real);
        if (out.grad_x[i] == expected) continue;
        ADD_FAILURE() << p.describe() << ", index " << i << ", x " << p.x[i] << ", got " << out.grad_x[i]
                      << ", expected " << expected;
        break;
    }
    const auto terms = [&](size_t i) { return oracle::quantize_terms(p.grad_y[i], p.x[i], p.at(i), p.grid); };
    const Sums want = oracle_sums(p.shape, terms, [&](size_t i) { return terms(i).first; });
    expect_sums(out.first, want.first, p.real, p.describe() + ", grad_scale");
    expect_sums(out.second, want.second, p.real, p.describe() + ", grad_zero_point");
}

// Codes of any type with their gradient's inputs.
struct Codes {
    detent_dtype dtype, real;
    detent_shape3 shape;
    Array q, grad_x, scale, zero_point;
    detent_encoding encoding;
};

Codes make_codes(detent_dtype q_dtype, detent_dtype dtype, detent_shape3 shape, uint64_t seed)
{
    const detent_dtype real = detent_dequantize_math_dtype(q_dtype, dtype);
    const size_t n = elements_of(shape);
    Codes c{
        dtype, real, shape, Array(q_dtype, n), Array(dtype, n), Array(real, shape.groups), Array(real, shape.groups),
        {}};
    std::mt19937_64 random(seed);
    std::uniform_real_distribution<double> fraction(-1, 1);
    for (size_t i = 0; i < n; ++i) {
        c.q.set(i, (double)(random() % 128) - (q_dtype == DETENT_U8 ? 0 : 64));
        c.grad_x.set(i, fraction(random));
    }
    for (size_t g = 0; g < shape.groups; ++g) {
        c.scale.set(g, std::ldexp(1.5 + fraction(random) / 2, -7));
        c.zero_point.set(g, std::rint(60 * fraction(random)) + 0.25);
    }
    c.encoding = affine_encoding({0, 0}, c.scale, &c.zero_point);
    return c;
}

Backward dequantize_backward(const Codes &c, detent_parallel_for parallel = nullptr)
{
    Backward out{Array(c.dtype, c.q.size()), Array(c.real, c.shape.groups), Array(c.real, c.shape.groups)};
    Array workspace(DETENT_U8, backward_workspace(c.shape));
    EXPECT_EQ(detent_dequantize_bwd_cpu(c.grad_x.data(), c.q.data(), out.grad_x.data(), out.first.data(),
                                        out.second.data(), c.q.dtype(), c.dtype, c.shape, &c.encoding, workspace.data(),
                                        workspace.size(), parallel),
              DETENT_OK);
    EXPECT_INTACT(out.grad_x);
    EXPECT_INTACT(out.first);
    EXPECT_INTACT(out.second);
    EXPECT_INTACT(workspace);
    return out;
}

template <typename F> void for_each_codes(const std::vector<detent_shape3> &all, F f)
{
    uint64_t seed = 200;
    for (const detent_shape3 shape : all)
        for (const detent_dtype dtype : float_dtypes)
            for (const detent_dtype q_dtype :
                 {DETENT_I8, DETENT_U8, DETENT_I16, DETENT_I32, (decltype(DETENT_F32))dtype}) {
                ++seed;
                f(make_codes(q_dtype, dtype, shape, seed),
                  name_of(q_dtype) + " to " + name_of(dtype) + ", seed " + std::to_string(seed));
                if (::testing::Test::HasFailure()) return;
            }
}

} // namespace

TEST(QuantizeBackward, equals_the_oracle_on_every_shape_dtype_and_grid)
{
    for_each_problem(Specials::infinities, false, expect_quantize_gradients);
    for (const detent_shape3 shape : {detent_shape3{3, 5, 67}, detent_shape3{211, 7, 1}})
        for_each_grid(shape, Specials::infinities, true, expect_quantize_gradients);
}

TEST(QuantizeBackward, nan_in_x_gives_zero_there_and_nan_sums_of_its_group_only)
{
    for (const detent_shape3 shape : {detent_shape3{5, 4, 3}, detent_shape3{2, 4, 700}}) {
        Problem p = make_problem(DETENT_F32, shape, {{0, 255}, false}, Form::affine, true, 9, Specials::none);
        const size_t poisoned = p.size() / 2;
        p.x.set(poisoned, not_a_number);
        const Backward out = quantize_backward(p);
        EXPECT_EQ(out.grad_x[poisoned], 0.0);
        for (size_t g = 0; g < shape.groups; ++g) {
            EXPECT_EQ(std::isnan(out.first[g]), g == group_at(shape, poisoned)) << g;
            EXPECT_EQ(std::isnan(out.second[g]), g == group_at(shape, poisoned)) << g;
        }
    }
}

TEST(QuantizeBackward, infinite_gradients_outside_the_grid_become_exactly_zero)
{
    Problem p = make_problem(DETENT_F32, {1, 1, 3}, {{-8, 7}, true}, Form::scale_only, true, 9, Specials::none);
    p.x = array_of(DETENT_F32, {1e6, -1e6, infinity});
    p.grad_y = array_of(DETENT_F32, {infinity, not_a_number, -infinity});
    const Backward out = quantize_backward(p);
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(out.grad_x[i], 0.0);
    EXPECT_EQ(out.first[0], 0.0);
    EXPECT_EQ(out.second[0], 0.0);
}

TEST(QuantizeBackward, the_partition_changes_no_bit)
{
    for (const detent_shape3 shape : {detent_shape3{1, 1, 200003}, detent_shape3{40009, 5, 1}})
        for (const detent_dtype dtype : float_dtypes) {
            const Problem p =
                make_problem(dtype, shape, {{-128, 127}, false}, Form::affine, false, 82, Specials::infinities);
            const Backward expected = quantize_backward(p);
            for (const detent_parallel_for parallel : {reversed_chunks, threads})
                expect_same_bits(quantize_backward(p, parallel), expected, p.describe());
        }
}

TEST(DequantizeBackward, equals_the_oracle_on_every_shape_and_code_type)
{
    for_each_codes(shapes(), [](const Codes &c, const std::string &what) {
        const Backward out = dequantize_backward(c);
        const auto affine = [&](size_t i) {
            const size_t g = group_at(c.shape, i);
            return oracle::Affine{c.scale[g], std::rint(c.zero_point[g])};
        };
        for (size_t i = 0; i < c.q.size(); ++i)
            ASSERT_EQ(out.grad_x[i], stored(c.grad_x[i] * affine(i).scale, c.dtype, c.real)) << what << ", index " << i;
        const auto terms = [&](size_t i) { return oracle::dequantize_terms(c.grad_x[i], c.q[i], affine(i)); };
        const Sums want = oracle_sums(c.shape, terms, [&](size_t i) { return terms(i).first; });
        expect_sums(out.first, want.first, c.real, what + ", grad_scale");
        expect_sums(out.second, want.second, c.real, what + ", grad_zero_point");
    });
}

TEST(DequantizeBackward, the_partition_changes_no_bit)
{
    for_each_codes({{1, 1, 100003}, {20011, 5, 1}}, [](const Codes &c, const std::string &what) {
        const Backward expected = dequantize_backward(c);
        expect_same_bits(dequantize_backward(c, reversed_chunks), expected, what);
        expect_same_bits(dequantize_backward(c, threads), expected, what);
    });
}

TEST(QuantizeBackward, outputs_that_may_be_null_change_nothing_else)
{
    for (const detent_shape3 shape : {detent_shape3{3, 4, 50}, detent_shape3{50, 4, 3}}) {
        const Problem p = make_problem(DETENT_F16, shape, {{-8, 7}, true}, Form::scale_only, true, 32, Specials::none);
        Array first(p.real, 4), workspace(DETENT_U8, backward_workspace(shape));
        ASSERT_EQ(detent_quantize_bwd_cpu(p.grad_y.data(), p.x.data(), nullptr, first.data(), nullptr, p.dtype, shape,
                                          &p.encoding, workspace.data(), workspace.size(), nullptr),
                  DETENT_OK);
        expect_same_bits(first, quantize_backward(p).first, "quantize");

        Codes c = make_codes(DETENT_I8, DETENT_F16, shape, 33);
        c.encoding.zero_point = nullptr;
        Array sum(c.real, 4);
        ASSERT_EQ(detent_dequantize_bwd_cpu(c.grad_x.data(), c.q.data(), nullptr, sum.data(), nullptr, DETENT_I8,
                                            DETENT_F16, shape, &c.encoding, workspace.data(), workspace.size(),
                                            nullptr),
                  DETENT_OK);
        expect_same_bits(sum, dequantize_backward(c).first, "dequantize");
    }
}

TEST(QuantizeBackward, an_empty_tensor_writes_zero_sums)
{
    for (const detent_shape3 shape : {detent_shape3{0, 3, 5}, detent_shape3{5, 3, 0}}) {
        const Backward quantize = quantize_backward(
            make_problem(DETENT_F32, shape, {{0, 15}, false}, Form::affine, true, 33, Specials::none));
        const Backward dequantize = dequantize_backward(make_codes(DETENT_I8, DETENT_F32, shape, 34));
        for (size_t g = 0; g < 3; ++g) {
            EXPECT_TRUE(quantize.first[g] == 0 && quantize.second[g] == 0);
            EXPECT_TRUE(dequantize.first[g] == 0 && dequantize.second[g] == 0);
        }
    }
}

TEST(QuantizeBackward, bad_calls_are_named_and_write_nothing)
{
    const detent_shape3 shape = {2, 3, 40};
    const Problem p = make_problem(DETENT_F32, shape, {{0, 15}, false}, Form::affine, true, 34, Specials::none);
    const size_t bytes = backward_workspace(shape);
    Array grad(DETENT_F32, p.size()), first(DETENT_F32, 3), second(DETENT_F32, 3), workspace(DETENT_U8, bytes);
    const void *g = p.grad_y.data(), *x = p.x.data();
    void *ds = first.data(), *dzp = second.data(), *room = workspace.data();
    detent_encoding bad = p.encoding;
    bad.grid = {1, 1};
    const detent_encoding range = range_encoding({0, 15}, false, p.first, p.second);
    const auto both = [&](detent_status expected, const void *upstream, const void *in, void *scale, void *zero_point,
                          detent_dtype dtype, detent_shape3 s, const detent_encoding *e, void *space, size_t size) {
        EXPECT_EQ(
            detent_quantize_bwd_cpu(upstream, in, grad.data(), scale, zero_point, dtype, s, e, space, size, nullptr),
            expected);
        EXPECT_EQ(detent_dequantize_bwd_cpu(upstream, in, grad.data(), scale, zero_point, dtype, dtype, s, e, space,
                                            size, nullptr),
                  expected);
    };
    both(DETENT_BAD_ARGUMENT, nullptr, x, ds, dzp, DETENT_F32, shape, &p.encoding, room, bytes);
    both(DETENT_BAD_ARGUMENT, g, nullptr, ds, dzp, DETENT_F32, shape, &p.encoding, room, bytes);
    both(DETENT_BAD_ARGUMENT, g, x, nullptr, dzp, DETENT_F32, shape, &p.encoding, room, bytes);
    both(DETENT_BAD_ARGUMENT, g, x, ds, nullptr, DETENT_F32, shape, &p.encoding, room, bytes);
    both(DETENT_BAD_ARGUMENT, g, x, ds, dzp, DETENT_F32, shape, nullptr, room, bytes);
    both(DETENT_BAD_ARGUMENT, g, x, ds, dzp, DETENT_F32, shape, &range, room, bytes);
    both(DETENT_BAD_DTYPE, g, x, ds, dzp, DETENT_I8, shape, &p.encoding, room, bytes);
    both(DETENT_BAD_SHAPE, g, x, ds, dzp, DETENT_F32, {SIZE_MAX, 3, 2}, &p.encoding, room, bytes);
    both(DETENT_WORKSPACE_SMALL, g, x, ds, dzp, DETENT_F32, shape, &p.encoding, room, bytes - 1);
    both(DETENT_WORKSPACE_SMALL, g, x, ds, dzp, DETENT_F32, shape, &p.encoding, nullptr, bytes);
    EXPECT_EQ(detent_quantize_bwd_cpu(g, x, grad.data(), ds, dzp, DETENT_F32, shape, &bad, room, bytes, nullptr),
              DETENT_BAD_GRID);
    EXPECT_EQ(detent_dequantize_bwd_cpu(g, x, grad.data(), ds, dzp, DETENT_F16, DETENT_F32, shape, &p.encoding, room,
                                        bytes, nullptr),
              DETENT_BAD_DTYPE);
    EXPECT_TRUE(grad.untouched() && first.untouched() && second.untouched() && workspace.untouched());
}
