"""A simulation computes ReLU and ReLU6 together with their quantizer: the bits of two passes, fewer bytes kept."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from checks import same_bits
from detent import QuantizationSimModel, qat, quantization_disabled
from detent.quantizers import QuantizeDequantize


class Layers(nn.Module):
    """In place and not, a module used twice, a ReLU6, channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.depthwise, self.relu6 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6()
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.relu(self.bn(self.conv(x)))
        x = self.relu6(self.depthwise(x))
        return self.fc(self.relu(self.depthwise(x)).mean((2, 3)))


class Functions(nn.Module):
    """Calls: in place and not, by keyword, as methods."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        x = self.conv(x)
        y = F.relu(x) + F.relu6(input=x - 1)
        return torch.relu(-x) * torch.relu_(y * 0.5) + F.relu6(x * 9, inplace=True) + (x - 0.25).relu()


class WrittenOver(nn.Module):
    """What a ReLU reads is written over later, or what it wrote over is read again: these take two passes."""

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.relu, self.second = nn.Conv2d(3, 8, 1), nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU()

    def forward(self, x):
        x = self.conv(x)
        y = F.relu(x * 2)
        a = x * 3
        b = self.first(a)
        a += 1  # of what `first` read
        c = x - 0.1
        d = self.relu(c)  # c is the ReLU's result from here on
        e = x + 0.1
        f = self.second(e)
        g = F.hardtanh(e, 0.0, 1.0, inplace=True)
        return (y + a) * (b + d) - c * f + g


MODELS = {"layers": Layers, "functions": Functions, "written over": WrittenOver}
SCHEMES = ("min_max", "training_range_learning_with_tf_init", "lsq")


def pair(model, scheme="min_max", seed=0, **options):
    """A calibrated sim that fuses and one that does not."""
    torch.manual_seed(seed)
    float_model, sample = model().eval(), torch.randn(4, 3, 6, 6)
    sims = []
    for fuse in (True, False):
        sim = QuantizationSimModel(float_model, sample, scheme if scheme != "lsq" else None, **options)
        if scheme == "lsq":
            qat.use_lsq(sim)
        sim.compute_encodings(lambda model: model(sample))
        sim.fuse_activations = fuse
        sims.append(sim)
    return *sims, sample


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name.split("::")[1])
        return func(*args, **(kwargs or {}))


def activations(model, *args):
    """Operators that a forward runs and that are activations of their own."""
    with Operators() as seen, torch.no_grad():
        model(*args)
    return [name for name in seen.names if name in ("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp_min")]


def step(sim, optimizer, x):
    optimizer.zero_grad()
    y = sim.model(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return y


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", MODELS)
def test_forward_gradients_and_three_steps_have_the_bits_of_two_passes(name, scheme):
    one, two, x = pair(MODELS[name], scheme, default_output_bw=4)
    optimizers = [torch.optim.SGD(sim.model.parameters(), lr=1e-2, momentum=0.9) for sim in (one, two)]
    for sim in (one, two):
        sim.model.train()
    for turn in range(3):
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        got, expected = (step(sim, o, leaf) for sim, o, leaf in zip((one, two), optimizers, leaves))
        same_bits(got, expected, turn=turn)
        same_bits(leaves[0].grad, leaves[1].grad, turn=turn)
        for (key, p), q in zip(one.model.named_parameters(), two.model.parameters()):
            assert (p.grad is None) == (q.grad is None)
            if p.grad is not None:
                same_bits(p.grad, q.grad, parameter=key, turn=turn)
        for optimizer in optimizers:
            optimizer.step()
    for (key, p), q in zip(one.model.state_dict().items(), two.model.state_dict().values()):
        if isinstance(p, torch.Tensor):
            same_bits(p, q, key=key)
    for sim in (one, two):
        sim.model.eval()
    same_bits(one.model(x), two.model(x))


def test_one_pass_wherever_it_is_exact():
    one, two, x = pair(Layers)
    assert activations(one.model, x) == []
    assert activations(two.model, x) == ["relu_", "hardtanh", "relu_"]
    one, two, x = pair(Functions)
    assert activations(one.model, x) == []
    assert len(activations(two.model, x)) == 6
    one, two, x = pair(WrittenOver)
    assert activations(one.model, x) == ["relu", "relu_", "relu", "hardtanh_"]
    assert len(activations(two.model, x)) == 5


def test_fewer_bytes_are_kept_for_backward():
    one, two, x = pair(Layers)
    tensor = 4 * 8 * 6 * 6 * 4
    before, after = qat.saved_bytes(two, x), qat.saved_bytes(one, x)
    assert before.total - after.total == 3 * tensor  # the results of relu, relu6's input, the results of relu
    assert before.float_layers == after.float_layers
    one, two, x = pair(Layers, "training_range_learning_with_tf_init")
    assert qat.saved_bytes(one, x).total <= qat.saved_bytes(two, x).total


@pytest.mark.parametrize("name", MODELS)
def test_switched_off_quantizers_leave_the_float_model(name):
    torch.manual_seed(1)
    float_model, x = MODELS[name]().eval(), torch.randn(4, 3, 6, 6)
    sim = QuantizationSimModel(float_model, x)
    sim.compute_encodings(lambda model: model(x))
    with quantization_disabled(sim.model):
        same_bits(sim.model(x), float_model(x))


def test_hooks_see_what_they_saw():
    seen = {}
    for fuse, sim in zip((True, False), pair(Layers)[:2]):
        x = torch.linspace(-2, 2, 4 * 3 * 6 * 6).view(4, 3, 6, 6)
        sim.model.relu.register_forward_hook(lambda m, args, y, fuse=fuse: seen.setdefault((fuse, "relu"), y.clone()))
        quantizer = sim.model.relu6.output_quantizers[0]
        handle = quantizer.register_forward_pre_hook(
            lambda m, args, fuse=fuse: seen.setdefault((fuse, "quantizer"), args[0].clone())
        )
        sim.model(x)
        handle.remove()
    for what in ("relu", "quantizer"):
        same_bits(seen[True, what], seen[False, what])
    assert seen[True, "quantizer"].min() == 0.0  # of the ReLU6's result


def test_what_rounds_in_its_own_way_is_not_skipped():
    class Doubled(QuantizeDequantize):
        def forward(self, x):
            return 2 * super().forward(x)

    one, two, x = pair(Layers)
    for sim in (one, two):
        held = sim.model.relu6.output_quantizers
        own = Doubled((1,), 8, symmetric=False)
        own.set_range(0.0, 6.0)
        held[0] = own
    same_bits(one.model(x), two.model(x))
    assert activations(one.model, x) == ["hardtanh"]


def test_names_and_encodings_are_the_same_and_exports_show_the_activation(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    one, two, x = pair(Layers)
    assert [key for key, _ in one.named_quantizers()] == [key for key, _ in two.named_quantizers()]
    for name, sim in (("one", one), ("two", two)):
        sim.save_encodings_to_json(tmp_path, name)
    assert (tmp_path / "one.json").read_text() == (tmp_path / "two.json").read_text()
    one.export(tmp_path, "m", x, export_to_torchscript=True)
    nodes = onnx.load(tmp_path / "m_qdq.onnx").graph.node
    readers = {name: node.op_type for node in nodes for name in node.input}
    read = [readers[node.output[0]] for node in nodes if node.op_type in ("Relu", "Clip")]
    assert read == ["QuantizeLinear"] * 3
    traced = torch.jit.load(str(tmp_path / "m.torchscript.pth"))
    assert activations(traced, x) == []
    same_bits(traced(x), two.model(x))


def test_the_switch_is_kept_by_copies_and_leaves_with_the_quantizers():
    _, two, x = pair(Layers)
    assert not two.fuse_activations
    for model in (copy.deepcopy(two.model), pickle.loads(pickle.dumps(two.model))):
        assert len(activations(model, x)) == 3
    stripped = QuantizationSimModel.get_original_model(two.model)
    assert not {"_fuses", "_exact"} & {key for m in stripped.modules() for key in vars(m)}
    two.fuse_activations = True
    assert two.fuse_activations and activations(two.model, x) == []
