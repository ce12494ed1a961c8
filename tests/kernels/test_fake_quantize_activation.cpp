// An activation in the same pass: the bits of holding x to its bounds first, and no gradient but strictly between them.
#include "reduction.h"

using namespace detent_test;

namespace
{

struct Forward {
    Array y, mask;
};

Forward forward(const Problem &p, const detent_activation *activation, detent_parallel_for parallel = nullptr)
{
    Forward out{Array(p.dtype, p.size()), Array(DETENT_U8, (p.size() + 7) / 8)};
    EXPECT_EQ(detent_fake_quantize_cpu(p.x.data(), out.y.data(), out.mask.u8(), p.dtype, p.shape, &p.encoding,
                                       activation, parallel),
              DETENT_OK);
    EXPECT_INTACT(out.y);
    EXPECT_INTACT(out.mask);
    return out;
}

} // namespace

TEST(FakeQuantizeActivation, forward_is_that_of_two_passes)
{
    const auto check = [](const Problem &p) {
        for (const detent_activation &activation : activations) {
            const Held held = held_to(p, activation);
            const Forward got = forward(p, &activation), two = forward(held.problem, nullptr);
            Array plain(p.dtype, p.size()), mask = two.mask;
            ASSERT_EQ(detent_fake_quantize_cpu(p.x.data(), plain.data(), nullptr, p.dtype, p.shape, &p.encoding,
                                               &activation, nullptr),
                      DETENT_OK);
            for (size_t i = 0; i < p.size(); ++i)
                if (!held.passes[i]) mask.u8()[i / 8] = (uint8_t)(mask.u8()[i / 8] & ~(1u << i % 8));
            expect_same_bits(got.y, two.y, describe(p, activation) + ", y");
            expect_same_bits(plain, two.y, describe(p, activation) + ", y without a mask");
            expect_same_bits(got.mask, mask, describe(p, activation) + ", mask");
        }
    };
    for_each_problem(Specials::all, true, check);
    for_each_grid({3, 5, 37}, Specials::all, true, check);
}

TEST(FakeQuantizeActivation, backward_is_that_of_two_passes)
{
    for (const Specials specials : {Specials::none, Specials::all}) // with NaN in it a sum is NaN
        for_each_problem(specials, true, [](const Problem &p) {
            for (const detent_activation &activation : activations) {
                const Held held = held_to(p, activation);
                Backward two = fake_quantize_backward(held.problem);
                for (size_t i = 0; i < p.size(); ++i)
                    if (!held.passes[i]) two.grad_x.set(i, 0.0);
                expect_same_bits(fake_quantize_backward(p, nullptr, 1.0, &activation), two, describe(p, activation));
            }
        });
}

TEST(FakeQuantizeActivation, the_sums_are_the_oracles)
{
    for_each_grid({3, 5, 37}, Specials::none, false, [](const Problem &p) {
        const detent_activation activation = {0.0, 6.0};
        const Sums want = fake_quantize_sums(held_to(p, activation).problem);
        const Backward got = fake_quantize_backward(p, nullptr, 1.0, &activation);
        expect_sums(got.first, want.first, p.real, describe(p, activation) + ", first sum");
        expect_sums(got.second, want.second, p.real, describe(p, activation) + ", second sum");
    });
}

TEST(FakeQuantizeActivation, the_partition_changes_no_bit)
{
    const detent_activation relu6 = {0.0, 6.0};
    for (const detent_dtype dtype : float_dtypes) {
        const Problem p = make_problem(dtype, {9, 7, 1031}, {{0, 255}, false}, Form::range, true, 77, Specials::none);
        const Forward expected = forward(p, &relu6);
        const Backward gradients = fake_quantize_backward(p, nullptr, 1.0, &relu6);
        for (const detent_parallel_for parallel : partitions) {
            const Forward got = forward(p, &relu6, parallel);
            expect_same_bits(got.y, expected.y, p.describe());
            expect_same_bits(got.mask, expected.mask, p.describe());
            expect_same_bits(fake_quantize_backward(p, parallel, 1.0, &relu6), gradients, p.describe());
        }
    }
}

TEST(FakeQuantizeActivation, bounds_without_an_interval_are_refused)
{
    const Problem p = make_problem(DETENT_F32, {1, 1, 9}, {{0, 255}, false}, Form::affine, true, 3, Specials::none);
    Array y(DETENT_F32, 9), first(DETENT_F32, 1), second(DETENT_F32, 1),
        workspace(DETENT_U8, backward_workspace(p.shape));
    for (const detent_activation bad :
         {detent_activation{6.0, 0.0}, {1.0, 1.0}, {not_a_number, 1.0}, {0.0, not_a_number}, {infinity, infinity}}) {
        EXPECT_EQ(detent_fake_quantize_cpu(p.x.data(), y.data(), nullptr, p.dtype, p.shape, &p.encoding, &bad, nullptr),
                  DETENT_BAD_ARGUMENT);
        EXPECT_EQ(detent_fake_quantize_bwd_cpu(p.grad_y.data(), p.x.data(), y.data(), first.data(), second.data(),
                                               p.dtype, p.shape, &p.encoding, &bad, 1.0, workspace.data(),
                                               workspace.size(), nullptr),
                  DETENT_BAD_ARGUMENT);
    }
    EXPECT_TRUE(y.untouched() && first.untouched() && second.untouched() && workspace.untouched());
}
