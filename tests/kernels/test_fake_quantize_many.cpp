// Many tensors in one call: the bits of one call each.
#include "detent/fake_quantize_many.h"
#include "many.h"
#include "reduction.h"

using namespace detent_test;

namespace
{

// f(problems) for every type, arithmetic and form; 0, 1 and many items.
template <typename F> void for_each_list(F f)
{
    uint64_t seed = 1;
    for (const detent_dtype dtype : float_dtypes)
        for (const bool wide : {false, true}) {
            if (dtype == DETENT_F64 && !wide) continue;
            for (const Form form : {Form::affine, Form::scale_only, Form::range})
                for (const size_t count : {0, 1, 13}) {
                    f(dtype, problems_of(dtype, wide, form, count, ++seed));
                    if (::testing::Test::HasFailure()) return;
                }
        }
}

const std::vector<detent_parallel_for> ways = {nullptr, reversed_chunks, threads};

Array mask_of(const Problem &p)
{
    return Array(DETENT_U8, (p.size() + 7) / 8);
}

} // namespace

TEST(FakeQuantizeMany, values_and_masks_are_those_of_one_call_each)
{
    for_each_list([](detent_dtype dtype, const std::vector<Problem> &problems) {
        for (const bool masked : {true, false})
            for (const detent_parallel_for parallel : ways) {
                std::vector<Array> y, mask;
                for (const Problem &p : problems) y.emplace_back(dtype, p.size()), mask.push_back(mask_of(p));
                std::vector<detent_fake_quantize_item> items;
                for (size_t i = 0; i < problems.size(); ++i)
                    items.push_back({problems[i].x.data(), y[i].data(), masked ? mask[i].u8() : nullptr,
                                     problems[i].shape, problems[i].encoding});
                ASSERT_EQ(detent_fake_quantize_many_cpu(items.data(), items.size(), dtype, parallel), DETENT_OK);
                for (size_t i = 0; i < problems.size(); ++i) {
                    const Problem &p = problems[i];
                    Array alone(dtype, p.size()), bits = mask_of(p);
                    ASSERT_EQ(detent_fake_quantize_cpu(p.x.data(), alone.data(), bits.u8(), dtype, p.shape, &p.encoding,
                                                       nullptr, nullptr),
                              DETENT_OK);
                    expect_same_bits(y[i], alone, described(problems, i));
                    EXPECT_INTACT(y[i]);
                    EXPECT_INTACT(mask[i]);
                    if (masked)
                        expect_same_bits(mask[i], bits, described(problems, i));
                    else
                        EXPECT_TRUE(mask[i].untouched());
                }
            }
    });
}

TEST(FakeQuantizeMany, dynamic_ranges_are_those_of_one_call_each)
{
    for_each_list([](detent_dtype dtype, const std::vector<Problem> &problems) {
        for (const detent_parallel_for parallel : ways) {
            std::vector<Array> y, mask, min, max, clip;
            std::vector<detent_fake_quantize_dynamic_item> items;
            for (size_t i = 0; i < problems.size(); ++i) {
                const Problem &p = problems[i];
                y.emplace_back(dtype, p.size()), mask.push_back(mask_of(p));
                min.emplace_back(p.real, p.shape.groups), max.emplace_back(p.real, p.shape.groups);
                clip.emplace_back(p.real, i % 3 == 1 ? 1 : p.shape.groups);
                for (size_t g = 0; g < clip[i].size(); ++g) clip[i].set(g, 1.0 / (double)(1 + g % 4));
            }
            for (size_t i = 0; i < problems.size(); ++i)
                items.push_back({problems[i].x.data(), y[i].data(), mask[i].u8(), min[i].data(), max[i].data(),
                                 i % 3 == 0 ? nullptr : clip[i].data(), clip[i].size(), problems[i].shape,
                                 encoding_on(problems[i].encoding.grid, problems[i].encoding.symmetric)});
            size_t bytes = SIZE_MAX;
            ASSERT_EQ(detent_fake_quantize_dynamic_many_workspace(items.data(), items.size(), &bytes), DETENT_OK);
            Array workspace(DETENT_U8, bytes);
            ASSERT_EQ(detent_fake_quantize_dynamic_many_cpu(items.data(), items.size(), dtype, workspace.data(), bytes,
                                                            parallel),
                      DETENT_OK);
            EXPECT_INTACT(workspace);
            for (size_t i = 0; i < problems.size(); ++i) {
                const Problem &p = problems[i];
                Array alone(dtype, p.size()), bits = mask_of(p), low(p.real, p.shape.groups),
                                              high(p.real, p.shape.groups);
                ASSERT_EQ(detent_fake_quantize_dynamic_workspace(p.shape, &bytes), DETENT_OK);
                Array room(DETENT_U8, bytes);
                ASSERT_EQ(detent_fake_quantize_dynamic_cpu(p.x.data(), alone.data(), bits.u8(), low.data(), high.data(),
                                                           dtype, p.shape, items[i].clip, items[i].clip_count,
                                                           &items[i].encoding, room.data(), bytes, nullptr),
                          DETENT_OK);
                expect_same_bits(y[i], alone, described(problems, i) + ", y");
                expect_same_bits(mask[i], bits, described(problems, i) + ", mask");
                expect_same_bits(min[i], low, described(problems, i) + ", min");
                expect_same_bits(max[i], high, described(problems, i) + ", max");
                EXPECT_INTACT(y[i]);
                EXPECT_INTACT(mask[i]);
            }
        }
    });
}

TEST(FakeQuantizeMany, sums_are_those_of_one_call_each)
{
    for_each_list([](detent_dtype dtype, const std::vector<Problem> &problems) {
        for (const detent_parallel_for parallel : ways) {
            std::vector<Array> grad_x, first, second;
            std::vector<detent_fake_quantize_bwd_item> items;
            for (const Problem &p : problems) {
                grad_x.emplace_back(dtype, p.size());
                first.emplace_back(p.real, p.shape.groups), second.emplace_back(p.real, p.shape.groups);
            }
            const auto factor = [](size_t i) { return i % 2 == 0 ? 1.0 : 0.125; };
            for (size_t i = 0; i < problems.size(); ++i)
                items.push_back({problems[i].grad_y.data(), problems[i].x.data(),
                                 i % 4 == 3 ? nullptr : grad_x[i].data(), first[i].data(),
                                 problems[i].form == Form::scale_only ? nullptr : second[i].data(), factor(i),
                                 problems[i].shape, problems[i].encoding});
            size_t bytes = SIZE_MAX;
            ASSERT_EQ(detent_fake_quantize_many_bwd_workspace(items.data(), items.size(), &bytes), DETENT_OK);
            Array workspace(DETENT_U8, bytes);
            ASSERT_EQ(
                detent_fake_quantize_many_bwd_cpu(items.data(), items.size(), dtype, workspace.data(), bytes, parallel),
                DETENT_OK);
            EXPECT_INTACT(workspace);
            for (size_t i = 0; i < problems.size(); ++i) {
                const Problem &p = problems[i];
                Array alone(dtype, p.size()), one(p.real, p.shape.groups), two(p.real, p.shape.groups);
                ASSERT_EQ(detent_fake_quantize_bwd_workspace(p.shape, &bytes), DETENT_OK);
                Array room(DETENT_U8, bytes);
                ASSERT_EQ(detent_fake_quantize_bwd_cpu(p.grad_y.data(), p.x.data(), alone.data(), one.data(),
                                                       p.form == Form::scale_only ? nullptr : two.data(), dtype,
                                                       p.shape, &p.encoding, nullptr, factor(i), room.data(), bytes,
                                                       nullptr),
                          DETENT_OK);
                if (items[i].grad_x != nullptr) expect_same_bits(grad_x[i], alone, described(problems, i));
                expect_same_bits(first[i], one, described(problems, i) + ", first sum");
                expect_same_bits(second[i], two, described(problems, i) + ", second sum");
                EXPECT_INTACT(grad_x[i]);
                EXPECT_INTACT(first[i]);
                EXPECT_INTACT(second[i]);
            }
        }
    });
}

TEST(FakeQuantizeMany, masks_select_as_in_one_call_each)
{
    for (const detent_dtype dtype : float_dtypes) {
        std::mt19937_64 random(5);
        std::vector<Array> grad_y, mask, grad_x;
        for (const size_t n : {0, 1, 7, 8, 511, 512, 513, 40000, 9, 100003}) {
            grad_y.emplace_back(dtype, n), grad_x.emplace_back(dtype, n), mask.emplace_back(DETENT_U8, (n + 7) / 8);
            for (size_t i = 0; i < n; ++i) grad_y.back().set(i, (double)(random() % 100) - 50);
            for (size_t i = 0; i < mask.back().size(); ++i) mask.back().set(i, (double)(random() % 256));
        }
        for (const detent_parallel_for parallel : ways) {
            std::vector<detent_fake_quantize_mask_bwd_item> items;
            for (size_t i = 0; i < grad_y.size(); ++i)
                items.push_back({grad_y[i].data(), mask[i].u8(), grad_x[i].data(), grad_y[i].size()});
            ASSERT_EQ(detent_fake_quantize_mask_many_bwd_cpu(items.data(), items.size(), dtype, parallel), DETENT_OK);
            for (size_t i = 0; i < grad_y.size(); ++i) {
                Array alone(dtype, grad_y[i].size());
                ASSERT_EQ(detent_fake_quantize_mask_bwd_cpu(grad_y[i].data(), mask[i].u8(), alone.data(), dtype,
                                                            alone.size(), nullptr),
                          DETENT_OK);
                expect_same_bits(grad_x[i], alone, name_of(dtype) + ", item " + std::to_string(i));
                EXPECT_INTACT(grad_x[i]);
            }
        }
    }
}

// --- one item that is refused, beside one that is not: nothing is written
// -------------------------------------------------------------------------------------------------------------------

TEST(FakeQuantizeMany, bad_items_are_named_and_nothing_is_written)
{
    const Problem p = make_problem(DETENT_F32, {2, 3, 40}, {{0, 15}, false}, Form::range, true, 3, Specials::none);
    Array y(DETENT_F32, p.size()), other(DETENT_F32, p.size()), mask = mask_of(p), min(p.real, 3), max(p.real, 3);
    const detent_fake_quantize_item good = {p.x.data(), y.data(), mask.u8(), p.shape, p.encoding};
    const auto refused = [&](detent_dtype dtype, auto spoil) {
        detent_fake_quantize_item items[] = {good, good};
        items[1].y = other.data();
        spoil(items[1]);
        return detent_fake_quantize_many_cpu(items, 2, dtype, nullptr);
    };
    EXPECT_EQ(refused(DETENT_F32, [](auto &item) { item.x = nullptr; }), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(refused(DETENT_F32, [](auto &item) { item.y = nullptr; }), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(refused(DETENT_F32, [](auto &item) { item.encoding.min = nullptr; }), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(refused(DETENT_F32, [](auto &item) { item.encoding.grid = {0, INT32_MAX}; }), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(refused(DETENT_F32, [](auto &item) { item.encoding.grid = {1, 1}; }), DETENT_BAD_GRID);
    EXPECT_EQ(refused(DETENT_F32, [](auto &item) { item.shape.outer = SIZE_MAX; }), DETENT_BAD_SHAPE);
    EXPECT_EQ(refused(DETENT_U8, [](auto &) {}), DETENT_BAD_DTYPE);
    EXPECT_EQ(detent_fake_quantize_many_cpu(nullptr, 1, DETENT_F32, nullptr), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(detent_fake_quantize_many_cpu(nullptr, 0, DETENT_F32, nullptr), DETENT_OK);
    EXPECT_TRUE(y.untouched() && other.untouched() && mask.untouched());

    size_t bytes = 0;
    detent_fake_quantize_dynamic_item dynamic = {p.x.data(), y.data(), mask.u8(), min.data(), max.data(),
                                                 nullptr,    0,        p.shape,   p.encoding};
    ASSERT_EQ(detent_fake_quantize_dynamic_many_workspace(&dynamic, 1, &bytes), DETENT_OK);
    Array workspace(DETENT_U8, bytes);
    const auto range = [&](size_t size, auto spoil) {
        detent_fake_quantize_dynamic_item item = dynamic;
        spoil(item);
        return detent_fake_quantize_dynamic_many_cpu(&item, 1, DETENT_F32, workspace.data(), size, nullptr);
    };
    EXPECT_EQ(range(bytes, [](auto &item) { item.min = nullptr; }), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(range(bytes, [&](auto &item) { item.clip = p.first.data(), item.clip_count = 2; }), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(range(bytes - 1, [](auto &) {}), DETENT_WORKSPACE_SMALL);
    EXPECT_EQ(detent_fake_quantize_dynamic_many_workspace(&dynamic, 1, nullptr), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(detent_fake_quantize_dynamic_many_workspace(nullptr, 1, &bytes), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(detent_fake_quantize_dynamic_many_workspace(nullptr, 0, &bytes), DETENT_OK);
    EXPECT_TRUE(min.untouched() && max.untouched() && workspace.untouched());

    detent_fake_quantize_bwd_item back = {p.grad_y.data(), p.x.data(), y.data(), min.data(),
                                          max.data(),      1.0,        p.shape,  p.encoding};
    ASSERT_EQ(detent_fake_quantize_many_bwd_workspace(&back, 1, &bytes), DETENT_OK);
    Array room(DETENT_U8, bytes);
    const auto gradient = [&](size_t size, auto spoil) {
        detent_fake_quantize_bwd_item item = back;
        spoil(item);
        return detent_fake_quantize_many_bwd_cpu(&item, 1, DETENT_F32, room.data(), size, nullptr);
    };
    EXPECT_EQ(gradient(bytes, [](auto &item) { item.grad_first = nullptr; }), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(gradient(bytes, [](auto &item) { item.grad_second = nullptr; }), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(gradient(bytes, [](auto &item) { item.grad_y = nullptr; }), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(gradient(bytes - 1, [](auto &) {}), DETENT_WORKSPACE_SMALL);
    EXPECT_EQ(detent_fake_quantize_many_bwd_workspace(&back, 1, nullptr), DETENT_BAD_ARGUMENT);
    EXPECT_TRUE(y.untouched() && min.untouched() && max.untouched() && room.untouched());

    const detent_fake_quantize_mask_bwd_item blind = {p.grad_y.data(), nullptr, y.data(), p.size()};
    EXPECT_EQ(detent_fake_quantize_mask_many_bwd_cpu(&blind, 1, DETENT_F32, nullptr), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(detent_fake_quantize_mask_many_bwd_cpu(nullptr, 1, DETENT_F32, nullptr), DETENT_BAD_ARGUMENT);
    EXPECT_TRUE(y.untouched());
}
