/* One encoding per group, read on the device in whichever way it is held. */
#ifndef DETENT_CUDA_ENCODING_CUH
#define DETENT_CUDA_ENCODING_CUH

#include "../math/encode.h"
#include "geometry.h"

namespace detent_cuda
{

template <typename real> struct TypesOf;
template <> struct TypesOf<float> {
    typedef detent_real_grid_f32 grid;
    typedef detent_interval_f32 interval;
};
template <> struct TypesOf<double> {
    typedef detent_real_grid_f64 grid;
    typedef detent_interval_f64 interval;
};
template <typename real> using Grid = typename TypesOf<real>::grid;
template <typename real> using Interval = typename TypesOf<real>::interval;

template <typename real> Grid<real> grid_of(const detent_encoding &encoding)
{
    return {(real)encoding.grid.qmin, (real)encoding.grid.qmax, (real)encoding.centre, encoding.symmetric};
}

template <typename real> struct Affine {
    real scale, zero_point;
};

template <typename real> struct Encodings {
    const real *scale, *zero_point, *min, *max;
    Grid<real> grid;
    real absent; /* stands for a zero point where there is none */
    bool trained;
};

template <typename real> Encodings<real> encodings_of(const detent_encoding &encoding)
{
    return {(const real *)encoding.scale, (const real *)encoding.zero_point, (const real *)encoding.min,
            (const real *)encoding.max,   grid_of<real>(encoding),           (real)0,
            encoding.trained != 0};
}

static __device__ __forceinline__ float nearest(float value)
{
    return rintf(value);
}
static __device__ __forceinline__ double nearest(double value)
{
    return rint(value);
}

template <typename real>
__device__ __forceinline__ Affine<real> affine_of_range(real min, real max, const Grid<real> &grid)
{
    const real scale = detent_scale_of_range(min, max, grid);
    return {scale, detent_zero_point_of_range(min, scale, grid)};
}

template <typename real>
__device__ __forceinline__ Affine<real> read_group(const Encodings<real> &encodings, size_t group)
{
    if (encodings.scale == nullptr)
        return affine_of_range<real>(encodings.min[group], encodings.max[group], encodings.grid);
    Affine<real> affine = {encodings.scale[group], encodings.absent};
    if (encodings.zero_point != nullptr) affine.zero_point = nearest(encodings.zero_point[group]);
    if (encodings.trained) {
        affine.scale = detent_usable_scale(affine.scale, encodings.grid);
        if (encodings.zero_point != nullptr)
            affine.zero_point = detent_clamp(affine.zero_point, encodings.grid.qmin, encodings.grid.qmax);
    }
    return affine;
}

} // namespace detent_cuda

#endif
