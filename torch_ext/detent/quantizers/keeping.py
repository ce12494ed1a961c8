"""What quantizers make of parameters, kept for as long as neither changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from .._layout import memory_order

__all__ = ["Kept", "KeptWeights"]

_ops = torch.ops.detent


def _fake_quantize_mask(x, scale, zero_point, qmin, qmax, axis, block_size, _grad_scale, *rest):
    return _ops.fake_quantize_mask(x, scale, zero_point, qmin, qmax, axis, block_size, *rest)


#: Of an operator, the one that gives the mask too.
_WITH_MASK = {
    _ops.fake_quantize: _fake_quantize_mask,
    _ops.fake_quantize_range: _ops.fake_quantize_range_mask,
    _ops.fake_quantize_dynamic: _ops.fake_quantize_dynamic_mask,
    _ops.float_cast: _ops.float_cast_mask,
}
#: Of an operator whose encoding has a gradient, its backward.
_BACKWARD = {
    _ops.fake_quantize: _ops.fake_quantize_backward,
    _ops.fake_quantize_range: _ops.fake_quantize_range_backward,
}


class _ByMask(torch.autograd.Function):
    """The values that are kept, with the gradient of a range that has none of its own."""

    @staticmethod
    def forward(ctx, x, y, mask, layout):
        ctx.save_for_backward(mask)
        ctx.layout = layout
        return y.detach()

    @staticmethod
    def backward(ctx, grad_y):
        return _ops.fake_quantize_mask_backward(grad_y, *ctx.saved_tensors, *ctx.layout), None, None, None


class _ByRange(torch.autograd.Function):
    """The values that are kept, with the gradients of a range that learns."""

    @staticmethod
    def forward(ctx, x, first, second, y, backward, options):
        ctx.save_for_backward(x, first, second)
        ctx.backward_of, ctx.options = backward, options
        return y.detach()

    @staticmethod
    def backward(ctx, grad_y):
        x, first, second = ctx.saved_tensors
        grad_x, grad_first, grad_second = ctx.backward_of(grad_y, x, first, second, *ctx.options)
        return grad_x, grad_first, None if second is None else grad_second, None, None, None


class Kept:
    """What one quantizer made of one parameter.

    ``y`` are the values, and ``mask`` what backward needs of them where the range has no gradient.
    """

    y: Tensor
    mask: Tensor | None = None
    used = False  # whether anyone has asked for it

    def __init__(self, quantizer: nn.Module, x: Tensor):
        self.quantizer, self.x = quantizer, x
        self.key = _key(quantizer, x)
        self.held = _range_of(quantizer)  # so that no identity in the key is given to another tensor
        self.learns = any(tensor.requires_grad for tensor in self.held)
        self.masked = x.requires_grad and not self.learns

    def fill(self, y: Tensor, mask: Tensor | None) -> None:
        self.y, self.mask, self.version = y, mask, y._version
        if mask is not None:
            blocks = self.quantizer._layout.blocks_for(type(self.quantizer).__name__, self.x)
            self.layout = (None if blocks else memory_order(y), blocks)

    def serves(self, quantizer: nn.Module, x: Tensor) -> bool:
        """Whether it is what the quantizer would make of ``x`` now."""
        return self.key == _key(quantizer, x) and self.y._version == self.version

    def is_stale(self) -> bool:
        """Whether its quantizer would make something else of its parameter now, and may."""
        if self.quantizer._bypass or not _is_plain(self.quantizer, self.x):
            return False
        return not self.serves(self.quantizer, self.x)

    def values(self, quantizer: nn.Module, x: Tensor) -> Tensor:
        """The values, as one more node of the graph where there is a gradient."""
        self.used = True
        if not torch.is_grad_enabled():
            return self.y
        if self.learns:
            op, (first, second, *options) = quantizer._call(x)
            return _ByRange.apply(x, first, second, self.y, _BACKWARD[op], options)
        return _ByMask.apply(x, self.y, self.mask, self.layout) if x.requires_grad else self.y


def _compute(wanted: list[Kept]) -> None:
    """Those that call one operator alike in one call."""
    alike: dict[tuple, list[tuple[Kept, tuple]]] = {}
    with torch.inference_mode(False), torch.no_grad():
        for kept in wanted:
            op, arguments = kept.quantizer._call(kept.x)
            split = _MANY.get(op)
            how = (id(kept),) if split is None else split.alike(kept.x, arguments)
            alike.setdefault((op, kept.masked, *how), []).append((kept, arguments))
        for (op, masked, *_), calls in alike.items():
            if len(calls) > 1:
                _MANY[op].compute(masked, calls)
                continue
            kept, arguments = calls[0]
            made = (_WITH_MASK[op] if masked else op)(kept.x, *arguments)
            kept.fill(made if isinstance(made, Tensor) else made[0], made[-1] if masked else None)


class _Many:
    """An operator over lists, and how the arguments of the one for a tensor become its own."""

    def __init__(self, op: Callable, masked: Callable, tensors: int, axis: int):
        self.op, self.masked = op, masked
        self.tensors = tensors  # so many arguments are tensors, one per item
        self.axis = axis  # where axis stands, with block_size behind it; all others are of all items

    def alike(self, x: Tensor, arguments: tuple) -> tuple:
        """What calls have to have in common."""
        axis, blocks = arguments[self.axis : self.axis + 2]
        plain = arguments[self.tensors : self.axis] + arguments[self.axis + 2 :]
        return x.dtype, x.device, axis is None, blocks is None, *plain

    def compute(self, masked: bool, calls: list[tuple[Kept, tuple]]) -> None:
        columns = list(zip(*(arguments for _, arguments in calls)))
        arguments = [list(column) if i < self.tensors else column[0] for i, column in enumerate(columns)]
        axes, blocks = columns[self.axis : self.axis + 2]
        arguments[self.axis] = None if axes[0] is None else list(axes)
        arguments[self.axis + 1] = None if blocks[0] is None else [size for of_item in blocks for size in of_item]
        made = (self.masked if masked else self.op)([kept.x for kept, _ in calls], *arguments)
        y = made if isinstance(made, list) else made[0]
        for (kept, _), values, mask in zip(calls, y, made[-1] if masked else [None] * len(calls)):
            kept.fill(values, mask)


_MANY = {
    _ops.fake_quantize_range: _Many(_ops.fake_quantize_range_many, _ops.fake_quantize_range_many_mask, 2, 6),
    _ops.fake_quantize_dynamic: _Many(_ops.fake_quantize_dynamic_many, _ops.fake_quantize_dynamic_many_mask, 1, 4),
}


def _range_of(quantizer: nn.Module) -> list[Tensor]:
    held = (*quantizer._parameters.values(), *quantizer._buffers.values())
    return [tensor for tensor in held if tensor is not None]


def _key(quantizer: nn.Module, x: Tensor) -> tuple:
    """All that the values depend on, and whether their mask is wanted. ``data_ptr`` sees most of ``x.data = ...``."""
    key = [quantizer._plain_state(), x.dtype, x.data_ptr(), x.requires_grad, x._version]
    for tensor in _range_of(quantizer):
        key += (id(tensor), tensor._version, tensor.requires_grad)
    return tuple(key)


class KeptWeights:
    """The :class:`Kept` of some parameters, for the quantizers that hold this as ``_kept_weights``.

    Only those very parameters are served: a replica's, those of ``functional_call`` and what is computed in a forward
    are other tensors. A copy or a pickle of a quantizer has none.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        self._parameters = {id(parameter): parameter for parameter in parameters}
        self._kept: dict[tuple, Kept] = {}
        self._lock = threading.Lock()

    def values(self, quantizer: nn.Module, x: Tensor) -> Tensor | None:
        """What the quantizer makes of ``x``; ``None`` where it has to compute it itself."""
        if self._parameters.get(id(x)) is not x or not _is_plain(quantizer, x):
            return None
        where = (id(quantizer), id(x), torch.cuda.current_stream(x.device) if x.is_cuda else None)
        kept = self._kept.get(where)
        if kept is None or not kept.serves(quantizer, x):
            with self._lock:  # another thread may be at it
                kept = self._kept.get(where)
                if kept is None or not kept.serves(quantizer, x):
                    kept = self._computed(where, quantizer, x)
        return kept.values(quantizer, x)

    def _computed(self, where: tuple, quantizer: nn.Module, x: Tensor) -> Kept:
        """Anew, together with what else was read since it was computed, and has changed: the weights after a step."""
        wanted = {where: Kept(quantizer, x)}
        for place, other in self._kept.items():
            if place != where and place[2] == where[2] and other.used and other.is_stale():
                wanted[place] = Kept(other.quantizer, other.x)
        _compute(list(wanted.values()))
        if self._parameters:
            self._kept.update(wanted)
        return wanted[where]

    def close(self) -> None:
        """Let go of everything, and serve nothing from here on."""
        with self._lock:
            self._parameters.clear()
            self._kept.clear()

    def __deepcopy__(self, memo: dict) -> None:
        return None

    def __reduce__(self) -> tuple:
        return _nothing, ()


def _nothing() -> None:
    return None


def _is_plain(quantizer: nn.Module, x: Tensor) -> bool:
    """Whether this is an ordinary eager call: nobody watches its operators or records them to run again."""
    if torch._C._len_torch_dispatch_stack() or torch._C._are_functorch_transforms_active() or torch.jit.is_tracing():
        return False
    if x.is_cuda and torch.cuda.is_current_stream_capturing():  # a graph would replay the values of this moment
        return False
    return not any(tensor.is_inference() for tensor in (x, *_range_of(quantizer)))  # these have no versions
