// Tensors on the device, and the fixture of the tests that need one: they skip where there is none.
#pragma once

#include <cuda_runtime.h>

#include "detent/encode.h"
#include "detent/observe.h"
#include "detent/quantize.h"
#include "reduction.h"

namespace detent_test
{

#define EXPECT_CUDA(call) EXPECT_EQ(call, cudaSuccess) << cudaGetErrorString(cudaGetLastError())

// A copy of an Array on the device, guards and all. `shift` bytes move it off its alignment.
class OnDevice
{
  public:
    explicit OnDevice(const Array &host, size_t shift = 0) : dtype_(host.dtype()), n_(host.size())
    {
        EXPECT_CUDA(cudaMalloc(&memory_, bytes() + 256));
        base_ = (char *)memory_ + shift;
        EXPECT_CUDA(cudaMemcpy(base_, (const char *)host.data() - Array::guard, bytes(), cudaMemcpyHostToDevice));
    }
    OnDevice(detent_dtype dtype, size_t n, size_t shift = 0) : OnDevice(Array(dtype, n), shift) {}
    OnDevice(const OnDevice &) = delete;
    OnDevice &operator=(const OnDevice &) = delete;
    ~OnDevice() { cudaFree(memory_); }

    void *data() const { return base_ + Array::guard; }
    uint8_t *u8() const { return (uint8_t *)data(); }
    size_t size() const { return n_; }

    Array back(const char *what) const
    {
        Array host(dtype_, n_);
        EXPECT_CUDA(cudaMemcpy((char *)host.data() - Array::guard, base_, bytes(), cudaMemcpyDeviceToHost));
        EXPECT_TRUE(host.guards_intact()) << what << " was written outside its ends";
        return host;
    }

  private:
    size_t bytes() const { return 2 * Array::guard + n_ * bytes_of(dtype_); }
    detent_dtype dtype_;
    size_t n_;
    void *memory_ = nullptr;
    char *base_ = nullptr;
};

// As expect_same_bits, but any NaN equals any NaN: processors disagree on its payload.
inline void expect_same_values(const Array &got, const Array &expected, const std::string &what)
{
    if (got.same_bits(expected)) return;
    ASSERT_EQ(got.size(), expected.size()) << what;
    const size_t width = bytes_of(got.dtype());
    for (size_t i = 0; i < got.size(); ++i) {
        if (std::memcmp((const char *)got.data() + i * width, (const char *)expected.data() + i * width, width) == 0)
            continue;
        if (std::isnan(got[i]) && std::isnan(expected[i])) continue;
        ADD_FAILURE() << what << ": index " << i << ", got " << got[i] << ", expected " << expected[i];
        return;
    }
}

// 0 and -0 are one minimum.
inline void expect_equal(const Array &got, const Array &expected, const std::string &what)
{
    ASSERT_EQ(got.size(), expected.size()) << what;
    for (size_t i = 0; i < got.size(); ++i) {
        if (got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i]))) continue;
        ADD_FAILURE() << what << ": index " << i << ", got " << got[i] << ", expected " << expected[i];
        return;
    }
}

// A problem's tensors on the device, and its encoding with device pointers.
struct DeviceProblem {
    explicit DeviceProblem(const Problem &p, size_t shift = 0)
        : x(p.x, shift), grad_y(p.grad_y, shift), first(p.first), second(p.second), encoding(p.encoding)
    {
        if (p.form == Form::range) {
            encoding.min = first.data();
            encoding.max = second.data();
        } else {
            encoding.scale = first.data();
            encoding.zero_point = p.form == Form::affine ? second.data() : nullptr;
        }
    }
    OnDevice x, grad_y, first, second;
    detent_encoding encoding;
};

inline size_t mask_bytes(const Problem &p)
{
    return (p.size() + 7) / 8;
}

// Several tasks per group, one task for several groups, both kinds of partition.
inline std::vector<Problem> large_problems(Specials specials)
{
    const detent_shape3 large[] = {{1, 1, 100003}, {1, 3, 50177},  {64, 64, 49},  {20000, 3, 1},  {1, 5000, 32},
                                   {9, 1000, 1},   {2, 300, 1100}, {1000, 33, 7}, {2048, 300, 1}, {1, 1, 3000017}};
    std::vector<Problem> all;
    uint64_t seed = 5000;
    for (const detent_shape3 shape : large)
        for (const detent_dtype dtype : float_dtypes)
            for (const Form form : {Form::affine, Form::range}) {
                const GridCase on = form == Form::range ? GridCase{{0, 255}, false} : GridCase{{-128, 127}, false};
                if (elements_of(shape) > 1000000 && (dtype != DETENT_F32 || form == Form::affine)) continue;
                if (is_left_out(++seed)) continue;
                all.push_back(make_problem(dtype, shape, on, form, true, seed, specials, false));
            }
    return all;
}

class Cuda : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        int devices = 0;
        const cudaError_t error = cudaGetDeviceCount(&devices);
        if (error != cudaSuccess || devices == 0) GTEST_SKIP() << "no CUDA device: " << cudaGetErrorString(error);
        EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    }
    void TearDown() override
    {
        if (stream != nullptr) cudaStreamDestroy(stream);
    }
    void wait() const { EXPECT_CUDA(cudaStreamSynchronize(stream)); }

    void expect_forward_equals_the_cpu(const Problem &p, size_t shift, const detent_activation *activation = nullptr)
    {
        Array y(p.dtype, p.size()), mask(DETENT_U8, mask_bytes(p));
        ASSERT_EQ(detent_fake_quantize_cpu(p.x.data(), y.data(), mask.u8(), p.dtype, p.shape, &p.encoding, activation,
                                           nullptr),
                  DETENT_OK);
        const DeviceProblem d(p, shift);
        const OnDevice y_there(p.dtype, p.size(), shift), mask_there(DETENT_U8, mask_bytes(p)),
            plain(p.dtype, p.size(), shift);
        ASSERT_EQ(detent_fake_quantize_cuda(d.x.data(), y_there.data(), mask_there.u8(), p.dtype, p.shape, &d.encoding,
                                            activation, stream),
                  DETENT_OK);
        ASSERT_EQ(detent_fake_quantize_cuda(d.x.data(), plain.data(), nullptr, p.dtype, p.shape, &d.encoding,
                                            activation, stream),
                  DETENT_OK);
        wait();
        expect_same_values(y_there.back("y"), y, p.describe() + ", y");
        expect_same_values(plain.back("y"), y, p.describe() + ", y without a mask");
        expect_same_bits(mask_there.back("mask"), mask, p.describe() + ", mask");
    }

    Backward backward(const Problem &p, size_t shift = 0, const detent_activation *activation = nullptr)
    {
        const DeviceProblem d(p, shift);
        const OnDevice grad_x(p.dtype, p.size(), shift), first(p.real, p.shape.groups), second(p.real, p.shape.groups);
        size_t bytes = SIZE_MAX;
        EXPECT_EQ(detent_fake_quantize_bwd_workspace_cuda(p.shape, &bytes), DETENT_OK);
        const OnDevice workspace(DETENT_U8, bytes);
        EXPECT_EQ(detent_fake_quantize_bwd_cuda(d.grad_y.data(), d.x.data(), grad_x.data(), first.data(), second.data(),
                                                p.dtype, p.shape, &d.encoding, activation, 1.0, workspace.data(), bytes,
                                                stream),
                  DETENT_OK);
        wait();
        workspace.back("workspace");
        return {grad_x.back("grad_x"), first.back("first sum"), second.back("second sum")};
    }

    void expect_backward(const Problem &p)
    {
        const Backward got = backward(p), cpu = fake_quantize_backward(p);
        expect_same_values(got.grad_x, cpu.grad_x, p.describe() + ", grad_x");
        const Sums want = fake_quantize_sums(p);
        expect_sums(got.first, want.first, p.real, p.describe() + ", first sum");
        expect_sums(got.second, want.second, p.real, p.describe() + ", second sum");
    }

    cudaStream_t stream = nullptr;
};

} // namespace detent_test
