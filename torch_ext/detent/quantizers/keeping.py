"""What quantizers make of parameters, kept for as long as neither changes."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .._layout import memory_order

__all__ = ["Kept", "KeptWeights"]

_ops = torch.ops.detent


def _fake_quantize_mask(x, scale, zero_point, qmin, qmax, axis, block_size, _grad_scale):
    return _ops.fake_quantize_mask(x, scale, zero_point, qmin, qmax, axis, block_size)


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

    ``y`` are the values, and ``mask`` what backward needs of them where the range has no gradient. Both may have been
    computed together with those of other parameters.
    """

    def __init__(self, quantizer: nn.Module, x: Tensor):
        self.key = _key(quantizer, x)
        self.held = (x, *_range_of(quantizer))  # so that no identity in the key is given to another tensor
        self.learns = any(tensor.requires_grad for tensor in self.held[1:])
        with torch.inference_mode(False), torch.no_grad():
            self._compute(quantizer, x)
        self.version = self.y._version

    def _compute(self, quantizer: nn.Module, x: Tensor) -> None:
        op, arguments = quantizer._call(x)
        if self.learns or not x.requires_grad:
            made = op(x, *arguments)
            self.y = made if isinstance(made, Tensor) else made[0]
            return
        self.y, *_, self.mask = _WITH_MASK[op](x, *arguments)
        blocks = quantizer._layout.blocks_for(type(quantizer).__name__, x)
        self.layout = (None if blocks else memory_order(self.y), blocks)

    def serves(self, quantizer: nn.Module, x: Tensor) -> bool:
        """Whether it is what the quantizer would make of ``x`` now."""
        return self.key == _key(quantizer, x) and self.y._version == self.version

    def values(self, quantizer: nn.Module, x: Tensor) -> Tensor:
        """The values, as one more node of the graph where there is a gradient."""
        if not torch.is_grad_enabled():
            return self.y
        if self.learns:
            op, (first, second, *options) = quantizer._call(x)
            return _ByRange.apply(x, first, second, self.y, _BACKWARD[op], options)
        return _ByMask.apply(x, self.y, self.mask, self.layout) if x.requires_grad else self.y


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
                    kept = Kept(quantizer, x)
                    if self._parameters:
                        self._kept[where] = kept
        return kept.values(quantizer, x)

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
