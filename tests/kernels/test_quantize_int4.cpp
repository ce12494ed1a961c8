// Packed 4-bit codes are the 8-bit ones, two in a byte; those are held to the oracle in test_quantize.cpp.
#include "detent/fake_quantize.h"
#include "detent/quantize.h"
#include "problem.h"
#ifdef DETENT_WITH_CUDA
#include "cuda_device.h"
#endif

using namespace detent_test;

namespace
{

struct Width {
    detent_dtype packed, byte;
    detent_grid grid;
};
constexpr Width widths[] = {{DETENT_I4, DETENT_I8, {-8, 7}}, {DETENT_U4, DETENT_U8, {0, 15}}};

template <typename F> void for_each_packable(F f)
{
    uint64_t seed = 4000;
    for (const detent_shape3 shape : shapes())
        for (const detent_dtype dtype : float_dtypes)
            for (const Width &width : widths) {
                const Form form = ++seed % 2 == 0 ? Form::affine : Form::scale_only;
                f(make_problem(dtype, shape, {width.grid, false}, form, true, seed, Specials::all), width);
                if (::testing::Test::HasFailure()) return;
            }
}

Array codes(const Problem &p, detent_dtype q_dtype, detent_dtype held_as, size_t held,
            detent_parallel_for parallel = nullptr)
{
    Array q(held_as, held);
    EXPECT_EQ(detent_quantize_cpu(p.x.data(), q.data(), p.dtype, q_dtype, p.shape, &p.encoding, parallel), DETENT_OK);
    EXPECT_INTACT(q);
    return q;
}

Array packed_codes(const Problem &p, const Width &width, detent_parallel_for parallel = nullptr)
{
    return codes(p, width.packed, DETENT_U8, (p.size() + 1) / 2, parallel);
}

Array packed_by_hand(const Array &bytes)
{
    Array pairs(DETENT_U8, (bytes.size() + 1) / 2);
    for (size_t i = 0; i < pairs.size(); ++i) {
        const int low = (int)bytes[2 * i], high = 2 * i + 1 < bytes.size() ? (int)bytes[2 * i + 1] : 0;
        pairs.set(i, (low + 16) % 16 + 16 * ((high + 16) % 16));
    }
    return pairs;
}

Array values(const Problem &p, const Array &q, detent_dtype q_dtype, detent_parallel_for parallel = nullptr)
{
    Array x(p.dtype, p.size());
    EXPECT_EQ(detent_dequantize_cpu(q.data(), x.data(), q_dtype, p.dtype, p.shape, &p.encoding, parallel), DETENT_OK);
    EXPECT_INTACT(x);
    return x;
}

} // namespace

TEST(QuantizeInt4, codes_lie_two_in_a_byte_the_first_in_the_low_half)
{
    const Array x = array_of(DETENT_F32, {-8, 7, -1, 2, 3}), scale = array_of(DETENT_F32, {1});
    const detent_encoding encoding = affine_encoding({-8, 7}, scale, nullptr);
    Array q(DETENT_U8, 3);
    ASSERT_EQ(detent_quantize_cpu(x.data(), q.data(), DETENT_F32, DETENT_I4, {1, 1, 5}, &encoding, nullptr), DETENT_OK);
    expect_same_bits(q, array_of(DETENT_U8, {0x78, 0x2f, 0x03}), "-8, 7, -1, 2, 3");
}

TEST(QuantizeInt4, equals_the_bytes_on_every_shape_and_type)
{
    for_each_packable([](const Problem &p, const Width &width) {
        const Array bytes = codes(p, width.byte, width.byte, p.size());
        const Array pairs = packed_codes(p, width);
        expect_same_bits(pairs, packed_by_hand(bytes), p.describe());
        expect_same_bits(values(p, pairs, width.packed), values(p, bytes, width.byte), p.describe());
    });
}

TEST(QuantizeInt4, the_partition_changes_no_bit)
{
    for (const Width &width : widths) {
        const Problem p =
            make_problem(DETENT_F32, {3, 5, 13337}, {width.grid, false}, Form::affine, true, 90, Specials::all);
        const Array q = packed_codes(p, width), x = values(p, q, width.packed);
        for (const detent_parallel_for parallel : {reversed_chunks, threads}) {
            expect_same_bits(packed_codes(p, width, parallel), q, p.describe());
            expect_same_bits(values(p, q, width.packed, parallel), x, p.describe());
        }
    }
}

TEST(QuantizeInt4, a_grid_of_more_bits_and_a_backward_are_refused)
{
    const Array x = array_of(DETENT_F32, {1, 2}), scale = array_of(DETENT_F32, {1});
    Array q(DETENT_U8, 1), sum(DETENT_F32, 1), workspace(DETENT_F64, 64);
    for (const detent_grid grid : {detent_grid{-9, 7}, detent_grid{-8, 8}, detent_grid{0, 16}, detent_grid{-1, 15}})
        for (const Width &width : widths) {
            const detent_encoding encoding = affine_encoding(grid, scale, nullptr);
            EXPECT_EQ(detent_quantize_cpu(x.data(), q.data(), DETENT_F32, width.packed, {1, 1, 2}, &encoding, nullptr),
                      DETENT_BAD_GRID);
            EXPECT_EQ(detent_dequantize_bwd_cpu(x.data(), q.data(), nullptr, sum.data(), nullptr, width.packed,
                                                DETENT_F32, {1, 1, 2}, &encoding, workspace.data(), workspace.bytes(),
                                                nullptr),
                      DETENT_BAD_DTYPE);
        }
    EXPECT_TRUE(q.untouched());
    EXPECT_TRUE(sum.untouched());
}

#ifdef DETENT_WITH_CUDA
TEST_F(Cuda, packed_codes_equal_the_cpus)
{
    for_each_packable([&](const Problem &p, const Width &width) {
        Array q = packed_codes(p, width), x = values(p, q, width.packed);
        const OnDevice x_there(p.x), q_there(DETENT_U8, q.size()), back_there(p.dtype, p.size());
        const OnDevice scale(p.first), zero_point(p.second);
        detent_encoding encoding = p.encoding;
        encoding.scale = scale.data();
        if (encoding.zero_point != nullptr) encoding.zero_point = zero_point.data();
        ASSERT_EQ(
            detent_quantize_cuda(x_there.data(), q_there.data(), p.dtype, width.packed, p.shape, &encoding, stream),
            DETENT_OK);
        ASSERT_EQ(detent_dequantize_cuda(q_there.data(), back_there.data(), width.packed, p.dtype, p.shape, &encoding,
                                         stream),
                  DETENT_OK);
        wait();
        expect_same_bits(q_there.back("q"), q, p.describe() + ", q");
        expect_same_values(back_there.back("x"), x, p.describe() + ", x");
    });
}
#endif
