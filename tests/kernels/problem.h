// A random tensor with an encoding whose true scale and zero_point are known.
#ifndef DETENT_TEST_PROBLEM_H
#define DETENT_TEST_PROBLEM_H

#include <sstream>

#include "support.h"

namespace detent_test
{

enum class Form { affine, scale_only, range };
enum class Specials { none, infinities, all };

struct Problem {
    detent_dtype dtype, real;
    detent_shape3 shape;
    Form form;
    bool exact; // scales are powers of two, so that x / scale is exact wherever that matters
    uint64_t seed;
    Array x, grad_y, first, second; // first, second: (scale, zero_point) or (min, max)
    std::vector<oracle::Affine> affine;
    detent_encoding encoding;
    oracle::Grid grid;

    size_t size() const { return elements_of(shape); }
    const oracle::Affine &at(size_t i) const { return affine[group_at(shape, i)]; }

    std::string describe() const
    {
        std::ostringstream out;
        out << "seed " << seed << ", " << name_of(dtype) << ", shape " << shape << ", grid " << grid.qmin << " .. "
            << grid.qmax
            << (form == Form::range    ? ", range"
                : form == Form::affine ? ", affine"
                                       : ", scale only")
            << (grid.symmetric ? ", symmetric" : "") << (exact ? ", power-of-two scales" : ", any scales");
        return out.str();
    }
};

// How far x / scale may lie from a half and still round either way.
inline double tie_width(const Problem &p, double ratio)
{
    return p.exact || p.real == DETENT_F64 ? 0.0 : std::fabs(ratio) * 0x1p-24;
}

namespace detail
{

inline double draw_x(const Problem &p, const oracle::Affine &a, std::mt19937_64 &random, Specials specials,
                     bool with_ties)
{
    const double low = p.grid.qmin - a.zero_point, high = p.grid.qmax - a.zero_point;
    std::uniform_real_distribution<double> within(low - 0.2 * p.grid.steps() - 1, high + 0.2 * p.grid.steps() + 1);
    const double sign = random() % 2 == 0 ? 1.0 : -1.0;
    switch (random() % 16) {
    case 0: return sign * 0.0;
    case 1:
        if (specials == Specials::none) break;
        return specials == Specials::all && random() % 2 == 0 ? not_a_number : sign * infinity;
    case 2: return sign * smallest_of(p.dtype) * (double)(random() % 5);
    case 3:
        if (specials == Specials::none) break;
        return sign * largest_of(p.dtype);
    case 4: return (sign > 0 ? high : low) * a.scale;
    case 5:
    case 6:
    case 7:
        if (!with_ties) break;
        return (std::floor(within(random)) + 0.5) * a.scale;
    case 8:
        if (!with_ties) break;
        return (sign > 0 ? high + 0.5 : low - 0.5) * a.scale;
    default: break;
    }
    return within(random) * a.scale;
}

} // namespace detail

inline Problem make_problem(detent_dtype dtype, detent_shape3 shape, GridCase on, Form form, bool exact, uint64_t seed,
                            Specials specials, bool with_ties = true)
{
    Problem p{};
    p.dtype = dtype;
    p.shape = shape;
    p.form = form;
    p.exact = exact;
    p.seed = seed;
    p.encoding = encoding_on(on.grid, form == Form::scale_only || on.symmetric);
    p.grid = oracle_grid(p.encoding);
    p.real = detent_math_dtype(dtype, on.grid);
    p.first = Array(p.real, shape.groups);
    p.second = Array(p.real, shape.groups);

    std::mt19937_64 random(seed);
    std::uniform_real_distribution<double> fraction(-1.0, 1.0);
    const int bits = std::ilogb(p.grid.steps());
    for (size_t group = 0; group < shape.groups; ++group) {
        double scale = std::ldexp(1.0, (int)(random() % 6) - bits);
        if (!exact) scale *= 1.0 + 0.5 * std::fabs(fraction(random));
        if (p.real == DETENT_F32) scale = (float)scale;
        double zero_point = form == Form::scale_only ? 0.0 : p.grid.centre;
        if (form != Form::scale_only && !on.symmetric)
            zero_point = std::rint(p.grid.qmin + p.grid.steps() * std::fabs(fraction(random)));
        p.affine.push_back({scale, zero_point});
        if (form == Form::range) {
            p.first.set(group, (p.grid.qmin - zero_point) * scale);
            p.second.set(group, (p.grid.qmax - zero_point) * scale);
        } else {
            // Within a half of the integer, so that it must be rounded; on the grid's side of it.
            const double beside = p.grid.steps() < 0x1p20 ? (zero_point > p.grid.centre ? -0.25 : 0.25) : 0.0;
            p.first.set(group, scale);
            p.second.set(group, zero_point + beside);
        }
    }
    if (form == Form::range) {
        p.encoding.min = p.first.data();
        p.encoding.max = p.second.data();
    } else {
        p.encoding.scale = p.first.data();
        p.encoding.zero_point = form == Form::affine ? p.second.data() : nullptr;
    }

    const size_t n = p.size();
    p.x = Array(dtype, n);
    p.grad_y = Array(dtype, n);
    for (size_t i = 0; i < n; ++i) {
        const oracle::Affine &a = p.at(i);
        p.x.set(i, detail::draw_x(p, a, random, specials, with_ties));
        const double ratio = p.x[i] / a.scale;
        if (!with_ties && std::isfinite(ratio) && !(distance_to_half(ratio) > std::fabs(ratio) * 0x1p-20))
            p.x.set(i, 0.0);
        p.grad_y.set(i, fraction(random));
    }
    return p;
}

// A slow device may leave out most problems; a prime number leaves some of each kind.
#ifndef DETENT_ONE_PROBLEM_IN
#define DETENT_ONE_PROBLEM_IN 1
#endif
inline bool is_left_out(uint64_t problem)
{
    return problem % DETENT_ONE_PROBLEM_IN != 0;
}

// Every shape, dtype and form, each with one of the grids in turn; f(problem). Range problems have exact scales, since
// only then are scale and zero_point known without the formula under test. with_ties false: halves only under exact
// scales, where there is no doubt which way they go.
template <typename F> void for_each_problem(Specials specials, bool with_ties, F f)
{
    const std::vector<GridCase> all = grids();
    uint64_t seed = 1;
    for (const detent_shape3 shape : shapes())
        for (const detent_dtype dtype : float_dtypes)
            for (const Form form : {Form::affine, Form::scale_only, Form::range})
                for (const bool exact : {true, false}) {
                    if (form == Form::range && !exact) continue;
                    if (is_left_out(++seed)) continue;
                    const Problem p = make_problem(dtype, shape, all[seed % all.size()], form, exact, seed, specials,
                                                   with_ties || exact);
                    f(p);
                    if (::testing::Test::HasFailure()) return;
                }
}

// Every grid with every dtype and form, on one shape.
template <typename F> void for_each_grid(detent_shape3 shape, Specials specials, bool with_ties, F f)
{
    uint64_t seed = 1000;
    for (const GridCase &on : grids())
        for (const detent_dtype dtype : float_dtypes)
            for (const Form form : {Form::affine, Form::scale_only, Form::range}) {
                if (is_left_out(++seed)) continue;
                const Problem p = make_problem(dtype, shape, on, form, true, seed, specials, with_ties);
                f(p);
                if (::testing::Test::HasFailure()) return;
            }
}

// A sum against the oracle's: within 2^-20 (2^-45 for double arithmetic) of the sum of the terms' magnitudes.
struct Sum {
    double value = 0, magnitude = 0;
    void add(double term, double size)
    {
        value += term;
        magnitude += std::fabs(size);
    }
};

inline double sum_tolerance(detent_dtype real)
{
    return real == DETENT_F32 ? 0x1p-20 : 0x1p-45;
}

// got has been stored as real, so half a unit in its last place is allowed beside, and terms may have been subnormal.
inline bool close(double got, const Sum &want, detent_dtype real)
{
    const double rounding = real == DETENT_F32 ? 0x1p-24 : 0x1p-52;
    const double tolerance =
        sum_tolerance(real) * want.magnitude + rounding * std::fabs(want.value) + 0x1p32 * smallest_of(real);
    return std::fabs(got - want.value) <= tolerance;
}

} // namespace detent_test
#endif
