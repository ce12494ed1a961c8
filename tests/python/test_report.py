"""The summary of a sim: rows, text, HTML, plots, and the drawing of its graph."""

import copy
import html.parser
import random
import re
import sys

import pytest
import torch
import torch.nn.functional as F
from detent import QuantizationSimModel, analysis
from detent._lanes import Node, layout
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
    lines = str(sim.summary()).splitlines()
    assert lines == str(sim).splitlines() and len(lines) == len(sim.summary()) + 2
    assert lines[0].split() == ["layer", "kind", "slot", "bits", "grid", "scales", "mode", "range", "note"]
    starts = [match.start() for match in re.finditer(r"-+", lines[1])]
    assert all(line[start - 1] == " " for line in lines[2:] for start in starts[1:] if start < len(line))


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
