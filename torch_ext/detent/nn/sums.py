"""A sum and the activation that reads it next, in one pass with the quantizer: the sum is put off until then."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..quantizers import QuantizeDequantize
from .base import ActivationQuantizers, fused

__all__ = ["DeferredSum", "custom_functions", "reader_takes_sums", "summable"]

_APPLY = str(Path(torch.autograd.__file__).parent / "function.py")
_is_hooked = nn.modules.module._has_any_global_hook


def custom_functions() -> list[tuple]:
    """What each ``torch.autograd.Function`` that is running was given, the innermost first."""
    found, frame = [], sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "apply" and frame.f_code.co_filename == _APPLY:
            found.append(frame.f_locals.get("args", ()))
        frame = frame.f_back
    return found


def summable(x, residual) -> bool:
    """Whether the operators' sum of these two is, in bits and strides, that of ``x + residual``, and no slower."""
    return (
        not torch.jit.is_tracing()
        and type(x) is Tensor
        and type(residual) is Tensor
        and x.dtype == residual.dtype
        and x.is_floating_point()
        and (x.dtype is not torch.float16 or x.is_cuda)
        and x.shape == residual.shape
        and x.device == residual.device
        and x.layout is torch.strided
        and residual.layout is torch.strided
        and x.stride() == residual.stride()
        and (x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)))
    )


def reader_takes_sums(owner: nn.Module, path: tuple[str, ...]) -> bool:
    """Whether what quantizes at ``path`` below ``owner`` would be one pass with a sum, as it is now."""
    module = owner
    for name in path:
        module = module._modules.get(name)
        if module is None or module._forward_pre_hooks or module._forward_hooks:
            return False
        if module._backward_pre_hooks or module._backward_hooks:
            return False
    if not isinstance(module, ActivationQuantizers) or not module._fuses or _is_hooked():
        return False
    quantizer = module._modules["output_quantizers"]._modules.get("0")
    return isinstance(quantizer, QuantizeDequantize) and quantizer.takes_sums()


class DeferredSum:
    """``x + residual`` that nobody has needed yet.

    A token stands for it: a new tensor without its numbers, or ``x`` itself where the sum is to be written there. The
    mode of the caller holds this until the next thing happens there. If that is the activation, it takes the two
    tensors, and the sum is never made unless somebody still holds the token when the next thing happens after it.
    Whatever else it is, the sum is made first, in the token.
    """

    def __init__(self, x: Tensor, residual: Tensor, in_place: bool):
        self.token: Tensor | None = x if in_place else torch.empty_like(x)
        self._stands = weakref.ref(self.token)
        self._x = None if in_place else x
        self._residual: Tensor | None = residual
        self._modes = _modes()
        self._taken = False
        self._then: Callable[[Tensor], object] | None = None

    @classmethod
    def of(cls, x: Tensor, residual: Tensor, in_place: bool) -> DeferredSum | None:
        """``None`` where the sum has to be made at once."""
        if torch._C._functorch.maybe_current_level() is not None or (in_place and not _is_alone(x, residual)):
            return None
        return cls(x, residual, in_place)

    def handed_out(self) -> Tensor:
        """The token, which from here on lives as long as others hold it."""
        token, self.token = self.token, None
        return token

    def awaits(self, x) -> bool:
        """Whether ``x`` stands for this sum, and the activation is next."""
        return not self._taken and x is not None and self._stands() is x

    def activated(
        self,
        module: ActivationQuantizers,
        bounds: tuple[float | None, float | None],
        then: Callable[[Tensor], object] | None = None,
    ) -> Tensor | None:
        """The sum held to ``bounds`` and through the output quantizer of ``module``; ``None`` where it takes several.

        ``then`` is what the activation does to the tensor that it is given, if it works in place.
        """
        if self._modes != _modes():
            return None
        x = self._stands() if self._x is None else self._x
        y = fused(module, x, bounds, self._residual)
        self._taken, self._then = y is not None, then
        return y

    def settle(self) -> None:
        """Make the token what it stands for, if anybody holds it."""
        token = self._stands()
        if token is not None and self._residual is not None:
            self._check_gradient(token)
            inference, gradient = self._modes
            with torch._C.DisableTorchFunction(), torch.inference_mode(inference), torch.set_grad_enabled(gradient):
                if self._x is None:
                    token.add_(self._residual)
                else:
                    token.copy_(self._x + self._residual)
                if self._then is not None:
                    self._then(token)
        self._x = self._residual = self._then = None

    def _check_gradient(self, token: Tensor) -> None:
        """A torch.autograd.Function has asked for the way of the gradient before its forward runs: a token has none."""
        if not self._modes[1] or torch.is_grad_enabled():
            return
        if any(token is given for arguments in custom_functions() for given in arguments):
            raise RuntimeError(
                "a sum that the sim computes together with an activation was given to a torch.autograd.Function, which "
                "the sample did not do: its gradient would be lost. Build the sim from a sample that takes this path, "
                "or set sim.fuse_activations = False."
            )


def _modes() -> tuple[bool, bool]:
    return torch.is_inference_mode_enabled(), torch.is_grad_enabled()


def _is_alone(x: Tensor, residual: Tensor) -> bool:
    """Whether nothing but ``x`` would see a sum that is written there, and it may be."""
    if x is residual or x._is_view() or (x.requires_grad and x.is_leaf and torch.is_grad_enabled()):
        return False
    if x.is_inference() and not torch.is_inference_mode_enabled():
        return False
    storage = x.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata) == 2  # x, and what Python asks with
