// A histogram under test, and the same from the definition.
#ifndef DETENT_TEST_HISTOGRAM_H
#define DETENT_TEST_HISTOGRAM_H

#include "detent/encode.h"
#include "detent/observe.h"

#include "support.h"

namespace detent_test
{

struct Histogram {
    Array min, max, ignored, counts; // ignored and counts: int64, held as bytes
    size_t groups, bins;

    Histogram(detent_dtype dtype, size_t groups_, size_t bins_)
        : min(dtype == DETENT_F64 ? DETENT_F64 : DETENT_F32, groups_), max(min.dtype(), groups_),
          ignored(DETENT_U8, 8 * groups_), counts(DETENT_U8, 8 * groups_ * bins_), groups(groups_), bins(bins_)
    {
        for (size_t g = 0; g < groups; ++g) {
            min.set(g, infinity);
            max.set(g, -infinity);
        }
        std::memset(ignored.data(), 0, ignored.bytes());
        std::memset(counts.data(), 0, counts.bytes());
    }

    int64_t *count() { return (int64_t *)counts.data(); }
    const int64_t *count() const { return (const int64_t *)counts.data(); }

    void add(const Array &x, detent_shape3 shape, detent_parallel_for parallel = nullptr)
    {
        size_t bytes = SIZE_MAX;
        ASSERT_EQ(detent_observe_histogram_workspace(shape, &bytes), DETENT_OK);
        Array room(DETENT_U8, bytes);
        ASSERT_EQ(detent_observe_histogram_cpu(x.data(), min.data(), max.data(), (int64_t *)ignored.data(), count(),
                                               x.dtype(), shape, bins, room.data(), bytes, parallel),
                  DETENT_OK);
        EXPECT_INTACT(min);
        EXPECT_INTACT(max);
        EXPECT_INTACT(ignored);
        EXPECT_INTACT(counts);
        EXPECT_INTACT(room);
    }

    void merge(const Histogram &other)
    {
        ASSERT_EQ(detent_observe_histogram_merge_cpu(
                      other.min.data(), other.max.data(), (const int64_t *)other.ignored.data(), other.count(),
                      min.data(), max.data(), (int64_t *)ignored.data(), count(), min.dtype(), groups, bins, nullptr),
                  DETENT_OK);
        EXPECT_INTACT(counts);
    }

    void expect_equals(const Histogram &other, const std::string &what) const
    {
        for (size_t g = 0; g < groups; ++g) { // a zero may come with either sign
            EXPECT_EQ(min[g], other.min[g]) << what << ", group " << g;
            EXPECT_EQ(max[g], other.max[g]) << what << ", group " << g;
        }
        expect_same_bits(ignored, other.ignored, what + ", ignored");
        for (size_t i = 0; i < groups * bins; ++i)
            ASSERT_EQ(count()[i], other.count()[i]) << what << ", group " << i / bins << ", bin " << i % bins;
    }
};

// Normal values of one group each its own spread, with what must be ignored now and then.
inline Array spread_values(detent_dtype dtype, detent_shape3 shape, uint64_t seed, double spread = 1)
{
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    const double rare[] = {infinity, -infinity, not_a_number,       largest_of(dtype),
                           0.0,      -0.0,      smallest_of(dtype), -smallest_of(dtype)};
    Array x(dtype, elements_of(shape));
    for (size_t i = 0; i < x.size(); ++i)
        x.set(i, random() % 16 == 0 ? rare[random() % std::size(rare)]
                                    : spread * normal(random) * (1 + (double)(group_at(shape, i) % 5)));
    return x;
}

} // namespace detent_test

#endif
