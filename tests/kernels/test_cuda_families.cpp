// The other families on CUDA against the CPU's, graph capture, and the checks at the door, which run anywhere.
#ifdef DETENT_WITH_CUDA

#include "cuda_device.h"

using namespace detent_test;

namespace
{

TEST_F(Cuda, observers_equal_the_cpus_in_every_mode)
{
    const auto compare = [&](const Problem &p) {
        const detent_dtype statistic = p.dtype == DETENT_F64 ? DETENT_F64 : DETENT_F32;
        const size_t groups = p.shape.groups;
        Array min(statistic, groups), max(statistic, groups), ignored(DETENT_F64, groups);
        for (size_t g = 0; g < groups; ++g) {
            min.set(g, g % 3 == 0 ? infinity : -0.125 * (double)g);
            max.set(g, g % 3 == 0 ? -infinity : 0.5 * (double)g);
            ((int64_t *)ignored.data())[g] = (int64_t)g;
        }
        size_t here = 0, there = 0;
        ASSERT_EQ(detent_observe_min_max_workspace(p.shape, &here), DETENT_OK);
        ASSERT_EQ(detent_observe_min_max_workspace_cuda(p.shape, &there), DETENT_OK);
        Array room(DETENT_U8, here);
        const OnDevice x(p.x), room_there(DETENT_U8, there);
        for (const detent_observe_mode mode :
             {DETENT_OBSERVE_REPLACE, DETENT_OBSERVE_RUNNING, DETENT_OBSERVE_MOVING_AVERAGE}) {
            const OnDevice min_there(min), max_there(max), ignored_there(ignored);
            Array want_min = min, want_max = max, want_ignored = ignored;
            ASSERT_EQ(detent_observe_min_max_cpu(p.x.data(), want_min.data(), want_max.data(),
                                                 (int64_t *)want_ignored.data(), p.dtype, p.shape, mode, 0.3,
                                                 room.data(), here, nullptr),
                      DETENT_OK);
            ASSERT_EQ(detent_observe_min_max_cuda(x.data(), min_there.data(), max_there.data(),
                                                  (int64_t *)ignored_there.data(), p.dtype, p.shape, mode, 0.3,
                                                  room_there.data(), there, stream),
                      DETENT_OK);
            wait();
            expect_equal(min_there.back("min"), want_min, p.describe() + ", min");
            expect_equal(max_there.back("max"), want_max, p.describe() + ", max");
            expect_same_bits(ignored_there.back("ignored"), want_ignored, p.describe() + ", ignored");
        }
        room_there.back("workspace");
    };
    for_each_problem(Specials::all, true, compare);
    for (const Problem &p : large_problems(Specials::all)) compare(p);
}

TEST_F(Cuda, a_dynamic_range_and_its_forward_equal_the_cpus)
{
    const auto compare = [&](const Problem &p) {
        const size_t groups = p.shape.groups;
        const detent_encoding rules = encoding_on(p.encoding.grid, p.encoding.symmetric);
        size_t here = 0, there = 0;
        ASSERT_EQ(detent_fake_quantize_dynamic_workspace(p.shape, &here), DETENT_OK);
        ASSERT_EQ(detent_fake_quantize_dynamic_workspace_cuda(p.shape, &there), DETENT_OK);
        Array room(DETENT_U8, here);
        const OnDevice x(p.x), room_there(DETENT_U8, there);
        for (const size_t clips : {(size_t)0, (size_t)1, groups}) {
            Array clip(p.real, clips);
            for (size_t g = 0; g < clips; ++g) clip.set(g, 1.0 - 0.25 * (double)(g % 3));
            const OnDevice clip_there(clip);
            Array y(p.dtype, p.size()), mask(DETENT_U8, mask_bytes(p)), min(p.real, groups), max(p.real, groups);
            const OnDevice y_there(y), mask_there(mask), min_there(min), max_there(max);
            ASSERT_EQ(detent_fake_quantize_dynamic_cpu(p.x.data(), y.data(), mask.u8(), min.data(), max.data(), p.dtype,
                                                       p.shape, clips > 0 ? clip.data() : nullptr, clips, &rules,
                                                       room.data(), here, nullptr),
                      DETENT_OK);
            ASSERT_EQ(detent_fake_quantize_dynamic_cuda(x.data(), y_there.data(), mask_there.u8(), min_there.data(),
                                                        max_there.data(), p.dtype, p.shape,
                                                        clips > 0 ? clip_there.data() : nullptr, clips, &rules,
                                                        room_there.data(), there, stream),
                      DETENT_OK);
            wait();
            expect_equal(min_there.back("min"), min, p.describe() + ", min");
            expect_equal(max_there.back("max"), max, p.describe() + ", max");
            expect_same_values(y_there.back("y"), y, p.describe() + ", y");
            expect_same_bits(mask_there.back("mask"), mask, p.describe() + ", mask");
        }
        room_there.back("workspace");
    };
    for_each_problem(Specials::infinities, true, compare);
    for (const Problem &p : large_problems(Specials::infinities)) compare(p);
}

TEST_F(Cuda, codes_and_values_equal_the_cpus)
{
    const GridCase fitting[] = {{{-128, 127}, true},
                                {{0, 255}, false},
                                {{-32768, 32767}, true},
                                {{-(INT64_C(1) << 31), (INT64_C(1) << 31) - 1}, true}};
    uint64_t seed = 9000;
    for (const detent_shape3 shape :
         {detent_shape3{1, 1, 1021}, detent_shape3{3, 5, 7}, detent_shape3{40, 9, 1}, detent_shape3{2, 3, 512}})
        for (const detent_dtype dtype : float_dtypes)
            for (const detent_dtype codes : {(detent_dtype)DETENT_I8, (detent_dtype)DETENT_U8, (detent_dtype)DETENT_I16,
                                             (detent_dtype)DETENT_I32, dtype}) {
                const size_t which = codes >= DETENT_I8 ? (size_t)(codes - DETENT_I8) : dtype == DETENT_F64 ? 3 : 0;
                const Problem p = make_problem(dtype, shape, fitting[which], Form::affine, true, ++seed, Specials::all);
                const DeviceProblem d(p);
                Array q(codes, p.size()), x(dtype, p.size());
                const OnDevice q_there(q), x_there(x);
                ASSERT_EQ(detent_quantize_cpu(p.x.data(), q.data(), dtype, codes, shape, &p.encoding, nullptr),
                          DETENT_OK);
                ASSERT_EQ(detent_quantize_cuda(d.x.data(), q_there.data(), dtype, codes, shape, &d.encoding, stream),
                          DETENT_OK);
                wait();
                expect_same_values(q_there.back("q"), q, p.describe() + ", codes " + name_of(codes));

                // dequantize has its own arithmetic, so its encoding is made anew.
                const detent_dtype real = detent_dequantize_math_dtype(codes, dtype);
                Array scale(real, shape.groups), zero_point(real, shape.groups);
                for (size_t g = 0; g < shape.groups; ++g) {
                    scale.set(g, p.first[g]);
                    zero_point.set(g, p.second[g]);
                }
                const OnDevice scale_there(scale), zero_point_there(zero_point);
                detent_encoding here = {}, there = {};
                here.scale = scale.data();
                here.zero_point = zero_point.data();
                there.scale = scale_there.data();
                there.zero_point = zero_point_there.data();
                ASSERT_EQ(detent_dequantize_cpu(q.data(), x.data(), codes, dtype, shape, &here, nullptr), DETENT_OK);
                ASSERT_EQ(detent_dequantize_cuda(q_there.data(), x_there.data(), codes, dtype, shape, &there, stream),
                          DETENT_OK);
                wait();
                expect_same_values(x_there.back("x"), x, p.describe() + ", values of " + name_of(codes));

                // grad arrays and sums of dequantize; NaN codes would make every sum NaN.
                for (size_t i = 0; i < q.size(); ++i)
                    if (std::isnan(q[i])) q.set(i, 0.0);
                const OnDevice clean(q), grad_there(dtype, p.size()), first_there(real, shape.groups),
                    second_there(real, shape.groups);
                Array grad(dtype, p.size()), first(real, shape.groups), second(real, shape.groups);
                size_t bytes = 0, bytes_there = 0;
                ASSERT_EQ(detent_fake_quantize_bwd_workspace(shape, &bytes), DETENT_OK);
                ASSERT_EQ(detent_fake_quantize_bwd_workspace_cuda(shape, &bytes_there), DETENT_OK);
                Array room(DETENT_U8, bytes);
                const OnDevice room_there(DETENT_U8, bytes_there);
                ASSERT_EQ(detent_dequantize_bwd_cpu(p.grad_y.data(), q.data(), grad.data(), first.data(), second.data(),
                                                    codes, dtype, shape, &here, room.data(), bytes, nullptr),
                          DETENT_OK);
                ASSERT_EQ(detent_dequantize_bwd_cuda(d.grad_y.data(), clean.data(), grad_there.data(),
                                                     first_there.data(), second_there.data(), codes, dtype, shape,
                                                     &there, room_there.data(), bytes_there, stream),
                          DETENT_OK);
                wait();
                expect_same_values(grad_there.back("grad_q"), grad, p.describe() + ", grad_q");
                std::vector<Sum> want_first(shape.groups), want_second(shape.groups);
                for (size_t i = 0; i < p.size(); ++i) {
                    const size_t g = group_at(shape, i);
                    const double term = p.grad_y[i] * (q[i] - std::nearbyint(zero_point[g]));
                    want_first[g].add(term, term);
                    want_second[g].add(-p.grad_y[i] * scale[g], p.grad_y[i] * scale[g]);
                }
                expect_sums(first_there.back("first sum"), want_first, real, p.describe() + ", grad_scale");
                expect_sums(second_there.back("second sum"), want_second, real, p.describe() + ", grad_zero_point");
            }
}

TEST_F(Cuda, quantize_backward_equals_the_cpu)
{
    for_each_problem(Specials::none, false, [&](const Problem &p) {
        if (p.form == Form::range) return;
        size_t here = 0, there = 0;
        ASSERT_EQ(detent_fake_quantize_bwd_workspace(p.shape, &here), DETENT_OK);
        ASSERT_EQ(detent_fake_quantize_bwd_workspace_cuda(p.shape, &there), DETENT_OK);
        Array room(DETENT_U8, here), grad_x(p.dtype, p.size()), first(p.real, p.shape.groups),
            second(p.real, p.shape.groups);
        const OnDevice room_there(DETENT_U8, there), grad_x_there(grad_x), first_there(first), second_there(second);
        const DeviceProblem d(p);
        ASSERT_EQ(detent_quantize_bwd_cpu(p.grad_y.data(), p.x.data(), grad_x.data(), first.data(), second.data(),
                                          p.dtype, p.shape, &p.encoding, room.data(), here, nullptr),
                  DETENT_OK);
        ASSERT_EQ(detent_quantize_bwd_cuda(d.grad_y.data(), d.x.data(), grad_x_there.data(), first_there.data(),
                                           second_there.data(), p.dtype, p.shape, &d.encoding, room_there.data(), there,
                                           stream),
                  DETENT_OK);
        wait();
        expect_same_values(grad_x_there.back("grad_x"), grad_x, p.describe() + ", grad_x");
        // Against the CPU's sums, twice the bound each has against the oracle.
        std::vector<Sum> want_first(p.shape.groups), want_second(p.shape.groups);
        for (size_t i = 0; i < p.size(); ++i) {
            if (!oracle::mask(p.x[i], p.at(i), p.grid)) continue;
            const double scale = p.at(i).scale;
            want_first[group_at(p.shape, i)].add(0, 2 * p.grad_y[i] * p.x[i] / (scale * scale));
            want_second[group_at(p.shape, i)].add(0, 2 * p.grad_y[i]);
        }
        for (size_t g = 0; g < p.shape.groups; ++g) {
            want_first[g].value = first[g];
            want_second[g].value = second[g];
        }
        expect_sums(first_there.back("first sum"), want_first, p.real, p.describe() + ", grad_scale");
        expect_sums(second_there.back("second sum"), want_second, p.real, p.describe() + ", grad_zero_point");
    });
}

TEST_F(Cuda, encodings_equal_the_cpus)
{
    for (const GridCase &on : grids())
        for (const detent_dtype real : {DETENT_F32, DETENT_F64}) {
            const size_t n = 300;
            Array lo(real, n), hi(real, n);
            std::mt19937_64 random(11);
            std::uniform_real_distribution<double> value(-4.0, 4.0);
            for (size_t i = 0; i < n; ++i) {
                const double a = value(random), b = value(random);
                lo.set(i, i == 0 ? infinity : i == 1 ? 0.0 : std::min(a, b));
                hi.set(i, i == 0 ? -infinity : i == 1 ? 0.0 : std::max(a, b));
            }
            const detent_encoding rules = encoding_on(on.grid, on.symmetric);
            Array min(real, n), max(real, n), scale(real, n), zero_point(real, n);
            const OnDevice lo_there(lo), hi_there(hi), min_there(min), max_there(max), scale_there(scale),
                zero_point_there(zero_point);
            ASSERT_EQ(detent_encode_min_max_cpu(lo.data(), hi.data(), min.data(), max.data(), real, n, &rules),
                      DETENT_OK);
            ASSERT_EQ(
                detent_encode_affine_cpu(min.data(), max.data(), scale.data(), zero_point.data(), real, n, &rules),
                DETENT_OK);
            ASSERT_EQ(detent_encode_min_max_cuda(lo_there.data(), hi_there.data(), min_there.data(), max_there.data(),
                                                 real, n, &rules, stream),
                      DETENT_OK);
            ASSERT_EQ(detent_encode_affine_cuda(min_there.data(), max_there.data(), scale_there.data(),
                                                zero_point_there.data(), real, n, &rules, stream),
                      DETENT_OK);
            wait();
            expect_equal(min_there.back("min"), min, "min");
            expect_equal(max_there.back("max"), max, "max");
            expect_equal(scale_there.back("scale"), scale, "scale");
            expect_equal(zero_point_there.back("zero_point"), zero_point, "zero_point");
        }
}

TEST_F(Cuda, forward_dynamic_and_backward_capture_in_a_graph)
{
    const Problem p = make_problem(DETENT_F32, {1, 1, 50021}, {{-128, 127}, false}, Form::affine, true, 21,
                                   Specials::infinities, false);
    const DeviceProblem d(p);
    const OnDevice y(p.dtype, p.size()), mask(DETENT_U8, mask_bytes(p)), grad_x(p.dtype, p.size()), first(p.real, 1),
        second(p.real, 1);
    const OnDevice y_dynamic(p.dtype, p.size()), min(p.real, 1), max(p.real, 1);
    const detent_encoding rules = encoding_on(p.encoding.grid, false);
    size_t bytes = 0, dynamic_bytes = 0;
    ASSERT_EQ(detent_fake_quantize_bwd_workspace_cuda(p.shape, &bytes), DETENT_OK);
    ASSERT_EQ(detent_fake_quantize_dynamic_workspace_cuda(p.shape, &dynamic_bytes), DETENT_OK);
    const OnDevice workspace(DETENT_U8, bytes), dynamic_workspace(DETENT_U8, dynamic_bytes);

    cudaGraph_t graph = nullptr;
    cudaGraphExec_t run = nullptr;
    EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    EXPECT_EQ(
        detent_fake_quantize_cuda(d.x.data(), y.data(), mask.u8(), p.dtype, p.shape, &d.encoding, nullptr, stream),
        DETENT_OK);
    EXPECT_EQ(detent_fake_quantize_dynamic_cuda(d.x.data(), y_dynamic.data(), nullptr, min.data(), max.data(), p.dtype,
                                                p.shape, nullptr, 0, &rules, dynamic_workspace.data(), dynamic_bytes,
                                                stream),
              DETENT_OK);
    EXPECT_EQ(detent_fake_quantize_bwd_cuda(d.grad_y.data(), d.x.data(), grad_x.data(), first.data(), second.data(),
                                            p.dtype, p.shape, &d.encoding, nullptr, 1.0, workspace.data(), bytes,
                                            stream),
              DETENT_OK);
    EXPECT_CUDA(cudaStreamEndCapture(stream, &graph));
    size_t nodes = 0;
    EXPECT_CUDA(cudaGraphGetNodes(graph, nullptr, &nodes));
    EXPECT_LE(nodes, 1u + 2u + 2u); // forward in one launch, dynamic and backward in two each
    EXPECT_CUDA(cudaGraphInstantiate(&run, graph, 0));
    for (int i = 0; i < 2; ++i) EXPECT_CUDA(cudaGraphLaunch(run, stream));
    wait();
    EXPECT_CUDA(cudaGraphExecDestroy(run));
    EXPECT_CUDA(cudaGraphDestroy(graph));

    Array want(p.dtype, p.size());
    ASSERT_EQ(
        detent_fake_quantize_cpu(p.x.data(), want.data(), nullptr, p.dtype, p.shape, &p.encoding, nullptr, nullptr),
        DETENT_OK);
    expect_same_bits(y.back("y"), want, "replayed y");
    expect_same_bits({grad_x.back("grad_x"), first.back("first sum"), second.back("second sum")}, backward(p),
                     "replayed");
}

TEST(CudaDoor, bad_calls_queue_nothing_and_say_why)
{
    const Array scale = array_of(DETENT_F32, {0.5});
    Array x(DETENT_F32, 4), sums(DETENT_F32, 1);
    detent_encoding encoding = encoding_on({-8, 7}, true);
    EXPECT_EQ(
        detent_fake_quantize_cuda(x.data(), x.data(), nullptr, DETENT_F32, {1, 1, 4}, &encoding, nullptr, nullptr),
        DETENT_BAD_ARGUMENT);
    encoding.scale = scale.data();
    EXPECT_EQ(detent_fake_quantize_cuda(nullptr, x.data(), nullptr, DETENT_F32, {1, 1, 4}, &encoding, nullptr, nullptr),
              DETENT_BAD_ARGUMENT);
    EXPECT_EQ(detent_fake_quantize_cuda(x.data(), x.data(), nullptr, DETENT_I8, {1, 1, 4}, &encoding, nullptr, nullptr),
              DETENT_BAD_DTYPE);
    EXPECT_EQ(detent_fake_quantize_cuda(x.data(), x.data(), nullptr, DETENT_F32, {SIZE_MAX, 2, 4}, &encoding, nullptr,
                                        nullptr),
              DETENT_BAD_SHAPE);
    EXPECT_EQ(detent_quantize_cuda(x.data(), x.data(), DETENT_F32, DETENT_U8, {1, 1, 4}, &encoding, nullptr),
              DETENT_BAD_GRID);
    EXPECT_EQ(detent_dequantize_cuda(x.data(), x.data(), DETENT_F16, DETENT_F32, {1, 1, 4}, &encoding, nullptr),
              DETENT_BAD_DTYPE);
    size_t bytes = 0;
    ASSERT_EQ(detent_fake_quantize_bwd_workspace_cuda({1, 1, 100000}, &bytes), DETENT_OK);
    EXPECT_GT(bytes, 0u);
    EXPECT_EQ(detent_fake_quantize_bwd_cuda(x.data(), x.data(), nullptr, sums.data(), nullptr, DETENT_F32,
                                            {1, 1, 100000}, &encoding, nullptr, 1.0, x.data(), bytes - 1, nullptr),
              DETENT_WORKSPACE_SMALL);
    EXPECT_EQ(detent_observe_min_max_cuda(x.data(), sums.data(), sums.data(), (int64_t *)x.data(), DETENT_F32,
                                          {1, 1, 4}, 7, 0, nullptr, 0, nullptr),
              DETENT_BAD_ARGUMENT);
    encoding.grid = {7, 7};
    EXPECT_EQ(
        detent_fake_quantize_cuda(x.data(), x.data(), nullptr, DETENT_F32, {1, 1, 4}, &encoding, nullptr, nullptr),
        DETENT_BAD_GRID);
    EXPECT_EQ(detent_encode_min_max_cuda(x.data(), x.data(), x.data(), x.data(), DETENT_F32, 1, &encoding, nullptr),
              DETENT_BAD_GRID);
    EXPECT_TRUE(x.untouched() && sums.untouched());
}

} // namespace
#endif
