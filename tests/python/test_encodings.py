"""Encodings as data and as 1.0.0 files."""

import json

import pytest
import torch
from detent.defs import Granularity, QuantScheme
from detent.encodings import AffineEncoding, v1_0_0
from detent.quantizers import QuantizeDequantize


def calibrated(*arguments, x=None, **options):
    quantizer = QuantizeDequantize(*arguments, **options)
    with quantizer.compute_encodings():
        quantizer(torch.randn(6, 32) if x is None else x)
    return quantizer


def test_offset_is_counted_from_the_lower_end_of_the_grid():
    assert calibrated((), 8, True).get_encoding().offset.tolist() == [-128.0]
    quantizer = QuantizeDequantize((), 4, False)
    quantizer.set_range(-1.0, 1.5)
    encoding = quantizer.get_encoding()
    assert encoding.offset.tolist() == [-6.0] and encoding.bitwidth == 4 and not encoding.is_symmetric
    torch.testing.assert_close(encoding.min, torch.tensor([-1.0]))
    torch.testing.assert_close(encoding.max, torch.tensor([1.5]))
    assert (encoding.scale * encoding.offset).equal(encoding.min) and encoding.granularity is Granularity.per_tensor


@pytest.mark.parametrize(
    "arguments, options, keys, kind",
    [
        (((), 8, False), {}, 7, "PER_TENSOR"),
        (((6, 1), 8, True), {}, 7, "PER_CHANNEL"),
        (((6, 4), 4, True), dict(block_size=(1, 8)), 8, "PER_BLOCK"),
    ],
)
def test_entries(arguments, options, keys, kind):
    encoding = calibrated(*arguments, **options).get_encoding()
    entry = json.loads(json.dumps(v1_0_0.entry_of("w", encoding)))
    assert len(entry) == keys and entry["enc_type"] == kind and entry["dtype"] == "INT"
    assert list(entry)[:7] == ["name", "enc_type", "dtype", "bw", "is_sym", "scale", "offset"]
    assert isinstance(entry["is_sym"], bool) and all(isinstance(offset, int) for offset in entry["offset"])
    assert len(entry["scale"]) == len(entry["offset"]) == encoding.scale.numel()
    assert entry.get("block_size") == (8 if kind == "PER_BLOCK" else None)
    back = v1_0_0.encoding_of(entry)
    assert torch.equal(back.scale, encoding.scale.flatten()) and torch.equal(back.offset, encoding.offset.flatten())


@pytest.mark.parametrize(
    "arguments, options",
    [
        (((), 8, False), {}),
        (((), 8, True), {}),
        (((6, 1), 4, True), {}),
        (((6, 1), -127, 127, True), {}),
        (((6, 4), 4, True), dict(block_size=(1, 8))),
        (((), 0, 255, True), dict(zero_point=0)),
        (((), 0, 255, True), {}),
        (((), 16, False), {}),
        (((6, 1), 8, False), dict(parametrization="scale_zero_point")),
    ],
)
def test_a_file_brings_the_same_bits_back(arguments, options):
    for seed in range(20):
        torch.manual_seed(seed)
        x = torch.randn(6, 32) * 10.0 ** torch.randint(-3, 3, (1,)).item()
        first = calibrated(*arguments, x=x, **options)
        entry = json.loads(json.dumps(v1_0_0.entry_of("w", first.get_encoding())))
        second = QuantizeDequantize(*arguments, **{**options, "parametrization": "min_max"})
        second.set_encoding(v1_0_0.encoding_of(entry))
        assert torch.equal(second(x), first(x))
        assert second.extra_repr().split(", param")[0] == first.extra_repr().split(", param")[0]


def test_set_encoding_takes_bitwidth_and_symmetry():
    quantizer = QuantizeDequantize((), 8, False, mode="fixed")
    quantizer.set_encoding(calibrated((), 4, True).get_encoding(), requires_grad=True)
    assert quantizer.bitwidth == 4 and quantizer.symmetric and quantizer.mode == "learned"
    with pytest.raises(ValueError, match="6 scales, expected 1"):
        quantizer.set_encoding(calibrated((6, 1), 4, True).get_encoding())


def test_whole_file(tmp_path):
    encoding = calibrated((), 8, False).get_encoding()
    content = v1_0_0.to_dict({"conv1.input_0": encoding}, {"conv1.weight": calibrated((6, 1), 8, True).get_encoding()})
    assert list(content) == ["version", "activation_encodings", "param_encodings", "excluded_layers", "quantizer_args"]
    v1_0_0.write(tmp_path / "a.json", content)
    activations, parameters = v1_0_0.read(tmp_path / "a.json")
    assert list(activations) == ["conv1.input_0"] and parameters["conv1.weight"].granularity is Granularity.per_channel
    assert torch.equal(activations["conv1.input_0"].scale, encoding.scale)


def test_what_is_not_such_a_file_says_so():
    for content in ({"version": "0.6.1", "activation_encodings": {}}, {}, [1]):
        with pytest.raises(ValueError, match="expected '1.0.0'"):
            v1_0_0.from_dict(content)
    entry = v1_0_0.entry_of("w", calibrated((), 8, False).get_encoding())
    with pytest.raises(ValueError, match="lacks scale"):
        v1_0_0.encoding_of({key: value for key, value in entry.items() if key != "scale"})
    with pytest.raises(ValueError, match="float type and has offset"):
        v1_0_0.encoding_of({**entry, "dtype": "FLOAT"})
    with pytest.raises(ValueError, match="positive finite"):
        v1_0_0.encoding_of({**entry, "scale": [0.0]})
    with pytest.raises(ValueError, match="exactly one dimension"):
        v1_0_0.entry_of("w", calibrated((3, 4), 4, True, block_size=(2, 8)).get_encoding())


def test_bad_scales_are_refused():
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive finite"):
            AffineEncoding(torch.tensor([scale]), torch.tensor([0.0]), 8, False)


def test_schemes():
    assert QuantScheme.post_training_tf is QuantScheme.min_max and QuantScheme.min_max.value == 1
    names = {
        "min_max": 1,
        "tf": 1,
        "post_training_tf": 1,
        "tf_enhanced": 2,
        "percentile": 6,
        "training_range_learning": 5,
    }
    assert {name: QuantScheme.from_str(name).value for name in names} == names
    with pytest.raises(ValueError, match="quant_scheme is 'max'"):
        QuantScheme.from_str("max")
