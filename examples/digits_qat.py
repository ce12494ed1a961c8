"""Quantization-aware training on handwritten digits, start to finish, in a minute or two on a laptop.

A small network learns scikit-learn's digits (1,797 images of 8 x 8 pixels). It is then quantized to 8, 4 and 2 bits:
first by calibration alone, then with training in the loop, with and without trained ranges. Beside them stands the
float network trained for the same further epochs, so that a gain is not mistaken for the effect of training longer. At
the end the 8-bit and 4-bit networks are exported, and ONNX Runtime classifies the test set with the 8-bit file.

    python examples/digits_qat.py --out demo_output
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from detent import QuantizationSimModel, QuantScheme

BITS = (8, 4, 2)
RATE = 1e-2
SCHEMES = {
    "QAT, ranges follow": QuantScheme.min_max,
    "QAT, ranges learned": QuantScheme.training_range_learning_with_tf_init,
}
COLUMNS = ("calibrated", *SCHEMES)


class DigitNet(nn.Module):
    """Three convolutions with batch norm, one residual add, one linear layer: 2,500 parameters."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(2 * width)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(8 * width, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(image)))
        x = F.relu(self.norm2(self.conv2(x)) + x)
        x = F.relu(self.norm3(self.conv3(x)))
        return self.head(self.pool(x).flatten(1))


def load_data(seed: int, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
    """70 % of the images to train on, 30 % held out; pixels between 0 and 1."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    train, test = train_test_split(range(len(labels)), test_size=0.3, stratify=digits.target, random_state=seed)
    return {
        name: (images[part].to(device), labels[part].to(device)) for name, part in (("train", train), ("test", test))
    }


def train(model: nn.Module, data: tuple[Tensor, Tensor], epochs: int, rate: float, seed: int) -> float:
    """An ordinary training loop; it does not know whether the model is quantized. Returns the seconds it took."""
    images, labels = data
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, epochs=epochs, steps_per_epoch=-(-len(labels) // 64)
    )
    started = time.perf_counter()
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=order).split(64):
            batch = batch.to(labels.device)
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return time.perf_counter() - started


@torch.no_grad()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Share of the images that are classified right."""
    images, labels = data
    model.eval()
    return (model(images).argmax(1) == labels).float().mean().item()


def quantize(model: nn.Module, bits: int, scheme: QuantScheme, images: Tensor) -> QuantizationSimModel:
    """A simulation of ``model`` at ``bits``, its ranges taken from 512 training images."""
    sim = QuantizationSimModel(model, images[:1], quant_scheme=scheme, default_output_bw=bits, default_param_bw=bits)
    sim.compute_encodings(lambda model: model(images[:512]))
    return sim


def quantized_rows(model: nn.Module, data: dict, epochs: int, rate: float, seed: int) -> tuple[dict, dict]:
    """Accuracies and seconds of every bitwidth and way of training; and the simulations with learned ranges."""
    rows, sims = {}, {}
    for bits in BITS:
        row = {}
        for name, scheme in SCHEMES.items():
            sim = quantize(model, bits, scheme, data["train"][0])
            row.setdefault("calibrated", {"accuracy": accuracy(sim.model, data["test"])})
            seconds = train(sim.model, data["train"], epochs, rate, seed)
            row[name] = {"accuracy": accuracy(sim.model, data["test"]), "epochs": epochs, "seconds": seconds}
            print(f"  W{bits}A{bits}, {name}: {epochs} epochs in {seconds:.1f} s", flush=True)
        rows[bits], sims[bits] = row, sim
    return rows, sims


def export(sim: QuantizationSimModel, folder: Path, name: str, image: Tensor, torchscript: bool) -> float:
    """Write the files a runtime needs, for any batch size. Returns the seconds it took."""
    started = time.perf_counter()
    sim.export(
        folder,
        name,
        image.cpu(),
        export_to_torchscript=torchscript,
        onnx_export_args={
            "input_names": ["image"],
            "output_names": ["logits"],
            "dynamic_shapes": {"image": {0: torch.export.Dim("batch")}},
        },
    )
    return time.perf_counter() - started


def run_onnx(sim: QuantizationSimModel, file: Path, images: Tensor) -> dict:
    """Classify ``images`` with ONNX Runtime and compare with the simulation."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # 8-bit products as exact integers: without this, sums saturate on x86 processors that have no VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images.cpu().numpy()})
    logits = torch.from_numpy(logits)
    with torch.no_grad():
        simulated = sim.model.eval()(images).cpu()
    scale = sim.model.head.output_quantizers[0].get_scale().item()
    difference = (logits - simulated).abs()
    return {
        "images": len(images),
        "same_class": int((logits.argmax(1) == simulated.argmax(1)).sum()),
        "logits": logits.numel(),
        "logits_on_another_step": int((difference > scale / 2).sum()),
        "max_difference": difference.max().item(),
        "max_difference_in_steps": difference.max().item() / scale,
    }


def table(results: dict) -> str:
    """The accuracies as text."""
    head = "".join(f"{column:>22}" for column in COLUMNS)
    lines = [f"test accuracy, %{head}"]
    trained = results["float"]["accuracy"], results["float_control"]["accuracy"]
    lines.append(f"{'float':<16}{100 * trained[0]:>22.1f}{100 * trained[1]:>22.1f}   (trained on, same epochs)")
    for bits, row in results["quantized"].items():
        cells = "".join(f"{100 * row[column]['accuracy']:>22.1f}" for column in COLUMNS)
        lines.append(f"{f'W{bits}A{bits}':<16}{cells}")
    return "\n".join(lines)


def plot(results: dict, file: Path) -> None:
    """The same as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4.8), layout="constrained")
    width = 0.26
    colors = ("#b8bcc4", "#5b8fd6", "#1f4e96")
    for number, (column, color) in enumerate(zip(COLUMNS, colors)):
        heights = [100 * row[column]["accuracy"] for row in results["quantized"].values()]
        places = [position + (number - 1) * width for position in range(len(heights))]
        bars = axes.bar(places, heights, width, label=column, color=color)
        axes.bar_label(bars, fmt="%.1f", padding=-14, fontsize=9, color="black" if number == 0 else "white")
    control = 100 * results["float_control"]["accuracy"]
    axes.axhline(control, color="black", linewidth=1, linestyle="--", label=f"float, trained on ({control:.1f})")
    axes.set_xticks(range(len(results["quantized"])), [f"W{bits}A{bits}" for bits in results["quantized"]])
    axes.set_ylim(0, 105)
    axes.set_ylabel("test accuracy, %")
    axes.set_title("Digits: calibration alone, and quantization-aware training")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for what is written")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the float network")
    parser.add_argument("--qat-epochs", type=int, default=40, help="further epochs, quantized and float alike")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one epoch each and one export: a check that it runs")
    options = parser.parse_args(given)
    if options.quick:
        options.epochs = options.qat_epochs = 1
    return options


def main(given: list[str] | None = None) -> dict:
    options = arguments(given)
    started = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    torch.set_num_threads(
        1
    )  # layers this small gain nothing from a second one, and lose much where the cores are shared
    data = load_data(options.seed, device)
    print(f"{len(data['train'][1])} images to train on, {len(data['test'][1])} held out; {device}", flush=True)

    model = DigitNet().to(device)
    seconds = train(model, data["train"], options.epochs, RATE, options.seed)
    results: dict = {"float": {"accuracy": accuracy(model, data["test"]), "epochs": options.epochs, "seconds": seconds}}
    print(f"  float: {options.epochs} epochs in {seconds:.1f} s", flush=True)

    control = copy.deepcopy(model)
    seconds = train(control, data["train"], options.qat_epochs, RATE, options.seed)
    results["float_control"] = {
        "accuracy": accuracy(control, data["test"]),
        "epochs": options.qat_epochs,
        "seconds": seconds,
    }
    print(f"  float, trained on: {options.qat_epochs} epochs in {seconds:.1f} s", flush=True)

    results["quantized"], sims = quantized_rows(model, data, options.qat_epochs, RATE, options.seed)
    print("\n" + table(results) + "\n", flush=True)

    options.out.mkdir(parents=True, exist_ok=True)
    plot(results, options.out / "accuracy.png")
    image = data["test"][0][:2]
    results["export_seconds"] = {}
    for bits in BITS[:1] if options.quick else BITS[:2]:
        name = f"digits_w{bits}a{bits}"
        results["export_seconds"][name] = export(sims[bits], options.out, name, image, torchscript=bits == 8)
        print(f"  exported {name} in {results['export_seconds'][name]:.1f} s", flush=True)
    compared = run_onnx(sims[8], options.out / "digits_w8a8_qdq.onnx", data["test"][0])
    results["onnx_runtime_w8a8"] = compared
    print(
        f"  ONNX Runtime, W8A8: {compared['same_class']} of {compared['images']} predictions as simulated; "
        f"{compared['logits_on_another_step']} of {compared['logits']} logits fall on another step, "
        f"largest difference {compared['max_difference']:.3g} ({compared['max_difference_in_steps']:.2f} steps)"
    )
    return finish(results, options, device, started)


def finish(results: dict, options: argparse.Namespace, device: torch.device, started: float) -> dict:
    """Say what ran where, and write results.json."""
    results["seed"] = options.seed
    results["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    results["torch"] = torch.__version__
    results["seconds"] = time.perf_counter() - started
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    names = ", ".join(sorted(file.name for file in options.out.iterdir()))
    print(f"{results['seconds']:.0f} s in all; files in {options.out}/: {names}")
    return results


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
