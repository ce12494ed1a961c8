"""What calibration costs over the plain forward passes it needs: compute_encodings / the same float passes.

    python benchmarks/calibration.py [--batches 20] [--schemes tf_enhanced mse] [--models resnet20 ...]

Each scheme's calibration and the float passes of the same batches alternate; the ratio is that of the least times of
either. Prints a table and one line of JSON. Goal: below 2.
"""

from __future__ import annotations

import argparse
import json
import time

import fixed_malloc

if __name__ == "__main__":
    fixed_malloc.ensure()  # before the seconds that importing torch takes

import torch
from detent import QuantizationSimModel, QuantScheme
from torch import nn
from torch.nn import functional as F

SCHEMES = ("min_max", "moving_average", "percentile", "tf_enhanced", "mse", "entropy")


class Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1)
        self.shortcut = nn.Conv2d(before, after, 1, stride) if before != after else nn.Identity()

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


def resnet20() -> nn.Module:
    """CIFAR's (He 2015, section 4.2), batch norms folded, projections as shortcuts."""
    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [Block(a, b, 1 if a == b else 2) for a, b in zip(widths, widths[1:])]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )


def separable() -> nn.Module:
    """Depthwise and pointwise layers with ReLU6: many channels, little arithmetic."""
    layers, width = [nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU6()], 32
    for after in (64, 128, 128, 256, 256):
        layers += [nn.Conv2d(width, width, 3, 1 if after == width else 2, 1, groups=width), nn.ReLU6()]
        layers += [nn.Conv2d(width, after, 1), nn.ReLU6()]
        width = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 100))


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)


MODELS = {
    "resnet20": (resnet20, (64, 3, 32, 32)),
    "separable": (separable, (16, 3, 96, 96)),
    "encoder": (encoder, (8, 128, 256)),
}


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(name: str, scheme: str, batches: int, rounds: int) -> dict:
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model = build().eval()
    data = [torch.randn(shape) for _ in range(batches)]

    @torch.no_grad()
    def run(model):
        for batch in data:
            model(batch)

    sim = QuantizationSimModel(model, data[0], QuantScheme.from_str(scheme))
    if scheme == "percentile":
        sim.set_percentile_value(99.9)
    sim.compute_encodings(lambda quantized: quantized(data[0]))
    times = [(seconds(lambda: run(model)), seconds(lambda: sim.compute_encodings(run))) for _ in range(rounds)]
    forward, calibration = (min(column) for column in zip(*times))
    return {"model": name, "scheme": scheme, "forward_s": forward, "ratio": calibration / forward}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = []
    print(f"{'calibration / forward passes':30}" + "".join(f"{scheme:>16}" for scheme in options.schemes))
    for name in options.models:
        row = [measure(name, scheme, options.batches, options.rounds) for scheme in options.schemes]
        results += row
        print(f"{name:30}" + "".join(f"{result['ratio']:16.2f}" for result in row), flush=True)
    settings = {"torch": torch.__version__, "threads": options.threads, "batches": options.batches}
    print(json.dumps({**settings, "results": results}))


if __name__ == "__main__":
    main()
