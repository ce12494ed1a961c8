// The formulas of the headers in detent/, in double, and nothing else. Independent of kernels/math.
#ifndef DETENT_TEST_ORACLE_H
#define DETENT_TEST_ORACLE_H

#include <cmath>
#include <cstdint>
#include <limits>

namespace oracle
{

constexpr double infinity = std::numeric_limits<double>::infinity();

struct Grid {
    double qmin, qmax, centre;
    bool symmetric;
    double steps() const { return qmax - qmin; }
};

struct Affine {
    double scale, zero_point;
};

struct Pair {
    double first, second;
};

inline double clamp(double q, double low, double high)
{
    return q < low ? low : q > high ? high : q;
}

// detent/base.h: rint rounds halves to even in the default environment.
inline double scale_floor(const Grid &grid)
{
    return std::fmin(0x1p-23, 0.01 / grid.steps());
}

inline Affine affine_of_range(double min, double max, const Grid &grid)
{
    const double scale = std::fmax(std::fabs(max - min) / grid.steps(), scale_floor(grid));
    return {scale, grid.symmetric ? grid.centre : clamp(grid.qmin - std::rint(min / scale), grid.qmin, grid.qmax)};
}

// detent/fake_quantize.h, for r = rint(x / scale) and a rounded zero_point.
inline double code(double r, double zero_point, const Grid &grid)
{
    return clamp(r + zero_point, grid.qmin, grid.qmax);
}

inline bool on_grid(double r, double zero_point, const Grid &grid)
{
    return grid.qmin <= r + zero_point && r + zero_point <= grid.qmax;
}

inline double fake_quantize(double x, const Affine &a, const Grid &grid)
{
    return (code(std::rint(x / a.scale), a.zero_point, grid) - a.zero_point) * a.scale;
}

inline bool mask(double x, const Affine &a, const Grid &grid)
{
    return on_grid(std::rint(x / a.scale), a.zero_point, grid);
}

inline double grad_x(double g, double x, const Affine &a, const Grid &grid)
{
    return mask(x, a, grid) ? g : 0.0;
}

// (scale, zero_point) terms of one element.
inline Pair fake_quantize_terms(double g, double x, const Affine &a, const Grid &grid)
{
    const double ratio = x / a.scale, r = std::rint(ratio);
    if (std::isnan(x)) return {x, x};
    if (on_grid(r, a.zero_point, grid)) return {g * (r - ratio), 0.0};
    return {g * clamp(r, grid.qmin - a.zero_point, grid.qmax - a.zero_point), -g * a.scale};
}

// The chain rule through affine_of_range: rint is the identity, the scale's floor lets its gradient through, the clamp
// of zero_point stops its gradient, the sign of |max - min| is +1 at 0.
inline Pair range_gradients(double grad_scale, double grad_zero_point, double min, double max, const Grid &grid)
{
    const double scale = affine_of_range(min, max, grid).scale;
    const double free = grid.qmin - std::rint(min / scale);
    const double sign = max - min >= 0 ? 1.0 : -1.0;
    const double scale_by_max = sign / grid.steps(), scale_by_min = -scale_by_max;
    if (grid.symmetric || free < grid.qmin || free > grid.qmax)
        return {grad_scale * scale_by_min, grad_scale * scale_by_max};
    const double zero_point_by_scale = min / (scale * scale);
    return {grad_scale * scale_by_min + grad_zero_point * (zero_point_by_scale * scale_by_min - 1.0 / scale),
            grad_scale * scale_by_max + grad_zero_point * zero_point_by_scale * scale_by_max};
}

// detent/quantize.h
inline double dequantize(double q, const Affine &a)
{
    return (q - a.zero_point) * a.scale;
}

inline double integer_code(double x, const Affine &a, const Grid &grid)
{
    return std::isnan(x) ? clamp(a.zero_point, grid.qmin, grid.qmax) : code(std::rint(x / a.scale), a.zero_point, grid);
}

inline double quantize_grad_x(double g, double x, const Affine &a, const Grid &grid)
{
    return mask(x, a, grid) ? g / a.scale : 0.0;
}

// Divided twice, since g * x alone may fall below the smallest double.
inline Pair quantize_terms(double g, double x, const Affine &a, const Grid &grid)
{
    if (std::isnan(x)) return {x, x};
    return mask(x, a, grid) ? Pair{-g * (x / a.scale) / a.scale, g} : Pair{0.0, 0.0};
}

inline Pair dequantize_terms(double g, double q, const Affine &a)
{
    return {g * (q - a.zero_point), -g * a.scale};
}

// detent/observe.h
struct Observed {
    double min = infinity, max = -infinity;
    int64_t ignored = 0;

    void add(double x, double largest)
    {
        if (std::isfinite(x) && std::fabs(x) < largest / 2) {
            min = std::fmin(min, x);
            max = std::fmax(max, x);
        } else {
            ++ignored;
        }
    }
};

// detent/encode.h
inline Pair range_of_observed(double lo, double hi, const Grid &grid)
{
    const double above = grid.qmax - grid.centre, below = grid.centre - grid.qmin, floor = scale_floor(grid);
    double min = std::fmin(lo, 0.0), max = std::fmax(hi, 0.0);
    if ((max - min) / grid.steps() < floor) {
        max += (grid.symmetric ? above : grid.steps()) * floor;
        min -= grid.symmetric ? below * floor : 0.0;
    }
    if (!grid.symmetric) return {min, max};
    const double top = grid.steps() == 3 && above == 1 && below == 2 ? 2 : above;
    const double by_max = above > 0 ? max / top : 0.0, by_min = below > 0 ? -min / below : 0.0;
    const double delta = std::fmax(by_max, by_min);
    return {-below * delta, above * delta};
}

} // namespace oracle
#endif
