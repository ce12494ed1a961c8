// Gradient sums of a problem, by the oracle and by a kernel.
#ifndef DETENT_TEST_REDUCTION_H
#define DETENT_TEST_REDUCTION_H

#include "detent/fake_quantize.h"
#include "problem.h"

namespace detent_test
{

struct Sums {
    std::vector<Sum> first, second;
};

// terms(i) gives the two terms of element i, size(i) the magnitude that the first one's rounding error scales with.
template <typename Terms, typename Size> Sums oracle_sums(detent_shape3 shape, Terms terms, Size size)
{
    Sums sums{std::vector<Sum>(shape.groups), std::vector<Sum>(shape.groups)};
    for (size_t i = 0; i < elements_of(shape); ++i) {
        const oracle::Pair pair = terms(i);
        sums.first[group_at(shape, i)].add(pair.first, size(i));
        sums.second[group_at(shape, i)].add(pair.second, pair.second);
    }
    return sums;
}

inline Sums fake_quantize_sums(const Problem &p)
{
    const auto terms = [&](size_t i) { return oracle::fake_quantize_terms(p.grad_y[i], p.x[i], p.at(i), p.grid); };
    Sums sums = oracle_sums(p.shape, terms, [&](size_t i) {
        // r - x / scale cancels: where the quotient is inexact its error scales with the quotient.
        const double ratio = p.x[i] / p.at(i).scale;
        const bool cancels = !p.exact && oracle::mask(p.x[i], p.at(i), p.grid);
        return std::fabs(p.grad_y[i]) * 2 * (cancels ? std::fabs(ratio) : 0.0) + std::fabs(terms(i).first);
    });
    if (p.form != Form::range) return sums;
    for (size_t g = 0; g < p.shape.groups; ++g) {
        const double min = p.first[g], max = p.second[g], scale = p.affine[g].scale, steps = p.grid.steps();
        const oracle::Pair pair = oracle::range_gradients(sums.first[g].value, sums.second[g].value, min, max, p.grid);
        const double through_scale =
            (sums.first[g].magnitude + sums.second[g].magnitude * std::fabs(min) / (scale * scale)) / steps;
        const double through_zero_point = sums.second[g].magnitude / scale;
        sums.first[g] = {pair.first, through_scale + through_zero_point};
        sums.second[g] = {pair.second, through_scale};
    }
    return sums;
}

inline size_t backward_workspace(detent_shape3 shape)
{
    size_t bytes = SIZE_MAX;
    EXPECT_EQ(detent_fake_quantize_bwd_workspace(shape, &bytes), DETENT_OK);
    return bytes;
}

struct Backward {
    Array grad_x, first, second;
};

inline Backward fake_quantize_backward(const Problem &p, detent_parallel_for parallel = nullptr,
                                       double gradient_scale = 1.0, const detent_activation *activation = nullptr)
{
    Backward out{Array(p.dtype, p.size()), Array(p.real, p.shape.groups), Array(p.real, p.shape.groups)};
    Array workspace(DETENT_U8, backward_workspace(p.shape));
    EXPECT_EQ(detent_fake_quantize_bwd_cpu(p.grad_y.data(), p.x.data(), out.grad_x.data(), out.first.data(),
                                           out.second.data(), p.dtype, p.shape, &p.encoding, activation, gradient_scale,
                                           workspace.data(), workspace.size(), parallel),
              DETENT_OK);
    EXPECT_INTACT(out.grad_x);
    EXPECT_INTACT(out.first);
    EXPECT_INTACT(out.second);
    EXPECT_INTACT(workspace);
    return out;
}

constexpr detent_activation activations[] = {{0.0, infinity}, {0.0, 6.0}, {-0.7, 1.3}, {-infinity, 0.0}};

inline std::string describe(const Problem &p, const detent_activation &activation)
{
    return p.describe() + ", activation " + std::to_string(activation.min) + " .. " + std::to_string(activation.max);
}

// What the first of two passes would leave, and where it has a slope.
struct Held {
    Problem problem;
    std::vector<bool> passes;
};

inline Held held_to(const Problem &p, const detent_activation &activation)
{
    const Array bounds = array_of(p.dtype, {activation.min, activation.max});
    Held held{p, {}};
    for (size_t i = 0; i < p.size(); ++i) {
        const double x = p.x[i];
        held.problem.x.set(i, x < bounds[0] ? bounds[0] : x > bounds[1] ? bounds[1] : x);
        held.passes.push_back(bounds[0] < x && x < bounds[1]);
    }
    return held;
}

// Another tensor like x: x from its end.
inline Array residual_of(const Problem &p)
{
    Array residual(p.dtype, p.size());
    for (size_t i = 0; i < p.size(); ++i) residual.set(i, p.x[p.size() - 1 - i]);
    return residual;
}

inline Array sum_of(const Problem &p, const Array &residual)
{
    Array sum(p.dtype, p.size());
    for (size_t i = 0; i < p.size(); ++i) sum.set(i, p.x[i] + residual[i]);
    return sum;
}

inline void expect_sums(const Array &got, const std::vector<Sum> &want, detent_dtype real, const std::string &what)
{
    int shown = 0;
    for (size_t g = 0; g < want.size() && shown < 3; ++g) {
        if (close(got[g], want[g], real)) continue;
        ++shown;
        ADD_FAILURE() << what << ", group " << g << ", got " << got[g] << ", expected " << want[g].value
                      << ", sum of magnitudes " << want[g].magnitude << ", error over it 2^"
                      << std::log2(std::fabs(got[g] - want[g].value) / want[g].magnitude);
    }
}

inline void expect_same_bits(const Backward &got, const Backward &expected, const std::string &what)
{
    expect_same_bits(got.grad_x, expected.grad_x, what + ", grad_x");
    expect_same_bits(got.first, expected.first, what + ", first sum");
    expect_same_bits(got.second, expected.second, what + ", second sum");
}

} // namespace detent_test
#endif
