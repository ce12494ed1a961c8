#include "detent/stochastic.h"

#include "../../kernels/math/philox.h"
#include "problem.h"
#ifdef DETENT_WITH_CUDA
#include "cuda_device.h"
#endif

using namespace detent_test;

namespace
{

constexpr int64_t random_numbers[2] = {0x299f31d0a4093822, 77};

Array rounded(const Problem &p, detent_parallel_for parallel = nullptr)
{
    Array y(p.dtype, p.size());
    EXPECT_EQ(detent_fake_quantize_stochastic_cpu(p.x.data(), y.data(), p.dtype, p.shape, &p.encoding, random_numbers,
                                                  parallel),
              DETENT_OK);
    EXPECT_INTACT(y);
    return y;
}

/* The header's formula; the division and what follows the rounding are those of the arithmetic. */
double expected(const Problem &p, size_t i)
{
    const oracle::Affine &a = p.at(i);
    const double ratio = p.real == DETENT_F64 ? p.x[i] / a.scale : (double)((float)p.x[i] / (float)a.scale);
    const uint32_t word = detent_philox((uint64_t)random_numbers[0], i / 4, (uint64_t)random_numbers[1]).at[i % 4];
    const double r = std::floor(ratio + std::ldexp((double)(word >> 8), -24));
    return std::isnan(r) ? r : (oracle::code(r, a.zero_point, p.grid) - a.zero_point) * a.scale;
}

} // namespace

TEST(Philox, gives_the_known_answers_of_random123)
{
    const struct {
        uint64_t key, low, high;
        uint32_t words[4];
    } known[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (const auto &answer : known) {
        const detent_random_words got = detent_philox(answer.key, answer.low, answer.high);
        for (int k = 0; k < 4; ++k) EXPECT_EQ(got.at[k], answer.words[k]) << "word " << k;
    }
}

TEST(Stochastic, equals_the_formula_on_every_shape_type_and_parametrization)
{
    for_each_problem(Specials::all, true, [](const Problem &p) {
        if (!p.exact) return; // there the stored result is known exactly
        const Array y = rounded(p);
        for (size_t i = 0; i < p.size(); ++i) {
            const double want = stored(expected(p, i), p.dtype, p.real);
            if (y[i] == want || (std::isnan(y[i]) && std::isnan(want))) continue;
            ADD_FAILURE() << p.describe() << ", index " << i << ", x " << p.x[i] << ", got " << y[i] << ", expected "
                          << want;
            return;
        }
    });
}

TEST(Stochastic, the_partition_changes_no_bit)
{
    for (const detent_shape3 shape : {detent_shape3{1, 1, 200003}, detent_shape3{40009, 5, 1}}) {
        const Problem p = make_problem(DETENT_F32, shape, {{-8, 7}, false}, Form::affine, false, 81, Specials::all);
        const Array y = rounded(p);
        for (const detent_parallel_for parallel : {reversed_chunks, threads})
            expect_same_bits(rounded(p, parallel), y, p.describe());
    }
}

TEST(Stochastic, bad_calls_are_named_and_write_nothing)
{
    const Array x = array_of(DETENT_F32, {1}), scale = array_of(DETENT_F32, {1});
    Array y(DETENT_F32, 1);
    const detent_encoding good = affine_encoding({-8, 7}, scale, nullptr);
    const auto call = [&](const void *from, void *to, detent_dtype dtype, const detent_encoding *encoding,
                          const int64_t *random) {
        return detent_fake_quantize_stochastic_cpu(from, to, dtype, {1, 1, 1}, encoding, random, nullptr);
    };
    EXPECT_EQ(call(nullptr, y.data(), DETENT_F32, &good, random_numbers), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x.data(), nullptr, DETENT_F32, &good, random_numbers), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x.data(), y.data(), DETENT_F32, nullptr, random_numbers), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x.data(), y.data(), DETENT_F32, &good, nullptr), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(call(x.data(), y.data(), DETENT_I8, &good, random_numbers), DETENT_BAD_DTYPE);
    EXPECT_TRUE(y.untouched());
}

#ifdef DETENT_WITH_CUDA
TEST_F(Cuda, stochastic_rounding_equals_the_cpus)
{
    Array numbers(DETENT_F64, 2); // two words of eight bytes
    std::memcpy(numbers.data(), random_numbers, sizeof random_numbers);
    const OnDevice random(numbers);
    for_each_problem(Specials::all, true, [&](const Problem &p) {
        const Array y = rounded(p);
        const OnDevice x(p.x), there(p.dtype, p.size()), first(p.first), second(p.second);
        detent_encoding encoding = p.encoding;
        if (encoding.scale != nullptr)
            encoding.scale = first.data();
        else
            encoding.min = first.data(), encoding.max = second.data();
        if (encoding.zero_point != nullptr) encoding.zero_point = second.data();
        ASSERT_EQ(detent_fake_quantize_stochastic_cuda(x.data(), there.data(), p.dtype, p.shape, &encoding,
                                                       (const int64_t *)random.data(), stream),
                  DETENT_OK);
        wait();
        expect_same_values(there.back("y"), y, p.describe());
    });
}
#endif
