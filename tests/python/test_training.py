"""What people train with: replicas, threads, averaged and accumulated and compiled steps."""

import contextlib
import sys
import threading

import detent
import pytest
import torch
from detent import qat
from detent.observers import HistogramObserver, MinMaxObserver
from torch import nn
from torch.nn.parallel import DataParallel, replicate
from torch.utils._python_dispatch import TorchDispatchMode

from checks import same_bits, within

LEARNED = "training_range_learning"
SCHEMES = ["min_max", LEARNED]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        x = torch.relu(x + self.second(x))
        return self.fc(x.mean((2, 3)))


def data(count=6):
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(3))


def calibrated(scheme=LEARNED):
    torch.manual_seed(2)
    sim = detent.QuantizationSimModel(Net(), data(2), scheme)
    sim.compute_encodings(lambda model: model(data(8)))
    return sim


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same_gradients(got, expected):
    assert got.keys() == expected.keys() and expected
    for name, gradient in expected.items():
        same_bits(got[name], gradient, name=name)


# --- nn.DataParallel and threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_published_data_parallel_workflow(scheme, tmp_path):
    sim = calibrated(scheme)
    names = [name for name, _ in sim.named_quantizers()]
    sim.model = DataParallel(sim.model)
    sim.compute_encodings(lambda model: model(data(8)))
    optimizer = torch.optim.SGD(sim.model.parameters(), lr=0.05)
    sim.model.train()(data()).square().mean().backward()
    optimizer.step()
    sim.model.eval()
    assert [name for name, _ in sim.named_quantizers()] == names and "first" in str(sim)
    wrapped = sim.encodings()
    sim.save_encodings_to_json(tmp_path, "wrapped")
    fresh = calibrated(scheme)
    fresh.model = DataParallel(fresh.model).eval()
    if scheme == LEARNED:
        sim.export(tmp_path, "net", data(1))
        fresh.model.module.load_state_dict(detent.export.read_state_dict(tmp_path / "net.safetensors"))
        same_bits(fresh.model(data()), sim.model(data()))
    fresh.load_encodings(tmp_path / "wrapped.json")
    sim.model = sim.model.module
    assert [list(part) for part in wrapped] == [list(part) for part in sim.encodings()]


def replicas(model, count, monkeypatch):
    """What DataParallel makes of a model for ``count`` devices, all of them the CPU."""

    def copies(tensors, devices, detach=False):
        return [[t.detach().clone() if detach else t.clone() for t in tensors] for _ in devices]

    module = sys.modules["torch.nn.parallel.replicate"]  # the function of that name hides it
    monkeypatch.setattr(module, "_broadcast_coalesced_reshape", copies)
    return replicate(model, list(range(count)))


def in_threads(calls):
    """Run all at once; what each returned. An error in one is raised."""
    results, start = [None] * len(calls), threading.Barrier(len(calls))

    def one(index):
        start.wait()
        try:
            results[index] = calls[index]()
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(calls))]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@pytest.mark.parametrize("scheme", SCHEMES)
def test_replicas_are_one_model(scheme, monkeypatch):
    """Outputs of the whole batch bit for bit, its gradients up to the order of sums."""
    sim, x = calibrated(scheme), data()
    model = sim.model.eval()
    expected = model(x)
    expected.square().sum().backward()
    before = gradients(model)
    model.zero_grad()
    made = replicas(model, 3, monkeypatch)
    got = torch.cat(in_threads([lambda i=i: made[i](x[2 * i : 2 * i + 2]) for i in range(3)]))
    within(got, expected, 1e-5)
    got.square().sum().backward()
    after = gradients(model)
    assert after.keys() == before.keys()
    for name, gradient in before.items():
        within(after[name], gradient, 1e-4 * max(1.0, gradient.abs().max().item()), name=name)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_calibration_in_replicas_is_that_of_one_device(scheme, monkeypatch):
    """Replicas are dropped after each forward; what they saw is not."""
    x, one, many = data(30), calibrated(scheme), calibrated(scheme)
    one.compute_encodings(lambda model: [model(x[i : i + 1]) for i in range(30)])

    def callback(model):
        for start in range(0, 30, 6):
            made = replicas(model, 6, monkeypatch)
            in_threads([lambda i=i: made[i](x[start + i : start + i + 1]) for i in range(6)])

    many.compute_encodings(callback)
    got, expected = many.model.state_dict(), one.model.state_dict()
    for name, value in expected.items():
        same_bits(got[name], value, name=name)


@pytest.mark.parametrize("observer", [MinMaxObserver, HistogramObserver, qat.LsqObserver])
def test_replicas_that_observe_at_once_lose_nothing(observer, monkeypatch):
    """Whoever updates waits for a second one to come in: with the lock nobody does, without it one would be lost."""
    met, take = threading.Barrier(2), observer._take

    def waiting(self, x, held, axis, blocks):
        with contextlib.suppress(threading.BrokenBarrierError):
            met.wait(0.2)
        take(self, x, held, axis, blocks)

    monkeypatch.setattr(observer, "_take", waiting)
    shared, whole = observer((1,)), observer((1,))
    parts = [torch.tensor([-1.0, 0.5]), torch.tensor([0.25, 3.0])]
    in_threads([lambda part=part: shared.update(part) for part in parts])
    whole.update(torch.cat(parts))
    for got, expected in zip(shared._collected(), whole._collected()):
        same_bits(got, expected)


def test_replicas_of_ranges_written_in_place(monkeypatch):
    quantizer = detent.quantizers.QuantizeDequantize((1,), 8, True)
    with torch.no_grad():
        quantizer.min.fill_(-1.0), quantizer.max.fill_(1.0)
    (made,) = replicas(quantizer, 1, monkeypatch)
    same_bits(made(data()), quantizer(data()))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_threads_share_a_sim(scheme):
    """Forward and backward from several threads at once give the bits of one after the other."""
    model, inputs = calibrated(scheme).model.eval(), [data() * (1 + i) for i in range(4)]
    parameters = [p for p in model.parameters() if p.requires_grad]

    def run(x):
        y = model(x)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), parameters)]

    expected = [run(x) for x in inputs]
    for _ in range(3):
        for got, one in zip(in_threads([lambda x=x: run(x) for x in inputs]), expected):
            for index, (left, right) in enumerate(zip(got, one)):
                same_bits(left, right, index=index)


# --- ways to step -----------------------------------------------------------------------------------------------------


def step(model, x, scaler=None):
    """Gradients of one loss, added to what is there."""
    loss = model(x).float().square().sum()
    (loss if scaler is None else scaler.scale(loss)).backward()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_accumulated_gradients_are_those_of_the_whole_batch(scheme):
    """Weights are rounded alike in every piece; only the order of sums differs."""
    whole, pieces = calibrated(scheme).model.eval(), calibrated(scheme).model.eval()
    step(whole, data())
    for piece in data().split(2):
        step(pieces, piece)
    expected, got = gradients(whole), gradients(pieces)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        within(got[name], gradient, 1e-4 * max(1.0, gradient.abs().max().item()), name=name)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_autocast_keeps_ranges_in_float32_and_gradients_near(scheme):
    plain, cast = calibrated(scheme).model.eval(), calibrated(scheme).model.eval()
    step(plain, data())
    with torch.autocast("cpu", torch.bfloat16):
        y = cast(data())
        step(cast, data())
    assert y.dtype == torch.bfloat16
    expected, got = gradients(plain), gradients(cast)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert got[name].dtype == torch.float32, name
    a, b = (torch.cat([g[n].flatten() for n in sorted(g) if "quantizers" not in n]) for g in (got, expected))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.98


def test_a_gradient_scaler_scales_ranges_too_and_skips_bad_steps():
    """A power of two leaves no trace in the gradients; an infinity leaves every parameter as it is."""
    plain, scaled = calibrated().model.eval(), calibrated().model.eval()
    step(plain, data())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = torch.optim.SGD(scaled.parameters(), lr=0.01)
    step(scaled, data(), scaler=scaler)
    scaler.unscale_(optimizer)
    same_gradients(gradients(scaled), gradients(plain))
    scaler.step(optimizer), scaler.update(), optimizer.zero_grad()
    before = {name: p.detach().clone() for name, p in scaled.named_parameters()}
    scaler.scale(scaled(data()).sum() * float("inf")).backward()
    scaler.step(optimizer), scaler.update()
    for name, parameter in scaled.named_parameters():
        same_bits(parameter, before[name], name=name)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_half_precision_with_a_gradient_scaler(scheme):
    """float16 gradients scaled up, unscaled, clipped and stepped: near what float32 does."""
    plain, cast = calibrated(scheme).model.eval(), calibrated(scheme).model.eval()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for model in (plain, cast):
        optimizer = torch.optim.SGD(qat.parameter_groups(model, lr=0.05), momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=model is cast):
                loss = model(data()).float().square().mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer), scaler.update()
    start = dict(calibrated(scheme).model.named_parameters())
    moved = [
        torch.cat([(p - start[name]).detach().flatten() for name, p in model.named_parameters() if p.requires_grad])
        for model in (cast, plain)
    ]
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.98
    assert all(p.dtype == torch.float32 for p in cast.parameters())


class Reads(TorchDispatchMode):
    """Counts what would make a host wait for its device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("way", ["min_max", LEARNED, "lsq", "pact"])
def test_a_step_reads_no_number_back(way):
    """Forward, backward, losses and freezing queue their work and go on."""
    sim = calibrated(way if way in SCHEMES else "min_max")
    if way == "lsq":
        qat.use_lsq(sim)
    elif way == "pact":
        qat.use_pact(sim)
    optimizer = torch.optim.SGD(qat.parameter_groups(sim, lr=0.01), foreach=False)
    freezer = qat.OscillationFreezer(sim, threshold=0.1)
    step(sim.model, data())
    with Reads() as reads:
        y = sim.model(data())
        (y.square().sum() + qat.distillation_loss(y, y.detach()) + qat.dampening_loss(sim)).backward()
        optimizer.step(), freezer.step()
    assert reads.seen == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_step_captured_as_cuda_graphs_is_the_eager_one(scheme, cuda):
    eager, model = (calibrated(scheme).model.to(cuda).eval() for _ in range(2))
    graphed = torch.cuda.make_graphed_callables(model, (data().to(cuda),))
    for count in range(3):
        x = data().to(cuda) * (1 + count)
        same_bits(graphed(x), eager(x))
        eager.zero_grad(), model.zero_grad()
        step(eager, x), step(graphed, x)
        same_gradients(gradients(model), gradients(eager))


def test_clipping_counts_ranges():
    model = calibrated().model.eval()
    step(model, data())
    norm = torch.stack([g.double().norm() for g in gradients(model).values()]).norm()
    within(nn.utils.clip_grad_norm_(model.parameters(), 0.5), norm.float(), 1e-4 * norm.item())
    clipped = torch.stack([g.double().norm() for g in gradients(model).values()]).norm()
    within(clipped, torch.tensor(0.5, dtype=torch.float64), 1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_channels_last_gives_the_same_values(scheme):
    plain, last = calibrated(scheme).model.eval(), calibrated(scheme).model.eval()
    last = last.to(memory_format=torch.channels_last)
    within(last(data().to(memory_format=torch.channels_last)), plain(data()), 1e-5)
    step(plain, data())
    step(last, data().to(memory_format=torch.channels_last))
    expected, got = gradients(plain), gradients(last)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        within(got[name], gradient, 1e-4 * max(1.0, gradient.abs().max().item()), name=name)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_averaged_weights_average_ranges(scheme):
    """SWA and EMA copies quantize with the average of the ranges, and batch norms are re-estimated through them."""
    sim = calibrated(scheme)
    model = sim.model.train()
    swa = torch.optim.swa_utils.AveragedModel(model)
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held = []
    for _ in range(3):
        optimizer.zero_grad(), step(model, data()), nn.utils.clip_grad_norm_(model.parameters(), 1.0), optimizer.step()
        swa.update_parameters(model), ema.update_parameters(model)
        held.append({name: p.detach().double().clone() for name, p in model.named_parameters()})
    for name, parameter in swa.module.named_parameters():
        within(parameter, sum(one[name] for one in held) / 3, 1e-5, name=name)
    for name, parameter in ema.module.named_parameters():
        within(parameter, held[0][name] / 4 + held[1][name] / 4 + held[2][name] / 2, 1e-5, name=name)
    torch.optim.swa_utils.update_bn([data()], swa)
    assert torch.isfinite(swa.eval()(data())).all() and not torch.equal(swa(data()), model.eval()(data()))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_functional_call_takes_ranges_and_weights(scheme):
    one, other = calibrated(scheme).model.eval(), calibrated(scheme).model.eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.25)
    given = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    same_bits(torch.func.functional_call(one, given, (data(),)), other(data()))
    torch.func.functional_call(one, given, (data(),)).square().sum().backward()
    got = gradients(other)
    assert not gradients(one)
    other.zero_grad()
    step(other, data())
    same_gradients(got, gradients(other))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_compiled_step_is_the_eager_one(scheme):
    """One graph, forward and backward, whatever the batch; names stay those of the float model."""

    def built():
        torch.manual_seed(4)
        sim = detent.QuantizationSimModel(nn.Sequential(nn.Linear(8, 6), nn.GELU()), torch.randn(2, 8), scheme)
        sim.compute_encodings(lambda model: model(torch.randn(32, 8)))
        return sim

    torch._dynamo.reset()
    eager, sim, graphs = built().model, built(), []

    def counting(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    sim.model = torch.compile(sim.model, fullgraph=True, dynamic=True, backend=counting)
    for count in (6, 3, 5):
        eager.zero_grad(), sim.model.zero_grad()
        x = torch.randn(count, 8)
        step(eager, x), step(sim.model, x)
        same_gradients({n.removeprefix("_orig_mod."): g for n, g in gradients(sim.model).items()}, gradients(eager))
    assert len(graphs) == 1
    assert not any("_orig_mod" in name for name, _ in sim.named_quantizers())
    torch._dynamo.reset()


# --- trainers ---------------------------------------------------------------------------------------------------------


def test_lightning_trainer(tmp_path):
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.sim = calibrated()
            self.net = self.sim.model

        def training_step(self, batch, index):
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    task = Task()
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        gradient_clip_val=1.0, accumulate_grad_batches=2, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(task, torch.utils.data.DataLoader(data(8), batch_size=2))
    moved = [name for name, p in task.named_parameters() if not torch.equal(p, before[name])]
    assert any(name.endswith(".min") for name in moved) and any(name.endswith("weight") for name in moved)
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    fresh = Task()
    fresh.load_state_dict(torch.load(tmp_path / "task.ckpt", weights_only=True)["state_dict"])
    same_bits(fresh.net.eval()(data()), task.net.eval()(data()))


def test_accelerate():
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    sim, plain = calibrated(), calibrated().model.train()
    accelerator = accelerate.Accelerator(cpu=True)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05) for model in (sim.model, plain)]
    sim.model, optimizers[0] = accelerator.prepare(sim.model.train(), optimizers[0])
    for _ in range(2):
        for optimizer in optimizers:
            optimizer.zero_grad()
        accelerator.backward(sim.model(data()).square().mean()), plain(data()).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    for (name, got), expected in zip(accelerator.unwrap_model(sim.model).named_parameters(), plain.parameters()):
        same_bits(got, expected, name=name)


def test_hugging_face_trainer(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate, which the Trainer needs, is not installed")

    class Task(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = calibrated().model

        def forward(self, x):
            y = self.net(x)
            return {"loss": y.square().mean(), "logits": y}

    task = Task()
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=3, use_cpu=True, report_to=[], save_steps=2,
        disable_tqdm=True, learning_rate=0.05, remove_unused_columns=False,
    )  # fmt: skip
    trainer = transformers.Trainer(task, arguments, train_dataset=[{"x": x} for x in data()])
    trainer.train()
    moved = [name for name, p in task.named_parameters() if not torch.equal(p.cpu(), before[name])]
    assert any(name.endswith(".min") for name in moved) and any(name.endswith("weight") for name in moved)
    fresh = Task()
    resumed = transformers.Trainer(fresh, arguments, train_dataset=[{"x": x} for x in data()])
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, value in task.state_dict().items():
        same_bits(fresh.state_dict()[name], value, name=name)
