"""The calls of modules that have parameters: as torch.nn writes them, with the parameters passed through quantizers.

No parameter is replaced on the module, so replicas and threads cannot see each other's quantized values. ``at`` holds
the input and output quantizers of this use: the module itself, or one of its ``use_<j>``.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from .base import fused, quantize_input, quantize_output, quantize_param, quantizing
from .parameters import QuantizedReads, quantized_parameters
from .tensors import argument_names, map_arguments, map_tensors


def plain(float_forward):
    """Any module without parameters whose first argument is its input."""

    def forward(self, at, input, *args, **kwargs):
        return quantize_output(at, float_forward(self, quantize_input(at, input), *args, **kwargs))

    return forward


#: What these activations hold their input to: ``(min, max)``, ``None`` where there is no bound.
BOUNDS = {"relu": (0.0, None), "relu6": (0.0, 6.0)}


def _takes_as_given(at) -> bool:
    return at._modules["input_quantizers"]._modules["0"] is None


def bounded(name: str):
    """An activation that is in ``BOUNDS``: one pass with its quantizer where that is exact."""
    bounds = BOUNDS[name]

    def build(float_forward):
        def forward(self, at, input, sum=None):
            if sum is not None:
                then = functools.partial(float_forward, self) if self.inplace else None
                y = sum.activated(at, bounds, then) if at is not None and _takes_as_given(at) else None
                if y is not None:
                    return y
                sum.settle()
            x = quantize_input(at, input)
            exact = at is not None and at._exact[self.inplace]
            y = fused(at, x, bounds) if exact else None
            return quantize_output(at, float_forward(self, x)) if y is None else y

        forward.bounds = bounds
        return forward

    return build


def general(float_forward):
    """Any module: arguments, results and parameters may be several, in tuples, lists, dictionaries, sequences."""
    names = argument_names(float_forward)

    def forward(self, at, *args, **kwargs):
        if at is not None:
            args, kwargs = map_arguments(names, args, kwargs, quantizing(at, "input_quantizers"))
        pairs = quantized_parameters(self)
        if pairs:
            with QuantizedReads(pairs):
                y = float_forward(self, *args, **kwargs)
        else:
            y = float_forward(self, *args, **kwargs)
        return y if at is None else map_tensors(y, quantizing(at, "output_quantizers"))

    return forward


def convolution(float_forward):
    def forward(self, at, input):
        x = quantize_input(at, input)
        return quantize_output(
            at, self._conv_forward(x, quantize_param(self, "weight"), quantize_param(self, "bias"))
        )

    return forward


def transposed_convolution(function):
    def forward(self, at, input, output_size=None):
        if self.padding_mode != "zeros":
            raise ValueError(f"{type(self).__name__}: padding_mode is {self.padding_mode!r}, expected 'zeros'.")
        x = quantize_input(at, input)
        padding = self._output_padding(
            x, output_size, self.stride, self.padding, self.kernel_size, len(self.kernel_size), self.dilation
        )
        y = function(
            x, quantize_param(self, "weight"), quantize_param(self, "bias"), self.stride, self.padding, padding,
            self.groups, self.dilation,
        )  # fmt: skip
        return quantize_output(at, y)

    return forward


def linear(float_forward):
    def forward(self, at, input):
        x = quantize_input(at, input)
        return quantize_output(at, F.linear(x, quantize_param(self, "weight"), quantize_param(self, "bias")))

    return forward


def _rows(self, input):
    """An embedding's table as the lookup reads it, and whether its gradient is sparse."""
    weight = self.weight
    if self.max_norm is not None:  # renormalises the rows in place, so before they are quantized
        with torch.no_grad():
            torch.embedding_renorm_(weight, input.contiguous(), self.max_norm, self.norm_type)
    quantized = quantize_param(self, "weight")
    # A sparse gradient would have to pass the quantizer, which works on dense tensors.
    return quantized, self.sparse and quantized is weight


def embedding(float_forward):
    def forward(self, at, input):
        rows, sparse = _rows(self, input)
        y = F.embedding(input, rows, self.padding_idx, None, self.norm_type, self.scale_grad_by_freq, sparse)
        return quantize_output(at, y)

    return forward


def embedding_bag(float_forward):
    def forward(self, at, input, offsets=None, per_sample_weights=None):
        rows, sparse = _rows(self, input)
        y = F.embedding_bag(
            input, rows, offsets, None, self.norm_type, self.scale_grad_by_freq, self.mode, sparse, per_sample_weights,
            self.include_last_offset, self.padding_idx,
        )  # fmt: skip
        return quantize_output(at, y)

    return forward


def layer_norm(float_forward):
    def forward(self, at, input):
        x = quantize_input(at, input)
        weight, bias = quantize_param(self, "weight"), quantize_param(self, "bias")
        return quantize_output(at, F.layer_norm(x, self.normalized_shape, weight, bias, self.eps))

    return forward


def group_norm(float_forward):
    def forward(self, at, input):
        x = quantize_input(at, input)
        weight, bias = quantize_param(self, "weight"), quantize_param(self, "bias")
        return quantize_output(at, F.group_norm(x, self.num_groups, weight, bias, self.eps))

    return forward


def prelu(float_forward):
    def forward(self, at, input):
        return quantize_output(at, F.prelu(quantize_input(at, input), quantize_param(self, "weight")))

    return forward


def batch_norm(float_forward):
    def forward(self, at, input):
        x = quantize_input(at, input)
        self._check_input_dim(x)
        update = self.training and self.track_running_stats
        factor = 0.0 if self.momentum is None else self.momentum
        if update and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                factor = 1.0 / float(self.num_batches_tracked)
        mean, var = self.running_mean, self.running_var
        of_batch = self.training or (mean is None and var is None)
        kept = not self.training or self.track_running_stats
        y = F.batch_norm(
            x, mean if kept else None, var if kept else None,
            quantize_param(self, "weight"), quantize_param(self, "bias"), of_batch, factor, self.eps,
        )  # fmt: skip
        return quantize_output(at, y)

    return forward
