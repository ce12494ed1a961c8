"""Saving less for backward: the same bits, fewer bytes, whatever runs around it."""

import copy
import gc
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from checks import same_bits
from detent import qat
from detent.quantizers import QuantizeDequantize
from simulations import ResNet20, Shortcut, calibrated
from test_training import gradients, in_threads, replicas, same_gradients

LEARNED = "training_range_learning_with_tf_init"
WAYS = ["fixed", "learned", "lsq", "pact"]


class Inverted(nn.Module):
    """As in MobileNetV2: layers without an activation, one in place, one that keeps its input."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.GELU(),
            nn.Conv2d(8, 3, 1, bias=False), nn.BatchNorm2d(3), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3),
        )  # fmt: skip
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.layers(x).mean((2, 3)))


NETS = {
    "resnet20": lambda: (ResNet20(), torch.randn(8, 3, 32, 32)),
    "inverted": lambda: (Inverted(), torch.randn(4, 3, 16, 16)),
    "encoder": lambda: (nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True), torch.randn(4, 16, 32)),
}


def simulated(net, x, way, **options):
    sim = calibrated(net, x, quant_scheme=LEARNED if way == "learned" else "min_max", **options)
    if way == "lsq":
        qat.use_lsq(sim, initialization=None)
    elif way == "pact":
        qat.use_pact(sim)
    sim.model.train()
    return sim


def step(model, x):
    """Output and gradients of one forward and backward with fixed random numbers."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(7)
    y = model(x)
    y.square().sum().backward()
    return y.detach(), {"x": x.grad, **gradients(model)}


def same_step(got, expected):
    same_bits(got[0], expected[0])
    same_gradients(got[1], expected[1])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "net", ["resnet20", "encoder", pytest.param("inverted", marks=pytest.mark.both_autograd_paths)]
)
def test_outputs_and_gradients_are_the_same_bits(net, way):
    sim = simulated(*(data := NETS[net]()), way)
    expected = step(sim.model, data[1])
    qat.compress_saved_tensors(sim)
    same_step(step(sim.model, data[1]), expected)


# Of float's bytes. A learned range keeps its x, and attention its products, which torch's kernel in float does not.
@pytest.mark.parametrize(
    "net, way, plain, compressed",
    [
        ("resnet20", "fixed", 1.62, 1.03), ("resnet20", "learned", 1.83, 1.24), ("resnet20", "lsq", 1.83, 1.24),
        ("inverted", "fixed", 1.03, 0.64), ("inverted", "learned", 1.53, 1.01),
        ("encoder", "fixed", 1.10, 0.75), ("encoder", "learned", 1.72, 1.23),
    ],
)  # fmt: skip
def test_bytes(net, way, plain, compressed):
    model, x = NETS[net]()
    sim = simulated(model, x, way)
    before = qat.saved_bytes(sim, x)
    assert compressed < before.ratio <= plain
    qat.compress_saved_tensors(sim)
    after = qat.saved_bytes(sim, x)
    assert after.ratio <= compressed
    assert after.float_layers == before.float_layers
    qat.compress_saved_tensors(sim, False)
    assert qat.saved_bytes(sim, x).layers == before.layers


def test_a_kept_input_costs_nothing_and_codes_a_quarter():
    x = torch.randn(64, 32)
    sim = simulated(nn.Sequential(nn.Linear(32, 32), nn.Sigmoid(), nn.Linear(32, 32), nn.Linear(32, 8)), x, "fixed")
    qat.compress_saved_tensors(sim)
    layers = qat.saved_bytes(sim, x).layers
    assert layers["0"] == 64 * 32  # codes of its input
    assert layers["1"] == 64 * 32 * 4  # sigmoid's result, from which the next layer's input is computed
    assert "2" not in layers
    assert layers["3"] == 64 * 32  # codes of its input; its weight's values are computed from the weight


def test_an_activation_in_its_quantizers_pass():
    """Of a fixed range codes are kept, and where the pass keeps its input for a learned one, that alone."""
    x, net = torch.randn(64, 32), nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    for way, kept in (("fixed", {"2": 64 * 32}), ("learned", {"1.output_quantizers.0": 64 * 32 * 4})):
        sim = simulated(net, x, way)
        expected = step(sim.model, x)
        qat.compress_saved_tensors(sim)
        same_step(step(sim.model, x), expected)
        layers = qat.saved_bytes(sim, x).layers
        assert "1" not in layers  # relu itself keeps nothing
        assert {name: layers[name] for name in kept} == kept
        assert ("2" in layers) == ("2" in kept)


@pytest.mark.parametrize("bits, bytes_each", [(2, 1), (4, 1), (8, 1), (9, 2), (15, 2), (16, 4), (24, 4)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_codes_of_every_bitwidth(bits, bytes_each, symmetric):
    """A fixed grid of up to 8 bits is held in one byte, up to 15, or 16 with a sign, in two."""
    x = torch.randn(64, 32)
    sim = simulated(nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 4)), x, "fixed", default_output_bw=bits)
    for quantizer in sim.quantizers():
        if quantizer._source is None and symmetric:
            quantizer.signed, quantizer.symmetric = True, True
    expected = step(sim.model, x)
    qat.compress_saved_tensors(sim)
    same_step(step(sim.model, x), expected)
    expected_bytes = 2 if symmetric and bits == 16 else bytes_each
    assert qat.saved_bytes(sim, x).layers["1"] == 64 * 32 * expected_bytes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (6, 1)])
def test_codes_give_back_every_value_of_the_grid(dtype, shape):
    """Also for the smallest scale there is, where float16 is subnormal; float64 stays as it is."""
    for highest in (0.0, 1e-5, 0.37, 100.0, 30000.0):
        quantizer = QuantizeDequantize(shape, 8, False, mode="fixed")
        quantizer.set_range(-0.3 * highest, highest)
        x = torch.linspace(-0.5, 1.2, 6 * 511, dtype=torch.float64).mul(highest).to(dtype).reshape(6, 511)
        net = nn.Sequential(quantizer, Shortcut(lambda y: y * y))
        weights = torch.rand_like(x)

        def gradient():
            given = x.clone().requires_grad_()
            (net(given) * weights).sum().backward()
            return given.grad

        expected = gradient()
        qat.compress_saved_tensors(net)
        same_bits(gradient(), expected, highest=highest)
        y_bytes = qat.saved_bytes(net, x.clone().requires_grad_()).layers["1"]
        assert y_bytes == x.numel() * (8 if dtype is torch.float64 else 1)


class Moving(nn.Module):
    """Products of what was moved: transposed, cut, copied, pooled."""

    def forward(self, x):
        q = F.max_pool2d(torch.sin(x), 2)
        k = q.transpose(2, 3).contiguous()
        v = q.permute(0, 2, 3, 1).flatten(1, 2)[:, 3:]
        return (q @ k).sum() + (v.transpose(1, 2) @ v).sum()


@pytest.mark.parametrize("way", WAYS)
def test_moved_values_are_codes_too(way):
    x = torch.randn(4, 8, 16, 16)
    sim = simulated(Moving(), x, way)
    expected = step(sim.model, x)
    before = qat.saved_bytes(sim, x.requires_grad_())
    qat.compress_saved_tensors(sim)
    same_step(step(sim.model, x.detach()), expected)
    after = qat.saved_bytes(sim, x)
    assert after.layers["matmul_0"] == before.layers["matmul_0"] / 4
    assert after.total < before.total / 1.6


# --- nothing is damaged in silence ------------------------------------------------------------------------------------


def test_nan_stays_visible():
    x = torch.randn(64, 32)
    sim = simulated(nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 8)), x, "fixed")
    qat.compress_saved_tensors(sim)
    x[3, 5] = float("nan")
    sim.model(x)[10:].sum().backward()  # the loss is finite: the NaN is in a row that it leaves out
    assert sim.model[0].weight.grad.isnan().any()


class Overwriting(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 8)

    def forward(self, x):
        y = self.first(x)
        with torch.no_grad():
            y[:, ::2].mul_(0.37)
        return self.second(y)


def test_what_is_written_over_before_it_is_saved_is_kept_as_it_is():
    x = torch.randn(64, 32)
    sim = simulated(Overwriting(), x, "fixed")
    expected = step(sim.model, x)
    qat.compress_saved_tensors(sim)
    same_step(step(sim.model, x), expected)


class Copying(Overwriting):
    def forward(self, x):
        y = self.first(x)
        with torch.no_grad():
            y.mul_(0.37)
        return self.second(y.clone())


def test_a_copy_of_what_was_written_over_gives_nan():
    x = torch.randn(64, 32)
    sim = simulated(Copying(), x, "fixed")
    qat.compress_saved_tensors(sim)
    sim.model(x).sum().backward()
    assert sim.model.second.weight.grad.isnan().all()


@pytest.mark.parametrize("way", ["fixed", "learned"])
def test_what_is_written_over_afterwards_raises(way):
    x = torch.randn(64, 32)
    sim = simulated(nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)), x, way)
    qat.compress_saved_tensors(sim)
    loss = sim.model(x).sum()
    with torch.no_grad():
        sim.model[2].weight.add_(1.0)
    with pytest.raises(RuntimeError, match=r"shape \(8, 32\) .* modified in place: .* version 1, expected 0"):
        loss.backward()


def test_a_sim_without_quantizers_is_refused():
    with pytest.raises(ValueError, match="compress_saved_tensors: the Linear holds no quantizers"):
        qat.compress_saved_tensors(nn.Linear(4, 4))


# --- what runs around it ----------------------------------------------------------------------------------------------


@pytest.fixture(params=WAYS)
def pair(request):
    """A sim, the same compressed, and an input."""
    net, x = NETS["inverted"]()
    plain = simulated(net, x, request.param)
    compressed = copy.deepcopy(plain)
    qat.compress_saved_tensors(compressed)
    return plain.model, compressed.model, x


def test_checkpointing(pair):
    plain, compressed, x = pair
    expected = step(plain, x)
    whole = Shortcut(lambda x: checkpoint(compressed, x, use_reentrant=False))
    whole.zero_grad = compressed.zero_grad
    whole.named_parameters = compressed.named_parameters
    same_step(step(whole, x), expected)
    for use_reentrant in (False, True):
        inner = compressed.layers[3].forward
        compressed.layers[3].forward = lambda x: checkpoint(inner, x, use_reentrant=use_reentrant)
        same_step(step(compressed, x), expected)
        del compressed.layers[3].forward


def test_tensors_saved_on_the_cpu(pair):
    plain, compressed, x = pair
    expected = step(plain, x)
    with torch.autograd.graph.save_on_cpu():
        same_step(step(compressed, x), expected)
        x = x.contiguous(memory_format=torch.channels_last)
        same_step(step(compressed, x), step(plain, x))


def test_autocast(pair):
    plain, compressed, x = pair
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = step(plain, x)
        same_step(step(compressed, x), expected)


@pytest.mark.filterwarnings("ignore:.*did not run with the sample input")  # aot_eager calls functions of its own
def test_compiled_whole_and_in_parts():
    x = torch.randn(16, 8)
    plain = simulated(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)), x, "learned").model
    compressed = copy.deepcopy(plain)
    qat.compress_saved_tensors(compressed)
    expected = step(plain, x)
    torch._dynamo.reset()
    got = step(torch.compile(compressed, fullgraph=True, backend="aot_eager"), x)
    same_step((got[0], {name.removeprefix("_orig_mod."): gradient for name, gradient in got[1].items()}), expected)
    compressed[0].compile(fullgraph=True, backend="aot_eager")
    same_step(step(compressed, x), expected)
    torch._dynamo.reset()


def test_replicas_and_threads(pair, monkeypatch):
    plain, compressed, x = pair
    results = []
    for model in (plain, compressed):
        model.eval().zero_grad()
        made = replicas(model, 2, monkeypatch)
        got = torch.cat(in_threads([lambda i=i: made[i](x[2 * i : 2 * i + 2]) for i in range(2)]))
        got.square().sum().backward()
        results.append((got.detach(), gradients(model)))
    same_step(*reversed(results))


def test_retained_graphs_and_several_losses(pair):
    plain, compressed, x = pair
    results = []
    for model in (plain, compressed):
        model.zero_grad()
        y = model(x)
        y[:, 0].sum().backward(retain_graph=True)
        y[:, 1].sum().backward()
        results.append((y.detach(), gradients(model)))
    same_step(*reversed(results))


def test_copies_and_pickles_stay_switched(pair):
    _, compressed, x = pair
    few = qat.saved_bytes(compressed, x).total
    for made in (copy.deepcopy(compressed), pickle.loads(pickle.dumps(compressed))):
        assert qat.saved_bytes(made, x).total == few


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_float_model_and_exports_know_nothing_of_it(tmp_path):
    x = torch.randn(16, 8)
    sim = simulated(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)), x, "learned")
    qat.compress_saved_tensors(sim)
    made = sim.get_original_model(sim.model)
    assert not made._forward_hooks and not made._forward_pre_hooks
    traced = torch.jit.trace(sim.model, x)
    same_bits(traced(x), sim.model(x))
    exported = torch.export.export(sim.model, (x,))
    same_bits(exported.module()(x), sim.model(x))


def test_nothing_is_left_behind(pair):
    """Not after an error, not after an interrupt, and no graph outlives its output."""
    _, compressed, x = pair
    hooks = torch._C._autograd._top_saved_tensors_default_hooks

    for error in (ValueError, KeyboardInterrupt):
        def broken(*_, error=error):
            raise error

        handle = compressed.head.register_forward_pre_hook(broken)
        with pytest.raises(error):
            compressed(x)
        handle.remove()
        expected = step(compressed, x)
        assert hooks(True) is None
    same_step(step(compressed, x), expected)
    with torch.no_grad():
        compressed(x)
    gc.collect()
    gc.disable()
    try:
        saved = []
        pack = lambda tensor: saved.append(StorageWeakRef(tensor.untyped_storage())) or tensor.detach()  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = compressed(x * 1)
        del y
        alive = (*compressed.parameters(), *compressed.buffers())
        held = {tensor.untyped_storage()._cdata for tensor in alive}
        assert saved and all(reference.expired() or reference.cdata in held for reference in saved)
    finally:
        gc.enable()
