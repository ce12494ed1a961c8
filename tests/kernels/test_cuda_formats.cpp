// Block formats, masks, moments and trained encodings on CUDA against the CPU's.
#ifdef DETENT_WITH_CUDA

#include "cuda_device.h"
#include "detent/block_cast.h"
#include "detent/mask.h"

using namespace detent_test;

namespace
{

TEST_F(Cuda, block_formats_equal_the_cpus)
{
    const detent_float_format formats[] = {{3, -6, 448}, {1, 0, 6}, {6, 0, 127.0 / 64}};
    uint64_t seed = 100;
    for (const detent_shape3 shape : {detent_shape3{1, 4096, 1}, detent_shape3{3, 96, 1}, detent_shape3{2, 33, 1},
                                      detent_shape3{2, 40, 9}, detent_shape3{1, 5, 300}, detent_shape3{7, 8, 1}})
        for (const detent_dtype dtype : float_dtypes)
            for (const size_t block : {1, 4, 16, 32, 128, 1000}) {
                ++seed;
                const Problem p =
                    make_problem(dtype, shape, {{-8, 7}, true}, Form::affine, true, seed, Specials::all, false);
                const detent_float_format format = formats[seed % 3];
                Array y(dtype, p.size()), mask(DETENT_U8, mask_bytes(p)),
                    scale(dtype == DETENT_F64 ? DETENT_F64 : DETENT_F32, 1);
                scale.set(0, 0.01);
                const OnDevice scale_there(scale);
                size_t bytes = SIZE_MAX;
                ASSERT_EQ(detent_block_cast_workspace_cuda(dtype, shape, block, &bytes), DETENT_OK);
                const OnDevice room(DETENT_U8, bytes);
                for (const size_t shift : {size_t{0}, bytes_of(dtype)}) {
                    const bool two_levels = shift > 0;
                    const OnDevice x(p.x, shift), y_there(dtype, p.size(), shift), mask_there(mask);
                    ASSERT_EQ(detent_block_cast_cpu(p.x.data(), y.data(), mask.u8(), dtype, shape, block, format,
                                                    two_levels ? scale.data() : nullptr, nullptr),
                              DETENT_OK);
                    ASSERT_EQ(detent_block_cast_cuda(x.data(), y_there.data(), mask_there.u8(), dtype, shape, block,
                                                     format, two_levels ? scale_there.data() : nullptr, room.data(),
                                                     bytes, stream),
                              DETENT_OK);
                    wait();
                    const std::string what = p.describe() + ", blocks of " + std::to_string(block);
                    expect_same_values(y_there.back("y"), y, what + ", y");
                    expect_same_bits(mask_there.back("mask"), mask, what + ", mask");
                }
                room.back("workspace");
            }
    Array x(DETENT_F32, 6), y(DETENT_F32, 6);
    EXPECT_EQ(detent_block_cast_cuda(x.data(), y.data(), nullptr, DETENT_F32, {1, 6, 1}, 4, formats[0], nullptr,
                                     nullptr, 0, stream),
              DETENT_WORKSPACE_SMALL);
    EXPECT_EQ(detent_block_cast_workspace_cuda(DETENT_F32, {1, 6, 1}, 0, nullptr), DETENT_BAD_ARGUMENT);
}

TEST_F(Cuda, masks_are_packed_and_unpacked_as_on_the_cpu)
{
    for (const size_t n : {1, 7, 8, 2049, 5000})
        for (const size_t shift : {0, 3}) {
            Array inside(DETENT_U8, n), mask(DETENT_U8, (n + 7) / 8);
            for (size_t i = 0; i < n; ++i) inside.set(i, (double)((i * i + i / 3) % 5 < 2));
            ASSERT_EQ(detent_pack_mask_cpu(inside.u8(), mask.u8(), n, nullptr), DETENT_OK);
            const OnDevice inside_there(inside, shift), mask_there(DETENT_U8, (n + 7) / 8), back(DETENT_U8, n, shift);
            ASSERT_EQ(detent_pack_mask_cuda(inside_there.u8(), mask_there.u8(), n, stream), DETENT_OK);
            ASSERT_EQ(detent_unpack_mask_cuda(mask_there.u8(), back.u8(), n, stream), DETENT_OK);
            wait();
            expect_same_bits(mask_there.back("mask"), mask, "mask of " + std::to_string(n));
            expect_same_bits(back.back("inside"), inside, "bits of " + std::to_string(n));
        }
    EXPECT_EQ(detent_pack_mask_cuda(nullptr, nullptr, 1, stream), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(detent_unpack_mask_cuda(nullptr, nullptr, 0, stream), DETENT_OK);
}

TEST_F(Cuda, moments_equal_the_cpus)
{
    const auto compare = [&](const Problem &p) {
        const detent_dtype statistic = p.dtype == DETENT_F64 ? DETENT_F64 : DETENT_F32;
        const size_t groups = p.shape.groups;
        Array min(statistic, groups), max(statistic, groups), ignored(DETENT_F64, groups),
            moments(DETENT_F64, 4 * groups);
        for (size_t g = 0; g < groups; ++g) {
            min.set(g, infinity);
            max.set(g, -infinity);
            ((int64_t *)ignored.data())[g] = 0;
        }
        for (size_t i = 0; i < 4 * groups; ++i) moments.set(i, 0.5);
        size_t here = 0, there = 0;
        ASSERT_EQ(detent_observe_moments_workspace(p.shape, &here), DETENT_OK);
        ASSERT_EQ(detent_observe_moments_workspace_cuda(p.shape, &there), DETENT_OK);
        Array room(DETENT_U8, here);
        const OnDevice x(p.x), room_there(DETENT_U8, there), min_there(min), max_there(max), ignored_there(ignored),
            moments_there(moments);
        ASSERT_EQ(detent_observe_moments_cpu(p.x.data(), min.data(), max.data(), (int64_t *)ignored.data(),
                                             (double *)moments.data(), p.dtype, p.shape, room.data(), here, nullptr),
                  DETENT_OK);
        ASSERT_EQ(detent_observe_moments_cuda(x.data(), min_there.data(), max_there.data(),
                                              (int64_t *)ignored_there.data(), (double *)moments_there.data(), p.dtype,
                                              p.shape, room_there.data(), there, stream),
                  DETENT_OK);
        wait();
        expect_equal(min_there.back("min"), min, p.describe() + ", min");
        expect_equal(max_there.back("max"), max, p.describe() + ", max");
        expect_same_bits(ignored_there.back("ignored"), ignored, p.describe() + ", ignored");
        const Array got = moments_there.back("moments");
        for (size_t i = 0; i < 4 * groups; ++i) {
            const double size = moments[i / groups == 2 ? groups + i % groups : i];
            EXPECT_NEAR(got[i], moments[i], 1e-12 * size) << p.describe() << ", moment " << i;
        }
        room_there.back("workspace");
    };
    for_each_problem(Specials::all, false, compare);
}

TEST_F(Cuda, trained_encodings_equal_the_cpus)
{
    for_each_problem(Specials::none, false, [&](const Problem &given) {
        if (given.form == Form::range) return;
        Problem p = given;
        const double changed[] = {-1.0, 1.0, 0.0, 1e-30};
        for (size_t g = 0; g < p.shape.groups; ++g) {
            p.first.set(g, p.first[g] * changed[g % 4]);
            if (p.form == Form::affine) p.second.set(g, p.second[g] + (double)(g % 3) * 1000);
        }
        p.encoding.scale = p.first.data();
        p.encoding.zero_point = p.form == Form::affine ? p.second.data() : nullptr;
        p.encoding.trained = 1;
        expect_forward_equals_the_cpu(p, 0);
        const Backward got = backward(p), cpu = fake_quantize_backward(p);
        expect_same_values(got.grad_x, cpu.grad_x, p.describe() + ", grad_x");
        for (size_t g = 0; g < p.shape.groups; ++g)
            EXPECT_NEAR(got.first[g], cpu.first[g], 1e-4 * (1 + std::fabs(cpu.first[g]))) << p.describe();

        const OnDevice scale(p.first), point(p.first), usable(p.real, p.shape.groups), on_grid(p.real, p.shape.groups);
        Array here(p.real, p.shape.groups), points(p.real, p.shape.groups);
        ASSERT_EQ(detent_encode_trained_cpu(p.first.data(), p.first.data(), here.data(), points.data(), p.real,
                                            p.shape.groups, &p.encoding),
                  DETENT_OK);
        ASSERT_EQ(detent_encode_trained_cuda(scale.data(), point.data(), usable.data(), on_grid.data(), p.real,
                                             p.shape.groups, &p.encoding, stream),
                  DETENT_OK);
        wait();
        expect_same_values(usable.back("scale"), here, p.describe() + ", scale");
        expect_same_values(on_grid.back("zero_point"), points, p.describe() + ", zero_point");
    });
}

} // namespace

#endif
