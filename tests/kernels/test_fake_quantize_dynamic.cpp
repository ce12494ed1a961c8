#include "detent/encode.h"
#include "detent/fake_quantize.h"
#include "detent/observe.h"
#include "problem.h"

using namespace detent_test;

namespace
{

struct Dynamic {
    Array y, mask, min, max;
};

Dynamic empty_outputs(const Problem &p)
{
    return {Array(p.dtype, p.size()), Array(DETENT_U8, (p.size() + 7) / 8), Array(p.real, p.shape.groups),
            Array(p.real, p.shape.groups)};
}

Dynamic in_one_call(const Problem &p, const Array *clip, detent_parallel_for parallel = nullptr)
{
    Dynamic out = empty_outputs(p);
    size_t bytes = SIZE_MAX;
    EXPECT_EQ(detent_fake_quantize_dynamic_workspace(p.shape, &bytes), DETENT_OK);
    Array workspace(DETENT_U8, bytes);
    const detent_encoding rules = encoding_on(p.encoding.grid, p.encoding.symmetric);
    EXPECT_EQ(detent_fake_quantize_dynamic_cpu(p.x.data(), out.y.data(), out.mask.u8(), out.min.data(), out.max.data(),
                                               p.dtype, p.shape, clip != nullptr ? clip->data() : nullptr,
                                               clip != nullptr ? clip->size() : 0, &rules, workspace.data(), bytes,
                                               parallel),
              DETENT_OK);
    EXPECT_INTACT(out.y);
    EXPECT_INTACT(out.mask);
    EXPECT_INTACT(out.min);
    EXPECT_INTACT(out.max);
    EXPECT_INTACT(workspace);
    return out;
}

Dynamic in_three_calls(const Problem &p, const Array *clip)
{
    Dynamic out = empty_outputs(p);
    const size_t groups = p.shape.groups;
    const detent_dtype statistic = p.dtype == DETENT_F64 ? DETENT_F64 : DETENT_F32;
    Array lo(statistic, groups), hi(statistic, groups), clipped_lo(p.real, groups), clipped_hi(p.real, groups);
    std::vector<int64_t> ignored(groups);
    size_t bytes = 0;
    EXPECT_EQ(detent_observe_min_max_workspace(p.shape, &bytes), DETENT_OK);
    Array workspace(DETENT_U8, bytes);
    EXPECT_EQ(detent_observe_min_max_cpu(p.x.data(), lo.data(), hi.data(), ignored.data(), p.dtype, p.shape,
                                         DETENT_OBSERVE_REPLACE, 0, workspace.data(), bytes, nullptr),
              DETENT_OK);
    for (size_t g = 0; g < groups; ++g) { // the product in double, then rounded once: what a product in `real` is
        const double factor = clip == nullptr ? 1.0 : (*clip)[clip->size() == 1 ? 0 : g];
        clipped_lo.set(g, lo[g] * factor);
        clipped_hi.set(g, hi[g] * factor);
    }
    const detent_encoding rules = encoding_on(p.encoding.grid, p.encoding.symmetric);
    EXPECT_EQ(detent_encode_min_max_cpu(clipped_lo.data(), clipped_hi.data(), out.min.data(), out.max.data(), p.real,
                                        groups, &rules),
              DETENT_OK);
    const detent_encoding range = range_encoding(p.encoding.grid, p.encoding.symmetric, out.min, out.max);
    EXPECT_EQ(
        detent_fake_quantize_cpu(p.x.data(), out.y.data(), out.mask.u8(), p.dtype, p.shape, &range, nullptr, nullptr),
        DETENT_OK);
    return out;
}

void expect_same(const Dynamic &got, const Dynamic &expected, const std::string &what)
{
    expect_same_bits(got.min, expected.min, what + ", min");
    expect_same_bits(got.max, expected.max, what + ", max");
    expect_same_bits(got.y, expected.y, what + ", y");
    expect_same_bits(got.mask, expected.mask, what + ", mask");
}

} // namespace

TEST(FakeQuantizeDynamic, equals_observe_then_encode_then_fake_quantize)
{
    for_each_problem(Specials::all, true, [](const Problem &p) {
        expect_same(in_one_call(p, nullptr), in_three_calls(p, nullptr), p.describe());
    });
    for_each_grid({3, 5, 67}, Specials::all, true, [](const Problem &p) {
        expect_same(in_one_call(p, nullptr), in_three_calls(p, nullptr), p.describe());
    });
}

TEST(FakeQuantizeDynamic, clip_multiplies_the_range_of_all_groups_or_of_each)
{
    for_each_grid({3, 5, 67}, Specials::all, true, [](const Problem &p) {
        const Array one = array_of(p.real, {0.7}), each = array_of(p.real, {0.25, 0.5, 1.0, 0.9, 0.3});
        expect_same(in_one_call(p, &one), in_three_calls(p, &one), p.describe());
        expect_same(in_one_call(p, &each), in_three_calls(p, &each), p.describe());
        const Array neutral = array_of(p.real, {1.0});
        expect_same(in_one_call(p, &neutral), in_one_call(p, nullptr), p.describe());
    });
}

TEST(FakeQuantizeDynamic, the_range_is_that_of_the_data)
{
    const Array x = array_of(DETENT_F32, {-1, 0.25, 1.5, infinity, not_a_number});
    Problem p = make_problem(DETENT_F32, {1, 1, 5}, {{0, 15}, false}, Form::affine, true, 1, Specials::none);
    p.x = x;
    const Dynamic out = in_one_call(p, nullptr);
    EXPECT_TRUE(out.min[0] == -1 && out.max[0] == 1.5);
    EXPECT_TRUE(out.y[0] == -1 && out.y[3] == 1.5 && std::isnan(out.y[4])) << out.y[0] << ", " << out.y[3];
    EXPECT_EQ(out.mask.u8()[0], 0x07);
}

TEST(FakeQuantizeDynamic, a_group_without_a_value_that_counts_still_gets_a_range)
{
    Problem p = make_problem(DETENT_F32, {1, 2, 3}, {{-128, 127}, true}, Form::affine, true, 1, Specials::none);
    p.x = array_of(DETENT_F32, {infinity, -infinity, not_a_number, 1, 2, 3});
    for (const double factor : {1.0, 0.0, 0.5}) {
        const Array clip = array_of(DETENT_F32, {factor});
        const Dynamic out = in_one_call(p, &clip);
        EXPECT_TRUE(out.min[0] < 0 && out.max[0] > 0 && out.max[0] < 1e-4) << out.min[0] << " .. " << out.max[0];
        EXPECT_TRUE(std::isfinite(out.y[0]) && std::isfinite(out.y[1]) && std::isnan(out.y[2]));
    }
}

TEST(FakeQuantizeDynamic, the_partition_changes_no_bit)
{
    for (const detent_shape3 shape :
         {detent_shape3{1, 1, 200003}, detent_shape3{40009, 5, 1}, detent_shape3{7, 3, 5003}})
        for (const detent_dtype dtype : float_dtypes) {
            const Problem p = make_problem(dtype, shape, {{0, 255}, false}, Form::affine, false, 79, Specials::all);
            const Dynamic expected = in_one_call(p, nullptr);
            for (const detent_parallel_for parallel : {reversed_chunks, threads})
                expect_same(in_one_call(p, nullptr, parallel), expected, p.describe());
        }
}

TEST(FakeQuantizeDynamic, bad_calls_are_named_and_write_nothing)
{
    const Problem p = make_problem(DETENT_F32, {2, 3, 40}, {{0, 15}, false}, Form::affine, true, 34, Specials::none);
    size_t bytes = 0;
    ASSERT_EQ(detent_fake_quantize_dynamic_workspace(p.shape, &bytes), DETENT_OK);
    Dynamic out = empty_outputs(p);
    Array workspace(DETENT_U8, bytes);
    const Array clip = array_of(DETENT_F32, {1, 1, 1});
    const auto call = [&](const void *x, void *y, void *min, void *max, detent_dtype dtype, detent_shape3 shape,
                          size_t clips, const detent_encoding *encoding, void *room, size_t size) {
        return detent_fake_quantize_dynamic_cpu(x, y, out.mask.u8(), min, max, dtype, shape, clip.data(), clips,
                                                encoding, room, size, nullptr);
    };
    const void *x = p.x.data();
    void *y = out.y.data(), *min = out.min.data(), *max = out.max.data(), *room = workspace.data();
    const detent_encoding *good = &p.encoding;
    detent_encoding bad = p.encoding;
    bad.grid = {1, 0};
    EXPECT_EQ(call(nullptr, y, min, max, DETENT_F32, p.shape, 3, good, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x, nullptr, min, max, DETENT_F32, p.shape, 3, good, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x, y, nullptr, max, DETENT_F32, p.shape, 3, good, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x, y, min, nullptr, DETENT_F32, p.shape, 3, good, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x, y, min, max, DETENT_F32, p.shape, 3, nullptr, room, bytes), DETENT_BAD_ARGUMENT);
    for (const size_t clips : {0, 2, 4})
        EXPECT_EQ(call(x, y, min, max, DETENT_F32, p.shape, clips, good, room, bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x, y, min, max, DETENT_F32, p.shape, 3, &bad, room, bytes), DETENT_BAD_GRID);
    EXPECT_EQ(call(x, y, min, max, DETENT_U8, p.shape, 3, good, room, bytes), DETENT_BAD_DTYPE);
    EXPECT_EQ(call(x, y, min, max, DETENT_F32, {SIZE_MAX, 3, 2}, 3, good, room, bytes), DETENT_BAD_SHAPE);
    EXPECT_EQ(call(x, y, min, max, DETENT_F32, p.shape, 3, good, room, bytes - 1), DETENT_WORKSPACE_SMALL);
    EXPECT_EQ(call(x, y, min, max, DETENT_F32, p.shape, 3, good, nullptr, bytes), DETENT_WORKSPACE_SMALL);
    EXPECT_TRUE(out.y.untouched() && out.mask.untouched() && out.min.untouched() && out.max.untouched() &&
                workspace.untouched());
    EXPECT_EQ(detent_fake_quantize_dynamic_workspace(p.shape, nullptr), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(detent_fake_quantize_dynamic_workspace({SIZE_MAX, 3, 2}, &bytes), DETENT_BAD_SHAPE);
}
