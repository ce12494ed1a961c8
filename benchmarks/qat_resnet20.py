"""ResNet-20 on CIFAR-10 with 4-bit weights and activations: what calibration loses, and what each way of training wins
back in a few hundred steps.

    DETENT_DATA=<folder> python benchmarks/qat_resnet20.py [--steps N] [--seeds 0 1] [--out DIR]

The folder holds ``cifar10_jpeg.tar.xz`` (``train/<class>/*.jpg``, ``test/<class>/*.jpg``) and the trained float
weights, ``resnet20_cifar10_jpeg.safetensors``. The float network trained for the same further steps stands beside the
quantized ones. All rows of a seed see the same batches.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import statistics
import sys
import tarfile
import time
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from harness import environment
from models import ResNet20
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from detent import QuantizationSimModel, qat

BITS = 4
CALIBRATION = 512
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
FLOAT = "float, trained on"
WAYS = {"ranges follow": "min_max", "ranges learned": "training_range_learning_with_tf_init", "LSQ": "min_max"}


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
    groups = qat.parameter_groups(model, lr=options.lr, range_lr=options.range_lr, weight_decay=1e-4)
    optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True)
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


def simulated(model: nn.Module, way: str, images: Tensor) -> QuantizationSimModel:
    """``model`` at W4A4, calibrated with ``images``."""
    sim = QuantizationSimModel(model, images[:1], WAYS[way], default_output_bw=BITS, default_param_bw=BITS)
    if way == "LSQ":
        qat.use_lsq(sim)
    sim.compute_encodings(lambda model: model(images))
    return sim


def one_seed(model: nn.Module, data: dict, options: argparse.Namespace, seed: int) -> dict[str, float]:
    """Test accuracy of every row."""
    chosen = torch.randperm(len(data["train"][1]), generator=torch.Generator().manual_seed(seed))[:CALIBRATION]
    images = normalized(data["train"][0][chosen])
    rows = {"float": accuracy(model, data["test"])}
    trained = {FLOAT: copy.deepcopy(model)}
    for way in WAYS:
        trained[way] = simulated(model, way, images).model
    rows["calibrated"] = accuracy(trained["ranges follow"], data["test"])
    for way, network in trained.items():
        started = time.perf_counter()
        train(network, data["train"], options, seed)
        rows[way] = accuracy(network, data["test"])
        print(f"  seed {seed}, {way}: {rows[way]:.2f} % after {time.perf_counter() - started:.0f} s", flush=True)
    return rows


def table(rows: dict[str, list[float]], seeds: list[int]) -> str:
    """Markdown."""
    heads = " | ".join(f"seed {seed}" for seed in seeds)
    lines = [f"| CIFAR-10 top-1, % | {heads} | mean |", "| --- " * (len(seeds) + 2) + "|"]
    for name, values in rows.items():
        label = name if name.startswith("float") else f"W{BITS}A{BITS}, {name}"
        cells = " | ".join(f"{value:.2f}" for value in values)
        lines.append(f"| {label} | {cells} | {statistics.mean(values):.2f} |")
    return "\n".join(lines)


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150, help="further training steps")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.01, help="of the weights; falls to 0 along a cosine")
    parser.add_argument("--range-lr", type=float, default=None, help="of the ranges; the weights' if not given")
    parser.add_argument("--images", type=int, default=2500, help="test images, spread evenly over the classes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each sets calibration images and batches")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    folder = Path(os.environ.get("DETENT_DATA", ""))
    archive, weights = folder / "cifar10_jpeg.tar.xz", folder / "resnet20_cifar10_jpeg.safetensors"
    if not (archive.is_file() and weights.is_file()):
        sys.exit(f"DETENT_DATA is {str(folder)!r}, expected a folder with {archive.name} and {weights.name}.")
    started = time.perf_counter()
    torch.set_num_threads(options.threads)
    machine = environment("cpu")
    model = ResNet20()
    model.load_state_dict(load_file(weights))
    data = load_images(archive)
    every = max(len(data["test"][1]) // options.images, 1)
    data["test"] = tuple(part[::every] for part in data["test"])
    print(f"read {len(data['train'][1])} and {len(data['test'][1])} images", flush=True)
    per_seed = [one_seed(model, data, options, seed) for seed in options.seeds]
    rows = {name: [found[name] for found in per_seed] for name in per_seed[0]}
    print("\n" + table(rows, options.seeds))
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    settings["images"] = len(data["test"][1])
    seconds = time.perf_counter() - started
    result = {"settings": settings, "environment": machine, "seconds": seconds, "accuracy": rows}
    (options.out / "qat_resnet20.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{seconds:.0f} s; qat_resnet20.json written")


if __name__ == "__main__":
    main()
