"""The summary of a sim: rows, text, HTML, plots, and the drawing of its graph."""

import copy
import html.parser
import json
import random
import re
import sys

import pytest
import torch
import torch.nn.functional as F
from detent import Config, QuantizationSimModel, analysis, load_checkpoint, save_checkpoint
from detent._lanes import Node, layout
from detent.config import OpType
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.pool, self.head = nn.ReLU(), nn.MaxPool2d(2), nn.Linear(8, 5)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        y = self.relu(self.first(x))
        z = self.relu(self.second(y)) + y
        z = self.pool(z)
        return self.head(torch.i0(F.relu(z)).mean((2, 3)))


@pytest.fixture
def sim():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 8)
    sim = QuantizationSimModel(Net().eval(), x, default_param_bw=4)
    sim.compute_encodings(lambda model: model(x))
    return sim


def test_every_quantizer_has_one_row_with_its_numbers(sim):
    rows = [row for row in sim.summary() if row.quantizer is not None]
    names = {f"{row.layer}.{row.slot.split()[0]}_quantizers.{row.slot.split()[1]}": row for row in rows}
    held = dict(sim.named_quantizers())
    assert set(names) == set(held) and len(rows) == len(held)
    for name, row in names.items():
        assert row.quantizer is held[name]
        if row.low is not None:
            assert torch.equal(row.low, held[name].get_min().flatten())
    weight = names["first.param_quantizers.weight"]
    assert weight.cells[2:7] == ("param weight", "4", "symmetric -8 .. 7", "8 per channel", "dynamic")
    assert weight.range == f"{weight.low.min():.4g} .. {weight.high.max():.4g}"


def test_rows_come_in_the_order_of_execution_and_say_why_something_is_float(sim):
    order = ["first", "relu", "second", "relu.use_1", "add_0", "pool", "relu_0", "head"]
    layers = list(dict.fromkeys(row.layer for row in sim.summary()))
    assert [layer for layer in layers if layer in order] == order
    notes = {row.layer: row.note for row in sim.summary() if row.note}
    assert notes["pool"] == "keeps the grid of its input" and "saw no data" in notes["unused"]
    assert any(row.kind == "i0" and "not an operator that is known" in row.note for row in sim.summary())
    sim.exclude_layers_from_quantization(["second"])
    assert {row.layer: row.note for row in sim.summary()}["second"] == "float: excluded"
    assert {row.layer: row.kind for row in sim.summary()}["relu.use_1"] == "ReLU"


def test_text_is_a_table(sim):
    lines, counts = (part.splitlines() for part in str(sim.summary()).split("\n\n"))
    assert str(sim) == str(sim.summary()) and len(lines) == len(sim.summary()) + 2
    assert [line.partition(":")[0] for line in counts] == ["quantized", "not quantized", "to look at"]
    assert lines[0].split() == ["layer", "kind", "slot", "bits", "grid", "scales", "mode", "range", "note"]
    starts = [match.start() for match in re.finditer(r"-+", lines[1])]
    assert all(line[start - 1] == " " for line in lines[2:] for start in starts[1:] if start < len(line))


def reasons(sim):
    return {(row.layer, row.slot): row.note for row in sim.summary() if row.quantizer is None}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(2)
        self.table, self.head, self.free = nn.Embedding(4, 8), nn.Linear(8, 5), nn.Linear(5, 5)
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, x, tokens, mask):
        y = self.pool(F.relu(self.norm(self.conv(x)))).mean((2, 3)) + self.table(tokens) * torch.exp(self.scale)
        return self.free(self.head(y).softmax(-1)).masked_fill(mask, -torch.inf), y


@pytest.fixture
def block():
    torch.manual_seed(0)
    config = Config.load("default_per_channel")
    config.op_type["Softmax"] = OpType(is_output_quantized=False)
    config.override("free", quantized=False)
    data = torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), torch.tensor([True, False, False, False, False])
    sim = QuantizationSimModel(Block().eval(), data, config_file=config)
    sim.compute_encodings(lambda model: model(*data))
    return sim


_BLOCK = {
    ("conv", "output 0"): "inside [Conv, Relu], rounded at relu_0",
    ("norm", None): "inside [Conv, Relu], rounded at relu_0",
    ("pool", None): "keeps the grid of its input",
    ("table", "output 0"): "on the grid of its weight",
    ("exp_0", None): "float: computed from constants alone",
    ("softmax_0", None): "float: off in the configuration",
    ("free", None): "float: excluded by an override",
    ("masked_fill_0", "output 0"): "float: holds a mask's infinities",
}


def test_what_has_no_quantizer_says_why(block):
    assert reasons(block) == _BLOCK
    assert block.summary().counts() == {
        "quantized": ["3 inputs at 8 bits", "5 outputs at 8 bits", "3 parameters at 8 bits"],
        "not quantized": [
            "inside [Conv, Relu] (2)", "keeps the grid of its input (1)", "on the grid of its weight (1)",
            "computed from constants alone (1)", "off in the configuration (1)", "excluded by an override (1)",
            "holds a mask's infinities (1)", "parameters off in the configuration (2)",
            "parameters folded into the layer before (2)",
        ],
        "to look at": [],
    }  # fmt: skip


def test_reasons_stay_true_when_something_changes(block, tmp_path):
    block.save_encodings_to_json(tmp_path, "all")
    block.exclude_layers_from_quantization(["relu_0", "table"])
    block.exclude_param_from_quantization("weight")
    block.model.head.output_quantizers[0] = None
    expected = _BLOCK | {
        ("conv", "output 0"): "inside [Conv, Relu], whose end relu_0 is float",
        ("norm", None): "inside [Conv, Relu], whose end relu_0 is float",
        ("relu_0", None): "float: excluded",
        ("conv", "param weight"): "float: excluded",
        ("head", "param weight"): "float: excluded",
        ("head", "output 0"): "float: removed",
        ("table", None): "float: excluded",
    }
    del expected["table", "output 0"]
    assert reasons(block) == reasons(copy.deepcopy(block)) == expected
    assert block.summary().counts()["to look at"] == ["removed (1)"]
    content = json.loads((tmp_path / "all.json").read_text())
    activations = content["activation_encodings"]
    content["activation_encodings"] = [each for each in activations if each["name"] != "add_0.output_0"]
    block.load_encodings(content, strict=False, partial=False)
    assert reasons(block) == expected | {("add_0", None): "float: not in the encodings that were loaded"}


def test_checkpoints_take_their_reasons_along(block, tmp_path):
    fresh = copy.deepcopy(block)
    block.exclude_layers_from_quantization(["softmax_0", "mean_0"])
    block.model.mul_0.output_quantizers[0] = None
    save_checkpoint(block, tmp_path / "saved")
    fresh.exclude_layers_from_quantization(["mean_0"])
    load_checkpoint(tmp_path / "saved", fresh)
    assert reasons(fresh)["mul_0", "output 0"] == "float: not in the checkpoint that was loaded"
    assert reasons(fresh)["mean_0", None] == "float: excluded"


def test_what_an_override_excludes_is_handed_no_quantizer():
    config = Config.load()
    config.override("1", quantized=False)
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    sim = QuantizationSimModel(net, torch.randn(2, 4), config_file=config)
    sim.exclude_layers_from_quantization(["0"])
    assert {name[0] for name, _ in sim.named_quantizers()} == {"2"}
    assert reasons(sim) == {("0", None): "float: excluded", ("1", None): "float: excluded by an override"}


class _Checker(html.parser.HTMLParser):
    """Tags that close in the order they opened, and what is in the cells."""

    def __init__(self):
        super().__init__()
        self.open, self.rows, self.names = [], 0, []

    def handle_starttag(self, tag, attrs):
        self.names += [value for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)
        self.rows += tag == "tr"

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_nothing_else(sim, tmp_path):
    sim.to_html(tmp_path / "new" / "page.html")
    text = (tmp_path / "new" / "page.html").read_text()
    checker = _Checker()
    checker.feed(text)
    assert checker.open == [] and checker.names == [] and "http" not in text
    assert checker.rows == len(sim.summary()) + 1
    for row in sim.summary():
        assert html.escape(row.layer) in text and html.escape(row.note) in text
    assert sim._repr_html_().startswith('<div class="detent">') and "<html" not in sim._repr_html_()


def test_names_are_escaped_in_the_page(tmp_path):
    model = nn.Sequential()
    model.add_module("<script>alert(1)</script>", nn.Linear(2, 2))
    text = QuantizationSimModel(model, torch.randn(1, 2))._repr_html_()
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_reports_of_uncalibrated_copied_and_diverged_sims(sim):
    fresh = QuantizationSimModel(Net(), torch.rand(2, 3, 8, 8))
    assert "not calibrated yet" in str(fresh) and fresh._repr_html_()
    assert str(copy.deepcopy(sim)) == str(sim)
    quantizer = sim.model.head.output_quantizers[0]
    with torch.no_grad():
        quantizer.max.fill_(float("nan"))
    assert "nan" in str(sim) and sim._repr_html_()


def test_plot_shows_every_range(sim, tmp_path):
    pytest.importorskip("matplotlib", reason="pip install matplotlib")
    figure = analysis.plot_ranges(sim)
    labels = [label.get_text() for axes in figure.axes for label in axes.get_xticklabels()]
    assert len(labels) == sum(row.low is not None for row in sim.summary()) and "first weight" in labels
    figure.savefig(tmp_path / "ranges.png")


def test_plot_says_what_is_missing(sim, monkeypatch):
    with pytest.raises(RuntimeError, match="no quantizer has a range. Run sim.compute_encodings"):
        sim.model = nn.Linear(2, 2)
        analysis.plot_ranges(sim)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        analysis.plot_ranges(sim)


# --- lanes ------------------------------------------------------------------------------------------------------------


def _connections(nodes: list[Node]) -> set[tuple[int, int]]:
    """(maker, reader) as the lines of the drawing say it, followed from row to row."""
    found, carries = set(), {}
    for number, node in enumerate(nodes):
        found |= {(carries[lane], number) for lane, _ in node.arriving if carries.get(lane) is not None}
        carries = {lane: maker for lane, maker in carries.items() if lane in {passing for passing, _ in node.passing}}
        if node.leaving:
            assert node.lane not in carries  # two tensors never share a lane
            carries[node.lane] = number
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_drawing_has_exactly_the_connections_of_the_graph(seed):
    choose = random.Random(seed)
    reads = [choose.sample(range(number), min(number, choose.randint(0, 3))) for number in range(60)]
    nodes = [Node(ran=True, makes=number, reads=read) for number, read in enumerate(reads)]
    width = layout(nodes)
    assert _connections(nodes) == {(value, number) for number, node in enumerate(nodes) for value in node.reads}
    assert all((node.lane + 1) * node.step <= width for node in nodes)


def test_a_chain_is_one_straight_line():
    nodes = [Node(ran=True, makes=number, reads=[number - 1] if number else []) for number in range(9)]
    layout(nodes)
    assert {node.lane for node in nodes} == {0} and not any(node.passing for node in nodes)


def test_an_input_that_is_read_again_has_a_lane():
    nodes = [Node(ran=True, makes=1, reads=[99]), Node(ran=True, makes=2, reads=[1]), Node(ran=True, reads=[2, 99])]
    layout(nodes)
    assert len(nodes[1].passing) == 1 and len(nodes[2].arriving) == 2
