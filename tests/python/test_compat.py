"""AIMET's constructors, functions and method names, and the table of imports."""

import inspect
import re
from pathlib import Path

import detent
import detent.compat as Q
import pytest
import torch
from detent.compat.affine import AffineEncoding
from detent.observers import MinMaxObserver
from detent.quantizers import QuantizeDequantize
from torch import nn



def fake_quant(x, scale, zero_point, qmin, qmax):
    """Float64; exact for the scales used here, which are powers of two."""
    x, scale = x.double(), scale.double()
    return ((torch.round(x / scale) + zero_point).clamp(qmin, qmax) - zero_point) * scale


TABLE = Path(__file__).parents[2] / "docs" / "from_aimet.md"


# --- functions --------------------------------------------------------------------------------------------------------

GRIDS = [
    ((0, 15), {}, 0, 15),
    ((-7, 7, None), {}, -7, 7),
    ((4,), {}, 0, 15),
    ((4, True), {}, -8, 7),
    ((4, False, None), {}, 0, 15),
    ((), dict(bitwidth=4, signed=True), -8, 7),
    ((), dict(qmin=-3, qmax=9), -3, 9),
    ((), dict(num_steps=15), 0, 15),
    ((), dict(num_steps=15, signed=True), -8, 7),
    ((), dict(num_steps=14, signed=True), -7, 7),
]


@pytest.mark.parametrize("args, kwargs, qmin, qmax", GRIDS)
def test_every_form_of_the_grid(args, kwargs, qmin, qmax):
    x, scale, offset = torch.randn(5, 6) * 4, torch.tensor(0.25), torch.tensor(-3.0)
    expected = fake_quant(x, scale, -offset, qmin, qmax)
    assert torch.equal(Q.affine.quantize_dequantize(x, scale, offset, *args, **kwargs).double(), expected)
    codes = Q.affine.quantize(x, scale, offset, *args, **kwargs)
    assert codes.dtype == torch.float32 and codes.min() >= qmin and codes.max() <= qmax
    assert torch.equal(Q.affine.dequantize(codes, scale, offset).double(), expected)
    encoding = AffineEncoding(scale, offset, *(args[:2]), **kwargs)
    assert (encoding.qmin, encoding.qmax, encoding.num_steps) == (qmin, qmax, qmax - qmin)


@pytest.mark.parametrize(
    "shape, blocks", [((6,), None), ((5, 1), None), ((1, 5, 1), None), ((5, 2), (1, 3)), ((5, 6), None)]
)
def test_scales_broadcast_or_have_blocks(shape, blocks):
    x, scale = torch.randn(5, 6) * 4, 2.0 ** torch.randint(-3, 1, shape)
    offset = torch.randint(-9, 0, shape).float()
    whole = [part.repeat_interleave(3, 1) if blocks else part for part in (scale, offset)]
    x = x.expand(1, 5, 6) if len(shape) == 3 else x
    expected = fake_quant(x, whole[0], -whole[1], 0, 15)
    assert torch.equal(Q.affine.quantize_dequantize(x, scale, offset, 4, False, blocks).double(), expected)
    codes = Q.affine.quantize(x, scale, offset, 0, 15, blocks)
    assert torch.equal(Q.affine.dequantize(codes, scale, offset, blocks).double(), expected)


@pytest.mark.parametrize(
    "args, kwargs, says",
    [
        ((), {}, "got nothing for the grid"),
        ((), dict(qmin=0), "got qmin for the grid"),
        ((4, True, None, 1), {}, "got 4 arguments for the grid"),
        ((4,), dict(bitwidth=4), "bitwidth was given twice"),
        ((4, True), dict(bits=3), "got bits, bitwidth for the grid"),
    ],
)
def test_other_forms_are_errors(args, kwargs, says):
    with pytest.raises(TypeError, match=says):
        Q.affine.quantize(torch.zeros(2), torch.tensor(1.0), torch.tensor(0.0), *args, **kwargs)


# --- quantizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape, blocks", [((1,), None), ((4, 1), None), ((4, 2), (1, 3))])
@pytest.mark.parametrize("symmetric", [True, False])
def test_encodings_make_the_same_quantizer_again(shape, blocks, symmetric):
    observer = MinMaxObserver(shape, blocks)
    quantizer = QuantizeDequantize(shape, 4, symmetric, encoding_analyzer=observer, block_size=blocks)
    x = torch.randn(4, 6)
    with quantizer.compute_encodings():
        quantizer(x)
    encoding = quantizer.get_encodings()
    assert torch.equal(encoding.min, quantizer.get_min()) and torch.equal(encoding.max, quantizer.get_max())
    assert encoding.signed == symmetric and encoding.symmetry == symmetric and encoding.bitwidth == 4
    assert encoding.granularity == {1: "pertensor", 4: "perchannel", 8: "blockwise"}[encoding.scale.numel()]
    assert encoding.dtype == (torch.int8 if symmetric else torch.uint8) and encoding.mapping == "affine"
    again = QuantizeDequantize.from_encodings(encoding)
    assert torch.equal(again(x), quantizer(x))
    functional = Q.affine.quantize_dequantize(
        x, encoding.scale, encoding.offset, encoding.qmin, encoding.qmax, blocks
    )
    assert torch.equal(functional, quantizer(x))
    assert encoding.to(torch.float32) is encoding and encoding.to(torch.float64).scale.dtype == torch.float64
    with pytest.raises(RuntimeError, match="expected one of floats"):
        encoding.to(torch.int8)
    entry = encoding.to_qnn_encoding_dict("1.0.0")
    assert entry["bw"] == 4 and entry["is_sym"] == symmetric and len(entry["scale"]) == encoding.scale.numel()


@pytest.mark.parametrize(
    "qmin, qmax, symmetry, offset",
    [(-3, 9, False, 1.0), (0, 255, True, 0.0), (-127, 127, True, 0.0), (0, 15, True, -8.0)],
)
def test_encodings_keep_any_grid(qmin, qmax, symmetry, offset):
    scale = 2.0 ** torch.randint(-3, 1, (4, 1))
    encoding = AffineEncoding(scale, torch.full_like(scale, offset), qmin, qmax, symmetry)
    quantizer = QuantizeDequantize.from_encodings(encoding)
    assert (quantizer.qmin, quantizer.qmax, quantizer.symmetric) == (qmin, qmax, symmetry)
    assert torch.equal(quantizer.get_scale(), scale) and torch.equal(quantizer.get_offset(), encoding.offset)
    x = torch.randn(4, 9) * 20
    assert torch.equal(quantizer(x), Q.affine.quantize_dequantize(x, scale, encoding.offset, qmin, qmax))


@pytest.mark.parametrize("shape", [(1,), (4, 1)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_legacy_encodings_round_trip(shape, symmetric):
    quantizer, other = QuantizeDequantize(shape, 4, symmetric), QuantizeDequantize(shape, 8, True)
    assert quantizer.get_legacy_encodings() is None and quantizer.get_encodings() is None
    quantizer.set_range(-torch.rand(shape), torch.rand(shape))
    entries = quantizer.get_legacy_encodings()
    assert len(entries) == quantizer.get_min().numel()
    other.set_legacy_encodings(entries)
    x = torch.randn(4, 6)
    assert torch.equal(other(x), quantizer(x)) and other.symmetric == symmetric and other.bitwidth == 4
    before = other(x)
    with pytest.raises(ValueError, match="expected a list with at least one element"):
        other.set_legacy_encodings([])
    with pytest.raises(ValueError, match=f"expected {len(entries)} for shape"):
        other.set_legacy_encodings(entries * 3)
    assert torch.equal(other(x), before)


def test_names_of_properties():
    observer = MinMaxObserver((1,))
    quantizer = QuantizeDequantize((1,), 8, False, encoding_analyzer=observer)
    assert quantizer.encoding_analyzer is observer and quantizer.use_symmetric_encodings is False
    quantizer.use_symmetric_encodings = True
    quantizer.encoding_analyzer = None
    assert quantizer.symmetric and quantizer.observer is None


def test_float_encodings_are_maxval_and_bits():
    observer = Q.encoding_analyzer.MinMaxEncodingAnalyzer((4, 1))
    quantizer = Q.float.FloatQuantizeDequantize(4, 3, finite=True, encoding_analyzer=observer)
    assert quantizer.get_encodings() is None and quantizer.get_legacy_encodings() is None
    x = torch.randn(4, 9)
    with quantizer.compute_encodings():
        quantizer(x)
    encoding = quantizer.get_encodings()
    assert torch.equal(encoding.maxval, x.abs().amax(1, keepdim=True))
    assert (encoding.mapping, encoding.bitwidth, encoding.exponent_bits, encoding.mantissa_bits) == ("float", 8, 4, 3)
    assert encoding.to(torch.float32) is encoding and encoding.to(torch.float64).maxval.dtype == torch.float64
    again = Q.float.FloatQuantizeDequantize.from_encodings(encoding)
    assert torch.equal(again(x), quantizer(x))
    other = Q.float.FloatQuantizeDequantize(dtype=torch.float16, shape=(4, 1))
    other.set_legacy_encodings(quantizer.get_legacy_encodings())
    assert torch.equal(other(x), quantizer(x))
    half = Q.float.FloatQuantizeDequantize(dtype=torch.float16)
    assert half.get_legacy_encodings() == [{"bitwidth": 16, "dtype": "float"}]
    assert half.get_encodings().to_qnn_encoding_dict() == {"enc_type": "PER_TENSOR", "dtype": "FLOAT", "bw": 16}
    entry = encoding.to_qnn_encoding_dict("2.0.0")
    assert entry["output_dtype"] == "float8e4m3fn" and entry["axis"] == 0 and len(entry["y_scale"]) == 4


def test_analyzers_take_their_own_arguments():
    A, x = Q.encoding_analyzer, torch.cat([torch.linspace(-1, 1, 10000), torch.tensor([9.0])])
    percentile = A.PercentileEncodingAnalyzer((1,), 512, 99.0)
    for analyzer in (percentile, A.SqnrEncodingAnalyzer((1,), 512, gamma=1.0), A.TfEnhancedEncodingAnalyzer((1,))):
        quantizer = QuantizeDequantize((1,), 4, False, encoding_analyzer=analyzer)
        with quantizer.compute_encodings():
            quantizer(x)
        assert quantizer.get_max().item() < 8 and analyzer.bins == 512
    percentile.set_percentile(100.0)
    assert percentile.percentile == 100.0


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_modules_of_functions_are_quantized():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.add, self.cat = Q.elementwise_ops.Add(), Q.elementwise_ops.Concat(axis=1)

        def forward(self, x):
            return self.cat(self.add(x, x), x)

    x = torch.randn(2, 300)
    sim = detent.QuantizationSimModel(Net(), x)
    sim.compute_encodings(Q.CallbackFunc(lambda model, data: model(data), x))
    names = {name for name, _ in sim.named_quantizers()}
    assert {"add.add_0.output_quantizers.0", "cat.cat_0.output_quantizers.0"} <= names
    assert sim.model(x).shape == (2, 600) and sim.model(x).unique().numel() <= 256


def _rows(heading: str) -> list[list[str]]:
    """What stands as code in each cell of the table's lines."""
    section = TABLE.read_text().split(heading)[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[re.findall(r"`([^`]+)`", cell) for cell in line.split("|")[1:-1]] for line in lines]


def _methods() -> list[str]:
    return [name for row in _rows("## Methods of QuantizationSimModel") for name in row[0]]


@pytest.mark.parametrize("row", _rows("## Imports"), ids=lambda row: row[0][0])
def test_every_line_of_the_table_of_imports(row):
    (old,), (new,) = row
    assert re.match("(from|import) aimet", old)
    exec(new, {})


@pytest.mark.parametrize("method", _methods())
def test_every_method_of_the_table(method):
    name, arguments = method[:-1].split("(")
    signature = inspect.signature(getattr(detent.QuantizationSimModel, name))
    wanted = [word for word in re.findall(r"\w+", arguments) if word != "args"]
    assert [given for given in signature.parameters if given in wanted] == wanted
