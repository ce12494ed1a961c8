// The operators of the encode family, for any device policy. Any shape; elementwise over the two arrays, and over the
// groups of counts.
#pragma once

#include "fake_quantize.h"
#include "observe.h"

namespace detent_shim {

template <typename Kernel, typename Scope>
std::tuple<Tensor, Tensor> run_encode(const char *op, Kernel kernel, const Scope &scope, const Tensor &first,
                                      const Tensor &second, int64_t qmin, int64_t qmax, bool symmetric,
                                      const std::optional<int64_t> &zero_point) {
  const detent_encoding encoding = range_encoding(op, checked_grid(op, qmin, qmax), symmetric, zero_point);
  check_device(op, "the second array", second, first);
  const DtypeRow *row = row_of_torch(torch_dtype_of(first));
  if (row == nullptr || (row->detent != DETENT_F32 && row->detent != DETENT_F64) ||
      torch_dtype_of(second) != row->torch)
    fail(op, "the arrays have dtype ", dtype_name(first), " and ", dtype_name(second),
         ", expected float32 or float64, both the same.");
  if (shape_text(first) != shape_text(second))
    fail(op, "the arrays have shapes ", shape_text(first), " and ", shape_text(second), ", expected the same.");
  // Where the kernels compute in float64, so do these: the numbers must be the kernel's.
  const detent_dtype real = detent_math_dtype(row->detent, encoding.grid);
  const Tensor a = converted(torch::stable::contiguous(first), torch_of(real));
  const Tensor b = converted(torch::stable::contiguous(second), torch_of(real));
  Tensor c = empty_as(a), d = empty_as(a);
  throw_unless_ok(op, kernel(a.const_data_ptr(), b.const_data_ptr(), c.mutable_data_ptr(), d.mutable_data_ptr(), real,
                             static_cast<size_t>(a.numel()), &encoding, scope.queue));
  return {c, d};
}

template <typename Device>
std::tuple<Tensor, Tensor> encode_min_max(const Tensor &lo, const Tensor &hi, int64_t qmin, int64_t qmax,
                                          bool symmetric, std::optional<int64_t> zero_point) {
  return run_encode("encode_min_max", Device::encode_min_max, typename Device::Scope(lo), lo, hi, qmin, qmax, symmetric,
                    zero_point);
}

template <typename Device>
std::tuple<Tensor, Tensor> encode_affine(const Tensor &min, const Tensor &max, int64_t qmin, int64_t qmax,
                                         bool symmetric, std::optional<int64_t> zero_point) {
  return run_encode("encode_affine", Device::encode_affine, typename Device::Scope(min), min, max, qmin, qmax,
                    symmetric, zero_point);
}

template <typename Device>
std::tuple<Tensor, Tensor> encode_trained(const Tensor &scale, const Tensor &zero_point, int64_t qmin, int64_t qmax) {
  return run_encode("encode_trained", Device::encode_trained, typename Device::Scope(scale), scale, zero_point, qmin,
                    qmax, false, std::nullopt);
}

template <typename Device>
std::tuple<Tensor, Tensor> run_search(const char *op, const detent_search &search, const Tensor &lo, const Tensor &hi,
                                      const Tensor &counts, int64_t qmin, int64_t qmax, bool symmetric,
                                      const std::optional<int64_t> &zero_point) {
  const typename Device::Scope scope(lo);
  const size_t bins = check_counts(op, "counts", counts, lo);
  const auto kernel = [&](const void *low, const void *high, void *min, void *max, detent_dtype real, size_t groups,
                          const detent_encoding *encoding, auto queue) {
    return Device::encode_histogram(low, high, integers(counts), min, max, real, groups, bins, &search, encoding,
                                    queue);
  };
  return run_encode(op, kernel, scope, lo, hi, qmin, qmax, symmetric, zero_point);
}

inline detent_search search_by(detent_search_method method) {
  detent_search search{};
  search.method = method;
  return search;
}

inline int32_t candidates(const char *op, const char *name, int64_t count, int64_t least) {
  if (count < least || count > 1000) fail(op, name, " is ", count, ", expected ", least, " to 1000.");
  return static_cast<int32_t>(count);
}

template <typename Device>
std::tuple<Tensor, Tensor> encode_percentile(const Tensor &lo, const Tensor &hi, const Tensor &counts,
                                             double percentile, int64_t qmin, int64_t qmax, bool symmetric,
                                             std::optional<int64_t> zero_point) {
  const char *op = "encode_percentile";
  if (!(percentile >= 50.0 && percentile <= 100.0))
    fail(op, "percentile is ", percentile, ", expected 50 to 100: the part of the values that stays inside.");
  detent_search search = search_by(DETENT_PERCENTILE);
  search.percentile = percentile;
  return run_search<Device>(op, search, lo, hi, counts, qmin, qmax, symmetric, zero_point);
}

template <typename Device>
std::tuple<Tensor, Tensor> encode_sqnr(const Tensor &lo, const Tensor &hi, const Tensor &counts, int64_t qmin,
                                       int64_t qmax, bool symmetric, std::optional<int64_t> zero_point, double gamma,
                                       int64_t asymmetric_deltas, int64_t offsets, int64_t symmetric_deltas) {
  const char *op = "encode_sqnr";
  if (!(gamma >= 0.0 && gamma <= 1e300)) fail(op, "gamma is ", gamma, ", expected a finite number of 0 and more.");
  detent_search search = search_by(DETENT_SQNR);
  search.gamma = gamma;
  search.asymmetric_deltas = candidates(op, "asymmetric_deltas", asymmetric_deltas, 2);
  search.offsets = candidates(op, "offsets", offsets, 3);
  search.symmetric_deltas = candidates(op, "symmetric_deltas", symmetric_deltas, 2);
  return run_search<Device>(op, search, lo, hi, counts, qmin, qmax, symmetric, zero_point);
}

template <typename Device>
std::tuple<Tensor, Tensor> encode_mse(const Tensor &lo, const Tensor &hi, const Tensor &counts, int64_t qmin,
                                      int64_t qmax, bool symmetric, std::optional<int64_t> zero_point) {
  return run_search<Device>("encode_mse", search_by(DETENT_MSE), lo, hi, counts, qmin, qmax, symmetric, zero_point);
}

template <typename Device>
std::tuple<Tensor, Tensor> encode_entropy(const Tensor &lo, const Tensor &hi, const Tensor &counts, int64_t qmin,
                                          int64_t qmax, bool symmetric, std::optional<int64_t> zero_point) {
  return run_search<Device>("encode_entropy", search_by(DETENT_ENTROPY), lo, hi, counts, qmin, qmax, symmetric,
                            zero_point);
}

template <typename Device, typename Library>
void register_encode(Library &m) {
  m.impl("encode_min_max", TORCH_BOX(&encode_min_max<Device>));
  m.impl("encode_affine", TORCH_BOX(&encode_affine<Device>));
  m.impl("encode_trained", TORCH_BOX(&encode_trained<Device>));
  m.impl("encode_percentile", TORCH_BOX(&encode_percentile<Device>));
  m.impl("encode_sqnr", TORCH_BOX(&encode_sqnr<Device>));
  m.impl("encode_mse", TORCH_BOX(&encode_mse<Device>));
  m.impl("encode_entropy", TORCH_BOX(&encode_entropy<Device>));
}

}  // namespace detent_shim
