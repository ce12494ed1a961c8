"""Damaged and hostile encodings files: an error that says where, and a simulation that is as it was."""

import copy
import functools
import json
import math
import os
import random

import pytest
import torch
from torch import nn

from detent.encodings import VERSIONS, read_any, text, to_dict
from detent.quantizers import QuantizeDequantize
from detent.quantsim import QuantizationSimModel

LEARNED = "training_range_learning_with_tf_init"


def simulation(scheme=None, calibrate=True):
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    x = torch.randn(4, 2, 4, 4)
    sim = QuantizationSimModel(model, x, scheme)
    sim.model[3].param_quantizers["weight"] = QuantizeDequantize((), 8, False, mode="learned")
    if calibrate:
        sim.compute_encodings(lambda model: model(x))
    return sim


@functools.cache
def sims_of_each_kind():
    """Refused files leave a sim as it was, which is checked, so that these serve every test."""
    return simulation(), simulation(LEARNED), simulation(calibrate=False)


@functools.cache
def good_text(version, keyed_by):
    return json.dumps(to_dict(version, *simulation().encodings(), keyed_by=keyed_by))


def good(version, keyed_by="torch"):
    return json.loads(good_text(version, keyed_by))


def everything(sim):
    """All that a failed load must leave alone, down to the identity of the tensors."""
    state = {
        key: value.clone() if isinstance(value, torch.Tensor) else copy.deepcopy(value)
        for key, value in sim.model.state_dict().items()
    }
    about = [
        (name, q.mode, q.enabled, q.is_initialized(), q._overwritable, q._bypass, repr(q),
         tuple((key, id(tensor), tensor.requires_grad) for key, tensor in q.named_parameters()))
        for name, q in sim.named_quantizers()
    ]  # fmt: skip
    return state, about


def assert_unchanged(sim, before, hint):
    state, about = everything(sim)
    assert about == before[1], hint
    assert state.keys() == before[0].keys(), hint
    for key, value in state.items():
        other = before[0][key]
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        assert same, (hint, key)


def refused(content, match, error=ValueError, sims=None, **options):
    for sim in sims or sims_of_each_kind():
        before = everything(sim)
        with pytest.raises(error, match=match) as caught:
            sim.load_encodings(content, **options)
        assert type(caught.value) is error and len(str(caught.value)) < 800, caught.value
        assert_unchanged(sim, before, match)


def changed(version, change, keyed_by="torch"):
    content = good(version, keyed_by)
    change(content)
    return content


def deep(levels=100_000):
    value = []
    for _ in range(levels):
        value = [value]
    return value


# --- values -----------------------------------------------------------------------------------------------------------

SCALES = [
    0, 0.0, -0.0, -0.5, math.nan, math.inf, -math.inf, 1e-60, 1e60, 1e37, 10**400, True, "0.5", None, {}, [0.5], deep(),
]  # fmt: skip


@pytest.mark.parametrize("scale", SCALES, ids=lambda value: type(value).__name__)
def test_scales(scale):
    def old(content):
        content["param_encodings"]["0.weight"][2]["scale"] = scale

    def new(content):
        content["param_encodings"][0]["scale"][2] = scale

    def onnx(content):
        next(entry for entry in content["encodings"] if entry["name"] == "0.weight")["y_scale"][2] = scale

    refused(changed("0.6.1", old), r"'0.weight'.*scale.* expected")
    refused(changed("1.0.0", new), r"'0.weight': scale\[2\] is .* expected")
    refused(changed("2.0.0", onnx), r"'0.weight': (y_)?scale.* is .* expected")


OFFSETS = [1, -256, -3.5, math.nan, math.inf, True, "-128", None, [], 10**400, deep()]


@pytest.mark.parametrize("offset", OFFSETS, ids=lambda value: type(value).__name__)
def test_offsets(offset):
    def old(content):
        content["activation_encodings"]["0"]["input"]["0"]["offset"] = offset

    def new(content):
        content["activation_encodings"][0]["offset"] = [offset]

    def onnx(content):
        content["encodings"][0]["y_zero_point"] = 256 if offset == -256 else -1 if offset == 1 else offset

    refused(changed("0.6.1", old), r"'0.input_0'\[0\]: offset is .*expected an integer from -255 to 0")
    refused(changed("1.0.0", new), r"'0.input_0': offset\[0\] is .*expected an integer from -255 to 0")
    if offset is not None:  # null is as good as left out
        refused(changed("2.0.0", onnx), r"'0.input_0': y_zero_point.* expected")


@pytest.mark.parametrize("bits", [0, 1, 33, 10**9, -8, 8.5, True, "8", None, [8], math.nan, 10**400])
def test_bitwidths(bits):
    def old(content):
        content["activation_encodings"]["0"]["input"]["0"]["bitwidth"] = bits

    def new(content):
        content["activation_encodings"][0]["bw"] = bits

    def onnx(content):
        content["encodings"][0]["output_dtype"] = f"uint{bits}" if isinstance(bits, int) and bits < 10**10 else bits

    refused(changed("0.6.1", old), "bitwidth is .*expected an integer from 2 to 32")
    refused(changed("1.0.0", new), "bw is .*expected an integer from 2 to 32")
    if bits != "8":
        refused(changed("2.0.0", onnx), "output_dtype is .*expected int2")


def test_symmetry():
    for flag in (1, 0, None, "true", "yes", [], {}):
        def old(content, flag=flag):
            content["activation_encodings"]["0"]["input"]["0"]["is_symmetric"] = flag

        def new(content, flag=flag):
            content["activation_encodings"][0]["is_sym"] = flag

        refused(changed("0.6.1", old), "is_symmetric is .*expected the string 'True' or 'False'")
        refused(changed("1.0.0", new), "is_sym is .*expected true or false")
    refused(changed("1.0.0", lambda c: c["activation_encodings"][0].update(is_sym="False")), "expected true or false")
    refused(changed("1.0.0", lambda c: c["param_encodings"][0]["offset"].__setitem__(1, -127)), "several offsets")


@pytest.mark.parametrize("dtype", ["FLOAT16", "floats", "int8", None, 3, [], deep()], ids=lambda value: str(type(value)))
def test_types_of_numbers(dtype):
    refused(changed("1.0.0", lambda c: c["param_encodings"][0].update(dtype=dtype)), "'0.weight' has dtype")
    refused(changed("1.0.0", lambda c: c["param_encodings"][0].update(enc_type=dtype)), "expected 'INT' and PER_TENSOR")
    refused(changed("0.6.1", lambda c: c["param_encodings"]["0.weight"][0].update(dtype=dtype)), "dtype is")
    if dtype != "int8":
        refused(changed("2.0.0", lambda c: c["encodings"][-1].update(output_dtype=dtype)), "output_dtype is")
    refused(changed("1.0.0", lambda c: c["param_encodings"][0].update(zero_point_shift=[0.5])), "zero_point_shift is")


def test_what_contradicts_itself():
    def part(content):
        return content["activation_encodings"]["0"]["input"]["0"]

    refused(changed("0.6.1", lambda c: part(c).update(max=99.0)), r"'0.input_0'\[0\]: min and max are .* from scale")
    refused(changed("0.6.1", lambda c: part(c).update(offset=part(c)["offset"] + 1)), "min and max are")
    refused(changed("0.6.1", lambda c: part(c).update(min=math.nan)), r"min, max\[0\] is nan, expected a finite")
    refused(changed("0.6.1", lambda c: c["param_encodings"]["0.weight"][1].update(bitwidth=4)), "has 2 pairs|offset is")
    refused(changed("2.0.0", lambda c: c["encodings"][-2].update(axis=1)), "0.weight has axis 1, expected 0")


# --- structure --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_missing_keys(version):
    content = good(version)
    entries = {
        "0.6.1": lambda c: c["param_encodings"]["0.weight"][0],
        "1.0.0": lambda c: c["param_encodings"][0],
        "2.0.0": lambda c: c["encodings"][-2],
    }
    for key in entries[version](content):
        broken = copy.deepcopy(content)
        del entries[version](broken)[key]
        refused(broken, f"lacks {key}|lacks .*{key}")


@pytest.mark.parametrize("count", [0, 1, 3, 5, 1000])
def test_wrong_numbers_of_scales(count):
    def old(content):
        content["param_encodings"]["0.weight"] = content["param_encodings"]["0.weight"][:1] * count

    def new(content):
        content["param_encodings"][0].update(scale=[0.1] * count, offset=[-128] * count)

    def onnx(content):
        content["encodings"][-2]["y_scale"] = [0.1] * count

    for version, change in (("0.6.1", old), ("1.0.0", new), ("2.0.0", onnx)):
        refused(changed(version, change), "expected")
    refused(changed("1.0.0", lambda c: c["param_encodings"][0].update(offset=[-128] * count)), "expected")
    refused(changed("2.0.0", lambda c: c["encodings"][-2].update(y_zero_point=[1] * count)), "expected")


@pytest.mark.parametrize(
    "scales", [[[0.1], 0.1], [[0.1, 0.2], [0.1]], [[]], [[[[[[[[[0.1]]]]]]]]], deep(), {}, "0.1", [["0.1"]]]
)
def test_ragged_scales(scales):
    refused(changed("2.0.0", lambda c: c["encodings"][-2].update(y_scale=scales)), "'0.weight': y_scale.*expected")


@pytest.mark.parametrize("wrong", [None, 3, "x", [1], {"a": 1}, [[]], [None], True, {"": {"x": {}}}, deep()])
def test_wrong_types_everywhere(wrong):
    hint = "expected"
    for version in VERSIONS:
        for key in good(version):
            if key in ("excluded_layers", "quantizer_args"):
                continue
            refused(changed(version, lambda c, key=key: c.update({key: wrong})), hint)
    for change in (
        lambda c: c["activation_encodings"].update({"0": wrong}),
        lambda c: c["activation_encodings"]["0"].update(input=wrong),
        lambda c: c["activation_encodings"]["0"]["input"].update({"0": wrong}),
        lambda c: c["param_encodings"].update({"0.weight": wrong}),
        lambda c: c["param_encodings"].update({7: c["param_encodings"]["0.weight"]}),
        lambda c: c["activation_encodings"].update({7: c["activation_encodings"]["0"]}),
    ):
        refused(changed("0.6.1", change), hint)
    refused(changed("1.0.0", lambda c: c["param_encodings"].append(wrong)), hint)
    refused(changed("1.0.0", lambda c: c["param_encodings"][0].update(name=[wrong])), hint)
    refused(changed("2.0.0", lambda c: c["encodings"].append(wrong)), hint)
    refused(changed("2.0.0", lambda c: c["encodings"][-2].update(axis=[wrong])), hint)


@pytest.mark.parametrize("content", [[], None, 3, 3.5, True, object(), b"x"])
def test_what_is_no_file_at_all(content):
    refused(content, "expected a path or a mapping")


@pytest.mark.parametrize("content", [{}, {"activation_encodings": {}, "param_encodings": {}},
                                     {"version": "1.0.0", "activation_encodings": [], "param_encodings": []},
                                     {"version": "2.0.0", "encodings": []}])  # fmt: skip
def test_empty_files(content):
    refused(content, "the file holds no encodings", RuntimeError)
    refused(content, "the file holds no encodings", RuntimeError, strict=False, partial=False)


@pytest.mark.parametrize("version", ["0.4.0", "0.5.0", "2.1.0", "3", "", 1, 1.0, None, [], {}, True, "1.0.0 ", deep()])
def test_unknown_versions(version):
    for base in VERSIONS:
        refused(changed(base, lambda c: c.update(version=version)), "the version is .*expected one of 0.6.1")
    refused({"encodings": [{"name": "0.weight", "output_dtype": "int8", "y_scale": 0.1}]}, "has no version")
    refused({key: value for key, value in good("1.0.0").items() if key != "version"}, "expected an object by tensor")


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "0/../0.weight", "0..weight", "0.weight.data", "__class__", "0.__dict__", "0.weight\x00",
     "0.param_quantizers.weight", "0.input_0_", "0.input_00", "0.input_1", "0.input_-1", "0.input_0.input_0",
     " 0.weight", "0.weight\n\x1b[2J", "x" * 100_000],
)  # fmt: skip
def test_names_are_only_ever_looked_up(name):
    def rename(content, version):
        if version == "0.6.1":
            content["param_encodings"][name] = content["param_encodings"].pop("0.weight")
        else:
            entries = content["param_encodings" if version == "1.0.0" else "encodings"]
            next(entry for entry in entries if entry["name"] == "0.weight")["name"] = name

    for version in VERSIONS:
        content = changed(version, lambda c, version=version: rename(c, version))
        refused(content, "no quantizer for", RuntimeError)
        sim = simulation()
        sim.load_encodings(content, strict=False)
        assert sim.model[0].param_quantizers["weight"].mode == "dynamic"
    for slot, index in (("input", "../0"), ("input", "00"), ("input", "-1"), ("output", ""), ("params", "0")):
        content = good("0.6.1")
        content["activation_encodings"]["0"][slot] = {index: content["activation_encodings"]["0"]["input"]["0"]}
        refused(content, "expected")


def test_names_that_stand_twice(tmp_path):
    refused(changed("1.0.0", lambda c: c["param_encodings"].append(c["param_encodings"][0])), "stands twice")
    refused(changed("2.0.0", lambda c: c["encodings"].append(c["encodings"][0])), "stands twice")
    both = changed("1.0.0", lambda c: c["activation_encodings"].append(c["param_encodings"][0]))
    refused(both, "'0.weight' is an activation and a parameter")
    old = good("0.6.1")
    weight = json.dumps(old["param_encodings"]["0.weight"])
    file = tmp_path / "twice.json"
    file.write_text('{"version": "0.6.1", "param_encodings": {"0.weight": %s, "0.weight": %s}}' % (weight, weight))
    refused(file, "the key '0.weight' stands twice")
    mixed = good("0.6.1")
    mixed["activation_encodings"]["0.input_0"] = [mixed["activation_encodings"]["0"]["input"]["0"]]
    refused(mixed, "'0.input_0' stands twice")
    again = good("1.0.0")
    again["activation_encodings"].append({**again["activation_encodings"][0], "name": "0.input_0_1", "bw": 4})
    again["activation_encodings"][-1]["offset"] = [0]
    refused(again, "have one quantizer")


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_files_that_were_cut_off(version, tmp_path):
    whole = json.dumps(good(version)).encode()
    file = tmp_path / "cut.json"
    sims = [simulation()]
    for length in [*range(0, len(whole) - 1, max(1, len(whole) // 60)), len(whole) - 1]:
        file.write_bytes(whole[:length])
        refused(file, "is not JSON: .* at line", sims=sims)


@pytest.mark.parametrize("raw", [b"\xff\xfe{}", b'{"version": "\xe9"}', json.dumps({}).encode("utf-16")])
def test_files_that_are_not_utf8(raw, tmp_path):
    (tmp_path / "a.json").write_bytes(raw)
    refused(tmp_path / "a.json", "is not UTF-8 at byte")


@pytest.mark.parametrize("pattern", ["[", '{"a":', '{"version": "1.0.0", "param_encodings": ['])
def test_files_that_are_nested_deep(pattern, tmp_path):
    (tmp_path / "a.json").write_text(pattern * 100_000)
    refused(tmp_path / "a.json", "is nested too deep")
    balanced = '{"version": "1.0.0", "quantizer_args": ' + "[" * 100_000 + "]" * 100_000 + "}"
    (tmp_path / "a.json").write_text(balanced)
    refused(tmp_path / "a.json", "is nested too deep")


def test_numbers_of_many_digits(tmp_path):
    (tmp_path / "a.json").write_text('{"version": "2.0.0", "encodings": [%s]}' % ("9" * 100_000))
    refused(tmp_path / "a.json", "expected|Exceeds")


def test_files_that_are_too_large(tmp_path):
    file = tmp_path / "large.json"
    with open(file, "wb") as sparse:
        sparse.truncate(text.MAX_BYTES + 1)
    refused(file, "has 1,073,741,825 bytes, expected at most 1,073,741,824")


def test_what_is_no_regular_file(tmp_path):
    refused(tmp_path, "expected a regular file")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        refused(tmp_path / "pipe", "expected a regular file")
    sim = simulation()
    with pytest.raises(FileNotFoundError):
        sim.load_encodings(tmp_path / "none.json")


@pytest.mark.parametrize("count, match, error", [
    (2_000, r"no quantizer for layer0.input_0, .* \.\.\.", RuntimeError),
    (100_001, r"has 100,0\d\d entries, expected at most 100,000", ValueError),
])  # fmt: skip
def test_thousands_of_entries(count, match, error):
    for version, key in zip(VERSIONS, ("activation_encodings", "activation_encodings", "encodings")):
        content = good(version, "onnx")
        if version == "0.6.1":
            first = content[key]["0.input_0"]
            content[key].update({f"layer{i}.input_0": first for i in range(count)})
        else:
            first = content[key][0]
            content[key] += [{**first, "name": f"layer{i}.input_0"} for i in range(count)]
        refused(content, match, error, sims=[simulation()])


# --- all or nothing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, dict(requires_grad=True), dict(partial=False), dict(allow_overwrite=False)])
def test_nothing_changes_when_the_last_of_many_does_not_fit(options):
    content = good("1.0.0")
    content["param_encodings"][-1].update(scale=[0.1] * 2, offset=[-3] * 2, enc_type="PER_CHANNEL")
    refused(content, "3.weight has 2 scales, expected 1", **options)


def test_a_scale_that_no_range_holds_is_refused():
    refused(changed("1.0.0", lambda c: c["param_encodings"][-1].update(scale=[1e-12])), "3.weight has scale 1e-12")


def test_an_interruption_changes_nothing(monkeypatch):
    sim = simulation()
    before = everything(sim)
    taken = QuantizeDequantize.set_encoding
    calls = []

    def interrupted(self, *arguments, **options):
        calls.append(self)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return taken(self, *arguments, **options)

    monkeypatch.setattr(QuantizeDequantize, "set_encoding", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sim.load_encodings(good("2.0.0"))
    assert_unchanged(sim, before, "interrupted")


# --- chance -----------------------------------------------------------------------------------------------------------

VALUES = [
    None, True, False, 0, 1, -1, 7, 255, 256, -128, -129, 0.5, -0.5, 1e-30, 1e30, 1e300, math.nan, math.inf, 2**63,
    10**400, "", "0", "True", "int8", "uint4", "INT", "PER_CHANNEL", "0.weight", "0.input_0", [], [0.1], [[0.1]], {},
    {"0": 1}, "1.0.0", "2.0.0", "0.6.1",
]  # fmt: skip


def places(value, found):
    """Every container and key in a JSON value."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(inner, (dict, list)):
            places(inner, found)
    return found


def mutate(content, chance):
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        container, key = chance.choice(places(content, []))
        kind = chance.randrange(6)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container[key], (int, float)) and not isinstance(container[key], bool):
            container[key] = container[key] * chance.choice([-1, 2, 0.5, 1e9, 1e-9]) + chance.choice([0, 0, 1])
        elif kind == 2 and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif kind == 3 and isinstance(container, dict):
            container[chance.choice(["", "x", "0", "input", "0.weight", "axis", "block_size"])] = container.pop(key)
        elif kind == 4:
            other, at = chance.choice(places(content, []))
            container[key] = copy.deepcopy(other[at])
        else:
            container[key] = copy.deepcopy(chance.choice(VALUES))


def damaged_bytes(content, chance):
    raw = bytearray(json.dumps(content).encode())
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(raw))
        if chance.random() < 0.5:
            raw[at] = chance.randrange(256)
        else:
            del raw[at : at + chance.randrange(1, 9)]
    return bytes(raw)


@pytest.mark.parametrize("keyed_by", ["torch", "onnx"])
@pytest.mark.parametrize("version", VERSIONS)
def test_mutations_load_or_are_refused(version, keyed_by, tmp_path, seed):
    """300 a version, over the two keyings; half of them on a sim whose weights are dynamic, half on a learned one."""
    original = good(version, keyed_by)
    x = torch.randn(4, 2, 4, 4)
    pristine = simulation(), simulation(LEARNED)
    refusals = 0
    for case in range(150):
        chance = random.Random(f"{seed} {version} {keyed_by} {case}")
        content = copy.deepcopy(original)
        if case % 5 == 4:
            content_or_file = tmp_path / "damaged.json"
            content_or_file.write_bytes(damaged_bytes(content, chance))
        else:
            mutate(content, chance)
            content_or_file = content
        sim = copy.deepcopy(pristine[case % 2])
        options = {"strict": chance.random() < 0.5, "partial": chance.random() < 0.7}
        before = everything(sim)
        hint = f"seed {seed}, version {version}, keyed by {keyed_by}, case {case}"
        try:
            sim.load_encodings(content_or_file, **options)
        except (ValueError, RuntimeError) as error:
            refusals += 1
            assert str(error), hint
            assert type(error) in (ValueError, RuntimeError) and len(str(error)) < 800, (hint, error)
            assert_unchanged(sim, before, hint)
        else:
            assert torch.isfinite(sim.model(x)).all(), hint
            for encoding in sim.encodings()[1].values():
                assert torch.isfinite(encoding.scale).all(), hint
    assert 50 < refusals < 150, (version, keyed_by, refusals)  # both outcomes were met


def test_reading_alone_has_the_same_errors(tmp_path):
    with pytest.raises(ValueError, match="expected an object with encodings"):
        read_any([])
    (tmp_path / "a.json").write_text("3")
    with pytest.raises(ValueError, match="the file is 3, expected"):
        read_any(tmp_path / "a.json")
