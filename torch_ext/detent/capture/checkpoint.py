"""Activation checkpointing: what a forward calls through it is recomputed as it was computed.

torch recomputes in backward, outside every forward. The two places where it keeps a function for then are told to run
it inside the mode of the forward that called it, with the counts of that moment.
"""

from __future__ import annotations

import functools

from torch.utils.checkpoint import CheckpointFunction, _CheckpointFrame

from ..nn.calls import caller

__all__ = ["resume_recomputations"]


def _resumed(function):
    top = caller()
    return function if top is None else top.resumed(function)


@functools.cache
def resume_recomputations() -> None:
    """Let both kinds of ``torch.utils.checkpoint``, reentrant and not, recompute inside the caller's mode."""
    begin, forward = _CheckpointFrame.__init__, CheckpointFunction.forward

    @functools.wraps(begin)
    def resuming_begin(self, recompute_fn, *args, **kwargs):
        begin(self, _resumed(recompute_fn), *args, **kwargs)

    @functools.wraps(forward)
    def resuming_forward(ctx, run_function, *args):
        resumed = _resumed(run_function)
        outputs = forward(ctx, run_function, *args)
        ctx.run_function = resumed
        return outputs

    _CheckpointFrame.__init__ = resuming_begin
    CheckpointFunction.forward = staticmethod(resuming_forward)
