"""Many tensors in one call: values, masks and gradients have the bits of one call each."""

import pytest
import torch

from checks import like_empty_like, same_bits

pytestmark = pytest.mark.both_autograd_paths
ops = torch.ops.detent

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
GRIDS = [(-8, 7, True), (0, 255, False), (-(2**30), 2**30, True)]  # the last one is of float64 arithmetic
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
#: How the scales lie on each of the tensors below.
LAYOUTS = {
    "per tensor": lambda x: (None, None, (1,)),
    "per channel": lambda x: (x.dim() - 1, None, (x.shape[-1],)),
    "per block": lambda x: (None, [1] * (x.dim() - 1) + [-1], (*x.shape[:-1], 1)),
}


def weights(dtype, device="cpu"):
    """Of every layout that a weight may have, with what is not finite; one is empty."""
    made = [
        torch.randn(8, 6), torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last), torch.randn(5, 7).t(),
        torch.randn(16, 512), torch.randn(6, 9)[:, ::2], torch.randn(0, 3), torch.randn(3, 1, 400),
        torch.tensor([float("nan"), float("inf"), -0.0, 1e-40]),
    ]  # fmt: skip
    return [x.to(device, dtype).requires_grad_() for x in made]


def options(xs, layout, grid):
    """What the operators take for all, and for each: ``(axis, block_size, shape of the range)``."""
    each = [LAYOUTS[layout](x) for x in xs]
    axis = [axis for axis, _, _ in each] if each[0][0] is not None else None
    blocks = [size for _, its, _ in each for size in its] if each[0][1] is not None else None
    return axis, blocks, each


def ranges(xs, each, learned):
    real = torch.float64 if xs[0].dtype == torch.float64 else torch.float32
    low = [(-0.5 - torch.rand(shape, dtype=real)).to(xs[0].device) for *_, shape in each]
    high = [(0.5 + torch.rand(shape, dtype=real)).to(xs[0].device) for *_, shape in each]
    return [[tensor.requires_grad_(learned) for tensor in tensors] for tensors in (low, high)]


def expect_same(many, single, inputs):
    """Outputs, and gradients of every input, of a list of calls and of one."""
    for index, (got, expected) in enumerate(zip(many, single, strict=True)):
        same_bits(got, expected, index=index)
        assert got.stride() == expected.stride()
    inputs = [tensor for tensor in inputs if tensor.requires_grad]
    grads = [torch.randn_like(y) for y in many]
    got, expected = (torch.autograd.grad(outputs, inputs, grads) for outputs in (many, single))
    for index, (left, right) in enumerate(zip(got, expected, strict=True)):
        same_bits(left, right, gradient=index)
        assert left.stride() == right.stride()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_range_is_that_of_one_call_each(dtype, layout, device):
    for grid in GRIDS:
        xs = weights(dtype, device)
        axis, blocks, each = options(xs, layout, grid)
        qmin, qmax, symmetric = grid
        for learned in (False, True):
            low, high = ranges(xs, each, learned)
            many = ops.fake_quantize_range_many(xs, low, high, *grid, None, axis, blocks)
            single = [
                ops.fake_quantize_range(x, lo, hi, *grid, None, its, block)
                for x, lo, hi, (its, block, _) in zip(xs, low, high, each)
            ]
            expect_same(many, single, [*xs, *low, *high])
            scale = [hi.detach().div(100).requires_grad_(learned) for hi in high]
            for point in ([], [torch.full_like(s, 2.0).requires_grad_(learned) for s in scale]):
                factors = [0.5 + index for index in range(len(xs))]
                many = ops.fake_quantize_many(xs, scale, point, qmin, qmax, axis, blocks, factors, learned)
                single = [
                    ops.fake_quantize(
                        x, s, point[i] if point else None, qmin, qmax, its, block, factors[i], None, None, learned
                    )
                    for i, (x, s, (its, block, _)) in enumerate(zip(xs, scale, each))
                ]
                expect_same(many, single, [*xs, *scale, *point])
        clip = [torch.tensor([0.75], device=device)] * len(xs)
        for factor in ([], clip):
            many, low, high = ops.fake_quantize_dynamic_many(xs, factor, *grid, axis, blocks)
            single = [
                ops.fake_quantize_dynamic(x, factor[0] if factor else None, *grid, its, block)
                for x, (its, block, _) in zip(xs, each)
            ]
            for index, (y, lo, hi) in enumerate(single):
                same_bits(low[index], lo), same_bits(high[index], hi)
                assert not low[index].requires_grad
            expect_same(many, [y for y, _, _ in single], xs)


def test_without_gradients_there_is_no_mask():
    xs = [x.detach() for x in weights(torch.float32)]
    low, high = ranges(xs, options(xs, "per tensor", GRIDS[0])[2], False)
    for y, x in zip(ops.fake_quantize_range_many(xs, low, high, *GRIDS[0]), xs):
        like_empty_like(y, x)
        assert not y.requires_grad
    y, mask = ops.fake_quantize_range_many_mask(xs, low, high, *GRIDS[0])
    for index, x in enumerate(xs):
        expected = ops.fake_quantize_range_mask(x, low[index], high[index], *GRIDS[0])
        same_bits(y[index], expected[0]), same_bits(mask[index], expected[1])


@pytest.mark.parametrize("device", DEVICES)
def test_more_tensors_than_a_launch_takes(device):
    xs = [torch.randn(1 + index % 7, 3 + index % 40, device=device, requires_grad=True) for index in range(400)]
    axis, blocks, each = options(xs, "per channel", GRIDS[1])
    low, high = ranges(xs, each, True)
    many = ops.fake_quantize_range_many(xs, low, high, *GRIDS[1], None, axis, blocks)
    single = [ops.fake_quantize_range(x, lo, hi, *GRIDS[1], None, its) for x, lo, hi, its in zip(xs, low, high, axis)]
    expect_same(many, single, [*xs, *low, *high])
    dynamic, _, _ = ops.fake_quantize_dynamic_many(xs, [], *GRIDS[1])
    expect_same(dynamic, [ops.fake_quantize_dynamic(x, None, *GRIDS[1])[0] for x in xs], xs)


@pytest.mark.parametrize("learned", [False, True])
def test_outputs_that_nobody_reads_have_no_gradient_or_zeros(learned):
    xs = weights(torch.float32)[:3]
    low, high = ranges(xs, options(xs, "per tensor", GRIDS[0])[2], learned)
    y = ops.fake_quantize_range_many(xs, low, high, *GRIDS[0])[1]
    y.sum().backward()
    single = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in (xs[1], low[1], high[1])]
    ops.fake_quantize_range(*single, *GRIDS[0]).sum().backward()
    for got, expected in zip((xs[1], low[1], high[1]), single):
        if got.requires_grad:
            same_bits(got.grad, expected.grad)
    for tensor in (xs[0], xs[2], *(low[::2] if learned else ())):
        assert tensor.grad is None or not tensor.grad.any()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_no_bit(threads):
    xs = [torch.randn(64, 1000, requires_grad=True) for _ in range(5)]
    each = [(0, None, (64,))] * 5
    low, high = ranges(xs, each, True)
    arguments = (xs, low, high, 0, 15, False, None, [0] * 5)

    def run():
        y = ops.fake_quantize_range_many(*arguments)
        return [*y, *torch.autograd.grad(y, [*xs, *low, *high], [torch.ones_like(x) for x in xs])]

    torch.set_num_threads(1)
    expected = run()
    torch.set_num_threads(threads)
    for got, one in zip(run(), expected):
        same_bits(got, one)


def test_second_derivatives_raise():
    xs = weights(torch.float32)[:2]
    low, high = ranges(xs, options(xs, "per tensor", GRIDS[0])[2], True)
    y = ops.fake_quantize_range_many(xs, low, high, *GRIDS[0])
    (grad,) = torch.autograd.grad(sum(t.square().sum() for t in y), xs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="not differentiable"):
        grad.sum().backward()


X = [torch.ones(2, 3), torch.ones(4)]
ONE = [torch.tensor([0.5])] * 2


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ops.fake_quantize_many(X, ONE[:1], [], 0, 7), r"scale has 1 entries, expected 2, one per tensor"),
        (lambda: ops.fake_quantize_many(X, ONE, ONE[:1], 0, 7), "zero_point has 1 entries, expected 2"),
        (lambda: ops.fake_quantize_many(X, ONE, [], 7, 0), r"fake_quantize_many\[0\]: qmin is 7 and qmax 0"),
        (lambda: ops.fake_quantize_many(X, ONE, [], 0, 7, [0]), "axis has 1 entries, expected 2"),
        (lambda: ops.fake_quantize_many(X, ONE, [], 0, 7, [0, 1]), r"fake_quantize_many\[1\]: axis is 1, expected -1 .. 0"),
        (lambda: ops.fake_quantize_many(X, ONE, [], 0, 7, None, [1, 1]), "block_size has 2 entries, expected 3"),
        (lambda: ops.fake_quantize_many([X[0], X[1].half()], ONE, [], 0, 7), r"\[1\]: x has dtype float16, expected float32"),
        (lambda: ops.fake_quantize_many([X[0], X[1].int()], ONE, [], 0, 7), r"\[1\]: x has dtype int32, expected float32, "),
        (lambda: ops.fake_quantize_range_many(X, ONE, ONE[:1], 0, 7, False), "max has 1 entries, expected 2"),
        (lambda: ops.fake_quantize_range_many(X, ONE, [ONE[0], X[1]], 0, 7, False), r"\[1\]: max has shape \(4,\)"),
        (lambda: ops.fake_quantize_dynamic_many(X, ONE[:1], 0, 7, False), "clip has 1 entries, expected 2"),
        (lambda: ops.fake_quantize_mask_many_backward(X, [torch.zeros(1, dtype=torch.uint8)]), "mask has 1 entries"),
        (lambda: ops.fake_quantize_mask_many_backward(X, ONE), r"backward\[0\]: mask has 1 elements of float32"),
        (lambda: ops.fake_quantize_many_backward(X[:1], X, ONE, [], 0, 7), "grad_y has 1 entries, expected 2"),
        (lambda: ops.fake_quantize_many_backward(X, X, ONE, [], 0, 7, None, None, [1.0]), "grad_scale has 1 entries"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_its_place(call, message):
    with pytest.raises(ValueError, match=message):
        call()
