"""The demo's network on handwritten digits with 4-bit weights and activations: what calibration loses, and what each
way of training wins back.

    python benchmarks/qat_digits.py [--epochs N] [--seeds 0 1 2] [--out DIR]

Each seed splits the images, trains a float network of its own, and orders the batches.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from accuracy import groups, rows_of_seed, run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import digits_qat

BATCH = 64


def train(model: nn.Module, data: tuple, options: argparse.Namespace, seed: int) -> None:
    """Adam, rates falling to 0 along a cosine."""
    images, labels = data
    optimizer = torch.optim.AdamW(groups(model, options.lr, options.range_lr, 1e-4))
    steps = options.epochs * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(options.epochs):
        for batch in torch.randperm(len(labels), generator=order).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()


def one_seed(options: argparse.Namespace, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    data = digits_qat.load_data(seed, torch.device("cpu"))
    model = digits_qat.DigitNet()
    digits_qat.train(model, data["train"], options.float_epochs, digits_qat.RATE, seed)
    return rows_of_seed(
        seed,
        model.eval(),
        data["train"][0][:512],
        lambda network: train(network, data["train"], options, seed),
        lambda network: 100 * digits_qat.accuracy(network, data["test"]),
    )


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--float-epochs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20, help="further epochs, quantized and float alike")
    parser.add_argument("--lr", type=float, default=5e-3, help="of the weights; falls to 0 along a cosine")
    parser.add_argument("--range-lr", type=float, default=1e-3, help="of the ranges")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    torch.set_num_threads(1)
    run("qat_digits", "digits, held out, %", lambda seed: one_seed(options, seed), dict(vars(options)))


if __name__ == "__main__":
    main()
