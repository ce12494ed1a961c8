"""Capture: what models of other libraries do, each thing in a model of a few lines."""

import copy
import functools
import math
import pickle
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from simulations import calibrated, module_of, names
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detent.quantsim import QuantizationSimModel, quantization_disabled

LEARNED = "training_range_learning_with_tf_init"


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(4, 3, 8, 8)


def train(sim, *data):
    """One backward pass; the gradient of every range that a sample reaches."""
    sim.model(*data).square().sum().backward()
    return [name for name, p in sim.model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


class Standardized(nn.Conv2d):
    def forward(self, x):
        weight = F.batch_norm(self.weight.reshape(1, len(self.weight), -1), None, None, training=True)
        return self._conv_forward(x, weight.reshape_as(self.weight) * 0.1, self.bias)


@pytest.mark.parametrize("conv", [Standardized(3, 6, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3))])
def test_a_weight_computed_from_parameters_is_quantized_where_it_is_used(conv, x):
    sim = calibrated(nn.Sequential(conv), x, quant_scheme=LEARNED)
    inside = [name for name in names(sim) if "input_quantizers.0" not in name and "output" not in name]
    assert inside == ["0.conv2d_0.input_quantizers.1"]
    quantizer = sim.model.get_submodule(inside[0])
    assert quantizer.symmetric and quantizer.shape == (6, 1, 1, 1)
    assert not train(sim, x)
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model(x), conv(x))


def test_what_is_computed_from_buffers_is_quantized_once(x):
    def forward(self, x):
        scale = self.layers[0].weight * (self.layers[0].running_var + 1e-5).rsqrt()
        return x * scale.view(1, -1, 1, 1)

    sim = calibrated(module_of(forward, nn.BatchNorm2d(3)), x)
    expected = ["mul_1.input_quantizers.0", "mul_1.input_quantizers.1", "mul_1.output_quantizers.0"]
    assert sorted(names(sim)) == expected and "computed from constants alone" in str(sim)


def test_what_a_quantizer_reads_may_be_written_over(x):
    def slices(self, x):
        held = torch.zeros_like(x)
        held[:, :1] = x[:, :1]
        doubled = held * 2
        held[:, 1:] = doubled[:, :2]
        return self.layers[0](held)

    def positions(self, x):
        bias = torch.repeat_interleave(self.layers[0].bias, 8).reshape(3, 8)
        bias.add_(x[0, :, 0])
        return self.layers[0](x) + bias[:, :, None]

    for forward in (slices, positions):
        sim = calibrated(module_of(forward, nn.Conv2d(3, 3, 1)), x, quant_scheme=LEARNED)
        assert not train(sim, x)


def test_counts_are_not_rounded(x):
    def forward(self, x):
        counts = torch.histc(x, bins=64, min=-4, max=4)
        ends = torch.cumsum(counts, 0, dtype=torch.int32)
        return self.layers[0](x), ends

    net = module_of(forward, nn.Conv2d(3, 3, 1))
    sim = calibrated(net, x, quant_scheme=LEARNED)
    assert torch.equal(sim.model(x)[1], net(x)[1]) and "histc" not in str(sim)


def test_a_divisor_near_zero_passes_in_float(x):
    def attention(self, x):
        x = self.relu(x)
        weights = x.flatten(2).transpose(1, 2) @ x.flatten(2) / 1e3
        total = weights.sum(-1, keepdim=True) + 1e-6
        return weights / total + 1e-9 / total + total**-0.5

    sim = calibrated(module_of(attention), x, quant_scheme=LEARNED)
    sim.model.eval()
    dark = x.clone()
    dark[0, :, :4] = -1.0  # rows of zeros, which a rounded divisor divides by zero
    assert not train(sim, dark) and sim.model(dark).isfinite().all()
    assert "must not become zero" in str(sim)

    def even(self, x):
        return x / (x.abs().mean(1, keepdim=True) + 3)

    assert "must not become zero" not in str(calibrated(module_of(even), x))


class Chooses(nn.Module):
    """Puts one of its forwards on the instance."""

    def __init__(self, which):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.forward = self.doubled if which else self.tripled

    def doubled(self, x):
        return F.relu(self.conv(x) * 2)

    def tripled(self, x):
        return F.relu(self.conv(x) * 3)


def test_a_forward_on_the_instance(x):
    net = nn.Sequential(Chooses(True), Chooses(False))
    sim = calibrated(net, x)
    assert "0.mul_0.output_quantizers.0" in names(sim) and "1.relu_0.output_quantizers.0" in names(sim)
    for made in (copy.deepcopy(sim.model), pickle.loads(pickle.dumps(sim.model))):
        assert torch.equal(made(x), sim.model(x))
        made[0].conv.weight.data.zero_()
        assert not torch.equal(made(x), sim.model(x))
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model(x), net(x))


def test_a_leaf_with_a_forward_of_its_own(x):
    def wrapped(module, x):
        return module.before(x) + 1

    conv = nn.Conv2d(3, 3, 1)
    conv.before = conv.forward
    conv.forward = functools.partial(wrapped, conv)
    sim = calibrated(nn.Sequential(conv), x, quant_scheme=LEARNED)
    assert {"0.add_0.output_quantizers.0", "0.param_quantizers.weight"} <= set(names(sim)) and not train(sim, x)


def test_transforms_are_quantized_before_and_after(x):
    def forward(self, x):
        return self.layers[0](torch.fft.irfft(torch.fft.rfft(x) * 2, n=8))

    sim = calibrated(module_of(forward, nn.Conv2d(3, 3, 1)), x, quant_scheme=LEARNED)
    assert {"rfft_0.input_quantizers.0", "layers.0.input_quantizers.0"} <= set(names(sim)) and not train(sim, x)


def test_functions_that_only_take_the_shape_are_no_holes(x):
    def forward(self, x):
        mask = x.new_zeros(x.shape) + torch.ones_like(x).tril()
        padded, index = F.pad(x * mask, (1, 1), value=0.5), torch.tensor([0])
        return self.layers[0](F.normalize(padded)).index_add(1, index, x[:, :1, :, :1].expand(-1, -1, -1, 10))

    text = str(calibrated(module_of(forward, nn.Conv2d(3, 3, 1)), x))
    assert "not an operator that is known" not in text and "normalize_0" in text and "index_add_0" in text


def test_what_data_is_written_into_is_no_constant(x):
    def forward(self, x):
        filled = self.layers[0].weight.reshape(3, 3) * 1
        filled[0].copy_(x[0, 0, 0, :3])
        return filled * 2

    assert "mul_1.output_quantizers.0" in names(calibrated(module_of(forward, nn.Conv2d(3, 3, 1)), x))


def test_a_mask_has_nothing_between_its_numbers_and_the_data(x):
    def mask(self, x):
        return torch.softmax(x + torch.full_like(x, -1e9).triu(1), -1)

    def grown(self, x):
        return torch.cat([x * 1e7, x * 1e8]) + x.repeat(2, 1, 1, 1)

    assert "add_0.output_quantizers.0" not in names(calibrated(module_of(mask), x))
    assert "add_0.output_quantizers.0" in names(calibrated(module_of(grown), x))


@pytest.mark.parametrize("write", ["scatter", "index_fill", "__setitem__"])
def test_a_number_that_masks_leaves_the_others_on_their_grid(x, write):
    """As a router does that leaves the best expert out and compares the others with the next."""

    def left_out(scores: Tensor) -> Tensor:
        best = scores.argmax(-1, keepdim=True)
        if write == "scatter":
            return torch.scatter(scores, -1, best, -math.inf)
        if write == "index_fill":
            return scores.index_fill(-1, torch.tensor([0]), -1e9)
        scores = scores * 1
        scores[:, :, :, 0] = -math.inf
        return scores

    def forward(self, x):
        masked = left_out(self.layers[0](x))
        return torch.softmax(masked.masked_fill(masked < masked.max(-1, keepdim=True).values, -math.inf), -1)

    sim = calibrated(module_of(forward, nn.Conv2d(3, 3, 1)), x)
    assert not [name for name in names(sim) if ".input_quantizers" in name and not name.startswith("layers.0.")]
    assert sim.model(x).isfinite().all()


def test_what_is_written_between_the_numbers_is_on_no_grid(x):
    def forward(self, x):
        return self.layers[0](x).index_fill(-1, torch.tensor([0]), 0.3) * 2

    assert "mul_0.input_quantizers.0" in names(calibrated(module_of(forward, nn.Conv2d(3, 3, 1)), x))


def test_scripted_modules_pass_in_float_and_are_listed(x):
    made = torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))
    net = nn.Sequential(nn.Conv2d(3, 3, 1), made, nn.Conv2d(3, 3, 1))
    sim = calibrated(net, x)
    assert "1 (scripted)" in str(sim) and "2.input_quantizers.0" in names(sim)
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model(x), net(x))
    with pytest.raises(ValueError, match="runs in Python"):
        calibrated(made, x)


def test_operators_called_by_their_library(x):
    def forward(self, x):
        return torch.ops.aten.relu(torch.ops.aten.add.Tensor(self.layers[0](x), x)).view(4, -1)

    sim = calibrated(module_of(forward, nn.Conv2d(3, 3, 1)), x)
    assert {"add_0.input_quantizers.1", "relu_0.output_quantizers.0"} <= set(names(sim))


def test_tensors_whose_numbers_cannot_be_looked_at(x):
    def batched(self, x):
        return torch.vmap(lambda row: self.layers[0](row).relu())(x)

    def sparse(self, x):
        return self.layers[0](x + torch.sparse.mm(torch.eye(8).to_sparse(), x[0, 0]))

    for forward in (batched, sparse):
        net = module_of(forward, nn.Linear(8, 8))
        sim = calibrated(net, x)
        with quantization_disabled(sim.model):
            assert torch.equal(sim.model(x), net(x))


class Labelled(torch.Tensor):
    """Sees every function, as subclasses with an override of their own do."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})


def test_subclasses_of_tensor_stay_what_they_are(x):
    net, x = module_of(lambda self, x: (self.layers[0](x * 2) + x).relu(), nn.Conv2d(3, 3, 1)), x.as_subclass(Labelled)
    sim = calibrated(net, x, quant_scheme=LEARNED)
    assert isinstance(sim.model(x), Labelled) and "add_0.input_quantizers.1" in names(sim) and not train(sim, x)
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model(x), net(x))


class KeptBias(nn.Module):
    """A bias that is gathered once for all evaluations, as LeViT's; ``train(mode)`` drops it."""

    def __init__(self):
        super().__init__()
        self.biases, self.kept = nn.Parameter(torch.randn(3)), None
        self.register_buffer("indices", torch.tensor([2, 0, 1, 2]))

    def train(self, mode=True):
        self.kept = None
        return super().train(mode)

    def forward(self, x):
        if self.training:
            return x + self.biases[self.indices]
        if self.kept is None:
            self.kept = self.biases[self.indices]
        return x + self.kept


def test_what_a_model_keeps_between_evaluations_is_not_that_of_the_sample():
    torch.manual_seed(0)
    model, x = KeptBias().eval(), torch.randn(8, 4)
    with torch.no_grad():
        model(x)  # keeps a float bias, which copies have
    sims = [QuantizationSimModel(model, x, default_output_bw=4, default_param_bw=4) for _ in range(2)]
    sims[0].compute_encodings(lambda m: m(x))
    sims[1].model.load_state_dict(sims[0].model.state_dict())
    assert torch.equal(*(sim.model(x) for sim in sims))


# --- branches ---------------------------------------------------------------------------------------------------------


class Branching(nn.Module):
    """Training takes another way than the sample did, with the same functions before those that both have."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = self.layer(x)
        if self.training:
            y = 100 * torch.tanh(y * 100)
        return torch.tanh(y) * 3 + y.sub(x).relu() * 5


def test_a_branch_of_training_moves_no_other_call(x):
    sim = calibrated(Branching(), x, quant_scheme=LEARNED)
    float_net = sim.get_original_model(sim.model)
    with pytest.warns(UserWarning) as said:
        y = sim.model.train()(x)
    late = r"(\w+) \(test_capture_in_the_wild.py:\d+\) did not run with the sample input and passes in float"
    assert sorted(re.match(late, str(warning.message))[1] for warning in said) == ["mul", "tanh"]
    y.sum().backward()
    assert sim.model.mul_0.output_quantizers[0].max.grad is not None  # tanh(y) * 3, in both ways
    off = sim.model.eval()(x)
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model.train()(x), float_net.train()(x))
    for copied in (copy.deepcopy(sim.model), pickle.loads(pickle.dumps(sim.model))):
        assert torch.equal(copied.eval()(x), off) and torch.equal(copied.train()(x), y)


def test_functions_handed_to_a_checkpoint_are_recomputed_as_they_were(x):
    def forward(self, x):
        y = checkpoint(torch.tanh, torch.tanh(x) * 2, use_reentrant=False)
        return checkpoint(torch.tanh, y * 3, use_reentrant=False)

    model = calibrated(module_of(forward), x, quant_scheme=LEARNED).model
    plain = calibrated(module_of(lambda self, x: torch.tanh(torch.tanh(torch.tanh(x) * 2) * 3)), x).model
    data = x.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = model(data)
        y.sum().backward()
    assert torch.equal(y, plain(x)) and all(parameter.grad is not None for parameter in model.parameters())
