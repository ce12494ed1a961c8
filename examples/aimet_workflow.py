"""AIMET's published example of quantization-aware training, with its import lines changed.

Fold the batch norms, build the simulation, calibrate, evaluate, train, evaluate, export. The model is a ResNet-20 for
CIFAR-10 as people write it (``F.relu``, ``out +=``, a lambda for a shortcut), trained in float. Its weights and the
images are found through the environment variable DETENT_DATA: ``resnet20_cifar10_jpeg.safetensors`` and
``cifar10_jpeg.tar.xz``, which holds ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``.

    DETENT_DATA=... python examples/aimet_workflow.py --out aimet_output
    DETENT_DATA=... python examples/aimet_workflow.py --bits 4 --rate 1e-3 --scheme min_max
    DETENT_DATA=... python examples/aimet_workflow.py --model mobilenet_v2      # torchvision's, random weights
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import random
import sys
import tarfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# from aimet_common.defs import QuantScheme
# from aimet_torch.batch_norm_fold import fold_all_batch_norms
# from aimet_torch.quantsim import QuantizationSimModel
from detent.defs import QuantScheme
from detent.ptq import fold_all_batch_norms
from detent.quantsim import QuantizationSimModel

BATCH = 64
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LambdaLayer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != planes:
            self.shortcut = LambdaLayer(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4)))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class ResNet20(nn.Module):
    """Residual network of 20 layers for 32 x 32 images (He 2015, section 4.2), shortcuts without parameters."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(BasicBlock(inputs, planes, stride), *(BasicBlock(planes, planes, 1) for _ in range(2)))
            for inputs, planes, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


# --- data and model ---------------------------------------------------------------------------------------------------


def data_folder() -> Path:
    folder = os.environ.get("DETENT_DATA")
    if not folder or not (Path(folder) / "cifar10_jpeg.tar.xz").is_file():
        sys.exit(f"DETENT_DATA is {folder!r}, expected a folder with cifar10_jpeg.tar.xz and the weights beside it.")
    return Path(folder)


def load_images(
    folder: Path, counts: dict[str, int], size: int, members: int | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Images of each split, chosen at random with a fixed seed among the first ``members`` of the archive, normalised;
    and their labels."""
    import numpy
    from PIL import Image

    files: dict[str, list[tuple[str, bytes]]] = {"train": [], "test": []}
    with tarfile.open(folder / "cifar10_jpeg.tar.xz") as archive:
        for member in itertools.islice(archive, members):
            split, *label = Path(member.name).parts[-3:-1] if member.isfile() else ("",)
            if split in files:
                files[split].append((label[0], archive.extractfile(member).read()))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    data = {}
    for split, count in counts.items():
        chosen = random.Random(0).sample(sorted(files[split]), min(count, len(files[split])))
        pixels = [numpy.asarray(Image.open(io.BytesIO(jpeg)).resize((size, size))) for _, jpeg in chosen]
        images = torch.from_numpy(numpy.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        data[split] = (images - mean) / std, torch.tensor([CLASSES.index(label) for label, _ in chosen])
    return data


def load_model(name: str, folder: Path) -> nn.Module:
    if name == "mobilenet_v2":
        from torchvision.models import mobilenet_v2

        return mobilenet_v2(num_classes=10)
    from safetensors.torch import load_file

    model = ResNet20()
    model.load_state_dict(load_file(folder / "resnet20_cifar10_jpeg.safetensors"))
    return model


# --- the workflow -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Share of the images that are classified right."""
    model.eval()
    right = [(model(x).argmax(1) == y).sum() for x, y in zip(data[0].split(BATCH), data[1].split(BATCH))]
    return sum(right).item() / len(data[1])


def pass_calibration_data(model: nn.Module, batches: list[Tensor]) -> None:
    for images in batches:
        model(images)


def train(model: nn.Module, data: tuple[Tensor, Tensor], steps: int, rate: float) -> list[float]:
    """SGD for a number of steps; returns the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    order = torch.Generator().manual_seed(0)
    losses = []
    model.train()
    for _ in range(steps):
        batch = torch.randint(len(data[1]), (BATCH,), generator=order)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data[0][batch]), data[1][batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("resnet20", "mobilenet_v2"), default="resnet20")
    parser.add_argument("--out", type=Path, default=Path("aimet_output"), help="folder for what is written")
    parser.add_argument("--bits", type=int, default=8, help="of weights and activations")
    parser.add_argument("--scheme", default="training_range_learning_with_tf_init", help="a QuantScheme")
    parser.add_argument("--steps", type=int, default=30, help="of quantization-aware training, 64 images each")
    parser.add_argument("--rate", type=float, default=1e-5, help="learning rate of weights and ranges")
    parser.add_argument("--images", type=int, default=1000, help="test images to evaluate on, at most 10000")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> dict[str, float]:
    options = arguments(given)
    started = time.perf_counter()
    torch.manual_seed(0)
    folder, size = data_folder(), 32 if options.model == "resnet20" else 96
    model = load_model(options.model, folder).eval()
    data = load_images(folder, {"train": 2000, "test": options.images}, size)
    results = {"float": evaluate(model, data["test"])}

    dummy_input = data["test"][0][:1]
    fold_all_batch_norms(model, dummy_input.shape)
    sim = QuantizationSimModel(
        model,
        dummy_input,
        quant_scheme=QuantScheme.from_str(options.scheme),
        default_output_bw=options.bits,
        default_param_bw=options.bits,
    )
    sim.compute_encodings(pass_calibration_data, data["train"][0][: 8 * BATCH].split(BATCH))
    results["calibrated"] = evaluate(sim.model, data["test"])
    losses = train(sim.model, data["train"], options.steps, options.rate)
    results["trained"] = evaluate(sim.model, data["test"])
    sim.export(path=options.out, filename_prefix=options.model, dummy_input=dummy_input)
    sim.to_html(options.out / "report.html")

    print(f"{options.model}, W{options.bits}A{options.bits}, {options.scheme}; {len(data['test'][1])} test images")
    for what, accuracy in results.items():
        print(f"  {what:<10} {100 * accuracy:5.1f} %")
    if losses:
        print(f"  loss of {len(losses)} steps: {losses[0]:.3f} at first, {losses[-1]:.3f} at last")
    names = ", ".join(sorted(file.name for file in options.out.iterdir()))
    print(f"{time.perf_counter() - started:.0f} s; files in {options.out}/: {names}")
    return results


if __name__ == "__main__":
    main()
