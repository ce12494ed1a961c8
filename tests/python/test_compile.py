"""opcheck, torch.compile, torch.export, TorchScript, functional transforms and autocast see plain operators."""

import io
import shutil

import pytest
import torch

import detent
from checks import same_bits

ops = torch.ops.detent
pytestmark = pytest.mark.both_autograd_paths
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def tensors(*shape, grad=True):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(shape, generator=generator).requires_grad_(grad)


def positive(*shape, grad=True):
    return (tensors(*shape, grad=False).abs() + 0.1).requires_grad_(grad)


def channels_last(grad=True):
    return tensors(2, 3, 4, 4, grad=False).contiguous(memory_format=torch.channels_last).requires_grad_(grad)


def statistics(groups):
    return torch.full((groups,), 1.0), torch.full((groups,), -1.0), torch.zeros(groups, dtype=torch.int64)


def histogram(groups):
    return (*statistics(groups), torch.zeros(groups, 64, dtype=torch.int64))


def filled_histogram():
    low, high, ignored, counts = held = histogram(5)
    ops.observe_histogram_update_(torch.randn(5, 100), *held, 0)
    return low, high, counts


def mask_of(x):
    return torch.full(((x.numel() + 7) // 8,), 0b1011, dtype=torch.uint8)


# operator and arguments; everything that may carry a gradient does
SAMPLES = {
    "fake_quantize": ("fake_quantize", lambda: (tensors(4, 6), positive(6), tensors(6), -8, 7, 1)),
    "fake_quantize, one scale": ("fake_quantize", lambda: (tensors(7), positive(), None, -8, 7)),
    "fake_quantize, fixed": ("fake_quantize", lambda: (channels_last(), positive(grad=False), None, -8, 7)),
    "fake_quantize, blocks": ("fake_quantize", lambda: (tensors(4, 6), positive(2, 3), None, -8, 7, None, [2, 2], 0.5)),
    "fake_quantize, blocks of strided data": (
        "fake_quantize",
        lambda: (channels_last(), positive(2, 1, 2, 1), None, -8, 7, None, [1, -1, 2, -1]),
    ),
    "fake_quantize of a sum": (
        "fake_quantize",
        lambda: (tensors(4, 6), positive(), tensors(), 0, 7, None, None, 1.0, 0.0, None, True, tensors(4, 6)),
    ),
    "fake_quantize of a sum, fixed": (
        "fake_quantize",
        lambda: (
            channels_last(), positive(3, grad=False), None, -8, 7, 1, None, 1.0, None, None, False, channels_last(),
        ),  # fmt: skip
    ),
    "fake_quantize_sum": (
        "fake_quantize_sum",
        lambda: (tensors(4, 6, grad=False), tensors(4, 6, grad=False), positive(grad=False), None, 0, 7),
    ),
    "fake_quantize_range_sum": (
        "fake_quantize_range_sum",
        lambda: (channels_last(False), channels_last(False), -positive(grad=False), positive(grad=False), 0, 7, False),
    ),
    "fake_quantize_range of a sum": (
        "fake_quantize_range",
        lambda: (tensors(5, 3), -positive(), positive(), 0, 7, False, None, None, None, 0.0, 6.0, tensors(5, 3)),
    ),
    "fake_quantize after a relu6": (
        "fake_quantize",
        lambda: (tensors(4, 6), positive(6), tensors(6), 0, 7, 1, None, 1.0, 0.0, 6.0),
    ),
    "fake_quantize, trained": (
        "fake_quantize",
        lambda: (tensors(4, 6), tensors(6), tensors(6), 0, 7, 1, None, 0.5, None, None, True),
    ),
    "fake_quantize_mask after a relu": (
        "fake_quantize_mask",
        lambda: (tensors(4, 6, grad=False), positive(6, grad=False), None, 0, 7, 1, None, 0.0),
    ),
    "fake_quantize_range after a relu, fixed": (
        "fake_quantize_range",
        lambda: (channels_last(), tensors(grad=False), tensors(grad=False), 0, 7, False, None, None, None, 0.0),
    ),
    "fake_quantize_range_backward after a relu": (
        "fake_quantize_range_backward",
        lambda: (*(tensors(9, grad=False),) * 2, *(tensors(1, grad=False),) * 2, 0, 7, False, None, None, None, 0.0),
    ),
    "fake_quantize_mask": (
        "fake_quantize_mask",
        lambda: (tensors(4, 6, grad=False), positive(6, grad=False), None, -8, 7, 1),
    ),
    "fake_quantize_backward": (
        "fake_quantize_backward",
        lambda: (tensors(4, 6, grad=False), tensors(4, 6, grad=False), positive(1, 6, grad=False), None, -8, 7, 1),
    ),
    "fake_quantize_range": (
        "fake_quantize_range",
        lambda: (tensors(4, 6), tensors(4), tensors(4), 0, 15, False, None, 0),
    ),
    "fake_quantize_range, fixed": (
        "fake_quantize_range",
        lambda: (channels_last(), tensors(grad=False), tensors(grad=False), -8, 7, True),
    ),
    "fake_quantize_range_mask": (
        "fake_quantize_range_mask",
        lambda: (tensors(9, grad=False), tensors(grad=False), tensors(grad=False), -8, 7, True),
    ),
    "fake_quantize_range_backward": (
        "fake_quantize_range_backward",
        lambda: (
            tensors(9, grad=False),
            tensors(9, grad=False),
            tensors(1, grad=False),
            tensors(1, grad=False),
            0,
            7,
            False,
        ),
    ),
    "fake_quantize_dynamic": ("fake_quantize_dynamic", lambda: (tensors(4, 6), positive(grad=False), -8, 7, True, 0)),
    "fake_quantize_dynamic, blocks": (
        "fake_quantize_dynamic",
        lambda: (tensors(4, 6), None, 0, 2**32 - 1, False, None, [-1, 3]),
    ),
    "fake_quantize_dynamic_mask": ("fake_quantize_dynamic_mask", lambda: (tensors(9, grad=False), None, -8, 7, True)),
    "fake_quantize_mask_backward": (
        "fake_quantize_mask_backward",
        lambda: (tensors(2, 3, 4, 4, grad=False), mask_of(torch.empty(96)), [0, 2, 3, 1]),
    ),
    "fake_quantize_mask_backward, blocks": (
        "fake_quantize_mask_backward",
        lambda: (tensors(4, 6, grad=False), mask_of(torch.empty(24)), None, [2, 3]),
    ),
    "fake_quantize_stochastic": (
        "fake_quantize_stochastic",
        lambda: (tensors(4, 6), positive(6), tensors(6), torch.tensor([3, 4]), -8, 7, 1),
    ),
    "fake_quantize_stochastic, channels_last": (
        "fake_quantize_stochastic",
        lambda: (channels_last(), positive(grad=False), None, torch.tensor([3, 4]), -8, 7),
    ),
    "fake_quantize_many": (
        "fake_quantize_many",
        lambda: ([tensors(4, 6), tensors(3, 2)], [positive(6), positive(2)], [tensors(6), tensors(2)], -8, 7, [1, 1]),
    ),
    "fake_quantize_many, blocks": (
        "fake_quantize_many",
        lambda: ([tensors(4, 6), tensors(6)], [positive(2, 3), positive(2)], [], -8, 7, None, [2, 2, 3], [0.5, 1.0]),
    ),
    "fake_quantize_many, fixed": (
        "fake_quantize_many",
        lambda: ([channels_last(), tensors(3)], [positive(grad=False), positive(grad=False)], [], -8, 7),
    ),
    "fake_quantize_many_mask": (
        "fake_quantize_many_mask",
        lambda: ([tensors(4, 6, grad=False), tensors(9, grad=False)], [positive(grad=False)] * 2, [], -8, 7),
    ),
    "fake_quantize_many_backward": (
        "fake_quantize_many_backward",
        lambda: (*[[tensors(9, grad=False), tensors(2, 3, grad=False)]] * 2, [positive(grad=False)] * 2, [], -8, 7),
    ),
    "fake_quantize_range_many": (
        "fake_quantize_range_many",
        lambda: (
            [tensors(4, 6), tensors(4)],
            [-positive(4), -positive(4)],
            [positive(4), positive(4)],
            0,
            15,
            False,
            None,
            [0, 0],
        ),
    ),
    "fake_quantize_range_many, fixed": (
        "fake_quantize_range_many",
        lambda: ([channels_last()], [-positive(grad=False)], [positive(grad=False)], 0, 15, False),
    ),
    "fake_quantize_range_many_mask": (
        "fake_quantize_range_many_mask",
        lambda: ([tensors(9, grad=False)], [-positive(grad=False)], [positive(grad=False)], 0, 15, False),
    ),
    "fake_quantize_range_many_backward": (
        "fake_quantize_range_many_backward",
        lambda: (
            [tensors(9, grad=False)],
            [tensors(9, grad=False)],
            [-positive(grad=False)],
            [positive(grad=False)],
            0,
            15,
            False,
        ),
    ),
    "fake_quantize_dynamic_many": (
        "fake_quantize_dynamic_many",
        lambda: ([tensors(4, 6), channels_last()], [], -8, 7, True, [0, 1]),
    ),
    "fake_quantize_dynamic_many, blocks": (
        "fake_quantize_dynamic_many",
        lambda: ([tensors(4, 6), tensors(6)], [positive(grad=False)] * 2, -8, 7, True, None, [2, 2, 3]),
    ),
    "fake_quantize_dynamic_many_mask": (
        "fake_quantize_dynamic_many_mask",
        lambda: ([tensors(4, 6, grad=False), tensors(4, grad=False)], [], -8, 7, True, [0, 0]),
    ),
    "fake_quantize_mask_many_backward": (
        "fake_quantize_mask_many_backward",
        lambda: (
            [tensors(9, grad=False), tensors(2, 4, grad=False)],
            [torch.zeros(2, dtype=torch.uint8), torch.ones(1, dtype=torch.uint8)],
        ),
    ),
    "fake_quantize_mask_many_backward, in an order": (
        "fake_quantize_mask_many_backward",
        lambda: ([tensors(2, 4, grad=False)], [torch.ones(1, dtype=torch.uint8)], [1, 0]),
    ),
    "float_cast": ("float_cast", lambda: (tensors(4, 6), positive(6, grad=False), 3, -6, 448.0, 1)),
    "float_cast, channels_last": ("float_cast", lambda: (channels_last(), positive(grad=False), 2, -14, 57344.0)),
    "float_cast, blocks": (
        "float_cast",
        lambda: (tensors(4, 6), positive(2, 3, grad=False), 1, 0, 6.0, None, [2, 2]),
    ),
    "float_cast_mask": (
        "float_cast_mask",
        lambda: (tensors(4, 6, grad=False), positive(6, grad=False), 3, -6, 448.0, 1),
    ),
    "block_cast": ("block_cast", lambda: (tensors(4, 70), 1, 0, 6.0)),
    "block_cast, another axis": ("block_cast", lambda: (channels_last(), 3, -6, 448.0, 2, 3)),
    "block_cast, two levels": ("block_cast", lambda: (tensors(4, 70), 1, 0, 6.0, -1, 16, positive(grad=False))),
    "block_cast_mask": ("block_cast_mask", lambda: (tensors(4, 70, grad=False), 1, 0, 6.0, 0, 2)),
    "pack_mask": ("pack_mask", lambda: (tensors(4, 5, grad=False) > 0,)),
    "unpack_mask": ("unpack_mask", lambda: (mask_of(torch.empty(20)), [4, 5])),
    "quantize": ("quantize", lambda: (tensors(4, 6), positive(6), tensors(6), -8, 7, None, 1)),
    "quantize, integers": ("quantize", lambda: (channels_last(), positive(grad=False), None, -8, 7, torch.int8)),
    "quantize_backward": (
        "quantize_backward",
        lambda: (tensors(9, grad=False), tensors(9, grad=False), positive(grad=False), None, -8, 7),
    ),
    "quantize, packed": (
        "quantize",
        lambda: (channels_last(), positive(grad=False), None, -8, 7, torch.int8, None, None, True),
    ),
    "dequantize": ("dequantize", lambda: (tensors(4, 6), positive(6), tensors(6), None, 1)),
    "dequantize, integers": (
        "dequantize",
        lambda: (torch.arange(-4, 4, dtype=torch.int8), positive(), tensors(), torch.float16),
    ),
    "dequantize, packed": (
        "dequantize",
        lambda: (torch.arange(8, dtype=torch.uint8).view(4, 2), positive(4), tensors(4), None, 1, None, True),
    ),
    "dequantize_backward, packed": (
        "dequantize_backward",
        lambda: (
            tensors(8, grad=False),
            torch.arange(4, dtype=torch.int8),
            positive(grad=False),
            None,
            None,
            None,
            True,
        ),
    ),
    "dequantize_backward": (
        "dequantize_backward",
        lambda: (tensors(8, grad=False), torch.arange(8, dtype=torch.int32), positive(grad=False), None),
    ),
    "observe_min_max": ("observe_min_max", lambda: (tensors(4, 6, grad=False), 1)),
    "observe_min_max_update_": ("observe_min_max_update_", lambda: (tensors(4, 6, grad=False), *statistics(6), 0.1, 1)),
    "observe_moments_update_": (
        "observe_moments_update_",
        lambda: (tensors(4, 6, grad=False), *statistics(6), torch.zeros(4, 6, dtype=torch.float64), 1),
    ),
    "observe_histogram_update_": (
        "observe_histogram_update_",
        lambda: (tensors(4, 6, grad=False), *histogram(6), 1),
    ),
    "observe_histogram_merge_": ("observe_histogram_merge_", lambda: (*histogram(3), *histogram(3))),
    "encode_percentile": ("encode_percentile", lambda: (*filled_histogram(), 99.0, -8, 7, True)),
    "encode_sqnr": ("encode_sqnr", lambda: (*filled_histogram(), -8, 7, True)),
    "encode_mse": ("encode_mse", lambda: (*filled_histogram(), 0, 15, False)),
    "encode_entropy": ("encode_entropy", lambda: (*filled_histogram(), 0, 2**32 - 1, False)),
    "encode_min_max": ("encode_min_max", lambda: (tensors(5, grad=False), positive(5, grad=False), -8, 7, True)),
    "encode_affine": ("encode_affine", lambda: (tensors(5, grad=False), positive(5, grad=False), 0, 2**32 - 1, False)),
    "encode_trained": ("encode_trained", lambda: (tensors(5, grad=False), tensors(5, grad=False), 0, 2**32 - 1)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_opcheck(name):
    operator, arguments = SAMPLES[name]
    torch.library.opcheck(getattr(ops, operator).default, arguments(), test_utils=CHECKS)


def test_every_operator_is_checked():
    registered = {
        name.removeprefix("detent::").split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("detent::")
    }
    assert {operator for operator, _ in SAMPLES.values()} == registered - {"cpu_dispatch"}


# --- a module with every quantizer a forward may hold -----------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(12, 8)
        self.low, self.high = torch.nn.Parameter(torch.tensor(-1.5)), torch.nn.Parameter(torch.tensor(2.0))
        self.scale, self.zero_point = torch.nn.Parameter(torch.full((8,), 0.07)), torch.nn.Parameter(torch.ones(8))
        self.register_buffer("fixed", torch.tensor(0.05))

    def forward(self, x):
        x = torch.ops.detent.fake_quantize_range(x, self.low, self.high, 0, 255, False, None, None, None)
        weight = torch.ops.detent.fake_quantize_dynamic(self.linear.weight, None, -8, 7, True, 0, None, None)[0]
        y = torch.nn.functional.linear(x, weight, self.linear.bias)
        y = torch.ops.detent.fake_quantize(y, self.scale, self.zero_point, -128, 127, 1, None, 1.0)
        return torch.ops.detent.fake_quantize(torch.relu(y), self.fixed, None, 0, 255, None, None, 1.0)


def run(function, module, x):
    module.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    y = function(x)
    (y * torch.linspace(-1, 1, y.shape[-1])).sum().backward()
    return [y, x.grad, *(p.grad for p in module.parameters())]


def same_as_eager(function, module, batches=(3, 5)):
    for batch in batches:
        x = tensors(batch, 12, grad=False)
        for index, (got, expected) in enumerate(zip(run(function, module, x), run(module, module, x), strict=True)):
            same_bits(got, expected, batch=batch, index=index)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("dynamic", [False, True])
def test_aot_eager_is_eager_bit_for_bit(dynamic, fresh_compiler):
    net = Net()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    same_as_eager(compiled, net, batches=(3, 5, 8))
    with torch.no_grad():
        same_bits(compiled(torch.ones(4, 12)), net(torch.ones(4, 12)))


def test_inductor_is_eager_bit_for_bit(fresh_compiler, tmp_path, monkeypatch):
    if detent.build_info()["autograd"] != "C++":
        pytest.skip("the same graphs as aot_eager's; the default process compiles them")
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile's inductor needs a C++ compiler, found neither g++ nor clang++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    net = Net()
    same_as_eager(torch.compile(net, fullgraph=True, dynamic=True), net)


def test_compiled_strides_and_blocks_are_those_of_eager(fresh_compiler):
    """The compiler plans memory by the fake kernels' strides; a wrong one shows as an assertion or as other numbers."""
    scale = positive(2, 3, 2, 1, grad=False)

    def function(x):
        y = ops.fake_quantize(x, scale, None, -8, 7, None, [1, 1, 2, -1])
        z = ops.fake_quantize(x.transpose(1, 2), scale[0, 0, 0], None, -8, 7)
        return y.square(), ops.dequantize(ops.quantize(z, scale[0, 0, 0], None, -8, 7), scale[0, 0, 0], None).square()

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for make in (channels_last, lambda: tensors(2, 3, 4, 4)):
        x, twin = make(), make()
        got, expected = compiled(x), function(twin)
        sum(t.sum() for t in got).backward()
        sum(t.sum() for t in expected).backward()
        for left, right in [*zip(got, expected), (x.grad, twin.grad)]:
            same_bits(left, right)
            assert left.stride() == right.stride()


def test_export_keeps_the_operators_and_a_dynamic_batch():
    net, x = Net(), torch.randn(4, 12)
    batch = torch.export.Dim("batch", min=2, max=512)
    program = torch.export.export(net, (x,), dynamic_shapes={"x": {0: batch}})
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {
        "detent.fake_quantize.default",
        "detent.fake_quantize_range.default",
        "detent.fake_quantize_dynamic.default",
    } <= called
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for size in (4, 9):
        x = torch.randn(size, 12)
        same_bits(loaded(x), net(x))


def through_a_file(scripted):
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_computes_and_differentiates_after_a_file(how):
    net = Net()
    scripted = torch.jit.script(net) if how == "script" else torch.jit.trace(net, torch.randn(4, 12))
    loaded = through_a_file(scripted)
    for _ in range(3):  # the profiling executor optimizes after the first runs
        for module in (scripted, loaded):
            x = tensors(5, 12, grad=False)
            got = run(module, module, x)
            for index, (left, right) in enumerate(zip(got, run(net, net, x), strict=True)):
                same_bits(left, right, index=index)


def test_functional_call_uses_the_tensors_it_is_given():
    net, x = Net(), torch.randn(4, 12)
    other = {name: (p * 1.5).detach().requires_grad_() for name, p in net.named_parameters()}
    y = torch.func.functional_call(net, other, (x,))
    y.sum().backward()
    twin = Net()
    twin.load_state_dict({**net.state_dict(), **{name: p.detach() for name, p in other.items()}})
    expected = twin(x)
    expected.sum().backward()
    same_bits(y, expected)
    for name, parameter in twin.named_parameters():
        same_bits(other[name].grad, parameter.grad, name=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_no_dtype(dtype):
    """x keeps its dtype: the operators are not on autocast's lists. Encodings stay float32."""
    x, scale = tensors(4, 6, grad=False).to(dtype), positive(6)
    expected = ops.fake_quantize(x, scale, None, -8, 7, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = ops.fake_quantize(x, scale, None, -8, 7, 1)
        product = torch.nn.functional.linear(got, got)
    same_bits(got, expected)
    assert product.dtype == torch.bfloat16
    product.sum().backward()
    assert scale.grad.dtype == torch.float32 and scale.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_without_gradients_is_a_loop_over_samples():
    x, scale = tensors(3, 4, 6, grad=False), positive(grad=False)
    got = torch.func.vmap(lambda sample: ops.fake_quantize(sample, scale, None, -8, 7))(x)
    same_bits(got, ops.fake_quantize(x, scale, None, -8, 7))
    per_sample = torch.func.vmap(lambda sample: ops.fake_quantize_dynamic(sample, None, -8, 7, True)[0])(x)
    same_bits(per_sample, torch.stack([ops.fake_quantize_dynamic(sample, None, -8, 7, True)[0] for sample in x]))


@pytest.mark.parametrize(
    "transform",
    [
        lambda f, x: torch.func.grad(lambda t: f(t).sum())(x),
        lambda f, x: torch.func.vmap(torch.func.grad(lambda t: f(t).sum()))(x),
        lambda f, x: torch.func.jacrev(f)(x),
    ],
    ids=["grad", "vmap of grad", "jacrev"],
)
def test_functional_gradients_raise(transform):
    """Gradients come from an autograd.Function, which functorch refuses; functional_call and backward() work."""
    with pytest.raises(RuntimeError, match=r"functorch transforms \(vmap, grad"):
        transform(lambda t: ops.fake_quantize(t, torch.tensor(0.5), None, -8, 7), torch.randn(3, 4))


def test_forward_mode_raises_instead_of_dropping_the_tangent():
    if detent.build_info()["autograd"] != "C++":
        pytest.skip("register_autograd offers no forward mode and does not see tangents")
    x = torch.randn(4)
    for call in (
        lambda t: ops.fake_quantize(t, torch.tensor(0.5), None, -8, 7),
        lambda t: ops.fake_quantize_range(x, -t.abs(), t.abs(), -8, 7, True, None, 0),
        lambda t: ops.fake_quantize_dynamic(t, None, -8, 7, True)[0],
        lambda t: ops.quantize(t, torch.tensor(0.5), None, -8, 7),
        lambda t: ops.dequantize(t, torch.tensor(0.5), None),
    ):
        with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="jvp"):
            call(torch.autograd.forward_ad.make_dual(x, x))
