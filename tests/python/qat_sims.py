"""A network, and simulations of it to train in every mode."""

import torch
import torch.nn.functional as F
from torch import nn

from detent import QuantizationSimModel, qat

MODES = ("dynamic", "learned", "lsq", "pact")
SCHEMES = {mode: "training_range_learning_with_tf_init" if mode == "learned" else "min_max" for mode in MODES}


class Residual(nn.Module):
    """Negative and positive activations, a norm, an addition that a forward makes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = F.gelu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(x) + x))


def simulated(mode, bits=4, dtype=torch.float32, model=None, data=None):
    model = (Residual() if model is None else model).to(dtype)
    data = torch.randn(64, 6, dtype=dtype) if data is None else data
    sim = QuantizationSimModel(model, data[:2], SCHEMES[mode], default_output_bw=bits, default_param_bw=bits)
    if mode == "lsq":
        qat.use_lsq(sim)
    sim.compute_encodings(lambda model: model(data))
    if mode == "pact":
        qat.use_pact(sim)
    return sim


def step(sim, optimizer, x, target):
    optimizer.zero_grad(set_to_none=False)  # momentum moves whatever still has a gradient
    loss = F.cross_entropy(sim.model(x), target)
    loss.backward()
    optimizer.step()
    return loss.item()
