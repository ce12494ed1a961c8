"""Many processes: N ranks calibrate, train and save as one process does."""

import io

import detent
import pytest
import torch
import torch.distributed as dist
from detent.distributed import merge_observers
from detent.observers import MinMaxObserver, MovingAverageObserver
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from checks import same_bits, within
from ranks import Ranks

LEARNED = "training_range_learning"


class Net(nn.Module):
    """Layers, a function, and one that only some calls reach."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x, gated=False):
        x = self.bn(self.conv(x)).relu()
        if gated:
            x = torch.sigmoid(x)
        return self.fc((x + 0.5).mean((2, 3)))


def built(scheme="min_max"):
    """A sim whose gate is known and a calibration that need not reach it."""
    torch.manual_seed(1)
    return detent.QuantizationSimModel(Net().eval(), {"x": torch.randn(2, 3, 6, 6), "gated": True}, scheme)


def batches(count, size=4):
    made = torch.Generator().manual_seed(5)
    return [torch.randn(size, 3, 6, 6, generator=made) * (1 + i) for i in range(count)]


def feed(model, data, gated=False):
    for batch in data:
        model(batch, gated=gated)


def numbers(sim):
    """Everything a quantizer holds, by name."""
    held = {}
    for name, quantizer in sim.named_quantizers():
        held[f"{name}.unseen"] = torch.tensor(quantizer._unseen)
        for key, tensor in (*quantizer.named_parameters(), *quantizer.named_buffers()):
            held[f"{name}.{key}"] = tensor.detach().clone()
    return held


def same_numbers(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        same_bits(got[name], expected[name], name=name)


@pytest.fixture(scope="module")
def ranks():
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    made = Ranks(4)
    yield made
    made.stop()


# --- calibration ------------------------------------------------------------------------------------------------------


def _calibrate(rank, world, scheme, count, wrapped):
    sim = built(scheme)
    if wrapped:
        sim.model = DistributedDataParallel(sim.model)
    sim.compute_encodings(feed, batches(count)[rank::world])
    return numbers(sim)


@pytest.mark.parametrize(
    "world, scheme, count, wrapped", [(2, "min_max", 7, False), (4, LEARNED, 8, False), (4, "min_max", 3, True)]
)
def test_ranks_calibrate_as_one_process(ranks, world, scheme, count, wrapped):
    """Three batches for four ranks: one sees nothing, and waits for nobody."""
    sim = built(scheme)
    sim.compute_encodings(feed, batches(count))
    for got in ranks.run(world, _calibrate, scheme, count, wrapped):
        same_numbers(got, numbers(sim))


def _calibrate_gate_on_rank_1(rank, world):
    sim = built(LEARNED)
    sim.compute_encodings(lambda model: feed(model, batches(2)[rank::world], gated=rank == 1))
    return numbers(sim)


def test_a_quantizer_that_one_rank_alone_reached(ranks):
    first, second = ranks.run(2, _calibrate_gate_on_rank_1)
    same_numbers(first, second)
    assert not any(value.any() for name, value in first.items() if name.endswith("unseen"))


def test_what_each_argument_joins(ranks):
    alone, pair, everyone = (ranks.run(4, _calibrate_in, which) for which in (False, "pair", True))
    for rank, got in enumerate(alone):
        same_numbers(got, calibrated_on(batches(4)[rank : rank + 1]))
    for got in pair[:2]:
        same_numbers(got, calibrated_on(batches(4)[:2]))
    same_numbers(pair[3], alone[3])
    for got in everyone:
        same_numbers(got, calibrated_on(batches(4)))


def calibrated_on(data):
    sim = built()
    sim.compute_encodings(feed, data)
    return numbers(sim)


def _calibrate_in(rank, world, which):
    sim = built()
    group = dist.new_group([0, 1]) if which == "pair" else which
    sim.compute_encodings(feed, batches(4)[rank::world], process_group=group)
    return numbers(sim)


def test_a_group_that_is_none_is_named():
    with pytest.raises(TypeError, match="process_group is 'gloo', expected"):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            merge_observers([], "gloo")
        finally:
            dist.destroy_process_group()


def _fail_on_rank_1(rank, world):
    sim = built(LEARNED)
    before = numbers(sim)

    def callback(model):
        feed(model, batches(1))
        if rank == 1:
            raise KeyError("labels")

    with pytest.raises(KeyError if rank == 1 else RuntimeError, match="labels") as caught:
        sim.compute_encodings(callback)
    same_numbers(numbers(sim), before)
    return str(caught.value)


def test_a_failure_on_one_rank_is_one_on_all(ranks):
    first, second = ranks.run(2, _fail_on_rank_1)
    assert "rank 1 of 2 raised KeyError: 'labels'" in first and second == "'labels'"


def _switch_one_off_on_rank_1(rank, world):
    sim = built()
    before = numbers(sim)
    if rank == 1:
        sim.model.fc.output_quantizers[0].enabled = False
    with pytest.raises(RuntimeError, match="rank 1 has 5 observers, rank 0 has 6") as caught:
        sim.compute_encodings(feed, batches(1))
    same_numbers(numbers(sim), before)
    return str(caught.value)


def test_different_quantizers_are_noticed(ranks):
    assert len(set(ranks.run(2, _switch_one_off_on_rank_1))) == 1


def _merge(rank, world):
    observers = [MinMaxObserver((2, 1)), MovingAverageObserver((1,), momentum=0.5), MinMaxObserver((1,))]
    observers[0].update(torch.tensor([[rank, float("nan")], [-rank, 1.0]], dtype=(torch.float32, torch.float64)[rank]))
    for top in (1.0, 2.0 + rank):
        observers[1].update(torch.tensor([-top, top]))
    merge_observers(observers)
    return [(observer.min, observer.max, observer.ignored, observer.seen) for observer in observers]


def test_statistics_of_two_ranks(ranks):
    """Types widen, counts add up, averages are joined at their widest, and nothing stays nothing."""
    first, second = ranks.run(2, _merge)
    for one, other in zip(first, second):
        for got, expected in zip(one[:3], other[:3]):
            same_bits(got, expected)
    (low, high, ignored, seen), average, nothing = first
    assert low.dtype == torch.float64 and low.tolist() == [[0.0], [-1.0]] and high.tolist() == [[1.0], [1.0]]
    assert ignored.tolist() == [[2], [0]] and seen
    assert average[1].tolist() == [2.0] and not nothing[3]
