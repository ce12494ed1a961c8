"""What the coverage script asks of a model: a sim that is the float model while it is off, and that trains when on."""

from __future__ import annotations

import contextlib
import copy
import io
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detent import QuantizationSimModel, quantization_disabled
from detent.quantizers import Quantizer
from grids import inputs_off_grid
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from zoo import Case

_SCHEME = "training_range_learning_with_tf_init"


class _Stages:
    """Failures by the stage they happened in; a stage that raises does not end the others."""

    def __init__(self):
        self.failures: list[str] = []
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Callable[[str], None]]:
        begin = time.perf_counter()
        try:
            yield lambda text: self.failures.append(f"{name}: {text}")
        except Exception as error:  # noqa: BLE001 - whatever a model raises is a line of the table
            self.failures.append(f"{name}: {type(error).__name__}: {_first_line(error)}")
        self.seconds[name] = round(time.perf_counter() - begin, 3)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def run(model: nn.Module, sample: Any, seed: int = 0) -> Any:
    """``model`` on a sample as the sim takes it, dropout and the like seeded."""
    torch.manual_seed(seed)
    sample = copy.deepcopy(sample)  # some models write into their input
    if isinstance(sample, dict):
        return model(**sample)
    return model(*sample) if isinstance(sample, (tuple, list)) else model(sample)


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def _floats(output: Any) -> list[Tensor]:
    return [tensor for tensor in _tensors(output) if tensor.is_floating_point() or tensor.is_complex()]


def same_bits(a: Any, b: Any) -> bool:
    """Equal tensors of equal type and shape, NaN equal to NaN."""
    a, b = _tensors(a), _tensors(b)
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and torch.equal(torch.nan_to_num(x), torch.nan_to_num(y))
        and torch.equal(x.isnan(), y.isnan())
        for x, y in zip(a, b)
    )  # fmt: skip


def loss(output: Any) -> Tensor:
    """A number that every float of the output has a part in."""
    parts = [tensor for tensor in _floats(output) if tensor.requires_grad and tensor.numel()]
    return sum(tensor.abs().double().square().mean() for tensor in parts)


def _finite(output: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in _floats(output))


@torch.no_grad()
def _shake(model: nn.Module) -> None:
    """Random weights where a library starts with zeros or ones, so that every branch has its say."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)


def _settle(model: nn.Module, sample: Any) -> None:
    """Statistics of batch norms from a batch, without which a deep model with random weights overflows."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            run(model.train(), sample)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    model.eval()


def check(case: Case) -> dict[str, Any]:
    """One row of the table; ``failures`` is empty where all is well."""
    stages = _Stages()
    row: dict[str, Any] = {"library": case.library, "kind": case.kind, "name": case.name}
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    with stages.stage("float model"):
        model = case.build().eval()
        _shake(model)
        samples = [case.sample(2) for _ in range(3)]
        _settle(model, samples[0])
        with torch.no_grad():
            expected = run(model, samples[0])
        before = copy.deepcopy(model.state_dict())
        row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    if not stages.failures:
        with stages.stage("build"):
            sim = QuantizationSimModel(model, samples[0], _SCHEME)
            row["quantizers"] = sum(1 for _ in sim.quantizers())
            row["unknown"] = sorted(set().union(*sim._graph.unknown.values()))
        if not stages.failures:
            _check_sim(stages, row, model, sim, samples, expected, before)
    row["seconds"] = stages.seconds
    row["failures"] = stages.failures
    return row


def _check_sim(stages: _Stages, row: dict, model: nn.Module, sim, samples: list, expected: Any, before: dict) -> None:
    with stages.stage("off") as fail, quantization_disabled(sim.model), torch.no_grad():
        if not same_bits(run(sim.model, samples[0]), expected):
            fail("the output is not the float model's, bit for bit")
        if not same_bits(list(before.values()), list(model.state_dict().values())):
            fail("the float model was changed")
    with stages.stage("calibration"):
        sim.compute_encodings(lambda m: [run(m, sample, seed) for seed, sample in enumerate(samples[:2])])
    with stages.stage("forward") as fail, torch.no_grad():
        output = run(sim.model, samples[0])
        if _finite(expected) and not _finite(output):
            fail("infinities or NaN where the float model has none")
        if same_bits(output, expected):
            fail("the output is the float model's: nothing was quantized")
    with stages.stage("round trip") as fail:
        _check_round_trip(fail, model, sim, samples)
    with stages.stage("training step") as fail:
        row.update(_check_training_step(fail, model, sim, samples[2]))
    with stages.stage("grids") as fail, torch.no_grad():
        sim.model.eval()
        calls = [lambda sample=sample: run(sim.model, sample) for sample in samples[:2]]
        off, seen = inputs_off_grid(sim.model, *calls)
        row.update(products=seen, off_grid=len(off))
        if off:
            fail(f"{len(off)} inputs are on no grid: {', '.join(off[:4])}")


def _check_round_trip(fail, model: nn.Module, sim: QuantizationSimModel, samples: list) -> None:
    file = io.BytesIO()
    torch.save(sim.model.state_dict(), file)
    file.seek(0)
    fresh = QuantizationSimModel(model, samples[0], _SCHEME)
    fresh.model.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        output = run(sim.model, samples[1])
        if not same_bits(run(fresh.model, samples[1]), output):
            fail("a fresh sim with the loaded state gives other bits")
        if not same_bits(run(copy.deepcopy(sim.model), samples[1]), output):
            fail("a deepcopy gives other bits")


def _check_training_step(fail, model: nn.Module, sim: QuantizationSimModel, sample: Any) -> dict[str, int]:
    """A gradient in every learned range that the loss depends on, and in every parameter the float model trains."""
    floats = copy.deepcopy(model).train()
    loss(run(floats, sample)).backward()
    grads = {name: parameter.grad for name, parameter in floats.named_parameters() if parameter.grad is not None}
    trained = {name: bool(grad.isfinite().all()) for name, grad in grads.items()}
    del floats, grads
    made: dict[str, list[Tensor]] = {}
    handles = []
    names = {quantizer: name for name, quantizer in sim.named_quantizers()}

    def keep(quantizer: Quantizer, inputs, output) -> None:
        if output.requires_grad and output is not inputs[0]:
            output.retain_grad()
            made.setdefault(names[quantizer], []).append(output)

    sim.model.train()
    for quantizer in names:
        handles.append(quantizer.register_forward_hook(keep))
    try:
        loss(run(sim.model, sample)).backward()
    finally:
        for handle in handles:
            handle.remove()
    used = {name for name, outputs in made.items() if any(output.grad is not None for output in outputs)}
    learned = {name: quantizer for name, quantizer in sim.named_quantizers() if quantizer.mode == "learned"}
    without = [name for name in used & learned.keys() if any(p.grad is None for p in learned[name].parameters())]
    grads = {name: parameter.grad for name, parameter in sim.model.named_parameters()}
    lost = [name for name in trained if grads[name] is None]
    infinite = [name for name, grad in grads.items() if grad is not None and not grad.isfinite().all()]
    if without:
        fail(f"{len(without)} learned ranges that were used have no gradient: {', '.join(sorted(without)[:3])}")
    if lost:
        fail(f"{len(lost)} parameters that the float model trains have no gradient: {', '.join(lost[:3])}")
    if infinite and all(trained.values()):
        fail(f"{len(infinite)} gradients hold infinities or NaN: {', '.join(infinite[:3])}")
    if not used:
        fail("no quantizer was used")
    torch.optim.Adam(sim.model.parameters(), lr=1e-5).step()
    captures = [module._detent for module in sim.model.modules() if hasattr(module, "_detent")]
    return {"used": len(used), "late": sum(len(capture.late) for capture in captures)}
