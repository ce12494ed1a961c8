// Histograms and searches on CUDA against the CPU's.
#ifdef DETENT_WITH_CUDA

#include "cuda_device.h"
#include "histogram.h"

using namespace detent_test;

TEST_F(Cuda, histograms_and_what_is_found_in_them_equal_the_cpus)
{
    const detent_search searches[] = {{DETENT_PERCENTILE, 99, 0, 0, 0, 0},
                                      {DETENT_SQNR, 0, 3.0, 17, 101, 21},
                                      {DETENT_MSE, 0, 0, 0, 0, 0},
                                      {DETENT_ENTROPY, 0, 0, 0, 0, 0}};
    uint64_t problem = 0;
    for (const detent_shape3 shape : {detent_shape3{1, 1, 300007}, detent_shape3{3, 40, 33}, detent_shape3{900, 7, 1},
                                      detent_shape3{70, 3, 900}, detent_shape3{1, 600, 3}})
        for (const detent_dtype dtype : float_dtypes)
            for (const size_t bins : {(size_t)16, (size_t)2048}) {
                if (is_left_out(++problem)) continue;
                const std::string what = name_of(dtype) + ", " + std::to_string(bins) + " bins";
                Histogram here(dtype, shape.groups, bins), merged(dtype, shape.groups, bins);
                const OnDevice min(here.min), max(here.max), ignored(here.ignored), counts(here.counts);
                size_t bytes = 0;
                ASSERT_EQ(detent_observe_histogram_workspace_cuda(shape, &bytes), DETENT_OK);
                const OnDevice room(DETENT_U8, bytes);
                for (const double spread : {1.0, 40.0, 1e-3}) {
                    const Array x = spread_values(dtype, shape, 95, spread);
                    const OnDevice x_there(x);
                    here.add(x, shape);
                    ASSERT_EQ(detent_observe_histogram_cuda(x_there.data(), min.data(), max.data(),
                                                            (int64_t *)ignored.data(), (int64_t *)counts.data(), dtype,
                                                            shape, bins, room.data(), bytes, stream),
                              DETENT_OK);
                    wait();
                }
                expect_equal(min.back("min"), here.min, what + ", min");
                expect_equal(max.back("max"), here.max, what + ", max");
                expect_same_bits(ignored.back("ignored"), here.ignored, what + ", ignored");
                expect_same_bits(counts.back("counts"), here.counts, what + ", counts");
                room.back("workspace");

                merged.add(spread_values(dtype, shape, 96, 7.0), shape);
                const OnDevice to_min(merged.min), to_max(merged.max), to_ignored(merged.ignored),
                    to_counts(merged.counts);
                merged.merge(here);
                ASSERT_EQ(detent_observe_histogram_merge_cuda(
                              min.data(), max.data(), (const int64_t *)ignored.data(), (const int64_t *)counts.data(),
                              to_min.data(), to_max.data(), (int64_t *)to_ignored.data(), (int64_t *)to_counts.data(),
                              here.min.dtype(), shape.groups, bins, stream),
                          DETENT_OK);
                wait();
                expect_same_bits(to_counts.back("counts"), merged.counts, what + ", merged counts");
                expect_same_bits(to_ignored.back("ignored"), merged.ignored, what + ", merged ignored");

                for (const detent_search &search : searches)
                    for (const GridCase on : {GridCase{{-8, 7}, true}, GridCase{{0, 255}, false}}) {
                        const detent_encoding encoding = encoding_on(on.grid, on.symmetric);
                        Array low(here.min.dtype(), shape.groups), high(here.min.dtype(), shape.groups);
                        const OnDevice low_there(low), high_there(high);
                        ASSERT_EQ(detent_encode_histogram_cpu(here.min.data(), here.max.data(), here.count(),
                                                              low.data(), high.data(), low.dtype(), shape.groups, bins,
                                                              &search, &encoding, nullptr),
                                  DETENT_OK);
                        ASSERT_EQ(detent_encode_histogram_cuda(min.data(), max.data(), (const int64_t *)counts.data(),
                                                               low_there.data(), high_there.data(), low.dtype(),
                                                               shape.groups, bins, &search, &encoding, stream),
                                  DETENT_OK);
                        wait();
                        if (search.method == DETENT_ENTROPY) continue; // its logarithms may differ in the last bit
                        expect_equal(low_there.back("min"), low, what + ", range");
                        expect_equal(high_there.back("max"), high, what + ", range");
                    }
            }
}

#endif
