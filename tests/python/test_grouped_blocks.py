"""Grouped blocks (LPBQ): the formula against float64, gradients, state, encodings files and the ONNX export."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from detent.config_utils import set_grouped_blockwise_quantization_for_weights
from detent.encodings import GroupedBlockEncoding, to_dict
from detent.quantizers import GroupedBlockQuantizeDequantize, QuantizeDequantize
from detent.quantsim import QuantizationSimModel

from simulations import restated

BLOCKED = dict(block_size=(1, 4), block_grouping=(1, -1))


def calibrated(shape, x, *arguments, **options):
    quantizer = GroupedBlockQuantizeDequantize(shape, *(arguments or (4, True, 8)), **options)
    with quantizer.compute_encodings():
        quantizer(x)
    return quantizer


def oracle(x, scale, bitwidth, decompressed_bw, block, groups):
    """y, channel and block scales of a matrix, block by block in float64."""
    levels = 2 ** (decompressed_bw - bitwidth)
    y, channels, blocks = np.empty_like(x), {}, np.empty_like(scale)
    for i, j in np.ndindex(scale.shape):
        key = i // groups[0], j // groups[1]
        rows = slice(key[0] * groups[0], (key[0] + 1) * groups[0])
        columns = slice(key[1] * groups[1], (key[1] + 1) * groups[1])
        channels[key] = scale[rows, columns].max() / levels
        blocks[i, j] = min(max(np.rint(scale[i, j] / channels[key]), 1), levels)
        at = slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1])
        step = blocks[i, j] * channels[key]
        y[at] = np.clip(np.rint(x[at] / step), -(2 ** (bitwidth - 1)), 2 ** (bitwidth - 1) - 1) * step
    return y, channels, blocks


@pytest.mark.parametrize("mode", ["learned", "fixed"])
@pytest.mark.parametrize("bits", [(4, 8), (4, 4), (2, 8), (8, 16)])
@pytest.mark.parametrize("grouping", [(1, -1), (-1, 1), (-1, -1), (2, 2), None])
def test_forward_is_the_formula(bits, grouping, mode):
    x = torch.randn(4, 24, dtype=torch.float64) * torch.logspace(-2, 1, 24, dtype=torch.float64)
    block = (1, 4)
    quantizer = calibrated((4, 6), x, bits[0], True, bits[1], block_size=block, block_grouping=grouping, mode=mode)
    plain = QuantizeDequantize((4, 6), bits[0], True, block_size=block)
    plain.set_range(quantizer.min.detach(), quantizer.max.detach())
    # The oracle starts from float64 scales of the same float32 range.
    scale = ((quantizer.max.double() - quantizer.min.double()) / (2 ** bits[0] - 1)).detach().numpy()
    groups = [size if group == -1 else group for size, group in zip((4, 6), grouping or (1, 1))]
    y, channels, blocks = oracle(x.numpy(), scale, *bits, block, groups)
    np.testing.assert_allclose(quantizer(x).detach().numpy(), y, rtol=1e-12)
    np.testing.assert_array_equal(quantizer.get_block_scale().numpy(), blocks)
    np.testing.assert_allclose(quantizer.get_channel_scale().flatten().numpy(), list(channels.values()), rtol=1e-6)
    if grouping is None:
        torch.testing.assert_close(quantizer.get_scale(), plain.get_scale(), rtol=0, atol=0)


def test_no_expansion_and_one_group_is_per_tensor():
    x = torch.randn(2, 8)
    quantizer = calibrated((2, 2), x, 4, True, 4, block_size=(1, 4), block_grouping=(-1, -1))
    tensor = QuantizeDequantize((1,), 4, True)
    with tensor.compute_encodings():
        tensor(x)
    assert torch.equal(quantizer(x), tensor(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_lie_on_the_decompressed_grid(dtype):
    x = torch.randn(3, 16).to(dtype)
    quantizer = calibrated((3, 4), x, **BLOCKED)
    y = quantizer(x)
    assert y.dtype == dtype
    exact = quantizer(x.float()).detach() / quantizer.get_channel_scale()
    torch.testing.assert_close(exact, exact.round(), rtol=1e-5, atol=1e-5)
    assert exact.abs().max() <= 128


def test_gradients_are_those_of_the_composition():
    x = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)
    quantizer = calibrated((3, 4), x.detach(), **BLOCKED)
    g = torch.randn_like(x)
    quantizer(x).backward(g)
    low, high = (end.detach().double().requires_grad_() for end in (quantizer.min, quantizer.max))
    s = (high - low) / 15
    channel = s.amax(1, keepdim=True) / 16
    ratio = s / channel
    whole = (ratio + (ratio.round() - ratio).detach()).clamp(1, 16)
    step = (whole * channel).repeat_interleave(4, 1)
    v = x.detach() / step.detach()
    inside = (v.round() >= -8) & (v.round() <= 7)
    slope = torch.where(inside, v.round() - v, v.round().clamp(-8, 7))  # Esser 2020, eq. 3
    (step * (g * slope)).sum().backward()
    torch.testing.assert_close(x.grad, g * inside)
    torch.testing.assert_close(quantizer.max.grad.double(), high.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quantizer.min.grad.double(), low.grad, rtol=1e-4, atol=1e-5)


def test_dynamic_follows_x_without_a_gradient_to_scales():
    x = torch.randn(3, 16)
    dynamic = GroupedBlockQuantizeDequantize((3, 4), 4, True, 8, mode="dynamic", **BLOCKED)
    fixed = calibrated((3, 4), x, mode="fixed", **BLOCKED)
    leaf = x.clone().requires_grad_()
    dynamic(leaf).sum().backward()
    assert torch.equal(dynamic(x), fixed(x))
    assert set(leaf.grad.flatten().tolist()) <= {0.0, 1.0}


def test_state_survives_copies_and_a_state_dict():
    x = torch.randn(3, 16)
    quantizer = calibrated((3, 4), x, **BLOCKED)
    fresh = GroupedBlockQuantizeDequantize((3, 4), 4, True, 6, block_size=(1, 4))
    fresh.load_state_dict(quantizer.state_dict())
    for other in (fresh, copy.deepcopy(quantizer), copy.deepcopy(quantizer).half()):
        assert torch.equal(other(x), quantizer(x))
        assert (other.decompressed_bw, other.block_grouping) == (8, (1, 4))
    state = quantizer.state_dict()
    plain = QuantizeDequantize((3, 4), 4, True, block_size=(1, 4)).state_dict()
    for wrong in ({**state, "_extra_state": restated(state["_extra_state"], block_grouping=[1, 3])}, plain):
        with pytest.raises(RuntimeError, match="block_grouping"):
            fresh.load_state_dict(wrong)
    assert torch.equal(fresh(x), quantizer(x)) and fresh.block_grouping == (1, 4)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(symmetric=False), "symmetric"),
        (dict(decompressed_bw=3), "decompressed_bw is 3"),
        (dict(decompressed_bw=33), "decompressed_bw is 33"),
        (dict(decompressed_bw=8.0), "decompressed_bw is 8.0"),
        (dict(block_grouping=(1,)), "block_grouping"),
        (dict(block_grouping=(1, 3)), "block_grouping"),
        (dict(block_size=None), "block_size is None"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = dict(shape=(3, 1) if "block_size" in change else (3, 4), bitwidth=4, symmetric=True, decompressed_bw=8)
    with pytest.raises(ValueError, match=message):
        GroupedBlockQuantizeDequantize(**{**arguments, **BLOCKED, **change})


def test_a_bitwidth_beyond_the_decompressed_one_is_refused():
    quantizer = calibrated((3, 4), torch.randn(3, 16), **BLOCKED)
    with pytest.raises(ValueError, match="decompressed_bw"):
        quantizer.bitwidth = 9
    assert quantizer.bitwidth == 4


# --- in a simulation --------------------------------------------------------------------------------------------------


def simulation(kind=GroupedBlockQuantizeDequantize):
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Unflatten(1, (6, 1, 1)), nn.ConvTranspose2d(6, 4, 1))
    x = torch.randn(5, 16)
    sim = QuantizationSimModel(model, x)
    if kind is GroupedBlockQuantizeDequantize:
        weights = (
            kind((6, 4), 4, True, 8, mode="fixed", **BLOCKED),
            kind((3, 4, 1, 1), 4, True, 8, mode="fixed", block_size=(2, 1, 1, 1), block_grouping=(-1, 1, 1, 1)),
        )
    else:
        weights = (
            kind((6, 4), 4, True, mode="fixed", block_size=(1, 4)),
            kind((3, 4, 1, 1), 4, True, mode="fixed", block_size=(2, 1, 1, 1)),
        )
    sim.model[0].param_quantizers["weight"], sim.model[3].param_quantizers["weight"] = weights
    sim.compute_encodings(lambda model: model(x))
    return sim, x


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_files_load_back_to_the_same_bits(version, tmp_path):
    sim, x = simulation()
    sim.save_encodings_to_json(tmp_path, "lpbq", encoding_version=version)
    other, _ = simulation()
    for layer in (other.model[0], other.model[3]):
        layer.param_quantizers["weight"].set_range(-1.0, 1.0)
    assert not torch.equal(other.model(x), sim.model(x))
    other.load_encodings(tmp_path / "lpbq.json")
    assert torch.equal(other.model(x), sim.model(x))


def test_entries_have_the_keys_of_their_format():
    sim, _ = simulation()
    content = to_dict("1.0.0", *sim.encodings(), keyed_by="torch")
    entry = next(entry for entry in content["param_encodings"] if entry["name"] == "0.weight")
    assert set(entry) == {
        "name", "enc_type", "dtype", "bw", "compressed_bw", "is_sym", "scale", "offset", "block_size",
        "per_block_int_scale",
    }  # fmt: skip
    assert (entry["enc_type"], entry["bw"], entry["compressed_bw"], entry["block_size"]) == ("LPBQ", 8, 4, 4)
    assert len(entry["scale"]) == 6 and entry["offset"] == [-128] * 6
    assert len(entry["per_block_int_scale"]) == 24 and max(entry["per_block_int_scale"]) == 16
    content = to_dict("2.0.0", *sim.encodings(), keyed_by="torch")
    entry = next(entry for entry in content["encodings"] if entry["name"] == "3.weight")
    assert (entry["output_dtype"], entry["axis"], entry["block_size"]) == ("int4", 0, 2)
    assert np.shape(entry["per_block_int_scale"]) == (3, 4, 1, 1)
    assert np.shape(entry["per_channel_float_scale"]) == (1, 4, 1, 1)


def test_what_no_format_says_is_refused():
    sim, _ = simulation()
    with pytest.raises(ValueError, match="has no blocks"):
        to_dict("0.6.1", *sim.encodings(), keyed_by="torch")
    shared = calibrated((3, 4), torch.randn(3, 16), block_size=(1, 4), block_grouping=(1, 2)).get_encoding()
    for version in ("1.0.0", "2.0.0"):
        with pytest.raises(ValueError, match="groups of shape"):
            to_dict(version, {}, {"w": shared}, keyed_by="torch")


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_grouped_and_plain_blocks_are_not_mixed_up(version):
    grouped, plain = simulation()[0], simulation(QuantizeDequantize)[0]
    for source, target in ((grouped, plain), (plain, grouped)):
        content = to_dict(version, *source.encodings(), keyed_by="torch")
        before = copy.deepcopy(target.model.state_dict())
        with pytest.raises(ValueError, match="weight has"):
            target.load_encodings(content)
        after = target.model.state_dict()
        assert all(torch.equal(after[key], value) for key, value in before.items() if isinstance(value, torch.Tensor))


HOSTILE = [None, True, "x", [], {}, [[1]], -1, 0, 1.5, 17, 10**400, float("nan"), float("inf"), [float("nan")] * 6]


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_a_damaged_entry_is_an_error_and_changes_nothing(version):
    sim, x = simulation()
    y = sim.model(x)
    good = to_dict(version, *sim.encodings(), keyed_by="torch")
    part = "encodings" if version == "2.0.0" else "param_encodings"
    index = [entry["name"] for entry in good[part]].index("0.weight")
    keys = [key for key in good[part][index] if key != "name"]
    tried = 0
    for key in keys:
        for bad in [*HOSTILE, KeyError]:
            content = copy.deepcopy(good)
            entry = content[part][index]
            if (key, bad) in (("is_sym", True), ("axis", -1)):  # as it should be
                continue
            if bad is KeyError:
                del entry[key]
            else:
                entry[key] = bad
            with pytest.raises(ValueError, match="0.weight"):
                sim.load_encodings(content)
            tried += 1
    content = json.loads(json.dumps(good))
    scales = content[part][index]["per_block_int_scale"]
    (scales[0] if version == "2.0.0" else scales)[0] = 17
    with pytest.raises(ValueError, match="0.weight"):
        sim.load_encodings(content)
    assert tried > 60
    assert torch.equal(sim.model(x), y)


def test_an_encoding_is_data():
    encoding = calibrated((3, 4), torch.randn(3, 16), **BLOCKED).get_encoding()
    assert isinstance(encoding, GroupedBlockEncoding) and encoding.decompressed_bw == 8
    torch.testing.assert_close(encoding.per_channel_scale * encoding.per_block_int_scale, encoding.scale)


def test_the_helper_lays_blocks_along_input_channels():
    sim, x = simulation(QuantizeDequantize)
    set_grouped_blockwise_quantization_for_weights(sim, (nn.Linear, nn.ConvTranspose2d), 4, True, 8, block_size=2)
    linear, transposed = (sim.model[i].param_quantizers["weight"] for i in (0, 3))
    assert (linear.shape, linear.block_size, linear.block_grouping) == ((6, 8), (1, 2), (1, 8))
    assert (transposed.shape, transposed.block_grouping) == ((3, 4, 1, 1), (3, 1, 1, 1))
    assert linear.mode == transposed.mode == "fixed"
    sim.compute_encodings(lambda model: model(x))
    assert sim.model(x).isfinite().all()


@pytest.mark.parametrize(
    "arg, block, message",
    [
        ([nn.Conv3d], 2, "selects no layer"),
        ([nn.Linear, nn.ConvTranspose2d], 4, "3.weight has shape"),
        (lambda module: isinstance(module, nn.Linear), 0, r"which blocks of \(1, 0\) do not divide"),
        ([nn.Linear], (1, 2, 3), "0.weight has shape"),
    ],
)
def test_the_helper_changes_all_or_nothing(arg, block, message):
    sim, _ = simulation(QuantizeDequantize)
    before = [sim.model[i].param_quantizers["weight"] for i in (0, 3)]
    with pytest.raises(ValueError, match=message):
        set_grouped_blockwise_quantization_for_weights(sim, arg, 4, True, 8, block_size=block)
    assert [sim.model[i].param_quantizers["weight"] for i in (0, 3)] == before
