#include "histogram.h"

#include <sstream>

using namespace detent_test;

namespace
{

// The definition in detent/observe.h, value by value.
std::vector<int64_t> counted(const std::vector<const Array *> &batches, detent_shape3 shape, size_t bins)
{
    std::vector<int64_t> counts(shape.groups * bins);
    const double half = (double)bins / 2;
    for (size_t g = 0; g < shape.groups; ++g) {
        std::vector<double> values;
        double most = 0;
        for (const Array *x : batches)
            for (size_t i = 0; i < x->size(); ++i)
                if (group_at(shape, i) == g && std::fabs((*x)[i]) < largest_of(x->dtype()) / 2) {
                    values.push_back((*x)[i]);
                    most = std::fmax(most, std::fabs((*x)[i]));
                }
        double width = 0x1p-126;
        while (most >= half * width) width *= 2;
        for (const double x : values) {
            const double step = std::floor(std::fabs(x) / width);
            ++counts[g * bins + (size_t)(x < 0 ? half - 1 - step : half + step)];
        }
    }
    return counts;
}

void expect_counts(const Histogram &got, const std::vector<int64_t> &want, const std::string &what)
{
    for (size_t i = 0; i < want.size(); ++i)
        ASSERT_EQ(got.count()[i], want[i]) << what << ", group " << i / got.bins << ", bin " << i % got.bins;
}

double error_of(const Histogram &h, double scale, double zero_point, const detent_grid &grid, double gamma)
{
    double width = 0x1p-126, sum = 0;
    const double half = (double)h.bins / 2, most = std::fmax(std::fabs(h.min[0]), std::fabs(h.max[0]));
    while (most >= half * width) width *= 2;
    for (size_t bin = 0; bin < h.bins; ++bin) {
        const double centre = ((double)bin - half + 0.5) * width, code = std::rint(centre / scale) + zero_point;
        const double kept = std::fmin(std::fmax(code, (double)grid.qmin), (double)grid.qmax);
        const double error = (kept - zero_point) * scale - centre;
        sum += (double)h.count()[bin] * error * error * (kept == code ? 1 : gamma);
    }
    return sum;
}

const detent_search sqnr = {DETENT_SQNR, 0, 3.0, 17, 101, 21};
const detent_search searches[] = {
    {DETENT_PERCENTILE, 99, 0, 0, 0, 0}, sqnr, {DETENT_MSE, 0, 0, 0, 0, 0}, {DETENT_ENTROPY, 0, 0, 0, 0, 0}};

} // namespace

TEST(Histogram, counts_equal_the_definition_on_every_shape_and_dtype)
{
    uint64_t seed = 70;
    for (const detent_shape3 shape : {detent_shape3{1, 1, 1}, detent_shape3{1, 1, 9001}, detent_shape3{1, 1, 300007},
                                      detent_shape3{7, 3, 5}, detent_shape3{3, 40, 33}, detent_shape3{900, 7, 1},
                                      detent_shape3{600, 2, 17}, detent_shape3{1, 600, 3}, detent_shape3{0, 2, 3}})
        for (const detent_dtype dtype : float_dtypes)
            for (const size_t bins : {(size_t)16, (size_t)2048}) {
                std::ostringstream what;
                what << name_of(dtype) << ", shape " << shape << ", " << bins << " bins, seed " << ++seed;
                const Array x = spread_values(dtype, shape, seed);
                Histogram h(dtype, shape.groups, bins);
                h.add(x, shape);
                expect_counts(h, counted({&x}, shape, bins), what.str());
                if (HasFailure()) return;
            }
}

TEST(Histogram, neither_order_nor_merging_nor_the_partition_change_a_count)
{
    for (const detent_dtype dtype : float_dtypes)
        for (const detent_shape3 shape : {detent_shape3{2, 3, 50}, detent_shape3{1, 1, 20011}}) {
            std::vector<Array> batches;
            for (const double spread : {1e-3, 50.0, 1.0, 1e-6})
                batches.push_back(spread_values(dtype, shape, 80, spread));
            const auto want = counted({&batches[0], &batches[1], &batches[2], &batches[3]}, shape, 64);
            std::vector<size_t> order = {0, 1, 2, 3};
            do {
                Histogram one(dtype, shape.groups, 64), left(dtype, shape.groups, 64), right(dtype, shape.groups, 64);
                for (size_t k = 0; k < 4; ++k) {
                    one.add(batches[order[k]], shape, k % 2 != 0 ? threads : reversed_chunks);
                    (k < 2 ? left : right).add(batches[order[k]], shape);
                }
                left.merge(right);
                expect_counts(one, want, name_of(dtype));
                left.expect_equals(one, name_of(dtype) + ", merged");
                if (HasFailure()) return;
            } while (std::next_permutation(order.begin(), order.end()));
        }
}

TEST(Histogram, values_at_the_ends_of_their_type_have_a_bin)
{
    for (const detent_dtype dtype : float_dtypes) {
        const double below = stored(largest_of(dtype) / 2 * (1 - 0x1p-4), dtype, DETENT_F64);
        const Array x = array_of(dtype, {below, -below, smallest_of(dtype), -smallest_of(dtype), 0, -0.0});
        Histogram h(dtype, 1, 16);
        h.add(x, {1, 1, 6});
        expect_counts(h, counted({&x}, {1, 1, 6}, 16), name_of(dtype));
        Histogram tiny(dtype, 1, 16);
        tiny.add(array_of(dtype, {smallest_of(dtype), -smallest_of(dtype)}), {1, 1, 2});
        EXPECT_EQ(tiny.count()[7] + tiny.count()[8] + tiny.count()[12] + tiny.count()[3], 2) << name_of(dtype);
    }
}

TEST(Histogram, the_cheapest_symmetric_scale_is_found)
{
    const detent_shape3 shape = {1, 1, 5000};
    Histogram h(DETENT_F64, 1, 1024);
    h.add(spread_values(DETENT_F64, shape, 90), shape);
    for (const detent_grid grid : {detent_grid{-8, 7}, detent_grid{-128, 127}, detent_grid{-2, 1}}) {
        const detent_encoding encoding = encoding_on(grid, true);
        Array min(DETENT_F64, 1), max(DETENT_F64, 1);
        ASSERT_EQ(detent_encode_histogram_cpu(h.min.data(), h.max.data(), h.count(), min.data(), max.data(), DETENT_F64,
                                              1, h.bins, &sqnr, &encoding, nullptr),
                  DETENT_OK);
        const double steps = (double)(grid.qmax - grid.qmin);
        const double widest = std::fmax(h.max[0], -h.min[0]) / (steps / 2);
        double least = infinity;
        for (int k = 1; k <= 101; ++k) least = std::fmin(least, error_of(h, widest * k / 100, 0, grid, 3));
        EXPECT_NEAR(error_of(h, (max[0] - min[0]) / steps, 0, grid, 3), least, 1e-9 * least) << grid.qmin;
    }
}

TEST(Histogram, every_search_is_deterministic_and_finite_on_every_grid)
{
    const detent_shape3 shape = {1, 9, 700};
    for (const detent_dtype dtype : {DETENT_F32, DETENT_F64}) {
        Histogram h(dtype, shape.groups, 256);
        h.add(spread_values(dtype, shape, 91), shape);
        for (const GridCase &on : grids())
            for (const detent_search &search : searches) {
                const detent_encoding encoding = encoding_on(on.grid, on.symmetric);
                Array min(dtype, shape.groups), max(dtype, shape.groups), low = min, high = max;
                for (const detent_parallel_for parallel : partitions) {
                    ASSERT_EQ(detent_encode_histogram_cpu(h.min.data(), h.max.data(), h.count(), low.data(),
                                                          high.data(), dtype, shape.groups, h.bins, &search, &encoding,
                                                          parallel),
                              DETENT_OK);
                    EXPECT_INTACT(low);
                    EXPECT_INTACT(high);
                    if (parallel == nullptr) min = low, max = high;
                    expect_same_bits(low, min, "min");
                    expect_same_bits(high, max, "max");
                }
                for (size_t g = 0; g < shape.groups; ++g)
                    EXPECT_TRUE(std::isfinite(min[g]) && std::isfinite(max[g]) && min[g] <= 0 && max[g] >= 0 &&
                                min[g] < max[g])
                        << "method " << search.method << ", grid " << on.grid.qmin << " .. " << on.grid.qmax
                        << ", group " << g << ": " << min[g] << ", " << max[g];
            }
    }
}

TEST(Histogram, bad_calls_are_named_and_write_nothing)
{
    const Array x = array_of(DETENT_F32, {1, 2, 3, 4});
    const detent_shape3 shape = {2, 1, 2};
    size_t bytes = 0;
    ASSERT_EQ(detent_observe_histogram_workspace(shape, &bytes), DETENT_OK);
    Array min(DETENT_F32, 1), max(DETENT_F32, 1), ignored(DETENT_U8, 8), counts(DETENT_U8, 128), room(DETENT_U8, bytes);
    const auto observe = [&](const void *data, void *low, void *into, detent_dtype dtype, detent_shape3 s, size_t bins,
                             size_t size) {
        return detent_observe_histogram_cpu(data, low, max.data(), (int64_t *)ignored.data(), (int64_t *)into, dtype, s,
                                            bins, room.data(), size, nullptr);
    };
    EXPECT_EQ(observe(nullptr, min.data(), counts.data(), DETENT_F32, shape, 16, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(observe(x.data(), nullptr, counts.data(), DETENT_F32, shape, 16, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(observe(x.data(), min.data(), nullptr, DETENT_F32, shape, 16, bytes), DETENT_BAD_ARGUMENT);
    for (const size_t bins : {(size_t)0, (size_t)8, (size_t)48, (size_t)4096})
        EXPECT_EQ(observe(x.data(), min.data(), counts.data(), DETENT_F32, shape, bins, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(observe(x.data(), min.data(), counts.data(), DETENT_I8, shape, 16, bytes), DETENT_BAD_DTYPE);
    EXPECT_EQ(observe(x.data(), min.data(), counts.data(), DETENT_F32, {SIZE_MAX, 2, 2}, 16, bytes), DETENT_BAD_SHAPE);
    EXPECT_EQ(observe(x.data(), min.data(), counts.data(), DETENT_F32, shape, 16, bytes - 1), DETENT_WORKSPACE_SMALL);
    EXPECT_EQ(detent_observe_histogram_workspace(shape, nullptr), DETENT_BAD_ARGUMENT);

    const auto merge = [&](const void *other, detent_dtype real, size_t bins) {
        return detent_observe_histogram_merge_cpu(
            other, max.data(), (int64_t *)ignored.data(), (int64_t *)counts.data(), min.data(), max.data(),
            (int64_t *)ignored.data(), (int64_t *)counts.data(), real, 1, bins, nullptr);
    };
    EXPECT_EQ(merge(nullptr, DETENT_F32, 16), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(merge(min.data(), DETENT_F16, 16), DETENT_BAD_DTYPE);
    EXPECT_EQ(merge(min.data(), DETENT_F32, 17), DETENT_BAD_ARGUMENT);

    const auto encode = [&](const detent_search *search, detent_grid grid, detent_dtype real, size_t bins) {
        const detent_encoding encoding = encoding_on(grid, false);
        return detent_encode_histogram_cpu(x.data(), x.data(), (const int64_t *)counts.data(), min.data(), max.data(),
                                           real, 1, bins, search, &encoding, nullptr);
    };
    EXPECT_EQ(encode(nullptr, {0, 15}, DETENT_F32, 16), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(encode(&sqnr, {15, 0}, DETENT_F32, 16), DETENT_BAD_GRID);
    EXPECT_EQ(encode(&sqnr, {0, 15}, DETENT_BF16, 16), DETENT_BAD_DTYPE);
    EXPECT_EQ(encode(&sqnr, {0, 15}, DETENT_F32, 15), DETENT_BAD_ARGUMENT);
    for (const detent_search bad :
         {detent_search{4, 0, 0, 0, 0, 0}, detent_search{DETENT_PERCENTILE, 49, 0, 0, 0, 0},
          detent_search{DETENT_PERCENTILE, not_a_number, 0, 0, 0, 0},
          detent_search{DETENT_SQNR, 0, infinity, 17, 101, 21}, detent_search{DETENT_SQNR, 0, 3, 1, 101, 21},
          detent_search{DETENT_SQNR, 0, 3, 17, 1001, 21}, detent_search{DETENT_SQNR, 0, 3, 17, 101, 2}})
        EXPECT_EQ(encode(&bad, {0, 15}, DETENT_F32, 16), DETENT_BAD_ARGUMENT) << bad.method;
    EXPECT_TRUE(min.untouched() && max.untouched() && ignored.untouched() && counts.untouched() && room.untouched());
}
