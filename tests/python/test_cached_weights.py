"""Weights quantized once for several forwards: the bits of quantizing each time, or no caching at all."""

import contextlib
import copy
import gc
import pickle
import weakref

import detent
import pytest
import torch
from detent import qat
from detent.quantizers import FloatQuantizeDequantize, GroupedBlockQuantizeDequantize, QuantizeDequantize, keeping
from torch import nn
from torch.nn.parallel import DataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from checks import same_bits
from qat_sims import MODES, Residual, simulated
from simulations import Tied
from test_training import gradients, in_threads, replicas, same_gradients

both_autograd_paths = pytest.mark.both_autograd_paths


@pytest.fixture
def computed(monkeypatch):
    """The parameters that were quantized to be kept, in order."""
    seen, compute = [], keeping._compute

    def counting(wanted):
        seen.extend(kept.x for kept in wanted)
        compute(wanted)

    monkeypatch.setattr(keeping, "_compute", counting)
    return seen


def batches(count=3, features=6):
    return [torch.randn(4, features, generator=torch.Generator().manual_seed(i)) * (1 + i) for i in range(count)]


def parameters_of(sim):
    return [(q, getattr(owner, name)) for q, owner, name in detent.nn.base.parameters_of(sim.model)]


def step(model, optimizer, data):
    """A step over accumulated gradients; what it saw."""
    optimizer.zero_grad()
    outputs = []
    for x in data:
        outputs.append(model(x))
        outputs[-1].square().mean().backward()
    seen = gradients(model)
    optimizer.step()
    return [y.detach() for y in outputs], seen


def expect_same_training(sim, data, context=qat.cached_weights, steps=2):
    """As a copy without the cache: outputs, gradients and weights."""
    plain = copy.deepcopy(sim)
    optimizers = [torch.optim.SGD(each.model.parameters(), 0.05, momentum=0.9) for each in (sim, plain)]
    with context(sim):
        got = [step(sim.model, optimizers[0], data) for _ in range(steps)]
    expected = [step(plain.model, optimizers[1], data) for _ in range(steps)]
    for (outputs, grads), (others, references) in zip(got, expected):
        for y, other in zip(outputs, others):
            same_bits(y, other)
        same_gradients(grads, references)
    same_gradients(dict(sim.model.named_parameters()), dict(plain.model.named_parameters()))


@both_autograd_paths
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_accumulated_gradients_are_the_same_bits(mode, dtype, computed):
    data = [x.to(dtype) for x in batches()]
    sim = simulated(mode, dtype=dtype)
    computed.clear()  # of calibration
    expect_same_training(sim, data)
    weights = len(parameters_of(sim))
    assert len(computed) == 2 * weights, f"{len(computed)} weights quantized, expected {weights} in each of two steps"


def _kinds():
    """Every kind of quantizer that a weight of (8, 6) has, with a range."""
    made = {
        "per tensor": QuantizeDequantize((1,), 4, True, mode="learned"),
        "asymmetric": QuantizeDequantize((8, 1), 4, False, mode="learned"),
        "fixed": QuantizeDequantize((8, 1), 4, True, mode="fixed"),
        "fixed scale": QuantizeDequantize((8, 1), 4, True, mode="fixed", parametrization="scale_zero_point"),
        "lsq": QuantizeDequantize((8, 1), 4, False, parametrization="scale_zero_point", grad_scale="lsq"),
        "off centre": QuantizeDequantize((8, 1), 0, 9, True, parametrization="scale_zero_point"),
        "blocks": QuantizeDequantize((8, 2), 4, True, block_size=(1, 3), mode="learned"),
        "blocks that interleave": QuantizeDequantize((2, 2), 4, True, block_size=(4, 3), mode="fixed"),
        "wide": QuantizeDequantize((8, 1), 26, True, mode="learned"),
        "float": FloatQuantizeDequantize(dtype="float16"),
        "scaled float": FloatQuantizeDequantize(4, 3, observer=detent.observers.MinMaxObserver((8, 1))),
        "grouped": GroupedBlockQuantizeDequantize((8, 2), 4, True, 8, block_size=(1, 3), block_grouping=(1, -1)),
    }
    for quantizer in made.values():
        if quantizer.scaled:
            quantizer.set_range(-1.1, 0.9)
    for name in ("per tensor", "blocks", "scaled float", "grouped"):
        made[f"dynamic, {name}"] = copy.deepcopy(made[name])
        made[f"dynamic, {name}"].mode = "dynamic"
    return made


@both_autograd_paths
@pytest.mark.parametrize("kind", _kinds())
def test_every_kind_of_quantizer(kind, computed):
    sim = simulated("dynamic")
    sim.model.first.param_quantizers["weight"] = _kinds()[kind]
    expect_same_training(sim, batches(2))
    same = [x for x in computed if x is sim.model.first.weight]
    assert len(same) == 3, f"{len(same)} times, expected once in calibration and once in each of two steps"


def operators(run):
    """How often each of our operators is called, by the profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    prefix = "detent::"
    return {event.key.removeprefix(prefix): event.count for event in profile.key_averages() if prefix in event.key}


@pytest.mark.parametrize("mode", ["dynamic", "learned"])
def test_weights_that_a_step_changed_are_quantized_in_one_call(mode, computed):
    """Those that were read since the step before; each of the others when it is read."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(6, 8) for _ in range(3)])

        def forward(self, x, all=True):
            y = self.layers[0](x) + self.layers[1](x)
            return y + self.layers[2](x) if all else y

    sim = simulated(mode, model=Branches(), data=torch.randn(8, 6))
    model, x = sim.model, batches(1)[0]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    kind = "dynamic" if mode == "dynamic" else "range"
    one, many = (f"fake_quantize_{kind}{part}" + ("_mask" if mode == "dynamic" else "") for part in ("", "_many"))

    def after_a_step(**options):
        model(x, **options).sum().backward()
        optimizer.step()
        computed.clear()
        with torch.no_grad():
            expected = copy.deepcopy(model)(x, **options)
        made = operators(lambda: same_bits(model(x, **options), expected))
        return made.get(one, 0), made.get(many, 0)

    with qat.cached_weights(sim):
        activations = 0 if mode == "dynamic" else after_a_step()[0]
        assert after_a_step() == (activations, 1)
        assert len(computed) == 3
        assert after_a_step(all=False)[1] == 1 and len(computed) == 3  # who could know that nobody reads the third?
        assert after_a_step(all=False)[1] == 1 and len(computed) == 2
        assert model(x).isfinite().all() and len(computed) == 3


@both_autograd_paths
@pytest.mark.parametrize("mode", ["dynamic", "learned"])
def test_weights_in_any_memory_format(mode):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.ConvTranspose2d(5, 4, 3)).to(
        memory_format=torch.channels_last
    )
    data = [torch.randn(2, 3, 6, 6) for _ in range(2)]
    expect_same_training(simulated(mode, model=net, data=data[0]), data)


def test_what_changes_is_seen(computed):
    """Whatever it is that changes, the next forward is that of a sim without the cache."""
    sim, x = simulated("dynamic"), batches(1)[0]
    layer = sim.model.first
    quantizer = layer.param_quantizers["weight"]

    def write():
        with torch.no_grad():
            layer.weight.mul_(1.5)

    changes = {
        "weight": write,
        "clip": lambda: quantizer.clip.fill_(0.5),
        "mode": lambda: setattr(quantizer, "mode", "fixed"),
        "range": lambda: quantizer.set_range(-0.5, 0.5),
        "learned": lambda: setattr(quantizer, "mode", "learned"),
        "bitwidth": lambda: setattr(quantizer, "bitwidth", 6),
        "symmetric": lambda: setattr(quantizer, "symmetric", False),
        "scale": lambda: setattr(quantizer, "parametrization", "scale_zero_point"),
        "off": lambda: setattr(quantizer, "enabled", False),
        "on": lambda: setattr(quantizer, "enabled", True),
        "frozen": lambda: layer.weight.requires_grad_(False),
        "trained": lambda: layer.weight.requires_grad_(True),
        "loaded": lambda: sim.model.load_state_dict(simulated("dynamic").model.state_dict()),
        "other data": lambda: setattr(layer.weight, "data", layer.weight.detach() + 0.1),
        "another": lambda: setattr(layer, "weight", nn.Parameter(layer.weight.detach() - 0.2)),
        "double": lambda: sim.model.double(),
    }
    with qat.cached_weights(sim):
        for name, change in changes.items():
            change()
            x = x.to(layer.weight.dtype)
            for grad in (False, True, True):
                with torch.set_grad_enabled(grad):
                    got = sim.model(x)
                    same_bits(got, copy.deepcopy(sim.model)(x), change=name)
    assert len([1 for x in computed if x.shape == layer.weight.shape]) > len(changes) // 2


def test_without_gradients_it_is_the_very_tensor_and_a_write_into_it_is_seen():
    sim = simulated("dynamic")
    quantizer, weight = parameters_of(sim)[0]
    with qat.cached_weights(sim), torch.no_grad():
        first = quantizer(weight)
        assert quantizer(weight) is first
        expected = first.clone()
        first.zero_()
        same_bits(quantizer(weight), expected)
        weight.requires_grad_(False)
        with torch.enable_grad():
            assert quantizer(weight) is quantizer(weight) and not quantizer(weight).requires_grad


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_leaving_frees_everything(error):
    sim = simulated("learned")
    x, kept = batches(1)[0], []
    with contextlib.suppress(KeyboardInterrupt), qat.cached_weights(sim):
        sim.model(x).sum().backward()
        for quantizer, weight in parameters_of(sim):
            held = quantizer._kept_weights
            kept += [weakref.ref(held), weakref.ref(quantizer(weight))]
        kept += [weakref.ref(entry.y) for entry in held._kept.values()]
        del held, quantizer, weight
        if error is not None:
            raise error
    gc.collect()
    assert len(kept) > 8 and not any(reference() for reference in kept)
    assert all(quantizer._kept_weights is None for quantizer in sim.quantizers())


def test_blocks_inside_one_another_are_one(computed):
    sim, x = simulated("dynamic"), batches(1)[0]
    computed.clear()
    with qat.cached_weights(sim):
        with qat.cached_weights(sim):
            sim.model(x)
        sim.model(x)
    assert len(computed) == len(parameters_of(sim))


def test_evaluation_under_inference_mode_serves_training_too(computed):
    sim, x = simulated("learned"), batches(1)[0]
    sim.model.eval()
    expected = sim.model(x)
    computed.clear()
    with qat.cached_weights(sim):
        with torch.inference_mode():
            same_bits(sim.model(x), expected)
        sim.model(x).sum().backward()
    assert len(computed) == len(parameters_of(sim))


def test_parameters_made_under_inference_mode_have_no_versions(computed):
    with torch.inference_mode():
        sim = simulated("dynamic")
        with qat.cached_weights(sim):
            first = sim.model(batches(1)[0])
            for weight in sim.model.parameters():
                weight.mul_(2)
            assert not torch.equal(sim.model(batches(1)[0]), first)
    assert not computed


def test_copies_and_pickles_have_no_cache():
    sim, x = simulated("dynamic"), batches(1)[0]
    with qat.cached_weights(sim):
        expected = sim.model(x)
        for made in (copy.deepcopy(sim.model), pickle.loads(pickle.dumps(sim.model))):
            assert all(quantizer._kept_weights is None for _, quantizer, _ in _slots(made))
            same_bits(made(x), expected)


def _slots(model):
    return [(owner, quantizer, name) for quantizer, owner, name in detent.nn.base.parameters_of(model)]


@pytest.mark.parametrize("mode", ["dynamic", "learned"])
def test_threads_share_it(mode, computed):
    sim, data = simulated(mode), batches(4)
    model = sim.model.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]

    def run(x):
        return torch.autograd.grad(model(x).square().sum(), parameters)

    expected = [run(x) for x in data]
    computed.clear()
    with qat.cached_weights(sim):
        got = in_threads([lambda x=x: run(x) for x in data])
    for left, right in zip(got, expected):
        for one, other in zip(left, right):
            same_bits(one, other)
    assert len(computed) == len(parameters_of(sim))


def test_replicas_of_data_parallel_quantize_their_own(monkeypatch, computed):
    sim, x = simulated("learned"), batches(1)[0]
    model = sim.model.eval()
    expected = model(x)
    computed.clear()
    with qat.cached_weights(sim):
        for made in replicas(model, 2, monkeypatch):
            same_bits(made(x), expected)
        assert not computed
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.25)
        (made,) = replicas(model, 1, monkeypatch)
        same_bits(made(x), copy.deepcopy(model)(x))
    sim.model = DataParallel(sim.model)
    with qat.cached_weights(sim):
        same_bits(sim.model(x), sim.model.module(x))


@both_autograd_paths
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("mode", ["dynamic", "learned"])
def test_activation_checkpointing(mode, reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = Residual(), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(checkpoint(self.body, x, use_reentrant=reentrant))

    data = [x.requires_grad_() for x in batches()]
    expect_same_training(simulated(mode, model=Checkpointed(), data=torch.randn(32, 6)), data)


def test_saved_tensors_may_be_compressed():
    sim = simulated("dynamic")
    qat.compress_saved_tensors(sim)
    expect_same_training(sim, batches())


def test_hooks_on_quantizers_see_every_call():
    sim, seen = simulated("learned"), []
    quantizer, weight = parameters_of(sim)[0]
    handles = [
        quantizer.register_forward_hook(lambda module, inputs, y: seen.append("forward")),
        quantizer.register_full_backward_hook(lambda module, grads, of: seen.append("backward")),
        weight.register_hook(lambda grad: seen.append("gradient")),
    ]
    with qat.cached_weights(sim), qat.nan_guard(sim):
        for x in batches(2):
            sim.model(x).sum().backward()
    assert seen == ["forward", "backward", "gradient"] * 2
    for handle in handles:
        handle.remove()


def test_a_write_between_forward_and_backward_is_an_error_as_without():
    sim = simulated("learned")
    with qat.cached_weights(sim):
        sim.model(batches(1)[0])
        loss = sim.model(batches(1)[0]).sum()
        with torch.no_grad():
            sim.model.first.weight.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_tied_weights_and_layers_that_run_twice(computed):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.layer = Tied(), nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(torch.relu(self.layer(self.pair(x))))

    data = batches(2, features=4)
    sim = simulated("learned", model=Twice(), data=data[0])
    computed.clear()
    expect_same_training(sim, data, steps=1)
    assert len(computed) == 2


def test_parameters_of_others_are_not_served(computed):
    """Those of ``functional_call``, and weights that a parametrization computes."""
    net = Residual()
    nn.utils.parametrizations.weight_norm(net.head)
    sim = simulated("dynamic", model=net)
    x = batches(1)[0]
    model = sim.model.eval()
    others = {name: (2 * p).detach() for name, p in model.named_parameters()}
    expected = torch.func.functional_call(model, others, (x,))
    with qat.cached_weights(sim):
        model(x)
        kept = len(computed)
        same_bits(torch.func.functional_call(model, others, (x,)), expected)
        model(x)
    assert len(computed) == kept
    assert not any(weight is model.head.weight for weight in computed)


def test_dispatch_modes_and_traces_see_the_operators():
    class Seen(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    sim, x = simulated("dynamic"), batches(1)[0]
    model = sim.model.eval()
    with qat.cached_weights(sim), torch.no_grad():
        expected = model(x)
        with Seen() as seen:
            same_bits(model(x), expected)
        assert seen.names.count("detent::fake_quantize_dynamic") == len(parameters_of(sim))
        traced = torch.jit.trace(model, x, check_trace=False)
        assert str(traced.inlined_graph).count("fake_quantize_dynamic") == len(parameters_of(sim))


def test_compiled_models_quantize_each_time():
    x = torch.randn(3, 4)
    sim = simulated("learned", model=nn.Linear(4, 2), data=x)
    compiled = torch.compile(sim.model, fullgraph=True, backend="eager")
    with qat.cached_weights(sim):
        same_bits(compiled(x), sim.model(x))
        with torch.no_grad():
            sim.model.weight.mul_(1.5)
        y = compiled(x)
        y.sum().backward()
        same_bits(y, copy.deepcopy(sim.model)(x))


def test_calibration_quantizes_each_weight_once_unless_they_take_too_much(computed, monkeypatch):
    sim = simulated("dynamic")
    other = copy.deepcopy(sim)
    computed.clear()
    sim.compute_encodings(lambda model: [model(x) for x in batches(4)])
    assert len(computed) == len(parameters_of(sim))
    monkeypatch.setattr("detent.calibration._MOST_KEPT_BYTES", 300)  # of 480
    other.compute_encodings(lambda model: [model(x) for x in batches(4)])
    assert len(computed) == len(parameters_of(sim))
    for (name, got), expected in zip(sim.model.state_dict().items(), other.model.state_dict().values()):
        same_bits(got, expected, name=name)


def test_what_is_not_a_quantized_model_is_refused():
    with (
        pytest.raises(ValueError, match="cached_weights: the Linear holds no quantizers"),
        qat.cached_weights(nn.Linear(2, 2)),
    ):
        pass
    with pytest.raises(TypeError, match="got a int, expected"), qat.cached_weights(3):
        pass
