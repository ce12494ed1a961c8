#include "reduction.h"

using namespace detent_test;

namespace
{

Array masked(const Array &grad_y, const Array &mask, detent_parallel_for parallel = nullptr)
{
    Array grad_x(grad_y.dtype(), grad_y.size());
    EXPECT_EQ(detent_fake_quantize_mask_bwd_cpu(grad_y.data(), mask.u8(), grad_x.data(), grad_y.dtype(), grad_y.size(),
                                                parallel),
              DETENT_OK);
    EXPECT_INTACT(grad_x);
    return grad_x;
}

} // namespace

TEST(FakeQuantizeMaskBackward, equals_the_backward_that_reads_x)
{
    for_each_problem(Specials::all, true, [](const Problem &p) {
        Array y(p.dtype, p.size()), mask(DETENT_U8, (p.size() + 7) / 8);
        ASSERT_EQ(
            detent_fake_quantize_cpu(p.x.data(), y.data(), mask.u8(), p.dtype, p.shape, &p.encoding, nullptr, nullptr),
            DETENT_OK);
        expect_same_bits(masked(p.grad_y, mask), fake_quantize_backward(p).grad_x, p.describe());
    });
}

TEST(FakeQuantizeMaskBackward, selects_bits_and_never_multiplies)
{
    const std::vector<double> special = {infinity, -infinity, not_a_number, -0.0, 1.5};
    for (const detent_dtype dtype : float_dtypes)
        for (size_t n = 0; n < 70; ++n) {
            std::mt19937_64 random(n);
            Array grad_y(dtype, n), mask(DETENT_U8, (n + 7) / 8), expected(dtype, n);
            for (size_t i = 0; i < mask.size(); ++i) mask.set(i, (double)(random() % 256)); // bits beyond the end too
            for (size_t i = 0; i < n; ++i) {
                grad_y.set(i, special[random() % special.size()]);
                expected.set(i, 0.0);
                if (bit_at(mask, i))
                    std::memcpy((char *)expected.data() + i * bytes_of(dtype),
                                (char *)grad_y.data() + i * bytes_of(dtype), bytes_of(dtype));
            }
            expect_same_bits(masked(grad_y, mask), expected, name_of(dtype) + ", n " + std::to_string(n));
        }
}

TEST(FakeQuantizeMaskBackward, the_partition_changes_no_bit)
{
    std::mt19937_64 random(8);
    for (const detent_dtype dtype : float_dtypes) {
        Array grad_y(dtype, 200003), mask(DETENT_U8, 25001);
        for (size_t i = 0; i < grad_y.size(); ++i) grad_y.set(i, (double)(random() % 100));
        for (size_t i = 0; i < mask.size(); ++i) mask.set(i, (double)(random() % 256));
        for (const detent_parallel_for parallel : partitions)
            expect_same_bits(masked(grad_y, mask, parallel), masked(grad_y, mask), name_of(dtype));
    }
}

TEST(FakeQuantizeMaskBackward, bad_calls_are_named_and_write_nothing)
{
    const Array grad_y = array_of(DETENT_F32, {1, 2, 3}), mask = array_of(DETENT_U8, {7});
    Array grad_x(DETENT_F32, 3);
    const auto call = [](const void *g, const uint8_t *bits, void *dx, detent_dtype dtype, size_t n) {
        return detent_fake_quantize_mask_bwd_cpu(g, bits, dx, dtype, n, nullptr);
    };
    EXPECT_EQ(call(nullptr, mask.u8(), grad_x.data(), DETENT_F32, 3), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(grad_y.data(), nullptr, grad_x.data(), DETENT_F32, 3), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(grad_y.data(), mask.u8(), nullptr, DETENT_F32, 3), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(grad_y.data(), mask.u8(), grad_x.data(), DETENT_I32, 3), DETENT_BAD_DTYPE);
    EXPECT_EQ(call(nullptr, nullptr, nullptr, DETENT_F16, 0), DETENT_OK);
    EXPECT_TRUE(grad_x.untouched());
}
