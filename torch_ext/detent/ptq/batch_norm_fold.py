"""Batch norms folded into the convolution or linear layer beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from .._running import call_with_sample, without_trace
from ..nn import QuantizedModule
from ..quantizers import Quantizer
from ._dataflow import Call, Dataflow

__all__ = ["fold_all_batch_norms"]

_STOCK_CONVS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
)  # fmt: skip
_STOCK_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook",
)  # fmt: skip


def fold_all_batch_norms(
    model: nn.Module,
    input_shapes: Sequence[int] | Sequence[Sequence[int]] | None = None,
    dummy_input: Any = None,
) -> list[tuple[nn.Module, nn.Module]]:
    """Fold every batch norm that can be into the layer beside it, in place; the model in eval mode computes the same.

    A batch norm right after a convolution (transposed and grouped ones too) or a linear layer is multiplied into it,
    and so is one right before, unless that layer is transposed or pads with zeros, where it would not be exact. The
    batch norm becomes an ``nn.Identity`` of the same name, with its hooks; the layer gets a bias if it had none.
    Weights are changed in their memory, so an optimizer still holds them, but not the new biases: build it afterwards.

    Left alone: a batch norm with batch statistics, one whose neighbour's output is also read or changed by another
    operator, hook or the caller, and layers that are used twice or share a parameter. The model is run twice, in eval
    mode; random state, buffers and training flags are left as they were.

    Args:
        model: Float, on any device. Of a DataParallel or DistributedDataParallel the module inside is folded; wrap that
            anew for training.
        input_shapes: Shape of the input, or a list of shapes, from which random inputs are made.
        dummy_input: A sample input instead: a tensor, a tuple or list of arguments, or a mapping of keyword arguments.
    Returns:
        ``(layer, batch norm)`` of each fold, in the order they ran; the batch norm is as it was.
    Raises:
        RuntimeError: The model is quantized, or its code needs a batch norm that would go away.
        ValueError: There is no sample, or a folded weight does not fit its type. Nothing has changed after an error.
    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
        >>> pairs = fold_all_batch_norms(model, (1, 3, 8, 8))
        >>> [(type(layer).__name__, type(norm).__name__) for layer, norm in pairs]
        [('Conv2d', 'BatchNorm2d')]
        >>> model[1]
        Identity()
    """
    model = _unwrapped(model)
    _check_float(model)
    with without_trace(model):
        sample = _sample(model, input_shapes, dummy_input)
    with without_trace(model):
        folds = _find(model, Dataflow(model, sample))
    while folds:
        swap = _Swap(model, folds)
        swap.apply()
        try:
            still = swap.still_running(sample)
        except BaseException as error:
            swap.undo()
            if not isinstance(error, Exception):
                raise
            raise RuntimeError(
                f"fold_all_batch_norms: the model fails without {', '.join(swap.names()[:5])}: {error}. Expected code "
                "that only calls its batch norms. Change forward() so that it reads no attribute of theirs."
            ) from error
        if not still:
            break
        swap.undo()
        folds = [fold for fold in folds if fold.norm not in still]
    return [(fold.layer, fold.norm) for fold in folds]


def _unwrapped(model: nn.Module) -> nn.Module:
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    if type(model).__name__ == "OptimizedModule":  # torch.compile's
        model = model._orig_mod
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"fold_all_batch_norms: model is a {type(model).__name__}, expected a torch.nn.Module that runs in Python. "
            "Fold the original model, then script or trace it."
        )
    return model


def _check_float(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, (QuantizedModule, Quantizer)):
            raise RuntimeError(
                f"fold_all_batch_norms: the model is quantized ({name or 'the model'} is a {type(module).__name__}), "
                "expected a float model. Fold first, then build the QuantizationSimModel."
            )


def _sample(model: nn.Module, shapes: Any, dummy_input: Any) -> Any:
    if dummy_input is not None:
        return dummy_input
    if shapes is None:
        raise ValueError(
            "fold_all_batch_norms: neither input_shapes nor dummy_input was given, expected one of them. Pass a "
            "sample input, or its shape."
        )
    try:
        one = all(isinstance(size, int) for size in shapes)
        sizes = [torch.Size(shape) for shape in ([shapes] if one else shapes)]
        if not sizes or any(size < 0 for shape in sizes for size in shape):
            raise TypeError
    except TypeError:
        raise ValueError(
            f"fold_all_batch_norms: input_shapes is {shapes!r}, expected a shape such as (1, 3, 224, 224) or a list of "
            "shapes. Pass dummy_input for any other input."
        ) from None
    floats = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    options = {"dtype": floats[0].dtype, "device": floats[0].device} if floats else {}
    return tuple(torch.rand(shape, **options) for shape in sizes)


# --- finding ----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Fold:
    layer: nn.Module
    norm: nn.Module
    call: Call  # of the layer
    norm_call: Call
    after: bool  # whether the norm runs after the layer


def _find(model: nn.Module, flow: Dataflow) -> list[_Fold]:
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((module, name))
    layers = {}
    for call in flow.calls:
        layer = _layer_of(call, owners, flow)
        if layer is not None:
            layers[call] = layer
    folds = []
    for call in flow.calls:
        if not _norm_is_foldable(call, flow):
            continue
        before, behind = call.producer, call.readers[0] if len(call.readers) == 1 else None
        if before in layers and before.readers == [call] and _batched(layers[before], before.output_dim):
            folds.append(_Fold(layers[before], call.norm, before, call, after=True))
        elif (
            behind in layers
            and behind.producer is call
            and not behind.transposed
            and not behind.padded()
            and _batched(layers[behind], behind.input_dim)
        ):
            folds.append(_Fold(layers[behind], call.norm, behind, call, after=False))
    return folds


def _layer_of(call: Call, owners: dict, flow: Dataflow) -> nn.Module | None:
    """The layer whose own parameters ``call`` took, if they may change: they are nobody else's, and read here alone."""
    weight, bias = call.given["weight"], call.given.get("bias")
    owned = owners.get(id(weight), [])
    if call.norm is not None or len(owned) != 1 or not weight.is_floating_point():
        return None
    layer, name = owned[0]
    if name != "weight" or not isinstance(layer, (_ConvNd, nn.Linear)) or bias is not layer._parameters.get("bias"):
        return None
    if flow.readers_of(weight) != [call]:
        return None
    if bias is None:  # only torch's own forward is known to use one that is added
        return layer if _is_stock(layer, _STOCK_CONVS, "forward", "_conv_forward") else None
    return layer if len(owners[id(bias)]) == 1 and flow.readers_of(bias) == [call] else None


def _norm_is_foldable(call: Call, flow: Dataflow) -> bool:
    norm = call.norm
    if norm is None or call.given.get("training") or not _is_stock(norm, _STOCK_NORMS, "forward"):
        return False
    tensors = [norm.running_mean, norm.running_var, *norm._parameters.values()]
    if norm.running_mean is None or norm.running_var is None or "weight" not in norm._parameters:
        return False
    return all(flow.readers_of(tensor) == [call] for tensor in tensors if tensor is not None)


def _is_stock(module: nn.Module, stock: tuple[type, ...], *methods: str) -> bool:
    """Whether ``module`` runs torch's own code."""
    known = next((cls for cls in stock if isinstance(module, cls)), None)
    return known is not None and all(
        getattr(type(module), method, None) is getattr(known, method, None) and method not in module.__dict__
        for method in methods
    )


def _batched(layer: nn.Module, dim: int) -> bool:
    """Whether dimension 1, which a batch norm takes for channels, holds those of ``layer``."""
    return dim == (2 if isinstance(layer, nn.Linear) else layer.weight.dim())


# --- folding ----------------------------------------------------------------------------------------------------------


def _factor_and_shift(call: Call, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The batch norm as ``y = factor * x + shift``, a value a channel (Ioffe 2015, alg. 2 with fixed statistics)."""
    mean, var = (call.given[name].to(dtype) for name in ("running_mean", "running_var"))
    gamma, beta = call.given.get("weight"), call.given.get("bias")
    factor = torch.rsqrt(var + call.given.get("eps", 1e-5))
    if gamma is not None:
        factor = factor * gamma.to(dtype)
    shift = -mean * factor
    return factor, shift if beta is None else shift + beta.to(dtype)


def _fold_after(weight: Tensor, bias: Tensor, factor: Tensor, shift: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    if call.transposed:  # [in, out / groups, ...]: the channels of a group go with the rows of that group
        groups = call.given.get("groups", 1)
        rows = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        per_row = factor.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
        return (rows * per_row).reshape(weight.shape), bias * factor + shift
    return weight * factor.reshape(-1, *[1] * (weight.dim() - 1)), bias * factor + shift


def _fold_before(weight: Tensor, bias: Tensor, factor: Tensor, shift: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    groups = call.given.get("groups", 1)
    rows = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    factor, shift = (part.reshape(groups, 1, -1, *[1] * (weight.dim() - 2)) for part in (factor, shift))
    added = (rows * shift).flatten(2).sum(2).reshape(-1)
    return (rows * factor).reshape(weight.shape), bias + added


class _Swap:
    """Every change of a set of folds, computed before the first is made."""

    def __init__(self, model: nn.Module, folds: list[_Fold]):
        self._model = model
        self._folds = folds
        self._names = {module: name for name, module in model.named_modules()}
        self._new = self._computed()
        self._old: list[tuple[nn.Module, Tensor, Tensor | None]] = []
        norms = {fold.norm for fold in folds}
        self._places = [
            (parent, name, child)
            for parent in model.modules()
            for name, child in parent._modules.items()
            if child in norms
        ]

    def names(self) -> list[str]:
        return [self._names[fold.norm] for fold in self._folds]

    @torch.no_grad()
    def _computed(self) -> dict[nn.Module, tuple[Tensor, Tensor]]:
        new: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        for fold in self._folds:  # a layer may have one batch norm on either side
            call, stored = fold.call, fold.layer.weight
            dtype = torch.float32 if stored.device.type == "mps" else torch.float64
            factor, shift = _factor_and_shift(fold.norm_call, dtype)
            if fold.layer in new:
                weight, bias = new[fold.layer]
            else:
                weight, bias = stored.to(dtype), call.given.get("bias")
                channels = call.given.get("groups", 1) * weight.shape[1] if call.transposed else weight.shape[0]
                bias = weight.new_zeros(channels) if bias is None else bias.to(dtype)
            new[fold.layer] = (_fold_after if fold.after else _fold_before)(weight, bias, factor, shift, call)
        for layer, parts in new.items():
            new[layer] = tuple(part.to(layer.weight.dtype) for part in parts)
            if not all(bool(part.isfinite().all()) for part in new[layer]):
                raise ValueError(
                    f"fold_all_batch_norms: {self._names[layer]} with its batch norm folded holds values that are not "
                    f"finite in {layer.weight.dtype}, expected finite ones. Look for NaN or a variance of 0 in the "
                    "batch norm; where the type is too narrow, fold in float32 and convert afterwards."
                )
        return new

    @torch.no_grad()
    def apply(self) -> None:
        try:
            for layer, (weight, bias) in self._new.items():
                before = None if layer.bias is None else layer.bias.detach().clone()
                self._old.append((layer, layer.weight.detach().clone(), before))
                layer.weight.copy_(weight)
                if before is None:
                    layer.bias = nn.Parameter(bias, requires_grad=layer.weight.requires_grad)
                else:
                    layer.bias.copy_(bias)
            identities = {fold.norm: _identity(fold.norm) for fold in self._folds}
            for parent, name, norm in self._places:
                parent._modules[name] = identities[norm]
        except BaseException:
            self.undo()
            raise

    @torch.no_grad()
    def undo(self) -> None:
        for parent, name, norm in self._places:
            parent._modules[name] = norm
        for layer, weight, bias in reversed(self._old):
            if not torch.equal(layer.weight, weight):
                layer.weight.copy_(weight)
            if bias is None:
                layer.bias = None
            else:
                layer.bias.copy_(bias)
        self._old.clear()

    def still_running(self, sample: Any) -> set[nn.Module]:
        """Batch norms that the model reaches outside its module tree: from a list, a closure."""
        ran: set[nn.Module] = set()
        norms = {fold.norm for fold in self._folds}

        def note(module, _):
            if module in norms:  # the identity has the same hooks
                ran.add(module)

        training = [(norm, norm.training) for norm in norms]
        hooks = [norm.register_forward_pre_hook(note) for norm in norms]
        try:
            for norm in norms:
                norm.eval()
            with without_trace(self._model):
                call_with_sample(self._model, sample)
        finally:
            for hook in hooks:
                hook.remove()
            for norm, flag in training:
                norm.training = flag
        return ran


def _identity(norm: _BatchNorm) -> nn.Identity:
    identity = nn.Identity()
    identity.training = norm.training
    for name in _HOOKS:  # the same dictionaries, so that handles still remove them
        if name in norm.__dict__:
            identity.__dict__[name] = norm.__dict__[name]
    return identity
