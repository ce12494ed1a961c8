"""ResNet-20 on CIFAR-10 with 4-bit weights and activations: what calibration loses, and what each way of training wins
back in a few hundred steps.

    DETENT_DATA=<folder> python benchmarks/qat_resnet20.py [--steps N] [--seeds 0 1 2] [--out DIR]

The folder holds ``cifar10_jpeg.tar.xz`` (``train/<class>/*.jpg``, ``test/<class>/*.jpg``) and the trained float
weights, ``resnet20_cifar10_jpeg.safetensors``. The float network trained for the same further steps stands beside the
quantized ones. All rows of a seed see the same batches.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tarfile
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from accuracy import groups, rows_of_seed, run
from models import ResNet20

CALIBRATION = 512
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def load_images(archive: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """``"train"`` and ``"test"``: uint8 images (N, 3, 32, 32), and classes by the order of their names."""
    images: dict[str, list] = {"train": [], "test": []}
    names: dict[str, list] = {"train": [], "test": []}
    with tarfile.open(archive, "r:xz") as files:
        for member in files:
            if member.isfile():
                part, name, _ = member.name.split("/")
                images[part].append(numpy.asarray(Image.open(io.BytesIO(files.extractfile(member).read()))))
                names[part].append(name)
    order = sorted(set(names["train"]))
    return {
        part: (
            torch.from_numpy(numpy.stack(images[part])).permute(0, 3, 1, 2).contiguous(),
            torch.tensor([order.index(name) for name in names[part]]),
        )
        for part in images
    }


def normalized(images: Tensor) -> Tensor:
    return (images.float() / 255 - MEAN) / DEVIATION


def batches(data: tuple[Tensor, Tensor], steps: int, size: int, seed: int):
    """``steps`` batches: each image flipped or not, each batch shifted by up to 4 pixels."""
    random = torch.Generator().manual_seed(seed)
    images, labels = data
    order = torch.cat([torch.randperm(len(labels), generator=random) for _ in range(-(-steps * size // len(labels)))])
    for batch in order[: steps * size].split(size):
        chosen = F.pad(normalized(images[batch]), (4, 4, 4, 4))
        flip = torch.rand(len(batch), 1, 1, 1, generator=random) < 0.5
        chosen = torch.where(flip, chosen.flip(3), chosen)
        down, right = torch.randint(9, (2,), generator=random).tolist()
        yield chosen[:, :, down : down + 32, right : right + 32].contiguous(), labels[batch]


def train(model: nn.Module, data: tuple[Tensor, Tensor], options: argparse.Namespace, seed: int) -> None:
    parameters = groups(model, options.lr, options.range_lr, weight_decay=1e-4)
    optimizer = torch.optim.SGD(parameters, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    model.train()
    for images, labels in batches(data, options.steps, options.batch, seed):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Per cent of the images that are classified right."""
    model.eval()
    right = sum(
        int((model(normalized(images)).argmax(1) == labels).sum())
        for images, labels in zip(data[0].split(500), data[1].split(500))
    )
    return 100 * right / len(data[1])


def one_seed(model: nn.Module, data: dict, options: argparse.Namespace, seed: int) -> dict[str, float]:
    chosen = torch.randperm(len(data["train"][1]), generator=torch.Generator().manual_seed(seed))[:CALIBRATION]
    return rows_of_seed(
        seed,
        model,
        normalized(data["train"][0][chosen]),
        lambda network: train(network, data["train"], options, seed),
        lambda network: accuracy(network, data["test"]),
    )


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="further training steps")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.01, help="of the weights; falls to 0 along a cosine")
    parser.add_argument("--range-lr", type=float, default=None, help="of the ranges; the weights' if not given")
    parser.add_argument("--images", type=int, default=2000, help="test images, spread evenly over the classes")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="each sets calibration images and batches"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    folder = Path(os.environ.get("DETENT_DATA", ""))
    archive, weights = folder / "cifar10_jpeg.tar.xz", folder / "resnet20_cifar10_jpeg.safetensors"
    if not (archive.is_file() and weights.is_file()):
        sys.exit(f"DETENT_DATA is {str(folder)!r}, expected a folder with {archive.name} and {weights.name}.")
    torch.set_num_threads(options.threads)
    model = ResNet20()
    model.load_state_dict(load_file(weights))
    data = load_images(archive)
    every = max(len(data["test"][1]) // options.images, 1)
    data["test"] = tuple(part[::every] for part in data["test"])
    print(f"read {len(data['train'][1])} and {len(data['test'][1])} images", flush=True)
    settings = {**vars(options), "images": len(data["test"][1])}
    run("qat_resnet20", "CIFAR-10 top-1, %", lambda seed: one_seed(model, data, options, seed), settings)


if __name__ == "__main__":
    main()
