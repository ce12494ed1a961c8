"""Torch functions that call others: their body runs where they are called, so that what is inside is seen."""

from __future__ import annotations

import math
import types

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BODIES"]


def _no(*_) -> bool:
    return False


def _body(function: types.FunctionType) -> types.FunctionType:
    """``function`` without its own offer to be overridden, which would offer it to the same mode again."""
    scope = {name: value for name, value in function.__globals__.items() if name != "__name__"}
    # The check of shapes has a message that torch.compile does not follow; the view after it fails as well.
    skipped = [name for name in scope if name.startswith("has_torch_function") or name == "_check_key_padding_mask"]
    scope.update(dict.fromkeys(skipped, _no))
    made = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What scaled_dot_product_attention computes in one kernel, as the products and the softmax that a device rounds.

    The query is scaled, not the product, as multi_head_attention_forward does where it returns the weights.
    """
    if enable_gqa:
        groups = query.size(-3) // key.size(-3)
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scores = (query * (1 / math.sqrt(query.size(-1)) if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is None:
        weights = torch.softmax(scores, -1)
    else:
        masked = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        weights = torch.ops.aten._safe_softmax.default(masked, -1)  # a row that is masked whole gives zeros
    if dropout_p:
        weights = F.dropout(weights, dropout_p)
    return weights @ value


def _unflatten(tensor: Tensor, dim: int, sizes) -> Tensor:
    """Tensor.unflatten calls itself by super(), which torch.compile does not follow."""
    return torch.unflatten(tensor, dim, sizes)


#: What to call, with the mode on, instead of a function that the mode is given.
BODIES = {
    **{function: _body(function) for function in (F.multi_head_attention_forward, F.embedding, F.embedding_bag)},
    F.scaled_dot_product_attention: _attention,
    Tensor.unflatten: _unflatten,
}
