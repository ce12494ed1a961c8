"""Many processes: N ranks calibrate, train and save as one process does."""

import contextlib
import io

import detent
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from detent import qat
from detent.distributed import merge_observers, unwrap
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


# --- training ---------------------------------------------------------------------------------------------------------


def _wrapped_before_calibration(rank, world):
    """The wrapper copies rank 0's parameters over the others', which is no range yet."""
    sim = built(LEARNED)
    sim.model = DistributedDataParallel(sim.model)
    assert not any(quantizer.is_initialized() for quantizer in sim.quantizers())
    with pytest.raises(RuntimeError, match="no range yet"):
        sim.model(batches(1)[0])
    sim.compute_encodings(feed, batches(2)[rank::world])
    return [numbers(sim)] + [tensor.detach().clone() for tensor in sim.model(batches(1)[0])]


def test_calibration_after_wrapping(ranks):
    sim = built(LEARNED)
    sim.compute_encodings(feed, batches(2))
    for held, *_ in ranks.run(2, _wrapped_before_calibration):
        same_numbers(held, numbers(sim))


def trained(sim, steps, rank=0, world=1, state=None):
    """Plain steps on a batch of eight, of which each rank has its share; the sim's state and the optimizer's."""
    model = sim.model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    first = 0
    if state is not None:
        unwrap(model).load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    model.eval()  # batch norms as they were calibrated: their statistics per rank are no business of quantizers
    data = batches(first + steps, size=8)[first:]
    for batch in data:
        optimizer.zero_grad()
        model(batch[rank::world]).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return {"model": unwrap(model).state_dict(), "optimizer": optimizer.state_dict(), "step": first + steps}


def calibrated_sim(scheme):
    sim = built(scheme)
    sim.compute_encodings(feed, batches(2, size=8), process_group=False)
    return sim


def _train(rank, world, scheme, steps, state=None):
    sim = calibrated_sim(scheme)
    sim.model = DistributedDataParallel(sim.model)
    return trained(sim, steps, rank, world, None if state is None else torch.load(io.BytesIO(state)))


def same_state(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        same_bits(got[name], value, name=name)


def near_state(got, expected):
    for name, value in expected.items():
        within(got[name], value, 1e-4 * max(1.0, value.abs().max().item()), name=name)


@pytest.mark.parametrize("world, scheme", [(2, LEARNED), (4, "min_max")])
def test_ranks_train_as_one_process(ranks, world, scheme):
    """Ranges reduce like weights, and a gate that calibration did not reach is no unused parameter."""
    expected = trained(calibrated_sim(scheme), 3)["model"]
    first, *others = (state["model"] for state in ranks.run(world, _train, scheme, 3))
    for other in others:
        same_state(other, first)
    near_state(first, expected)
    if scheme == LEARNED:
        start = calibrated_sim(scheme).model.state_dict()
        ranges = [name for name in start if name.endswith((".min", ".max"))]
        moved = [name for name in ranges if not torch.equal(start[name], first[name])]
        assert len(moved) >= 10, moved


def _accumulate(rank, world, scheme, cached):
    """Two steps over three pieces each, of which the last one reduces."""
    sim = calibrated_sim(scheme)
    sim.model = model = DistributedDataParallel(sim.model.eval())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    with qat.cached_weights(sim) if cached else contextlib.nullcontext():
        for data in (batches(3), batches(6)[3:]):
            optimizer.zero_grad()
            for piece in data[:-1]:
                with model.no_sync():
                    model(piece[rank::world]).square().mean().backward()
            model(data[-1][rank::world]).square().mean().backward()
            optimizer.step()
    return unwrap(model).state_dict()


@pytest.mark.parametrize("scheme", [LEARNED, "min_max"])
def test_ranks_accumulate_the_same_with_cached_weights(ranks, scheme):
    first, second = ranks.run(2, _accumulate, scheme, True)
    same_state(second, first)
    same_state(first, ranks.run(2, _accumulate, scheme, False)[0])


def test_a_checkpoint_of_two_ranks_resumes_on_four(ranks):
    states = ranks.run(2, _train, LEARNED, 2)
    file = io.BytesIO()
    torch.save(states[0], file)
    on_four = ranks.run(4, _train, LEARNED, 1, file.getvalue())
    for other in on_four[1:]:
        same_state(other["model"], on_four[0]["model"])
    file.seek(0)
    near_state(on_four[0]["model"], trained(calibrated_sim(LEARNED), 1, state=torch.load(file))["model"])
    near_state(on_four[0]["model"], trained(calibrated_sim(LEARNED), 3)["model"])


def switched(sim, rank=0, world=1):
    """A step with fixed ranges, then two with learned ones."""
    first = trained(sim, 1, rank, world)["model"]
    if world > 1:
        learned = dict(activations="learned")
        for change in (lambda: qat.set_modes(sim, **learned), lambda: qat.use_pact(sim), lambda: qat.use_lsq(sim)):
            with pytest.raises(RuntimeError, match="wrapped in DistributedDataParallel"):
                change()
        same_state(unwrap(sim.model).state_dict(), first)
        sim.model = sim.model.module
    qat.set_modes(sim, activations="learned", parameters="learned")
    if world > 1:
        sim.model = DistributedDataParallel(sim.model)
    return trained(sim, 2, rank, world)["model"]


def _switch(rank, world):
    sim = calibrated_sim("min_max")
    sim.model = DistributedDataParallel(sim.model)
    return switched(sim, rank, world)


def test_modes_switch_between_two_wrappers(ranks):
    first, second = ranks.run(2, _switch)
    same_state(first, second)
    near_state(first, switched(calibrated_sim("min_max")))


@pytest.mark.parametrize("idle", ["off", "unseen"])
def test_a_range_that_nothing_uses_is_not_trained(idle):
    quantizer = detent.quantizers.QuantizeDequantize((1,), 8, False)
    if idle == "off":
        quantizer.enabled = False
    else:
        quantizer._mark_unseen()
    assert quantizer.mode == "learned" and not quantizer.min.requires_grad
    quantizer.requires_grad_(True)
    assert quantizer.mode == "learned" and not quantizer.min.requires_grad
    copied = detent.quantizers.QuantizeDequantize((1,), 8, False, mode="fixed")
    copied.load_state_dict(quantizer.state_dict())
    assert copied.mode == "learned" and copied.min.requires_grad == (idle == "off")
    quantizer.requires_grad_(False)
    assert quantizer.mode == "fixed"
    quantizer.mode = "learned"
    assert not quantizer.max.requires_grad
    quantizer.set_range(-1, 1)
    quantizer.enabled = True
    assert quantizer.min.requires_grad and quantizer.max.requires_grad


def _train_sharded(rank, world, scheme, by_layer, folder):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    sim = calibrated_sim(scheme)
    mesh = init_device_mesh("cpu", (world,))
    for module in (sim.model.conv, sim.model.fc, sim.model) if by_layer else (sim.model,):
        fully_shard(module, mesh=mesh)
    for refused in (lambda: sim.compute_encodings(feed, batches(1)), sim.encodings):
        with pytest.raises(RuntimeError, match="is sharded over ranks, expected a whole model"):
            refused()
    with pytest.raises(RuntimeError, match="sharded over ranks, expected whole"), qat.cached_weights(sim):
        pass
    trained(sim, 3, rank, world)
    dcp.save(get_model_state_dict(sim.model), checkpoint_id=folder)
    return get_model_state_dict(sim.model, options=StateDictOptions(full_state_dict=True))


@pytest.mark.parametrize("scheme, by_layer", [(LEARNED, True), ("min_max", False)])
def test_sharded_ranks_train_as_one_process(ranks, scheme, by_layer, tmp_path):
    """FSDP2 splits ranges like other parameters; gathered, or saved in pieces, they load into a sim of one process."""
    near = trained(calibrated_sim(scheme), 3)["model"]
    first, second = ranks.run(2, _train_sharded, scheme, by_layer, tmp_path / "pieces")
    gathered = first or second  # on the CPU only rank 0 may be given it
    assert gathered.keys() == near.keys()
    near_state(gathered, near)
    fresh = built(scheme)
    fresh.model.load_state_dict(gathered)
    same_state(fresh.model.state_dict(), gathered)
    uncalibrated = built(scheme).model
    pieces = uncalibrated.state_dict()
    dcp.load(pieces, checkpoint_id=tmp_path / "pieces", no_dist=True)
    uncalibrated.load_state_dict(pieces)
    same_state(uncalibrated.state_dict(), gathered)
