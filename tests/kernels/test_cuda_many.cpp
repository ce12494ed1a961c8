// Many tensors in one call on CUDA: the bits of one call each, on the same device.
#ifdef DETENT_WITH_CUDA

#include <memory>

#include "cuda_device.h"
#include "detent/fake_quantize_many.h"
#include "many.h"

using namespace detent_test;

namespace
{

typedef std::vector<std::unique_ptr<OnDevice>> Held;

// A list of problems on the device, some of them off alignment.
struct DeviceProblems {
    explicit DeviceProblems(const std::vector<Problem> &problems)
    {
        for (size_t i = 0; i < problems.size(); ++i)
            all.push_back(std::make_unique<DeviceProblem>(problems[i], i % 3 == 2 ? bytes_of(problems[i].dtype) : 0));
    }
    const DeviceProblem &operator[](size_t i) const { return *all[i]; }
    std::vector<std::unique_ptr<DeviceProblem>> all;
};

void add(Held &held, detent_dtype dtype, size_t n)
{
    held.push_back(std::make_unique<OnDevice>(dtype, n));
}

// Every type and arithmetic; more items than a table of 4 KiB holds.
template <typename F> void for_each_list(F f)
{
    uint64_t seed = 1;
    for (const detent_dtype dtype : float_dtypes)
        for (const bool wide : {false, true}) {
            if (dtype == DETENT_F64 && !wide) continue;
            for (const Form form : {Form::affine, Form::range}) {
                f(dtype, problems_of(dtype, wide, form, 29, ++seed));
                if (::testing::Test::HasFailure()) return;
            }
        }
    f(DETENT_F32, {});
}

TEST_F(Cuda, many_values_and_masks_are_those_of_one_call_each)
{
    for_each_list([&](detent_dtype dtype, const std::vector<Problem> &problems) {
        const DeviceProblems on(problems);
        Held y, mask, alone, bits;
        std::vector<detent_fake_quantize_item> items;
        for (size_t i = 0; i < problems.size(); ++i) {
            const Problem &p = problems[i];
            add(y, dtype, p.size()), add(alone, dtype, p.size());
            add(mask, DETENT_U8, mask_bytes(p)), add(bits, DETENT_U8, mask_bytes(p));
            items.push_back(
                {on[i].x.data(), y[i]->data(), i % 4 == 1 ? nullptr : mask[i]->u8(), p.shape, on[i].encoding});
            ASSERT_EQ(detent_fake_quantize_cuda(on[i].x.data(), alone[i]->data(), bits[i]->u8(), dtype, p.shape,
                                                &on[i].encoding, nullptr, stream),
                      DETENT_OK);
        }
        ASSERT_EQ(detent_fake_quantize_many_cuda(items.data(), items.size(), dtype, stream), DETENT_OK);
        wait();
        for (size_t i = 0; i < problems.size(); ++i) {
            expect_same_bits(y[i]->back("y"), alone[i]->back("y"), described(problems, i) + ", y");
            const Array got = mask[i]->back("mask");
            if (items[i].mask == nullptr) {
                EXPECT_TRUE(got.untouched()) << described(problems, i);
            } else {
                expect_same_bits(got, bits[i]->back("mask"), described(problems, i) + ", mask");
            }
        }
    });
}

TEST_F(Cuda, many_dynamic_ranges_are_those_of_one_call_each)
{
    for_each_list([&](detent_dtype dtype, const std::vector<Problem> &problems) {
        const DeviceProblems on(problems);
        Held y, mask, min, max, alone, bits, low, high, clip, rooms;
        std::vector<detent_fake_quantize_dynamic_item> items;
        for (size_t i = 0; i < problems.size(); ++i) {
            const Problem &p = problems[i];
            const detent_encoding rules = encoding_on(p.encoding.grid, p.encoding.symmetric);
            for (Held *held : {&y, &alone}) add(*held, dtype, p.size());
            for (Held *held : {&mask, &bits}) add(*held, DETENT_U8, mask_bytes(p));
            for (Held *held : {&min, &max, &low, &high}) add(*held, p.real, p.shape.groups);
            clip.push_back(std::make_unique<OnDevice>(array_of(p.real, {0.75})));
            items.push_back({on[i].x.data(), y[i]->data(), mask[i]->u8(), min[i]->data(), max[i]->data(),
                             i % 2 == 0 ? nullptr : clip[i]->data(), 1, p.shape, rules});
            size_t bytes = 0;
            ASSERT_EQ(detent_fake_quantize_dynamic_workspace_cuda(p.shape, &bytes), DETENT_OK);
            add(rooms, DETENT_U8, bytes);
            ASSERT_EQ(detent_fake_quantize_dynamic_cuda(on[i].x.data(), alone[i]->data(), bits[i]->u8(), low[i]->data(),
                                                        high[i]->data(), dtype, p.shape, items[i].clip, 1, &rules,
                                                        rooms[i]->data(), bytes, stream),
                      DETENT_OK);
        }
        size_t bytes = SIZE_MAX;
        ASSERT_EQ(detent_fake_quantize_dynamic_many_workspace_cuda(items.data(), items.size(), &bytes), DETENT_OK);
        const OnDevice workspace(DETENT_U8, bytes);
        ASSERT_EQ(
            detent_fake_quantize_dynamic_many_cuda(items.data(), items.size(), dtype, workspace.data(), bytes, stream),
            DETENT_OK);
        wait();
        workspace.back("workspace");
        for (size_t i = 0; i < problems.size(); ++i) {
            expect_same_bits(min[i]->back("min"), low[i]->back("min"), described(problems, i) + ", min");
            expect_same_bits(max[i]->back("max"), high[i]->back("max"), described(problems, i) + ", max");
            expect_same_bits(y[i]->back("y"), alone[i]->back("y"), described(problems, i) + ", y");
            expect_same_bits(mask[i]->back("mask"), bits[i]->back("mask"), described(problems, i) + ", mask");
        }
    });
}

TEST_F(Cuda, many_sums_are_those_of_one_call_each)
{
    for_each_list([&](detent_dtype dtype, const std::vector<Problem> &problems) {
        const DeviceProblems on(problems);
        Held grad_x, first, second, alone, one, two, rooms;
        std::vector<detent_fake_quantize_bwd_item> items;
        for (size_t i = 0; i < problems.size(); ++i) {
            const Problem &p = problems[i];
            const double factor = i % 2 == 0 ? 1.0 : 0.125;
            for (Held *held : {&grad_x, &alone}) add(*held, dtype, p.size());
            for (Held *held : {&first, &second, &one, &two}) add(*held, p.real, p.shape.groups);
            items.push_back({on[i].grad_y.data(), on[i].x.data(), grad_x[i]->data(), first[i]->data(),
                             second[i]->data(), factor, p.shape, on[i].encoding});
            size_t bytes = 0;
            ASSERT_EQ(detent_fake_quantize_bwd_workspace_cuda(p.shape, &bytes), DETENT_OK);
            add(rooms, DETENT_U8, bytes);
            ASSERT_EQ(detent_fake_quantize_bwd_cuda(on[i].grad_y.data(), on[i].x.data(), alone[i]->data(),
                                                    one[i]->data(), two[i]->data(), dtype, p.shape, &on[i].encoding,
                                                    nullptr, factor, rooms[i]->data(), bytes, stream),
                      DETENT_OK);
        }
        size_t bytes = SIZE_MAX;
        ASSERT_EQ(detent_fake_quantize_many_bwd_workspace_cuda(items.data(), items.size(), &bytes), DETENT_OK);
        const OnDevice workspace(DETENT_U8, bytes);
        ASSERT_EQ(
            detent_fake_quantize_many_bwd_cuda(items.data(), items.size(), dtype, workspace.data(), bytes, stream),
            DETENT_OK);
        wait();
        workspace.back("workspace");
        for (size_t i = 0; i < problems.size(); ++i) {
            expect_same_bits(grad_x[i]->back("grad_x"), alone[i]->back("grad_x"), described(problems, i) + ", grad_x");
            expect_same_bits(first[i]->back("first"), one[i]->back("first"), described(problems, i) + ", first sum");
            expect_same_bits(second[i]->back("second"), two[i]->back("second"),
                             described(problems, i) + ", second sum");
        }
    });
}

TEST_F(Cuda, many_masks_select_as_in_one_call_each)
{
    for (const detent_dtype dtype : float_dtypes) {
        std::mt19937_64 random(5);
        Held grad_y, mask, grad_x, alone;
        std::vector<detent_fake_quantize_mask_bwd_item> items;
        for (size_t i = 0; i < 200; ++i) {
            const size_t n = i % 50 == 7 ? 9001 : random() % 70;
            Array g(dtype, n), bits(DETENT_U8, (n + 7) / 8);
            for (size_t k = 0; k < n; ++k) g.set(k, (double)(random() % 100) - 50);
            for (size_t k = 0; k < bits.size(); ++k) bits.set(k, (double)(random() % 256));
            grad_y.push_back(std::make_unique<OnDevice>(g)), mask.push_back(std::make_unique<OnDevice>(bits));
            add(grad_x, dtype, n), add(alone, dtype, n);
            items.push_back({grad_y[i]->data(), mask[i]->u8(), grad_x[i]->data(), n});
            ASSERT_EQ(detent_fake_quantize_mask_bwd_cuda(grad_y[i]->data(), mask[i]->u8(), alone[i]->data(), dtype, n,
                                                         stream),
                      DETENT_OK);
        }
        ASSERT_EQ(detent_fake_quantize_mask_many_bwd_cuda(items.data(), items.size(), dtype, stream), DETENT_OK);
        wait();
        for (size_t i = 0; i < items.size(); ++i)
            expect_same_bits(grad_x[i]->back("grad_x"), alone[i]->back("grad_x"),
                             name_of(dtype) + ", item " + std::to_string(i));
    }
}

} // namespace
#endif
