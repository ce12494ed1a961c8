"""The quantizer modules: numbers, modes, calibration, saving, errors."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from detent.observers import MinMaxObserver, MovingAverageObserver
from detent.quantizers import Quantize, QuantizeDequantize, quantization_disabled
from torch.utils.checkpoint import checkpoint

from simulations import restated

X = [-2, -1.1, -0.6, -0.26, 0, 0.2, 0.49, 0.9, 1.4, 3]
G = [1, -1, 0.5, 2, 1, -2, 1, 0.25, -1, 1.5]


def calibrated(*arguments, low=-1.0, high=1.5, **options):
    quantizer = QuantizeDequantize(*arguments, **options)
    quantizer.set_range(low, high)
    return quantizer


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_golden_vector_asymmetric():
    quantizer = calibrated((), 4, False)
    x = torch.tensor(X, requires_grad=True)
    y = quantizer(x)
    y.backward(torch.tensor(G))
    expected = torch.tensor([-6, -6, -4, -2, 0, 1, 3, 5, 8, 9]) / 6
    torch.testing.assert_close(y.detach(), expected)
    assert x.grad.tolist() == [0, 0, 0.5, 2, 1, -2, 1, 0.25, -1, 0]
    torch.testing.assert_close(quantizer.min.grad, torch.tensor([0.0213333]), atol=1e-5, rtol=0)
    torch.testing.assert_close(quantizer.max.grad, torch.tensor([1.4786667]), atol=1e-5, rtol=0)
    torch.testing.assert_close(quantizer.get_scale().detach(), torch.tensor([1 / 6]))
    assert quantizer.get_offset().tolist() == [-6.0] and quantizer.get_zero_point().tolist() == [6.0]


def test_golden_vector_symmetric():
    quantizer = calibrated((), 4, True, low=-1.0, high=0.875)
    x = torch.tensor(X, requires_grad=True)
    y = quantizer(x)
    y.backward(torch.tensor(G))
    assert y.tolist() == [-1, -1, -0.625, -0.25, 0, 0.25, 0.5, 0.875, 0.875, 0.875]
    assert x.grad.tolist() == [0, 0, 0.5, 2, 1, -2, 1, 0.25, 0, 0]
    torch.testing.assert_close(quantizer.min.grad, torch.tensor([-0.186]), atol=1e-5, rtol=0)
    torch.testing.assert_close(quantizer.max.grad, torch.tensor([0.186]), atol=1e-5, rtol=0)


def test_golden_vector_scale_zero_point():
    quantizer = calibrated((), 4, False, parametrization="scale_zero_point")
    y = quantizer(torch.tensor(X))
    y.backward(torch.tensor(G))
    torch.testing.assert_close(quantizer.scale.grad, torch.tensor([13.18]), atol=1e-4, rtol=0)
    torch.testing.assert_close(quantizer.zero_point.grad, torch.tensor([-0.25]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("parametrization", ["min_max", "scale_zero_point"])
@pytest.mark.parametrize("shape", [(1,), (4, 1, 1, 1), (1, 3, 1, 1)])
def test_codes_and_values_agree(symmetric, parametrization, shape):
    x = torch.randn(4, 3, 5, 5)
    pair = [cls(shape, 8, symmetric, parametrization=parametrization) for cls in (Quantize, QuantizeDequantize)]
    for quantizer in pair:
        with quantizer.compute_encodings():
            quantizer(x)
    codes, values = (quantizer(x) for quantizer in pair)
    rebuilt = (codes - pair[0].get_zero_point()) * pair[0].get_scale()
    assert torch.equal(rebuilt, values)


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradient_of_codes_follows_the_formula(symmetric):
    quantizer = Quantize((), 4, symmetric)
    quantizer.set_range(-1.0, 1.5)
    x, g = torch.tensor(X, requires_grad=True), torch.tensor(G)
    quantizer(x).backward(g)
    low, high, n, qmin = -1.0, 1.5, 15, quantizer.qmin
    s, zp = (high - low) / n, quantizer.get_zero_point().item()
    codes = torch.round(x.detach().double() / s) + zp
    m = (codes >= qmin) & (codes <= quantizer.qmax)
    ds, dzp = (-g * m * x.detach() / s**2).sum().item(), (g * m).sum().item()
    slope = (-dzp * (1 / s + low / (s * s * n)), dzp * low / (s * s * n)) if not symmetric else (0.0, 0.0)
    torch.testing.assert_close(x.grad, (g * m / s).float())
    assert quantizer.min.grad.item() == pytest.approx(-ds / n + slope[0], rel=1e-4, abs=1e-4)
    assert quantizer.max.grad.item() == pytest.approx(ds / n + slope[1], rel=1e-4, abs=1e-4)


def test_integer_codes():
    quantizer = Quantize((1,), 8, True, dtype=torch.int8)
    quantizer.set_range(-128.0, 127.0)
    assert quantizer(torch.tensor([-300.0, 1.5, 2.5, 300.0])).tolist() == [-128, 2, 2, 127]


def test_get_scale_carries_a_gradient():
    quantizer = calibrated((), 8, False)
    quantizer.get_scale().sum().backward()
    torch.testing.assert_close(quantizer.max.grad, torch.tensor([1 / 255]))
    torch.testing.assert_close(quantizer.min.grad, torch.tensor([-1 / 255]))


def test_effective_ends_are_grid_points():
    quantizer = calibrated((), 8, False, low=-0.33, high=0.91)
    ends = torch.stack([quantizer.get_min(), quantizer.get_max()]).detach()
    with torch.no_grad():
        assert torch.equal(quantizer(ends), ends)


@pytest.mark.parametrize(
    "shape, axis",
    [((), None), ((1,), None), ((1, 1, 1, 1), None), ((4, 1, 1, 1), 0), ((1, 3, 1, 1), 1), ((3, 1, 1), 1), ((6,), 3)],
)
def test_axis_follows_from_the_shape(shape, axis):
    x = torch.randn(4, 3, 5, 6)
    quantizer = QuantizeDequantize(shape, 8, True)
    with quantizer.compute_encodings():
        quantizer(x)
    reduced = (
        x.abs().amax([dim for dim in range(4) if dim != axis], keepdim=True) if axis is not None else x.abs().max()
    )
    assert quantizer.axis == (None if axis is None else axis - 4)
    assert torch.allclose(quantizer.get_scale().detach().flatten(), (reduced / 127).flatten(), rtol=0.01)


@pytest.mark.parametrize(
    "options",
    [
        dict(shape=(4, 2), block_size=(1, 8)),
        dict(shape=(4, 2), block_size=(-1, -1)),
        dict(shape=(2, 4), block_size=(2, 4)),
    ],
)
def test_blocks_equal_blocks_quantized_alone(options):
    x = torch.randn(4, 16)
    shape = options["shape"]
    quantizer = QuantizeDequantize(shape, bitwidth=4, symmetric=True, block_size=options["block_size"])
    with quantizer.compute_encodings():
        quantizer(x)
    y = quantizer(x)
    high, wide = 4 // shape[0], 16 // shape[1]
    for i in range(shape[0]):
        for j in range(shape[1]):
            block = x[i * high : (i + 1) * high, j * wide : (j + 1) * wide]
            alone = QuantizeDequantize((), 4, True)
            with alone.compute_encodings():
                alone(block)
            assert torch.equal(alone(block), y[i * high : (i + 1) * high, j * wide : (j + 1) * wide])


def test_shape_with_two_sizes_is_a_scale_per_pair():
    x = torch.randn(4, 3, 5)
    quantizer = QuantizeDequantize((4, 1, 5), 8, True)
    with quantizer.compute_encodings():
        quantizer(x)
    assert torch.allclose(quantizer.get_scale().detach(), x.abs().amax(1, keepdim=True) / 127, rtol=0.01)


def test_leading_dimensions_do_not_move_the_axis():
    quantizer = calibrated((3, 1, 1), 8, True)
    x = torch.randn(3, 4, 4)
    assert torch.equal(quantizer(x.expand(2, 2, 3, 4, 4))[1, 1], quantizer(x))


def test_unsigned_symmetric_grid_with_zero_point_zero():
    quantizer = calibrated((), 0, 255, True, zero_point=0, low=0.0, high=2.55)
    assert quantizer.get_zero_point().item() == 0 and quantizer(torch.tensor([-1.0, 2.55])).tolist()[0] == 0.0


def test_same_bits_in_every_grad_mode():
    x = torch.randn(1000)
    for options in (dict(), dict(parametrization="scale_zero_point"), dict(mode="dynamic"), dict(mode="fixed")):
        quantizer = QuantizeDequantize((), 8, False, **options)
        if options.get("mode") != "dynamic":
            quantizer.set_range(-1.7, 2.3)
        train = quantizer.train()(x.clone().requires_grad_()).detach()
        evaluated = quantizer.eval()(x)
        with torch.no_grad():
            no_grad = quantizer(x)
        with torch.inference_mode():
            inference = quantizer(x)
        again = checkpoint(quantizer, x.clone().requires_grad_(), use_reentrant=False).detach()
        assert all(torch.equal(train, other) for other in (evaluated, no_grad, inference, again))


@pytest.mark.parametrize("low, high", [(0.0, 0.0), (1.0, -1.0), (-5.0, -4.9999)])
def test_collapsed_and_crossed_ranges_stay_usable(low, high):
    quantizer = calibrated((), 8, False)
    with torch.no_grad():
        quantizer.min.fill_(low), quantizer.max.fill_(high)
    y = quantizer(torch.randn(50))
    y.sum().backward()
    scale, point = quantizer.get_scale(), quantizer.get_zero_point()
    assert torch.isfinite(scale).all() and (scale > 0).all() and (0 <= point).all() and (point <= 255).all()
    assert (
        torch.isfinite(y).all()
        and torch.isfinite(quantizer.min.grad).all()
        and torch.isfinite(quantizer.max.grad).all()
    )


@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adam, torch.optim.AdamW]
)
@pytest.mark.parametrize("parametrization", ["min_max", "scale_zero_point"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_absurd_learning_rates_keep_the_scale_positive_and_finite(optimizer, parametrization, symmetric):
    torch.manual_seed(0)
    quantizer = calibrated((), 8, symmetric, parametrization=parametrization)
    steps = optimizer(quantizer.parameters(), lr=1.0)
    for _ in range(10):
        steps.zero_grad()
        quantizer(torch.randn(100)).square().sum().backward()
        steps.step()
        scale, point = quantizer.get_scale(), quantizer.get_zero_point()
        assert torch.isfinite(scale).all() and (scale > 0).all()
        assert (quantizer.qmin <= point).all() and (point <= quantizer.qmax).all()
        if symmetric:
            assert point.item() == 0


# --- modes ------------------------------------------------------------------------------------------------------------


def test_starts_learned_and_requires_grad_switches():
    quantizer = calibrated((), 8, False)
    assert quantizer.mode == "learned"
    quantizer.requires_grad_(False)
    assert quantizer.mode == "fixed"
    x = torch.randn(10, requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad is not None and quantizer.min.grad is None
    quantizer.requires_grad_()
    assert quantizer.mode == "learned"
    quantizer.min.requires_grad_(False), quantizer.max.requires_grad_(False)
    assert quantizer.mode == "fixed"
    quantizer.mode = "learned"
    assert quantizer.max.requires_grad


def test_dynamic_follows_the_tensor():
    quantizer = QuantizeDequantize((4, 1), 8, True)
    quantizer.mode = "dynamic"
    weight = torch.randn(4, 32, requires_grad=True)
    quantizer(weight).sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))
    fresh = QuantizeDequantize((4, 1), 8, True)
    for factor in (1.0, 7.0, 0.01):
        scaled = weight.detach() * factor
        with fresh.compute_encodings():
            fresh(scaled)
        assert torch.equal(quantizer(scaled), fresh(scaled))
    assert list(quantizer.parameters()) == [] and quantizer.clip.dtype == torch.float32


def test_dynamic_without_a_parameter_has_no_range():
    quantizer = QuantizeDequantize((), 8, True, mode="dynamic")
    with pytest.raises(RuntimeError, match="belongs to no parameter"):
        quantizer.get_scale()
    with pytest.raises(RuntimeError, match="belongs to no parameter"):
        quantizer.mode = "learned"
    assert quantizer.mode == "dynamic"
    quantizer.set_range(-1.0, 1.0)
    assert quantizer.mode == "fixed"


def test_unknown_mode_changes_nothing():
    quantizer = calibrated((), 8, False)
    with pytest.raises(ValueError, match="mode is 'frozen'"):
        quantizer.mode = "frozen"
    assert quantizer.mode == "learned"


def test_off_returns_the_input_itself():
    quantizer = QuantizeDequantize((), 8, False)
    x = torch.randn(3)
    with quantization_disabled(quantizer):
        assert quantizer(x) is x
    with pytest.raises(RuntimeError):
        quantizer(x)


def test_setting_the_grid():
    quantizer = calibrated((), 8, False, low=-1.0, high=1.0)
    quantizer.bitwidth = 4
    assert (quantizer.qmin, quantizer.qmax) == (0, 15)
    quantizer.signed = True
    assert (quantizer.qmin, quantizer.qmax, quantizer.signed) == (-8, 7, True)
    quantizer.symmetric = True
    assert quantizer.get_zero_point().item() == 0 and quantizer.mode == "learned"
    with pytest.raises(ValueError, match="bitwidth is 1"):
        quantizer.bitwidth = 1
    assert quantizer.bitwidth == 4


# --- calibration ------------------------------------------------------------------------------------------------------


def test_forward_before_calibration_raises():
    for quantizer in (QuantizeDequantize((), 8, False), Quantize((), 8, False)):
        with pytest.raises(RuntimeError, match="no range yet.*compute_encodings"):
            quantizer(torch.randn(3))
        assert not quantizer.is_initialized() and quantizer.get_scale() is None and quantizer.get_min() is None


def test_calibration_joins_batches_and_quantizes_each_on_its_own():
    quantizer = QuantizeDequantize((), 8, False)
    low, high = quantizer.min, quantizer.max
    with quantizer.compute_encodings():
        first = quantizer(torch.tensor([-1.0, 1.0]))
        second = quantizer(torch.tensor([0.0, 3.0]))
    alone = calibrated((), 8, False, low=-1.0, high=1.0)
    assert torch.equal(first, alone(torch.tensor([-1.0, 1.0])).detach()) and second[1].item() == pytest.approx(3.0)
    assert quantizer.min is low and quantizer.max is high and quantizer.min.requires_grad
    assert (low.item(), high.item()) == (-1.0, 3.0)


def test_calibration_that_raises_or_sees_nothing_changes_nothing():
    quantizer = calibrated((), 8, False)
    with pytest.raises(KeyboardInterrupt), quantizer.compute_encodings():
        quantizer(torch.tensor([100.0]))
        raise KeyboardInterrupt
    with quantizer.compute_encodings():
        quantizer(torch.empty(0))
    assert (quantizer.min.item(), quantizer.max.item()) == (-1.0, 1.5)
    fresh = QuantizeDequantize((), 8, False)
    with fresh.compute_encodings():
        pass
    assert not fresh.is_initialized()


def test_own_observer():
    quantizer = QuantizeDequantize((), 8, False, observer=MovingAverageObserver((1,), momentum=0.5))
    with quantizer.compute_encodings():
        quantizer(torch.tensor([0.0, 2.0])), quantizer(torch.tensor([0.0, 4.0]))
    assert quantizer.max.item() == 3.0
    with pytest.raises(ValueError, match="observer has shape"):
        QuantizeDequantize((), 8, False, observer=MinMaxObserver((3,)))


def test_unseen_passes_float_and_warns_once():
    quantizer = QuantizeDequantize((), 8, False)
    quantizer._mark_unseen()
    x = torch.randn(3)
    with pytest.warns(UserWarning, match="saw no data"):
        assert quantizer(x) is x
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantizer(x)


def test_writing_the_parameters_in_place_gives_a_range():
    quantizer = QuantizeDequantize((), 8, False)
    with torch.no_grad():
        quantizer.min.fill_(-1.0)
        assert not quantizer.is_initialized()
        quantizer.max.fill_(1.0)
    assert quantizer.is_initialized() and torch.isfinite(quantizer(torch.randn(3))).all()


def test_allow_overwrite():
    quantizer = calibrated((), 8, False)
    quantizer.allow_overwrite(False)
    with quantizer.compute_encodings():
        quantizer(torch.tensor([50.0]))
    assert quantizer.max.item() == 1.5


# --- saving and moving ------------------------------------------------------------------------------------------------


def variants():
    yield calibrated((), 8, False)
    yield calibrated((), 4, True, mode="fixed")
    yield calibrated((3, 1), -7, 7, True)
    yield calibrated((3, 1), 0, 255, True, zero_point=0, low=0.0)
    yield calibrated((3, 2), 4, True, block_size=(1, 4))
    yield calibrated((), 8, False, parametrization="scale_zero_point")
    yield calibrated((3, 1), 4, True, parametrization="scale_zero_point", grad_scale="lsq")
    yield QuantizeDequantize((3, 1), 8, True, mode="dynamic")
    yield calibrated((), 4, False, low=0.0, parametrization="pact")


@pytest.mark.parametrize("index", range(9))
@pytest.mark.parametrize("fresh_as", ["min_max", "scale_zero_point"])
def test_state_dict_carries_everything(index, fresh_as):
    quantizer = list(variants())[index]
    x = torch.randn(3, 8)
    file = io.BytesIO()
    torch.save(quantizer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    fresh = QuantizeDequantize((1,), 16, False, parametrization=fresh_as)
    fresh.load_state_dict(state)
    assert fresh.extra_repr() == quantizer.extra_repr() and fresh.mode == quantizer.mode
    assert fresh.grad_scale == quantizer.grad_scale
    assert torch.equal(fresh(x), quantizer(x))
    for copied in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        assert torch.equal(copied(x), quantizer(x)) and copied.mode == quantizer.mode


def test_states_of_any_quantizer_have_one_size():
    """torch.distributed.checkpoint reads into the state_dict of the quantizer that is there."""
    sizes = {quantizer.get_extra_state().numel() for quantizer in (*variants(), QuantizeDequantize((), 8, False))}
    assert len(sizes) == 1


def test_uncalibrated_state_stays_uncalibrated():
    fresh = calibrated((), 8, False)
    fresh.load_state_dict(QuantizeDequantize((), 8, False).state_dict())
    assert not fresh.is_initialized()


def test_ranges_of_shape_nothing_and_one_both_load():
    state = {"min": torch.tensor(-1.0), "max": torch.tensor(1.0)}
    quantizer = QuantizeDequantize((), 8, False)
    quantizer.load_state_dict(state, strict=False)
    assert quantizer.min.shape == (1,) and quantizer.is_initialized()


def test_state_that_does_not_fit_raises_and_changes_nothing():
    quantizer = calibrated((), 8, False)
    before = quantizer.state_dict()
    extra = before["_extra_state"]
    for damaged, says in (
        (restated(extra, parametrization="log"), "parametrization is 'log'"),
        (restated(extra, parametrization=[]), r"parametrization is \[\]"),
        (restated(extra, grad_scale="lsq"), "grad_scale='lsq' came with"),
        (restated(extra, grad_scale=None), "grad_scale is None"),
        (restated(extra, mode="some"), "mode is 'some'"),
        (restated(extra, shape=None), "not iterable"),
        (restated(extra, version=2), "version 2, expected 1"),
        ({"mode": "fixed"}, "is a dict, expected the uint8 tensor"),
        (extra.float(), "expected the uint8 tensor"),
        (extra[:100], "is damaged"),
        (extra[:0], "is damaged"),
        (torch.tensor(list(b"[1]"), dtype=torch.uint8), "is damaged"),
        (torch.tensor(list(b'{"version": 1, "mode": "fixed"}'), dtype=torch.uint8), "lacks block_size, grad_scale"),
    ):
        with pytest.raises(RuntimeError, match=says):
            quantizer.load_state_dict({**before, "_extra_state": damaged})
    with pytest.raises(RuntimeError, match="expected"):
        quantizer.load_state_dict({"min": torch.zeros(3), "max": torch.zeros(3)}, strict=False)
    assert torch.equal(quantizer.state_dict()["_extra_state"], extra) and quantizer.max.item() == 1.5


@pytest.mark.parametrize(
    "convert", [lambda q: q.half(), lambda q: q.bfloat16(), lambda q: q.double(), lambda q: q.to(torch.float16)]
)
def test_ranges_stay_float32(convert):
    quantizer = convert(calibrated((), 8, False, low=-0.1, high=0.3))
    assert quantizer.min.dtype == torch.float32 and quantizer.max.item() == pytest.approx(0.3, rel=1e-7)
    assert convert(QuantizeDequantize((), 8, True, mode="dynamic")).clip.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_data_types(dtype):
    quantizer = calibrated((), 8, False)
    x = torch.tensor(X, dtype=dtype, requires_grad=True)
    y = quantizer(x)
    y.sum().backward()
    assert y.dtype == dtype and x.grad.dtype == dtype and quantizer.min.grad.dtype == torch.float32


@pytest.mark.parametrize("cls", [Quantize, QuantizeDequantize])
@pytest.mark.parametrize(
    "options",
    [dict(), dict(mode="fixed"), dict(mode="dynamic"), dict(parametrization="scale_zero_point", grad_scale="lsq")],
)
@pytest.mark.parametrize("shape", [(1,), (4, 1)])
def test_traces_compiles_and_exports(cls, options, shape):
    torch._dynamo.reset()
    x = torch.randn(4, 6)
    quantizer = cls(shape, 8, True, **options)
    if options.get("mode") != "dynamic":
        quantizer.set_range(-1.0, 1.0)
    expected = quantizer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        traced = torch.jit.trace(quantizer, x)
    assert torch.equal(traced(x), expected)
    assert torch.equal(torch.compile(quantizer, fullgraph=True, backend="aot_eager")(x), expected)
    assert torch.equal(torch.export.export(quantizer, (x,)).module()(x), expected)


def test_moving_average_of_weights():
    quantizer = calibrated((), 8, False)
    averaged = torch.optim.swa_utils.AveragedModel(quantizer)
    averaged.update_parameters(quantizer)
    assert torch.equal(averaged(torch.tensor(X)), quantizer(torch.tensor(X)))


def test_lsq_gradient_scale():
    plain = calibrated((), 4, True, parametrization="scale_zero_point")
    scaled = calibrated((), 4, True, parametrization="scale_zero_point", grad_scale="lsq")
    for quantizer in (plain, scaled):
        quantizer(torch.tensor(X)).backward(torch.tensor(G))
    torch.testing.assert_close(scaled.scale.grad, plain.scale.grad / (10 * 7) ** 0.5)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, options, error, text",
    [
        (((), 1, True), {}, ValueError, "bitwidth is 1, expected 2 to 32"),
        (((), 8.0, True), {}, ValueError, "bitwidth is 8.0"),
        (((), 7, 7, True), {}, ValueError, "qmin is 7 and qmax 7"),
        (((), 0, 2**33, True), {}, ValueError, "expected it within"),
        (((), 8, 1), {}, TypeError, "symmetric missing"),
        (((), 0, 255, 1), {}, ValueError, "symmetric is 1"),
        (((), 8), {}, TypeError, "missing"),
        (((0,), 8, True), {}, ValueError, "shape is"),
        (((4, 1), 8, True), dict(block_size=(1,)), ValueError, "block_size"),
        (((), 8, False), dict(zero_point=3), ValueError, "zero_point=3"),
        (((), 8, True), dict(zero_point=300), ValueError, "zero_point is 300"),
        (((), 8, True), dict(mode="off"), ValueError, "mode is 'off'"),
        (((), 8, True), dict(parametrization="log"), ValueError, "parametrization"),
        (((), 8, True), dict(grad_scale="lsq"), ValueError, "grad_scale"),
        (((), 8, True), dict(grad_scale=-1.0, parametrization="scale_zero_point"), ValueError, "grad_scale"),
        (((), 8, True), dict(encoding=3), TypeError, "encoding"),
    ],
)
def test_bad_arguments(arguments, options, error, text):
    with pytest.raises(error, match=text):
        QuantizeDequantize(*arguments, **options)


def test_bad_ranges_change_nothing():
    quantizer = calibrated((3, 1), 8, True, low=-1.0, high=1.0)
    for low, high in [(float("nan"), 1.0), (-1.0, float("inf")), (1.0, -1.0), ([1.0, 2.0], 3.0)]:
        with pytest.raises(ValueError, match="expected"):
            quantizer.set_range(low, high)
    assert quantizer.max.flatten().tolist() == [1.0] * 3


def test_shape_that_does_not_fit_the_tensor_raises():
    with pytest.raises(ValueError, match="expected"):
        calibrated((5, 1, 1, 1), 8, True)(torch.randn(4, 3, 2, 2))
    with pytest.raises(ValueError, match="expected"):
        calibrated((5, 1, 1, 1), 8, True)(torch.randn(5))
