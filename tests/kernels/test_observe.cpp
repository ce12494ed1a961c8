#include "detent/observe.h"

#include <sstream>

#include "support.h"

using namespace detent_test;

namespace
{

detent_dtype statistic_of(detent_dtype dtype)
{
    return dtype == DETENT_F64 ? DETENT_F64 : DETENT_F32;
}

struct Statistics {
    Array min, max, ignored; // ignored: int64, held as bytes

    int64_t count(size_t g) const
    {
        int64_t value;
        std::memcpy(&value, ignored.u8() + 8 * g, 8);
        return value;
    }
};

Statistics nothing_yet(detent_dtype dtype, size_t groups)
{
    Statistics s{Array(statistic_of(dtype), groups), Array(statistic_of(dtype), groups), Array(DETENT_U8, 8 * groups)};
    for (size_t g = 0; g < groups; ++g) {
        s.min.set(g, infinity);
        s.max.set(g, -infinity);
        std::memset(s.ignored.u8() + 8 * g, 0, 8);
    }
    return s;
}

void observe(const Array &x, detent_shape3 shape, Statistics &s, detent_observe_mode mode, double momentum = 0,
             detent_parallel_for parallel = nullptr)
{
    size_t bytes = SIZE_MAX;
    ASSERT_EQ(detent_observe_min_max_workspace(shape, &bytes), DETENT_OK);
    Array workspace(DETENT_U8, bytes);
    ASSERT_EQ(detent_observe_min_max_cpu(x.data(), s.min.data(), s.max.data(), (int64_t *)s.ignored.data(), x.dtype(),
                                         shape, mode, momentum, workspace.data(), bytes, parallel),
              DETENT_OK);
    EXPECT_INTACT(s.min);
    EXPECT_INTACT(s.max);
    EXPECT_INTACT(s.ignored);
    EXPECT_INTACT(workspace);
}

Statistics observed(const Array &x, detent_shape3 shape, detent_parallel_for parallel = nullptr)
{
    Statistics s{Array(statistic_of(x.dtype()), shape.groups), Array(statistic_of(x.dtype()), shape.groups),
                 Array(DETENT_U8, 8 * shape.groups)};
    observe(x, shape, s, DETENT_OBSERVE_REPLACE, 0, parallel);
    return s;
}

// Normal values with, now and then, what must be ignored and what must just about count.
Array drawn(detent_dtype dtype, detent_shape3 shape, uint64_t seed)
{
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    const double largest = largest_of(dtype);
    const double rare[] = {infinity,    -infinity,    not_a_number, largest, -largest,
                           largest / 2, -largest / 2, 0.0,          -0.0,    smallest_of(dtype)};
    Array x(dtype, elements_of(shape));
    for (size_t i = 0; i < x.size(); ++i)
        x.set(i, random() % 8 == 0 ? rare[random() % std::size(rare)] : normal(random));
    return x;
}

std::vector<oracle::Observed> oracle_observed(const Array &x, detent_shape3 shape)
{
    std::vector<oracle::Observed> all(shape.groups);
    for (size_t i = 0; i < x.size(); ++i) all[group_at(shape, i)].add(x[i], largest_of(x.dtype()));
    return all;
}

void expect_statistics(const Statistics &s, const std::vector<oracle::Observed> &want, const std::string &what)
{
    for (size_t g = 0; g < want.size(); ++g) {
        EXPECT_EQ(s.min[g], want[g].min) << what << ", group " << g;
        EXPECT_EQ(s.max[g], want[g].max) << what << ", group " << g;
        EXPECT_EQ(s.count(g), want[g].ignored) << what << ", group " << g;
    }
}

} // namespace

TEST(Observe, equals_the_oracle_on_every_shape_and_dtype)
{
    uint64_t seed = 50;
    for (const detent_shape3 shape : shapes())
        for (const detent_dtype dtype : float_dtypes) {
            const Array x = drawn(dtype, shape, ++seed);
            std::ostringstream what;
            what << name_of(dtype) << ", shape " << shape << ", seed " << seed;
            expect_statistics(observed(x, shape), oracle_observed(x, shape), what.str());
            if (HasFailure()) return;
        }
}

TEST(Observe, finds_an_extreme_at_every_place)
{
    for (const detent_shape3 shape : {detent_shape3{1, 1, 1500}, detent_shape3{40, 2, 7}, detent_shape3{9, 3, 70}})
        for (size_t i = 0; i < elements_of(shape); ++i) {
            Array x(DETENT_F32, elements_of(shape));
            for (size_t k = 0; k < x.size(); ++k) x.set(k, 1);
            x.set(i, i % 2 == 0 ? -3 : 5);
            const Statistics s = observed(x, shape);
            for (size_t g = 0; g < shape.groups; ++g) {
                const bool here = g == group_at(shape, i);
                ASSERT_EQ(s.min[g], here && i % 2 == 0 ? -3 : 1) << shape << ", element " << i;
                ASSERT_EQ(s.max[g], here && i % 2 != 0 ? 5 : 1) << shape << ", element " << i;
            }
        }
}

TEST(Observe, values_from_half_the_largest_number_on_are_ignored_and_counted)
{
    for (const detent_dtype dtype : float_dtypes) {
        const double half = largest_of(dtype) / 2;
        Array x = array_of(dtype, {1, half, -half, largest_of(dtype), infinity, -infinity, not_a_number, 0, -2});
        const double below = stored(half * (1 - 0x1p-4), dtype, DETENT_F64);
        x.set(7, below);
        const Statistics s = observed(x, {1, 1, 9});
        EXPECT_EQ(s.min[0], -2) << name_of(dtype);
        EXPECT_EQ(s.max[0], below) << name_of(dtype);
        EXPECT_EQ(s.count(0), 6) << name_of(dtype);
    }
    const float just_below = std::nextafter(std::numeric_limits<float>::max() / 2, 0.0f);
    EXPECT_EQ(observed(array_of(DETENT_F32, {just_below}), {1, 1, 1}).max[0], just_below);
}

TEST(Observe, where_nothing_counts_the_range_is_inverted)
{
    for (const detent_dtype dtype : float_dtypes) {
        const Statistics masked = observed(array_of(dtype, {infinity, not_a_number, -largest_of(dtype)}), {1, 1, 3});
        EXPECT_TRUE(masked.min[0] == infinity && masked.max[0] == -infinity && masked.count(0) == 3) << name_of(dtype);
        for (const detent_shape3 shape : {detent_shape3{0, 2, 3}, detent_shape3{3, 2, 0}}) {
            const Statistics empty = observed(Array(dtype, 0), shape);
            for (size_t g = 0; g < 2; ++g)
                EXPECT_TRUE(empty.min[g] == infinity && empty.max[g] == -infinity && empty.count(g) == 0)
                    << name_of(dtype);
        }
        (void)observed(Array(dtype, 0), {3, 0, 2});
    }
}

TEST(Observe, the_partition_changes_no_bit)
{
    for (const detent_shape3 shape : {detent_shape3{1, 1, 200003}, detent_shape3{40009, 5, 1},
                                      detent_shape3{7, 3, 5003}, detent_shape3{1, 9001, 3}})
        for (const detent_dtype dtype : float_dtypes) {
            const Array x = drawn(dtype, shape, 51);
            const Statistics expected = observed(x, shape);
            for (const detent_parallel_for parallel : {reversed_chunks, threads}) {
                const Statistics got = observed(x, shape, parallel);
                expect_same_bits(got.min, expected.min, name_of(dtype));
                expect_same_bits(got.max, expected.max, name_of(dtype));
                expect_same_bits(got.ignored, expected.ignored, name_of(dtype));
            }
        }
}

TEST(Observe, running_statistics_do_not_depend_on_the_order_of_batches)
{
    for (const detent_dtype dtype : float_dtypes)
        for (const detent_shape3 shape : {detent_shape3{3, 4, 50}, detent_shape3{50, 4, 3}}) {
            std::vector<Array> batches;
            for (uint64_t seed = 60; seed < 64; ++seed) batches.push_back(drawn(dtype, shape, seed));
            std::vector<oracle::Observed> want(shape.groups);
            for (const Array &x : batches)
                for (size_t i = 0; i < x.size(); ++i) want[group_at(shape, i)].add(x[i], largest_of(dtype));
            std::vector<size_t> order = {0, 1, 2, 3};
            do {
                Statistics s = nothing_yet(dtype, shape.groups);
                for (const size_t k : order) observe(batches[k], shape, s, DETENT_OBSERVE_RUNNING);
                expect_statistics(s, want, name_of(dtype));
            } while (std::next_permutation(order.begin(), order.end()));
        }
}

TEST(Observe, replacing_forgets_what_was_held)
{
    Statistics s = nothing_yet(DETENT_F32, 1);
    observe(array_of(DETENT_F32, {-9, 9, infinity}), {1, 1, 3}, s, DETENT_OBSERVE_RUNNING);
    observe(array_of(DETENT_F32, {1, 2}), {1, 1, 2}, s, DETENT_OBSERVE_REPLACE);
    EXPECT_TRUE(s.min[0] == 1 && s.max[0] == 2 && s.count(0) == 0);
}

TEST(Observe, the_moving_average_starts_with_the_first_batch_that_counts)
{
    for (const detent_dtype dtype : float_dtypes) {
        Statistics s = nothing_yet(dtype, 1);
        const auto feed = [&](const std::vector<double> &x) {
            observe(array_of(dtype, x), {1, 1, x.size()}, s, DETENT_OBSERVE_MOVING_AVERAGE, 0.25);
        };
        feed({infinity, not_a_number});
        EXPECT_TRUE(s.min[0] == infinity && s.max[0] == -infinity && s.count(0) == 2) << name_of(dtype);
        feed({-4, 8});
        EXPECT_TRUE(s.min[0] == -4 && s.max[0] == 8 && s.count(0) == 2) << name_of(dtype);
        feed({0, 4, infinity});
        EXPECT_TRUE(s.min[0] == -3 && s.max[0] == 7 && s.count(0) == 3)
            << name_of(dtype) << ": " << s.min[0] << ", " << s.max[0];
        feed({not_a_number});
        feed({});
        EXPECT_TRUE(s.min[0] == -3 && s.max[0] == 7 && s.count(0) == 4) << name_of(dtype);
    }
}

TEST(Observe, bad_calls_are_named_and_write_nothing)
{
    const Array x = array_of(DETENT_F32, {1, 2, 3, 4});
    const detent_shape3 shape = {2, 1, 2};
    size_t bytes = 0;
    ASSERT_EQ(detent_observe_min_max_workspace(shape, &bytes), DETENT_OK);
    Array min(DETENT_F32, 1), max(DETENT_F32, 1), ignored(DETENT_U8, 8), workspace(DETENT_U8, bytes);
    const auto call = [&](const void *data, void *low, void *high, void *count, detent_dtype dtype, detent_shape3 s,
                          detent_observe_mode mode, void *room, size_t size) {
        return detent_observe_min_max_cpu(data, low, high, (int64_t *)count, dtype, s, mode, 0.1, room, size, nullptr);
    };
    void *low = min.data(), *high = max.data(), *count = ignored.data(), *room = workspace.data();
    EXPECT_EQ(call(nullptr, low, high, count, DETENT_F32, shape, 0, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x.data(), nullptr, high, count, DETENT_F32, shape, 0, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x.data(), low, nullptr, count, DETENT_F32, shape, 0, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x.data(), low, high, nullptr, DETENT_F32, shape, 0, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x.data(), low, high, count, DETENT_F32, shape, 3, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x.data(), low, high, count, DETENT_F32, shape, -1, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x.data(), low, high, count, DETENT_I32, shape, 0, room, bytes), DETENT_BAD_DTYPE);
    EXPECT_EQ(call(x.data(), low, high, count, DETENT_F32, {SIZE_MAX, 2, 2}, 0, room, bytes), DETENT_BAD_SHAPE);
    EXPECT_EQ(call(x.data(), low, high, count, DETENT_F32, shape, 0, room, bytes - 1), DETENT_WORKSPACE_SMALL);
    EXPECT_EQ(call(x.data(), low, high, count, DETENT_F32, shape, 0, nullptr, bytes), DETENT_WORKSPACE_SMALL);
    EXPECT_TRUE(min.untouched() && max.untouched() && ignored.untouched() && workspace.untouched());
    EXPECT_EQ(detent_observe_min_max_workspace(shape, nullptr), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(detent_observe_min_max_workspace({SIZE_MAX, 2, 2}, &bytes), DETENT_BAD_SHAPE);
}
