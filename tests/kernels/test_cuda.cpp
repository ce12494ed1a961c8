// fake_quantize on CUDA against the CPU's, bit for bit, and its sums against the oracle.
#ifdef DETENT_WITH_CUDA

#include "cuda_device.h"

using namespace detent_test;

namespace
{

TEST_F(Cuda, forward_and_mask_equal_the_cpu_on_every_shape_dtype_and_parametrization)
{
    for_each_problem(Specials::all, true, [&](const Problem &p) { expect_forward_equals_the_cpu(p, 0); });
}

TEST_F(Cuda, forward_and_mask_equal_the_cpu_off_alignment)
{
    for_each_problem(Specials::all, true,
                     [&](const Problem &p) { expect_forward_equals_the_cpu(p, bytes_of(p.dtype)); });
}

TEST_F(Cuda, forward_and_mask_equal_the_cpu_on_every_grid)
{
    for (const detent_shape3 shape : {detent_shape3{3, 5, 7}, detent_shape3{1, 1, 1021}})
        for_each_grid(shape, Specials::all, true, [&](const Problem &p) { expect_forward_equals_the_cpu(p, 0); });
}

TEST_F(Cuda, forward_equals_the_cpu_on_large_tensors)
{
    for (const Problem &p : large_problems(Specials::all)) expect_forward_equals_the_cpu(p, 0);
}

TEST_F(Cuda, backward_equals_the_cpu_and_the_oracle_on_every_shape_dtype_and_parametrization)
{
    for_each_problem(Specials::infinities, false, [&](const Problem &p) { expect_backward(p); });
}

TEST_F(Cuda, backward_equals_the_cpu_and_the_oracle_on_every_grid)
{
    for_each_grid({3, 5, 7}, Specials::infinities, false, [&](const Problem &p) { expect_backward(p); });
}

TEST_F(Cuda, backward_equals_the_cpu_and_the_oracle_on_large_tensors)
{
    for (const Problem &p : large_problems(Specials::infinities)) expect_backward(p);
}

TEST_F(Cuda, sums_are_nan_where_the_cpus_are)
{
    for_each_problem(Specials::all, true, [&](const Problem &p) {
        const Backward got = backward(p), cpu = fake_quantize_backward(p);
        expect_same_values(got.grad_x, cpu.grad_x, p.describe() + ", grad_x");
        for (size_t g = 0; g < p.shape.groups; ++g) {
            EXPECT_EQ(std::isnan(got.first[g]), std::isnan(cpu.first[g])) << p.describe() << ", group " << g;
            EXPECT_EQ(std::isnan(got.second[g]), std::isnan(cpu.second[g])) << p.describe() << ", group " << g;
        }
    });
}

TEST_F(Cuda, the_same_input_gives_the_same_sums_whatever_the_alignment)
{
    for (const Problem &p : large_problems(Specials::infinities)) {
        const Backward once = backward(p);
        expect_same_bits(backward(p), once, p.describe() + ", again");
        expect_same_bits(backward(p, bytes_of(p.dtype)), once, p.describe() + ", off alignment");
    }
}

TEST_F(Cuda, gradient_scale_multiplies_both_sums_and_grad_x_may_be_absent)
{
    const Problem p =
        make_problem(DETENT_F32, {2, 3, 50}, {{-8, 7}, false}, Form::affine, true, 3, Specials::none, false);
    const DeviceProblem d(p);
    const OnDevice first(p.real, 3), second(p.real, 3);
    size_t bytes = 0;
    ASSERT_EQ(detent_fake_quantize_bwd_workspace_cuda(p.shape, &bytes), DETENT_OK);
    const OnDevice workspace(DETENT_U8, bytes);
    ASSERT_EQ(detent_fake_quantize_bwd_cuda(d.grad_y.data(), d.x.data(), nullptr, first.data(), second.data(), p.dtype,
                                            p.shape, &d.encoding, nullptr, 0.25, workspace.data(), bytes, stream),
              DETENT_OK);
    wait();
    const Backward whole = backward(p);
    const Array got_first = first.back("first sum"), got_second = second.back("second sum");
    for (size_t g = 0; g < 3; ++g) {
        EXPECT_EQ(got_first[g], 0.25 * whole.first[g]);
        EXPECT_EQ(got_second[g], 0.25 * whole.second[g]);
    }
}

TEST_F(Cuda, a_residual_in_the_same_pass_equals_the_cpu)
{
    const auto check = [&](const Problem &p, size_t shift) {
        const Array residual = residual_of(p);
        for (const detent_activation &activation : activations) {
            Array sum(p.dtype, p.size()), y(p.dtype, p.size()), mask(DETENT_U8, mask_bytes(p));
            ASSERT_EQ(detent_fake_quantize_sum_cpu(p.x.data(), residual.data(), sum.data(), y.data(), mask.u8(),
                                                   p.dtype, p.shape, &p.encoding, &activation, nullptr),
                      DETENT_OK);
            const DeviceProblem d(p, shift);
            const OnDevice residual_there(residual, shift), sum_there(p.dtype, p.size(), shift),
                y_there(p.dtype, p.size(), shift), mask_there(DETENT_U8, mask_bytes(p)),
                plain(p.dtype, p.size(), shift);
            ASSERT_EQ(detent_fake_quantize_sum_cuda(d.x.data(), residual_there.data(), sum_there.data(), y_there.data(),
                                                    mask_there.u8(), p.dtype, p.shape, &d.encoding, &activation,
                                                    stream),
                      DETENT_OK);
            ASSERT_EQ(detent_fake_quantize_sum_cuda(d.x.data(), residual_there.data(), nullptr, plain.data(), nullptr,
                                                    p.dtype, p.shape, &d.encoding, &activation, stream),
                      DETENT_OK);
            wait();
            expect_same_values(sum_there.back("sum"), sum, describe(p, activation) + ", sum");
            expect_same_values(y_there.back("y"), y, describe(p, activation) + ", y");
            expect_same_values(plain.back("y"), y, describe(p, activation) + ", y alone");
            expect_same_bits(mask_there.back("mask"), mask, describe(p, activation) + ", mask");
        }
    };
    for_each_problem(Specials::all, true, [&](const Problem &p) { check(p, p.seed % 2 ? bytes_of(p.dtype) : 0); });
    for (const Problem &p : large_problems(Specials::all)) check(p, 0);
}

TEST_F(Cuda, an_activation_in_the_same_pass_has_the_bits_of_two_passes)
{
    const auto check = [&](const Problem &p) {
        for (const detent_activation &activation : activations) {
            expect_forward_equals_the_cpu(p, 0, &activation);
            const Held held = held_to(p, activation);
            Backward two = backward(held.problem);
            for (size_t i = 0; i < p.size(); ++i)
                if (!held.passes[i]) two.grad_x.set(i, 0.0);
            expect_same_bits(backward(p, 0, &activation), two, describe(p, activation));
        }
    };
    for_each_problem(Specials::infinities, true, check);
    for (const Problem &p : large_problems(Specials::none)) check(p);
}

TEST_F(Cuda, mask_backward_selects_bits)
{
    for_each_problem(Specials::all, true, [&](const Problem &p) {
        Array y(p.dtype, p.size()), mask(DETENT_U8, mask_bytes(p)), grad_x(p.dtype, p.size());
        ASSERT_EQ(
            detent_fake_quantize_cpu(p.x.data(), y.data(), mask.u8(), p.dtype, p.shape, &p.encoding, nullptr, nullptr),
            DETENT_OK);
        // x holds infinities and NaN, which must pass or vanish as they are.
        ASSERT_EQ(detent_fake_quantize_mask_bwd_cpu(p.x.data(), mask.u8(), grad_x.data(), p.dtype, p.size(), nullptr),
                  DETENT_OK);
        for (const size_t shift : {(size_t)0, bytes_of(p.dtype)}) {
            const OnDevice x(p.x, shift), bits(mask), out(p.dtype, p.size(), shift);
            ASSERT_EQ(detent_fake_quantize_mask_bwd_cuda(x.data(), bits.u8(), out.data(), p.dtype, p.size(), stream),
                      DETENT_OK);
            wait();
            expect_same_bits(out.back("grad_x"), grad_x, p.describe());
        }
    });
}

TEST_F(Cuda, empty_tensors_have_sums_of_zero_and_nothing_observed)
{
    for (const detent_shape3 shape : {detent_shape3{0, 4, 3}, detent_shape3{2, 3, 0}, detent_shape3{2, 0, 3}}) {
        const Problem p = make_problem(DETENT_F32, shape, {{-8, 7}, false}, Form::affine, true, 5, Specials::none);
        const Backward out = backward(p);
        const OnDevice min(DETENT_F32, shape.groups), max(DETENT_F32, shape.groups), ignored(DETENT_F64, shape.groups);
        ASSERT_EQ(detent_observe_min_max_cuda(nullptr, min.data(), max.data(), (int64_t *)ignored.data(), DETENT_F32,
                                              shape, DETENT_OBSERVE_REPLACE, 0, nullptr, 0, stream),
                  DETENT_OK);
        wait();
        const Array low = min.back("min"), high = max.back("max"), count = ignored.back("ignored");
        for (size_t g = 0; g < shape.groups; ++g) {
            EXPECT_EQ(out.first[g], 0.0);
            EXPECT_EQ(out.second[g], 0.0);
            EXPECT_EQ(low[g], infinity);
            EXPECT_EQ(high[g], -infinity);
            EXPECT_EQ(((const int64_t *)count.data())[g], 0);
        }
    }
}

} // namespace
#endif
