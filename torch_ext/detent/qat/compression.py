"""Keeping less for backward: what layers save of a quantized tensor is codes, or is computed again."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ..distributed import unwrap
from ..quantizers import AffineQuantizer, QuantizeDequantize, Quantizer
from ..quantizers.grid import PARAMETERS
from ._quantizers import model_of, named_quantizers

if TYPE_CHECKING:
    from ..quantsim import QuantizationSimModel

__all__ = ["compress_saved_tensors"]

_ops = torch.ops.detent


def compress_saved_tensors(sim: QuantizationSimModel | nn.Module, compress: bool = True) -> None:
    """Save less for backward: not the values of a quantized tensor, but what gives them again, bit for bit.

    A layer saves its quantized input and weight for backward. With this switched on, what is kept instead is

    - nothing, and the quantizer runs once more in backward, where its own input is kept anyway: by a learned range, as
      a parameter, or by the function that made it (relu, sigmoid, softmax, ...);
    - else the integer codes of a fixed range, a quarter of the bytes of float32 at 8 bits;
    - else the values, as without.

    Outputs and gradients have the same bits, with one exception: codes hold no NaN, so where a tensor has one, its
    layer sees NaN throughout in backward. The report :func:`saved_bytes`, before and after, says what it brings.

    It works on what the forward of the sim's model runs eagerly; ``torch.compile`` chooses itself what it saves, and
    ``torch.utils.checkpoint`` keeps nothing of what it runs again. Under autocast a tensor that torch casts before it
    is saved stays as it is. ``torch.cuda.make_graphed_callables`` takes no module that has hooks, as one has here.

    Args:
        sim: A sim, or a module that contains its model. Copies and pickles stay switched; a state_dict does not say it.
        compress: ``False`` undoes it.
    Raises:
        ValueError: There are no quantizers.
    Example:
        >>> model = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 4))
        >>> sim = detent.QuantizationSimModel(model, torch.randn(1, 16))
        >>> sim.compute_encodings(lambda model: model(torch.randn(8, 16)))
        >>> before = detent.qat.saved_bytes(sim, torch.randn(1024, 16))
        >>> compress_saved_tensors(sim)
        >>> after = detent.qat.saved_bytes(sim, torch.randn(1024, 16))
        >>> before.ratio > 1, after.ratio < 1
        (True, True)
    """
    owner = "compress_saved_tensors"
    quantizers = named_quantizers(owner, sim)
    root = unwrap(model_of(owner, sim))
    unhook(root)
    if compress:
        root.register_forward_pre_hook(_begin)
        root.register_forward_hook(_end, always_call=True)
    for _, quantizer in quantizers:
        quantizer._told = _note if compress else None


def unhook(root: nn.Module) -> None:
    """Take from a model what :func:`compress_saved_tensors` put there beside what its quantizers know."""
    for hooks in (root._forward_pre_hooks, root._forward_hooks):
        for key in [key for key, hook in hooks.items() if hook in (_begin, _end)]:
            del hooks[key]
            root._forward_hooks_always_called.pop(key, None)


# --- hooks: functions of this module, so that copies and pickles keep them --------------------------------------------


class _Running(threading.local):
    """The forward that this thread runs with compression, if any."""

    root: nn.Module | None = None
    saver: _Saver | None = None


_running = _Running()


def _begin(root: nn.Module, _inputs: tuple) -> None:
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not torch.is_grad_enabled():
        return
    if not torch._C._autograd._saved_tensors_hooks_is_enabled():  # under torch.func
        return
    if _running.root is root:  # left over by an interrupt
        _end(root)
    if _running.root is None:
        _running.root, _running.saver = root, _Saver(torch._C._autograd._top_saved_tensors_default_hooks(True))
        torch._C._autograd._push_saved_tensors_default_hooks(_running.saver.pack, _restore)


def _end(root: nn.Module, *_: Any) -> None:
    if torch.compiler.is_compiling():
        return
    if _running.root is root:
        torch._C._autograd._pop_saved_tensors_default_hooks()
        _running.saver.clear()
        _running.root = _running.saver = None


def _note(quantizer: Quantizer, x: Tensor | None, y: Tensor, *activation: float | None) -> None:
    if torch.compiler.is_compiling():
        return
    saver = _running.saver
    if saver is not None and torch.is_grad_enabled():
        saver.note(quantizer, x, y, activation)


# --- what is kept, and how it becomes the tensor that was saved -------------------------------------------------------


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Nothing here has a gradient, or is a call of the model's, in whose forward this may be."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        yield


class _Packed(Protocol):
    def restore(self) -> Tensor: ...


def _restore(packed: _Packed) -> Tensor:
    return packed.restore()


class _AsItIs:
    """The tensor; torch checks no versions where there are hooks, so it is done here."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor.detach()  # the tensor itself would hold the graph that holds it
        self.version = tensor._version

    def restore(self) -> Tensor:
        if self.tensor._version != self.version:
            raise RuntimeError(
                f"a tensor of shape {tuple(self.tensor.shape)} that is needed for backward has been modified in place: "
                f"it is at version {self.tensor._version}, expected {self.version}. Look for the in-place operation "
                "(torch.autograd.set_detect_anomaly says where the gradient is computed), or step the optimizer after "
                "backward."
            )
        return self.tensor


class _ByOthers:
    """What the hooks that were on outside made of it: a report, ``save_on_cpu``, a checkpoint."""

    def __init__(self, tensor: Tensor, pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]):
        self.packed, self.unpack = pack(tensor), unpack

    def restore(self) -> Tensor:
        return self.unpack(self.packed)


class _Recomputed:
    """The input of the quantizer, which is kept anyway."""

    def __init__(self, quantizer: Quantizer, x: _Packed, activation: tuple):
        self.quantizer, self.x, self.activation = quantizer, x, activation

    def restore(self) -> Tensor:
        x = self.x.restore()
        with _apart():
            return self.quantizer._forward(x, *self.activation)


class _Codes:
    """Integer codes, and scale and zero point as they are now.

    NaN has no code, and a ``moved`` tensor is on the grid only if nothing was written into it: the scale becomes NaN
    then, so that backward sees NaN and not something else. Nobody waits for the device to know.
    """

    def __init__(self, quantizer: QuantizeDequantize, y: Tensor, dtype: torch.dtype, moved: bool, saver: _Saver):
        grid, layout = quantizer._grid, quantizer._layout
        self.dtype, self.where = y.dtype, (quantizer._axis, layout.blocks_for(type(quantizer).__name__, y))
        with _apart():
            scale, self.point = (layout.on(y, tensor) for tensor in quantizer._affine())
            codes = _ops.quantize(y, scale, self.point, grid.qmin, grid.qmax, dtype, *self.where)
            if moved:
                error = torch.aminmax(_ops.dequantize(codes, scale, self.point, y.dtype, *self.where).sub_(y))
                self.scale = torch.where((error.min == 0) & (error.max == 0), scale, float("nan"))
            else:
                self.scale = scale + y.amax() * 0
        self.codes = saver.keep(codes)

    def restore(self) -> Tensor:
        codes = self.codes.restore()
        with _apart():
            return _ops.dequantize(codes, self.scale, self.point, self.dtype, *self.where)


def _codes(quantizer: Quantizer, y: Tensor, moved: bool, saver: _Saver) -> _Codes | None:
    """``None`` where codes are no smaller than ``y``, or would not give back its bits."""
    if not isinstance(quantizer, QuantizeDequantize) or quantizer._dynamic or y.dtype == torch.float64 or not y.numel():
        return None
    grid = quantizer._grid
    for dtype in (torch.uint8, torch.int8, torch.int16):
        ends = torch.iinfo(dtype)
        if dtype.itemsize < y.dtype.itemsize and ends.min <= grid.qmin and grid.qmax <= ends.max:
            return _Codes(quantizer, y, dtype, moved, saver)
    return None


class _Quantized:
    """A storage with values of a quantizer's, until somebody saves it.

    ``y``: what the quantizer made, or, ``moved``, all of a storage to which its values were copied. ``x``: the
    quantizer's input if it is kept anyway.
    """

    def __init__(self, quantizer: Quantizer, y: Tensor, x: Tensor | None = None, activation=(), moved: bool = False):
        self.storage = StorageWeakRef(y.untyped_storage())  # keeps its address from being given to another
        self.quantizer, self.activation, self.moved = quantizer, activation, moved
        self.x = None if x is None else (x.detach(), x._version)
        self.like = y.dtype, y.shape, y.stride()
        self.version = y._version
        self.packed: _Packed | None = None

    def pack(self, tensor: Tensor, saver: _Saver) -> _Packed | None:
        """For the tensor or a view of it; ``None``: it has to be kept as it is."""
        if tensor._version != self.version or tensor.dtype != self.like[0]:
            return None
        if self.packed is None:
            self.packed = self._pack(tensor, saver)
        return self.packed and _View(self.packed, self.like[1:], tensor)

    def _pack(self, tensor: Tensor, saver: _Saver) -> _Packed | None:
        if self.x is not None:
            x, version = self.x
            if x._version != version:
                return None
            return _Recomputed(self.quantizer, saver.pack(x), self.activation)
        return _codes(self.quantizer, tensor.detach().as_strided(*self.like[1:], 0), self.moved, saver)


class _View:
    """What was saved of a tensor that is restored: all of it, or a view."""

    def __init__(self, packed: _Packed, whole: tuple[torch.Size, tuple[int, ...]], tensor: Tensor):
        self.packed, self.whole = packed, whole
        self.view = tensor.shape, tensor.stride(), tensor.storage_offset()

    def restore(self) -> Tensor:
        y, (size, stride) = self.packed.restore(), self.whole
        if y.stride() != stride:  # hooks outside may lay out anew what they keep
            y = torch.empty_strided(size, stride, dtype=y.dtype, device=y.device).copy_(y)
        return y if self.view == (size, stride, 0) else y.as_strided(*self.view)


def _kept_anyway(quantizer: Quantizer, x: Tensor) -> bool:
    if isinstance(x, nn.Parameter) or hasattr(type(x.grad_fn), "_saved_result"):
        return True
    if not isinstance(quantizer, AffineQuantizer) or quantizer._parametrization == "pact":  # which keeps a copy
        return False
    held = (getattr(quantizer, name) for name in PARAMETERS[quantizer._parametrization])
    return any(tensor is not None and tensor.requires_grad for tensor in held)


# Functions that only move values, as autograd names them; what they make of a quantized tensor is on its grid.
_MOVES = {
    "Alias", "Clone", "Expand", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "Movedim", "Permute", "ReshapeAlias",
    "Select", "Slice", "Split", "SplitWithSizes", "Squeeze", "T", "Transpose", "Unbind", "UnsafeSplit", "UnsafeView",
    "Unsqueeze", "View",
}  # fmt: skip


def _origin(tensor: Tensor) -> Any:
    """The node of the graph whose result was only moved since."""
    node = tensor.grad_fn
    while node is not None and node.name().partition("Backward")[0] in _MOVES:
        node = node.next_functions[0][0]
    return node


class _Saver:
    """Packs what is saved during one forward."""

    def __init__(self, outside: tuple[Callable, Callable] | None):
        self.outside = outside
        self.quantized: dict[int, _Quantized] = {}  # by storage
        self.nodes: dict[Any, QuantizeDequantize] = {}  # those of one scale, by the node of the graph

    def note(self, quantizer: Quantizer, x: Tensor | None, y: Tensor, activation: tuple) -> None:
        x_kept = x if x is not None and _kept_anyway(quantizer, x) else None
        self.quantized[y.untyped_storage()._cdata] = _Quantized(quantizer, y, x_kept, activation)
        if isinstance(quantizer, QuantizeDequantize) and quantizer._per_tensor and y.grad_fn is not None:
            self.nodes[y.grad_fn] = quantizer

    def pack(self, tensor: Tensor) -> _Packed:
        storage = tensor.untyped_storage()
        found = self.quantized.get(storage._cdata)
        if found is None and tensor.is_floating_point() and (quantizer := self.nodes.get(_origin(tensor))) is not None:
            # Values of a quantized tensor were moved to this storage; with one scale it does not matter where to.
            flat = tensor.detach().as_strided((storage.nbytes() // tensor.itemsize,), (1,), 0)
            found = self.quantized[storage._cdata] = _Quantized(quantizer, flat, moved=True)
        packed = None if found is None else found.pack(tensor, self)
        return self.keep(tensor) if packed is None else packed

    def keep(self, tensor: Tensor) -> _Packed:
        return _AsItIs(tensor) if self.outside is None else _ByOthers(tensor, *self.outside)

    def clear(self) -> None:
        """Let go of the graph, which holds this."""
        self.quantized.clear()
        self.nodes.clear()
