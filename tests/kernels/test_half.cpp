// binary16 and bfloat16: against the compiler's own type, and against rounding done in double.
#include "../../kernels/math/half.h"

#include "half_reference.h"
#include "support.h"

using namespace detent_test;

namespace
{

bool same(float a, float b)
{
    return detent_bits_of_float(a) == detent_bits_of_float(b);
}

// Every bit pattern next to a boundary of either format, and a large sample of the rest.
template <typename F> void for_each_float(F f)
{
    const uint32_t lows[] = {0,      1,      2,      0xfff,  0x1000, 0x1001, 0x1fff,
                             0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff};
    for (uint32_t high = 0; high < 0x10000; ++high)
        for (const uint32_t low : lows) f(high << 16 | low);
    // Between neighbouring binary16 numbers, subnormals too: the half way point and the floats on its sides.
    for (uint32_t half = 0; half < 0x7c00; ++half) {
        const double below = value_of_f16((uint16_t)half),
                     above = half == 0x7bff ? 65536.0 : value_of_f16((uint16_t)(half + 1));
        const uint32_t middle = detent_bits_of_float((float)((below + above) / 2));
        for (uint32_t bits = middle - 1; bits <= middle + 1; ++bits) {
            f(bits);
            f(bits | 0x80000000u);
        }
    }
    std::mt19937_64 random(11);
    for (int i = 0; i < 1000000; ++i) f((uint32_t)random());
    for (int i = 0; i < 1000000; ++i) f((uint32_t)(0x32000000u + random() % 0x16000000u)); // around binary16's range
}

} // namespace

TEST(Half, every_binary16_number_becomes_its_float)
{
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
        const float got = detent_f16_to_f32((uint16_t)bits);
        const double expected = value_of_f16((uint16_t)bits);
        ASSERT_TRUE(std::isnan(expected) ? std::isnan(got) : same(got, (float)expected))
            << "bits " << bits << ", got " << got << ", expected " << expected;
    }
}

TEST(Half, every_binary16_number_becomes_the_compilers_float)
{
    if (!compiler_has_f16()) GTEST_SKIP() << "this compiler has no _Float16";
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
        const float got = detent_f16_to_f32((uint16_t)bits), expected = compiler_f16_to_f32((uint16_t)bits);
        ASSERT_TRUE(std::isnan(expected) ? std::isnan(got) : same(got, expected))
            << "bits " << bits << ", got " << got << ", expected " << expected;
    }
}

TEST(Half, every_bfloat16_number_becomes_its_float)
{
    for (uint32_t bits = 0; bits < 0x10000; ++bits)
        ASSERT_EQ(detent_bits_of_float(detent_bf16_to_f32((uint16_t)bits)), bits << 16) << "bits " << bits;
}

TEST(Half, every_number_survives_the_round_trip)
{
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
        const uint16_t half = (uint16_t)bits;
        const float f16 = detent_f16_to_f32(half), bf16 = detent_bf16_to_f32(half);
        if (std::isnan(f16))
            ASSERT_TRUE(std::isnan(detent_f16_to_f32(detent_f32_to_f16(f16)))) << "bits " << bits;
        else
            ASSERT_EQ(detent_f32_to_f16(f16), half);
        if (std::isnan(bf16))
            ASSERT_TRUE(std::isnan(detent_bf16_to_f32(detent_f32_to_bf16(bf16)))) << "bits " << bits;
        else
            ASSERT_EQ(detent_f32_to_bf16(bf16), half);
    }
}

TEST(Half, floats_round_to_the_nearest_binary16_and_halves_to_even)
{
    for_each_float([](uint32_t bits) {
        const float value = detent_float_of_bits(bits);
        const uint16_t got = detent_f32_to_f16(value);
        const bool right = std::isnan(value) ? (got & 0x7fff) == 0x7e00 : got == bits_of_f16(round_f16(value));
        if (!right)
            ADD_FAILURE() << "bits " << bits << ", value " << value << ", got " << got << ", expected "
                          << bits_of_f16(round_f16(value));
    });
}

TEST(Half, floats_round_as_the_compiler_rounds)
{
    if (!compiler_has_f16()) GTEST_SKIP() << "this compiler has no _Float16";
    for_each_float([](uint32_t bits) {
        const float value = detent_float_of_bits(bits);
        const uint16_t got = detent_f32_to_f16(value), expected = compiler_f32_to_f16(value);
        if (!(std::isnan(value) || got == expected))
            ADD_FAILURE() << "bits " << bits << ", value " << value << ", got " << got << ", expected " << expected;
    });
}

TEST(Half, floats_round_to_the_nearest_bfloat16_and_halves_to_even)
{
    for_each_float([](uint32_t bits) {
        const float value = detent_float_of_bits(bits);
        const uint16_t got = detent_f32_to_bf16(value);
        const bool right = std::isnan(value) ? (got & 0x7fff) == 0x7fc0 : got == bits_of_bf16(round_bf16(value));
        if (!right)
            ADD_FAILURE() << "bits " << bits << ", value " << value << ", got " << got << ", expected "
                          << bits_of_bf16(round_bf16(value));
    });
}

TEST(Half, known_roundings)
{
    EXPECT_EQ(detent_f32_to_f16(65519.996f), 0x7bff); // below the middle of 65504 and 65536
    EXPECT_EQ(detent_f32_to_f16(65520.0f), 0x7c00);   // that middle goes to the even side, infinity
    EXPECT_EQ(detent_f32_to_f16(-65520.0f), 0xfc00);
    EXPECT_EQ(detent_f32_to_f16(0x1p-25f), 0x0000); // half the smallest subnormal: even is 0
    EXPECT_EQ(detent_f32_to_f16(0x1.000002p-25f), 0x0001);
    EXPECT_EQ(detent_f32_to_f16(0x3p-25f), 0x0002);
    EXPECT_EQ(detent_f32_to_f16(-0.0f), 0x8000);
    EXPECT_EQ(detent_f32_to_f16(0x1p-149f), 0x0000);
    EXPECT_EQ(detent_f32_to_f16(1.0f + 0x1p-11f), 0x3c00);
    EXPECT_EQ(detent_f32_to_f16(1.0f + 0x3p-11f), 0x3c02);
    EXPECT_EQ(detent_f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);
    EXPECT_EQ(detent_f32_to_bf16(1.0f + 0x3p-8f), 0x3f82);
    EXPECT_EQ(detent_f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
    EXPECT_EQ(detent_f32_to_bf16(-std::numeric_limits<float>::infinity()), 0xff80);
}
