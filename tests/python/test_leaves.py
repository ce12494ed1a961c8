"""The tables of modules and functions: all of torch.nn and torch.nn.functional is in one, or left out for a reason."""

import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import detent.nn
from detent.capture.functions import WRITERS, find
from detent.quantizers import QuantizeDequantize
from detent.quantsim import QuantizationSimModel, quantization_disabled

CAPTURED = "its forward is captured"
LOSS = "a loss, computed in float"
LAZY = "becomes its plain class with the first forward, which the sim makes before it looks"
REASONS = {
    nn.Module: "the base class", nn.ParameterList: "holds parameters", nn.ParameterDict: "holds parameters",
    nn.SyncBatchNorm: CAPTURED, nn.MultiheadAttention: CAPTURED, nn.AdaptiveLogSoftmaxWithLoss: LOSS,
    **dict.fromkeys((nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Container, nn.DataParallel), CAPTURED),
    **dict.fromkeys((nn.Transformer, nn.TransformerEncoder, nn.TransformerEncoderLayer), CAPTURED),
    **dict.fromkeys((nn.TransformerDecoder, nn.TransformerDecoderLayer), CAPTURED),
    nn.RNNBase: "the base of nn.RNN, nn.LSTM and nn.GRU", nn.RNNCellBase: "the base of the cells",
}  # fmt: skip


def modules():
    return sorted({value for value in vars(nn).values() if isinstance(value, type) and issubclass(value, nn.Module)},
                  key=lambda cls: cls.__name__)  # fmt: skip


def reason(cls):
    if cls.__name__.endswith(("Loss", "Loss2d")):
        return LOSS
    return LAZY if cls.__name__.startswith("Lazy") else REASONS.get(cls)


def test_every_module_of_torch_is_a_leaf_or_left_for_a_reason():
    assert [cls.__name__ for cls in modules() if (cls in detent.nn.SLOTS) == (reason(cls) is not None)] == []


FUNCTIONS = {
    "losses": ("binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "kl_div",
               "linear_cross_entropy"),
    "random, and for training": ("gumbel_softmax",),
    "integers": ("one_hot",),
    "makes coordinates": ("affine_grid",),
    "no function of tensors": ("assert_int_or_pair", "Optional"),
    "works on quantized integers": ("scaled_mm", "scaled_grouped_mm"),
}  # fmt: skip


def test_every_function_of_torch_is_known_or_left_for_a_reason():
    left = {name for names in FUNCTIONS.values() for name in names}
    unknown = []
    for name in dir(F):
        function = getattr(F, name)
        if name.startswith("_") or inspect.isclass(function) or not callable(function):
            continue
        if name.endswith("_loss") or name in left or name.startswith(("has_torch_function", "handle_", "boolean_")):
            continue
        if find(function) is None and function not in WRITERS:
            unknown.append(name)
    assert unknown == []


def leaves():
    image, line, volume = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8), torch.randn(2, 4, 4, 4, 4)
    steps = torch.randn(5, 2, 4)
    given = {
        nn.Conv1d: (4, 6, 3), nn.Conv3d: (4, 6, 3), nn.ConvTranspose1d: (4, 6, 3), nn.ConvTranspose3d: (4, 6, 3),
        nn.BatchNorm1d: (4,), nn.InstanceNorm1d: (4, 1e-5, 0.1, True), nn.InstanceNorm2d: (4, 1e-5, 0.1, True),
        nn.InstanceNorm3d: (4, 1e-5, 0.1, True),
        nn.LayerNorm: (8,), nn.RMSNorm: (8,), nn.GroupNorm: (2, 4), nn.Linear: (8, 3), nn.PReLU: (4,),
        nn.Threshold: (0.1, 0.2), nn.LogSoftmax: (1,), nn.Softmax: (1,), nn.Softmin: (1,), nn.Unflatten: (1, (2, 2)),
        nn.LocalResponseNorm: (2,), nn.CrossMapLRN2d: (2,), nn.ChannelShuffle: (2,), nn.PixelShuffle: (2,),
        nn.PixelUnshuffle: (2,), nn.Upsample: (None, 2), nn.UpsamplingNearest2d: (None, 2), nn.Unfold: (2,),
        nn.UpsamplingBilinear2d: (None, 2), nn.FractionalMaxPool2d: (2, 3), nn.FractionalMaxPool3d: (2, 2),
    }  # fmt: skip
    yield nn.Conv2d(4, 6, 3, padding_mode="reflect", padding=1), image
    yield nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), image
    yield nn.BatchNorm2d(4, momentum=None), image
    yield nn.BatchNorm3d(4, track_running_stats=False), volume
    yield nn.Embedding(9, 4, max_norm=1.0), torch.randint(9, (2, 3))
    yield nn.EmbeddingBag(9, 4, max_norm=1.0, mode="sum"), torch.randint(9, (2, 3)), None, torch.rand(2, 3)
    yield nn.MaxPool2d(2, return_indices=True), image
    yield nn.Bilinear(8, 8, 3), line, line.flip(0)
    yield nn.CosineSimilarity(), line, line.flip(0)
    yield nn.PairwiseDistance(), line, line.flip(0)
    yield nn.Fold((4, 4), 2), torch.randn(2, 8, 9)
    for n, x in enumerate((line, image, volume), 1):
        pooled, indices = getattr(F, f"max_pool{n}d")(x, 2, return_indices=True)
        yield getattr(nn, f"MaxUnpool{n}d")(2), pooled, indices
        yield getattr(nn, f"LPPool{n}d")(2, 2), x
        yield getattr(nn, f"ConstantPad{n}d")(1, 0.3), x
    yield nn.RNN(4, 3), steps, torch.randn(1, 2, 3)
    yield nn.LSTM(4, 3, 2, bidirectional=True), steps, (torch.randn(4, 2, 3), torch.randn(4, 2, 3))
    yield nn.GRU(4, 3), steps
    for cell in (nn.RNNCell, nn.GRUCell):
        yield cell(4, 3), steps[0], torch.randn(2, 3)
    yield nn.LSTMCell(4, 3), steps[0]
    for cls in detent.nn.SLOTS:
        name = cls.__name__
        if cls.__module__.startswith("torch.nn") and cls not in YIELDED:
            x = volume if "3d" in name else line if "1d" in name or cls in (nn.LayerNorm, nn.RMSNorm) else image
            default = (2,) if "Pool" in name else (1,) if "Pad" in name else ()
            yield cls(*given.get(cls, default)), x


YIELDED = {
    nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Embedding, nn.EmbeddingBag, nn.Bilinear,
    nn.CosineSimilarity, nn.PairwiseDistance, nn.Fold, nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.GRUCell, nn.LSTMCell,
    nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d, nn.LPPool1d, nn.LPPool2d, nn.LPPool3d, nn.ConstantPad1d,
    nn.ConstantPad2d, nn.ConstantPad3d,
}  # fmt: skip
LEAVES = list(leaves())


def flat(y):
    return [part for each in y for part in flat(each)] if isinstance(y, tuple) else [y]


@pytest.mark.parametrize("module, data", [(module, data) for module, *data in LEAVES], ids=[
    f"{type(module).__name__}-{i}" for i, (module, *_) in enumerate(LEAVES)
])  # fmt: skip
def test_every_leaf(module, data):
    torch.manual_seed(2)
    module = copy.deepcopy(module)
    twin = detent.nn.quantize_module(copy.deepcopy(module))
    assert type(twin) is detent.nn.CLASSES[type(module)] and set(module.state_dict()) <= set(twin.state_dict())
    for training in (True, False):
        module.train(training), twin.train(training)
        torch.manual_seed(3)
        expected = module(*data)
        torch.manual_seed(3)
        assert all(torch.equal(a, b) for a, b in zip(flat(twin(*data)), flat(expected), strict=True))
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in module.state_dict().items())
    for slots in (twin.input_quantizers, twin.output_quantizers):
        for i in range(len(slots)):
            slots[i] = QuantizeDequantize((), 4, False)
    for name in twin.param_quantizers:
        if getattr(twin, name) is not None:
            twin.param_quantizers[name] = QuantizeDequantize((), 4, True, mode="dynamic")
    for _, _, quantizer in twin.quantizers():
        if quantizer.mode != "dynamic":
            quantizer.set_range(-1.0, 2.0)
    y = flat(twin(*data))
    assert all(torch.unique(part).numel() <= 16 for part in y[: len(twin.output_quantizers)])
    assert len(twin.param_quantizers) == len([name for name, _ in module.named_parameters()])
    assert all(torch.equal(a, b) for a, b in zip(flat(pickle.loads(pickle.dumps(twin))(*data)), y))


def test_lazy_modules_take_their_shapes_from_the_sample():
    net, x = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)), torch.randn(2, 3, 5, 5)
    sim = QuantizationSimModel(net, x)
    sim.compute_encodings(lambda model: model(x))
    assert type(sim.model[0]).__name__ == "QuantizedConv2d" and sim.model(x).shape == (2, 2)
    assert type(net[0]) is nn.LazyConv2d


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias, self.inner = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(6)), nn.Tanh()
        self.calls = 0

    def forward(self, x, parts, *, scale=1.0):
        self.calls += 1
        gate = self.inner(F.linear(x, self.weight, self.bias)) * scale
        return {"gate": gate, "rest": (parts["y"] + x @ self.weight.t(), None)}


detent.nn.register(inputs=2, outputs=2, params=("weight", "bias"), onnx_op="Gate")(Gate)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = Gate()

    def forward(self, x, y):
        out = self.gate(x, parts={"y": y}, scale=0.5)
        return out["gate"] * out["rest"][0]


def test_a_registered_module():
    torch.manual_seed(0)
    net, data = Gated(), (torch.randn(3, 4), torch.randn(3, 6))
    sim = QuantizationSimModel(net, data, "training_range_learning_with_tf_init", default_output_bw=4)
    sim.compute_encodings(lambda model: model(*data))
    assert {name for name, _ in sim.named_quantizers()} == {
        "gate.param_quantizers.weight", "gate.input_quantizers.0", "gate.input_quantizers.1",
        "gate.output_quantizers.0", "gate.output_quantizers.1", "mul_0.output_quantizers.0",
    }  # fmt: skip
    gate, (x, y) = sim.model.gate, data
    weight = gate.param_quantizers["weight"](gate.weight)
    x, y = gate.input_quantizers[0](x), gate.input_quantizers[1](y)
    expected = gate.output_quantizers[0](torch.tanh(F.linear(x, weight, gate.bias)) * 0.5)
    expected = sim.model.mul_0.output_quantizers[0](expected * gate.output_quantizers[1](y + x @ weight.t()))
    result = sim.model(*data)
    assert torch.equal(result, expected) and type(gate.inner) is nn.Tanh and gate.calls > 0
    result.sum().backward()
    assert all(parameter.grad is not None for parameter in sim.model.parameters())
    assert torch.equal(pickle.loads(pickle.dumps(sim.model))(*data), result)
    assert torch.equal(copy.deepcopy(sim.model)(*data), result)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(sim.model, fullgraph=True, backend="aot_eager")(*data), result)
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model(*data), net(*data))


def test_what_cannot_be_registered():
    class Mine(nn.Module):
        def forward(self, x):
            return x

    with pytest.raises(ValueError, match="params is 'weight', expected a tuple of names"):
        detent.nn.register(params="weight")
    with pytest.raises(ValueError, match="inputs is -1, expected how many"):
        detent.nn.register(inputs=-1)
    with pytest.raises(TypeError, match="expected a subclass of torch.nn.Module"):
        detent.nn.register()(torch.relu)
    with pytest.raises(ValueError, match="Linear is a leaf already"):
        detent.nn.register()(nn.Linear)
    detent.nn.register(params=("weight",))(Mine)
    with pytest.raises(ValueError, match="Mine has no parameter 'weight'"):
        QuantizationSimModel(Mine(), torch.randn(2, 2))
