"""A residual sum, the ReLU that reads it and their quantizer are one pass of a simulation, whatever a forward does."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from checks import same_bits
from detent import QuantizationDataType, QuantizationSimModel, qat
from simulations import ResNet20


class Net(nn.Module):
    """A residual block whose end is ``end(self, out, x)``, between a stem and a head."""

    def __init__(self, end):
        super().__init__()
        self.end = end
        self.stem, self.head, self.relu = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.ReLU()
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.bn, self.over = nn.BatchNorm2d(8), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.stem(x))
        return self.head(self.end(self, self.bn(self.conv2(self.relu(self.conv1(x)))), x))


def end_function(self, out, x):
    return F.relu(out + x)


def end_in_place(self, out, x):
    out += x
    out = self.over(out)
    return out


def end_torch_add(self, out, x):
    out = torch.add(out, x)
    return F.relu6(input=out)


def end_method(self, out, x):
    return self.relu(out.add_(other=x))


def end_sum_alone(self, out, x):
    return out + x


def end_sum_alone_in_place(self, out, x):
    alias = out.view(out.shape)
    out += x
    return out * alias


def end_quantized_input(self, out, x):
    return self.relu(out + torch.ones_like(out))  # the ones are on no grid


FUSED = {
    end.__name__: end
    for end in (
        end_function, end_in_place, end_torch_add, end_method, end_sum_alone, end_sum_alone_in_place,
        end_quantized_input,
    )
}  # fmt: skip


def end_broadcast(self, out, x):
    return F.relu(out + x.mean((2, 3), keepdim=True))


def end_alpha(self, out, x):
    return F.relu(torch.add(out, x, alpha=2)) + F.relu(x + 1)


def end_strides(self, out, x):
    return F.relu(out + x.transpose(2, 3))


def end_own_function(self, out, x):
    return Scaled.apply(out + x)


def end_relu_in_place_function(self, out, x):
    out = out + x
    return F.relu(out, inplace=True)


UNFUSED = {
    end.__name__: end
    for end in (end_broadcast, end_alpha, end_strides, end_own_function, end_relu_in_place_function)
}  # fmt: skip


class Scaled(torch.autograd.Function):
    """A ReLU with a slope of 3, as nobody sees from outside."""

    @staticmethod
    def forward(ctx, x):
        y = torch.relu(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        return 3 * g * (ctx.saved_tensors[0] > 0)


def end_held(self, out, x):
    held = out + x
    y = self.relu(held)
    return self.conv1(y) + held


def end_held_over(self, out, x):
    held = out + x
    y = self.over(held)
    return self.conv1(y) + held


def end_kept(self, out, x):
    self.kept = [out + x]
    return self.relu(self.kept[0])


def end_aliased(self, out, x):
    alias = out[:, :4]
    out += x
    return self.relu(out) + torch.cat((alias, alias), 1)


def end_written(self, out, x):
    x = x * 1
    out = out + x
    x += 1
    y = self.relu(out)
    x *= 2
    return y + x


def end_written_after(self, out, x):
    x = x * 1
    held = out + x
    y = self.relu(held)
    x *= 2
    return y * held + x


def end_beside_a_function(self, out, x):
    out = out + x
    x = Scaled.apply(x)
    held = self.relu(out) + x
    y = self.relu(held)
    return Scaled.apply(y) * held


def end_looked_at(self, out, x):
    out = out + x
    self.seen = out.tolist(), out.shape, out.requires_grad
    return self.relu(out)


def end_tensor_hook(self, out, x):
    out = out + x
    if out.requires_grad:
        out.register_hook(lambda g: g * 2)
    return self.relu(out)


def end_without_gradient(self, out, x):
    with torch.no_grad():
        held = out + x
    y = self.relu(held)
    held = out + x
    with torch.no_grad():
        z = self.relu(held)
    return y + z + out


def end_checkpoint(self, out, x):
    out = checkpoint(lambda out, x: F.relu(out + x), out, x, use_reentrant=False)
    return checkpoint(self.relu, out + x, use_reentrant=False)


def end_reentrant(self, out, x):
    out = checkpoint(lambda out, x: F.relu(out + x), out, x, use_reentrant=True)
    return checkpoint(self.relu, out + x, use_reentrant=True)


LOOKED_AT = {
    end.__name__: end
    for end in (
        end_held, end_held_over, end_kept, end_aliased, end_written, end_written_after, end_beside_a_function,
        end_looked_at, end_tensor_hook, end_without_gradient, end_checkpoint, end_reentrant,
    )
}  # fmt: skip

SCHEMES = ("min_max", "training_range_learning_with_tf_init", "lsq")
X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(7))


def simulated(end, scheme="min_max", x=X, **options):
    torch.manual_seed(3)
    net = end if isinstance(end, nn.Module) else Net(end)
    options = {"default_output_bw": 6, **options}
    sim = QuantizationSimModel(net.eval(), x, scheme if scheme != "lsq" else None, **options)
    if scheme == "lsq":
        qat.use_lsq(sim)
    sim.compute_encodings(lambda model: model(x))
    return sim


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.sums = self.passes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        self.passes += name in ("add", "add_") and args[0].dim() == 4
        given = {argument.name: value for argument, value in zip(func._schema.arguments, args)} | (kwargs or {})
        self.sums += given.get("residual") is not None
        return func(*args, **(kwargs or {}))


def operators(model, x=X):
    with Operators() as seen:
        model(x)
    return seen


def steps(sim, fuse, count=2, x=X):
    """Outputs, gradients of the input and of every parameter, and the parameters after them."""
    sim = copy.deepcopy(sim)
    sim.fuse_activations = fuse
    model, found = sim.model.train(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    for _ in range(count):
        optimizer.zero_grad()
        leaf = x.clone().requires_grad_()
        y = model(leaf)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        found += [("y", y), ("x", leaf.grad), *((name, p.grad) for name, p in model.named_parameters())]
        optimizer.step()
    found += list(model.named_parameters())
    model.eval()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            found.append(("eval", model(x)))
    return found


def expect_same(one, two):
    assert len(one) == len(two)
    for (name, got), (_, expected) in zip(one, two):
        assert (got is None) == (expected is None), name
        if got is not None:
            same_bits(got, expected, name=name)
            assert got.requires_grad == expected.requires_grad


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("end", FUSED)
def test_training_and_evaluation_have_the_bits_of_several_passes(end, scheme):
    sim = simulated(FUSED[end], scheme)
    expect_same(steps(sim, True), steps(sim, False))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("end", LOOKED_AT | UNFUSED)
def test_so_they_have_whoever_else_sees_the_sum(end):
    for scheme in SCHEMES[:2]:
        sim = simulated((LOOKED_AT | UNFUSED)[end], scheme)
        expect_same(steps(sim, True), steps(sim, False))


@pytest.mark.parametrize("end", FUSED)
def test_one_pass_wherever_it_is_exact(end):
    for scheme in SCHEMES:
        model = simulated(FUSED[end], scheme).model
        seen = operators(model)
        assert (seen.sums, seen.passes) == (1, 0)
        with torch.no_grad():
            seen = operators(model)
        assert (seen.sums, seen.passes) == (1, 0)


@pytest.mark.parametrize("end", UNFUSED)
def test_other_sums_are_not(end):
    assert operators(simulated(UNFUSED[end]).model).sums == (end == "end_alpha")  # the sum of its two results


def unseen(use):
    """A residual block whose sum has one reader in evaluation, and is otherwise used in training."""

    def end(self, out, x):
        out = out + x
        return use(self, out, x) if self.training else self.relu(out)

    return end


PATHS = {
    "returned": lambda self, out, x: out,
    "beside": lambda self, out, x: self.relu(out) + out,
    "in a layer": lambda self, out, x: self.conv1(out),
    "in a module": lambda self, out, x: nn.Sequential(nn.Sigmoid(), nn.Tanh())(out),
    "in place": lambda self, out, x: self.relu(out.mul_(2)),
    "written": end_written,
}


@pytest.mark.filterwarnings("ignore:.*did not run with the sample input")
@pytest.mark.parametrize("path", PATHS)
def test_paths_that_the_sample_does_not_take(path):
    sim = simulated(unseen(PATHS[path]))
    assert operators(sim.model.eval()).sums == 1
    expect_same(steps(sim, True), steps(sim, False))


@pytest.mark.filterwarnings("ignore:.*did not run with the sample input")
def test_a_gradient_that_would_be_lost_is_an_error():
    model = simulated(unseen(lambda self, out, x: Scaled.apply(out))).model.train()
    with pytest.raises(RuntimeError, match="given to a torch.autograd.Function, which the sample did not do"):
        model(X)
    with torch.no_grad():
        model(X)


def test_what_a_forward_keeps_and_looks_at_is_the_sum():
    for end, name in ((end_kept, "kept"), (end_looked_at, "seen")):
        found = []
        for fuse in (True, False):
            sim = simulated(end)
            sim.fuse_activations = fuse
            sim.model(X)
            found.append(getattr(sim.model, name))
        if name == "kept":
            same_bits(found[0][0], found[1][0])
        else:
            assert found[0] == found[1]


def test_hooks_see_what_they_saw():
    for where in ("relu", "quantizer", "another"):
        seen = []
        for fuse in (True, False):
            sim = simulated(end_function if where == "another" else lambda self, out, x: self.over(out + x))
            sim.fuse_activations = fuse
            module = {"relu": sim.model.over, "another": sim.model.head}.get(where)
            if where == "quantizer":
                module = sim.model.over.output_quantizers[0]
            module.register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))
            module.register_forward_hook(lambda m, args, y: seen.append(y.clone()))
            sim.model(X)
        for got, expected in zip(seen[:2], seen[2:]):
            same_bits(got, expected)


def test_switched_off_it_is_the_float_model_and_quantizers_that_do_more_are_called():
    sim = simulated(end_in_place)
    quantizer = sim.model.over.output_quantizers[0]
    quantizer.enabled = False
    assert operators(sim.model).sums == 0
    quantizer.enabled = True
    sim.fuse_activations = False
    assert operators(sim.model).sums == 0
    sim.fuse_activations = True
    assert operators(sim.model).sums == 1
    quantizer.mode = "learned"
    quantizer.parametrization = "pact"
    assert operators(sim.model).sums == 0
    floats = simulated(end_in_place, default_data_type=QuantizationDataType.float, default_output_bw=16)
    assert operators(floats.model).sums == 0


@pytest.mark.parametrize("end", [end_function, end_in_place])
def test_copies_pickles_and_replicas(end):
    sim = simulated(end)
    expected = sim.model(X)
    replica = sim.model._replicate_for_data_parallel()
    for model in (copy.deepcopy(sim.model), pickle.loads(pickle.dumps(sim.model)), replica):
        assert operators(model).sums == 1
        same_bits(model(X), expected)
    stripped = QuantizationSimModel.get_original_model(sim.model)
    assert operators(stripped).sums == 0


def test_compiled_and_traced():
    for end in (end_in_place, end_sum_alone):
        model = simulated(end).model
        expected = model(X)
        for compiled in (torch.compile(model, fullgraph=True, backend="aot_eager"), torch.jit.trace(model, X)):
            same_bits(compiled(X), expected)


@pytest.mark.parametrize("scheme", SCHEMES[:2])
def test_compression_and_what_is_saved(scheme):
    for end in (end_function, end_in_place, end_sum_alone):
        sims = [simulated(end, scheme) for _ in range(2)]
        sims[1].fuse_activations = False
        for compress in (False, True):
            for sim in sims:
                qat.compress_saved_tensors(sim, compress)
            one, two = (qat.saved_bytes(sim, X) for sim in sims)
            assert one.float_layers == two.float_layers
            assert one.total <= two.total
            expect_same(steps(sims[0], True), steps(sims[0], False))


def test_resnet20_in_one_pass_per_block():
    sim = simulated(ResNet20(), x=torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    x = torch.randn(2, 3, 16, 16)
    seen = operators(sim.model, x)
    assert seen.sums == 9
    expect_same(steps(sim, True, 1, x), steps(sim, False, 1, x))
