"""Configuration files: AIMET's format in and out, and what is said of one that is wrong."""

import copy
import json
from pathlib import Path

import detent.config
import pytest
import torch
from detent.config import NAMES, Config, EncodingConstraints, OpType, Param, Supergroup
from detent.config.schema import _schema
from detent.quantsim import QuantizationSimModel
from torch import nn

GOOD = """{
  "defaults": {
    "ops": {"is_output_quantized": "True", "is_symmetric": "False"},
    "params": {"is_quantized": "True", "is_symmetric": "True"},
    "strict_symmetric": "False",
    "per_channel_quantization": true
  },
  "params": {"bias": {"is_quantized": "False"}},
  "op_type": {
    "Softmax": {"encoding_constraints": {"min": 0.0, "max": 1}},
    "Conv": {
      "is_input_quantized": "True",
      "supported_kernels": [{"activation": {"bitwidth": 16, "dtype": "int"}, "param": {"bitwidth": 8, "dtype": "int"}}]
    }
  },
  "supergroups": [{"op_list": ["Conv", "Relu"]}],
  "supergroup_pass_list": ["LayerNormalization"],
  "model_input": {"is_input_quantized": "True"},
  "model_output": {}
}
"""


@pytest.fixture
def write(tmp_path):
    def writing(content):
        path = tmp_path / "config.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return writing


def test_a_file_becomes_an_object(write):
    config = Config.load(write(GOOD))
    assert config.defaults.ops.is_output_quantized is True and config.defaults.ops.is_symmetric is False
    assert config.defaults.per_channel_quantization is True and config.defaults.unsigned_symmetric is False
    assert config.params == {"bias": Param(is_quantized=False)}
    assert config.op_type["Softmax"] == OpType(encoding_constraints=EncodingConstraints(0.0, 1.0))
    assert config.op_type["Conv"].supported_kernels[0].activation.bitwidth == 16
    assert config.supergroups == [Supergroup(["Conv", "Relu"])]
    assert config.supergroup_pass_list == ["LayerNormalization"]
    assert config.model_input.is_input_quantized and not config.model_output.is_output_quantized


@pytest.mark.parametrize("name", NAMES)
def test_every_name_loads_and_survives_a_file(name, tmp_path):
    config = Config.load(name)
    config.save(tmp_path / "c.json")
    assert Config.load(tmp_path / "c.json") == config == Config.load(config.to_dict())
    json.loads((tmp_path / "c.json").read_text())


def test_names_and_their_aliases():
    assert Config.load(None) == Config.load("default_per_channel") == Config.load("default_config_per_channel.json")
    assert Config.load("htp_quantsim_config_v73.json") == Config.load("htp_v73")
    per_tensor, per_channel = Config.load("default"), Config.load("default_per_channel")
    per_tensor.defaults.per_channel_quantization = True
    assert per_tensor == per_channel
    linear = Config.load("htp_v75_per_channel_linear")
    assert linear.op_type["Gemm"].per_channel_quantization and linear.defaults.hw_version == "V75"
    assert not Config.load("htp_v66").defaults.per_channel_quantization
    with pytest.raises(FileNotFoundError, match=r"'htp_v99', which is no file, and none of the names default, "):
        Config.load("htp_v99")


def test_a_loaded_object_is_a_copy():
    config = Config.load()
    config.override("*", param_bw=4)
    other = Config.load(config)
    other.op_type.clear(), other.overrides.clear()
    assert config.op_type and len(config.overrides) == 1


BAD = [
    ('"is_input_quantized": "True",\n      "supp', '"is_output_quantized": "yes",\n      "supp',
     "config.json line 12: op_type.Conv.is_output_quantized is 'yes', expected \"True\" or \"False\"."),
    ('"is_input_quantized": "True",\n      "supp', '"is_input_quantized": "False",\n      "supp',
     'config.json line 12: op_type.Conv.is_input_quantized is \'False\', expected "True". These switch on only'),
    ('"Conv": {', '"Softmax": {', "config.json line 11: op_type.Softmax stands twice in one object"),
    ('"strict_symmetric"', '"strict_symetric"',
     "config.json line 5: defaults.strict_symetric is not a setting, expected one of ops, params, .* Did you mean "
     "strict_symmetric"),
    ('"per_channel_quantization": true', '"per_channel_quantization": 1',
     'line 6: defaults.per_channel_quantization is 1, expected "True" or "False"'),
    ('["Conv", "Relu"]', '["Conv"]', r"line 16: supergroups\[0\].op_list has 1 entries, expected at least 2"),
    ('["Conv", "Relu"]', '["Conv", 3]', r"line 16: supergroups\[0\].op_list\[1\] is 3, expected a string"),
    ('["LayerNormalization"]', '[4]', r"line 17: supergroup_pass_list\[0\] is 4, expected a string"),
    ('  "model_output": {}', '  "model_outputs": {}', "line 19: model_outputs is not a setting"),
    (',\n  "model_output": {}', "", "line 1: the configuration lacks model_output, expected defaults, params,"),
    ('"max": 1}', '"max": NaN}', "encoding_constraints.max is nan, expected a number from 0 to"),
    ('"max": 1}', '"max": 1e999}', "encoding_constraints.max is inf, expected a number from 0"),
    ('"min": 0.0', '"min": 0.5', "encoding_constraints.min is 0.5, expected a number from -3.4e"),
    ('"max": 1}', '"max": 1' + "0" * 4000 + "}", "encoding_constraints.max is an integer of|not JSON|integer string"),
    ('"bitwidth": 16', '"bitwidth": 64', r"kernels\[0\].activation.bitwidth is 64, expected an integer from 2"),
    ('"defaults": {', '"defaults": [', "config.json is not JSON: .* at line"),
    ('"model_output": {}', '"model_output": {', "config.json is not JSON: .*Was it cut off"),
    ('"model_output": {}', '"model_output": ' + "[" * 40 + "]" * 40, "line 19: nested too deep, expected at most 32"),
    ('"model_output": {}', '"model_output": ' + "[" * 200000, "nested too deep|not JSON"),
]  # fmt: skip


@pytest.mark.parametrize("old, new, message", BAD)
def test_what_is_wrong_is_said_with_its_line(write, old, new, message):
    assert old in GOOD
    model = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(ValueError, match=message):
        QuantizationSimModel(model, torch.randn(1, 4), config_file=write(GOOD.replace(old, new)), in_place=True)
    assert type(model[0]) is nn.Linear and not model[0]._forward_hooks


@pytest.mark.parametrize(
    "content, message",
    [(b"", "not JSON"), (b"\xff{}", "not UTF-8"), (b"[]", "the configuration is a list of 0, expected an object"),
     (b"null", "is None, expected an object"), (b" " * (2**20 + 1), "expected at most 1,048,576")],
)  # fmt: skip
def test_files_that_are_no_configuration(write, content, message):
    with pytest.raises(ValueError, match=message):
        Config.load(write(content))


def test_folders_missing_files_and_other_types(tmp_path):
    with pytest.raises(ValueError, match="expected a regular file"):
        Config.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no file"):
        Config.load(tmp_path / "missing.json")
    with pytest.raises(ValueError, match="config_file is a int"):
        Config.load(3)
    with pytest.raises(ValueError, match="config: op_type is 3, expected an object"):
        Config.load(json.loads(GOOD) | {"op_type": 3})
    with pytest.raises(ValueError, match="has the key 3, expected a string"):
        Config.load(json.loads(GOOD) | {"op_type": {3: {}}})
    deep = {}
    deep["op_type"] = deep
    with pytest.raises(ValueError, match="config"):
        Config.load(deep)


def test_an_object_is_checked_like_a_file():
    config = Config.load()
    config.op_type["Conv"] = OpType(is_input_quantized=False)
    with pytest.raises(ValueError, match="Config: op_type.Conv.is_input_quantized is 'False'"):
        Config.load(config)
    config.op_type["Conv"] = OpType(is_symmetric="maybe")
    with pytest.raises(ValueError, match="Config: op_type.Conv.is_symmetric is 'maybe'"):
        QuantizationSimModel(nn.Linear(4, 2), torch.randn(1, 4), config_file=config)


def test_the_schema_is_a_json_schema_and_says_the_same():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(_schema())
    jsonschema.validate(json.loads(GOOD), _schema())
    broken = copy.deepcopy(json.loads(GOOD))
    broken["defaults"]["ops"]["is_output_quantized"] = "False"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, _schema())


def test_the_schema_uses_only_what_is_checked():
    known = {
        "$schema", "title", "description", "type", "required", "additionalProperties", "properties", "$ref", "$defs",
        "enum", "items", "minItems", "minimum", "maximum",
    }  # fmt: skip

    def keywords(schema):
        yield from schema
        for key in ("properties", "$defs"):
            for inner in schema.get(key, {}).values():
                yield from keywords(inner)
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), dict):
                yield from keywords(schema[key])

    assert set(keywords(_schema())) <= known


def test_configurations_are_part_of_the_package():
    folder = Path(detent.config.__file__).parent
    assert (folder / "schema.json").is_file() and (folder / "files" / "default.json").is_file()
