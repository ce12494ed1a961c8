// A residual in the same pass: the bits of adding it first, in the tensors' type.
#include "reduction.h"

using namespace detent_test;

namespace
{

struct Forward {
    Array sum, y, mask;
};

Forward forward(const Problem &p, const Array &residual, const detent_activation *activation,
                detent_parallel_for parallel = nullptr)
{
    Forward out{Array(p.dtype, p.size()), Array(p.dtype, p.size()), Array(DETENT_U8, (p.size() + 7) / 8)};
    EXPECT_EQ(detent_fake_quantize_sum_cpu(p.x.data(), residual.data(), out.sum.data(), out.y.data(), out.mask.u8(),
                                           p.dtype, p.shape, &p.encoding, activation, parallel),
              DETENT_OK);
    EXPECT_INTACT(out.sum);
    EXPECT_INTACT(out.y);
    EXPECT_INTACT(out.mask);
    return out;
}

// x alone, from the sum on.
Forward of_the_sum(Problem p, const Array &sum, const detent_activation *activation)
{
    p.x = sum;
    Forward out{sum, Array(p.dtype, p.size()), Array(DETENT_U8, (p.size() + 7) / 8)};
    EXPECT_EQ(detent_fake_quantize_cpu(p.x.data(), out.y.data(), out.mask.u8(), p.dtype, p.shape, &p.encoding,
                                       activation, nullptr),
              DETENT_OK);
    return out;
}

void expect_same_bits(const Forward &got, const Forward &expected, const std::string &what)
{
    expect_same_bits(got.sum, expected.sum, what + ", sum");
    expect_same_bits(got.y, expected.y, what + ", y");
    expect_same_bits(got.mask, expected.mask, what + ", mask");
}

void expect_the_sum(const Problem &p, const Array &residual, const Array &got)
{
    const Array expected = sum_of(p, residual);
    for (size_t i = 0; i < p.size(); ++i) {
        if (got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i]))) continue;
        ADD_FAILURE() << p.describe() << ", sum, index " << i << ", got " << got[i] << ", expected " << expected[i];
        return;
    }
}

} // namespace

TEST(FakeQuantizeSum, forward_is_that_of_two_passes)
{
    const detent_activation relu6 = {0.0, 6.0};
    const auto check = [&](const Problem &p) {
        const Array residual = residual_of(p);
        for (const detent_activation *activation : {(const detent_activation *)nullptr, &relu6}) {
            const Forward got = forward(p, residual, activation);
            expect_the_sum(p, residual, got.sum);
            expect_same_bits(got, of_the_sum(p, got.sum, activation), p.describe());
            Array plain(p.dtype, p.size());
            ASSERT_EQ(detent_fake_quantize_sum_cpu(p.x.data(), residual.data(), nullptr, plain.data(), nullptr, p.dtype,
                                                   p.shape, &p.encoding, activation, nullptr),
                      DETENT_OK);
            expect_same_bits(plain, got.y, p.describe() + ", y alone");
        }
    };
    for_each_problem(Specials::all, true, check);
    for_each_grid({3, 5, 37}, Specials::all, true, check);
}

TEST(FakeQuantizeSum, a_tensor_may_be_added_to_itself)
{
    for (const detent_dtype dtype : float_dtypes) {
        const Problem p =
            make_problem(dtype, {1, 1, 1031}, {{0, 255}, false}, Form::range, true, 5, Specials::infinities);
        const Array copy = p.x;
        expect_same_bits(forward(p, p.x, nullptr), forward(p, copy, nullptr), p.describe());
    }
}

TEST(FakeQuantizeSum, the_partition_changes_no_bit)
{
    for (const detent_dtype dtype : float_dtypes) {
        const Problem p = make_problem(dtype, {9, 7, 1031}, {{0, 255}, false}, Form::range, true, 7, Specials::none);
        const Array residual = residual_of(p);
        const Forward expected = forward(p, residual, nullptr);
        for (const detent_parallel_for parallel : partitions)
            expect_same_bits(forward(p, residual, nullptr, parallel), expected, p.describe());
    }
}

TEST(FakeQuantizeSum, what_is_missing_or_wrong_is_refused)
{
    const Problem p = make_problem(DETENT_F32, {1, 1, 9}, {{0, 255}, false}, Form::affine, true, 3, Specials::none);
    Array y(DETENT_F32, 9), sum(DETENT_F32, 9);
    const auto call = [&](const Problem &with, const void *residual, const detent_activation *activation) {
        return detent_fake_quantize_sum_cpu(with.x.data(), residual, sum.data(), y.data(), nullptr, with.dtype,
                                            with.shape, &with.encoding, activation, nullptr);
    };
    const detent_activation empty = {1.0, 1.0};
    EXPECT_EQ(call(p, nullptr, nullptr), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(p, p.x.data(), &empty), DETENT_BAD_ARGUMENT);
    Problem other = p;
    other.dtype = DETENT_I8;
    EXPECT_EQ(call(other, p.x.data(), nullptr), DETENT_BAD_DTYPE);
    other = p;
    other.encoding.grid = {5, 5};
    EXPECT_EQ(call(other, p.x.data(), nullptr), DETENT_BAD_GRID);
    other = p;
    other.shape = {1, 1, 0};
    EXPECT_EQ(call(other, nullptr, nullptr), DETENT_OK);
    EXPECT_TRUE(y.untouched() && sum.untouched());
}
