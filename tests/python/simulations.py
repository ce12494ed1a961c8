"""Simulations that several tests build, and a network they build them of."""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from torch import nn

from detent.quantsim import QuantizationSimModel


def calibrated(net, *data, **options):
    """A simulation of ``net``, called with ``data``, and calibrated on the same."""
    sim = QuantizationSimModel(net, data, **options)
    sim.compute_encodings(lambda model: model(*data))
    return sim


def restated(state, **changes):
    """A quantizer's ``_extra_state`` that says something else."""
    text = json.dumps({**json.loads(bytes(state.tolist())), **changes})
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def names(sim):
    return [name for name, _ in sim.named_quantizers()]


def module_of(function, *layers):
    """A module whose forward is ``function(self, ...)``."""

    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(layers)
            self.relu = nn.ReLU()

        forward = function

    return Made().eval()


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


class Shortcut(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            n = outputs // 4
            self.shortcut = Shortcut(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, n, n), "constant", 0))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class ResNet20(nn.Module):
    """Plain code for 32 x 32 images, with shortcuts that have no parameters (He 2015, option A)."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))
