"""Parameters that are data: learned queries, tokens, positions and latents reach every product on a grid."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from simulations import calibrated, names
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from grids import inputs_off_grid  # noqa: E402

WIDTH = 48  # more numbers in every tensor than a grid of 4 bits has


def parameter(*shape):
    return nn.Parameter(torch.randn(*shape))


class Net(nn.Module):
    """``forward(self, x)`` over what is given by name."""

    def __init__(self, forward, **members):
        super().__init__()
        for name, value in members.items():
            is_state = isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter)
            self.register_buffer(name, value) if is_state else setattr(self, name, value)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


def attention(**options):
    return nn.MultiheadAttention(WIDTH, 4, batch_first=True, **options)


def heads(x):
    return x.view(len(x), -1, 4, WIDTH // 4).transpose(1, 2)


def batch(parameter, x):
    return parameter.expand(len(x), *parameter.shape)


def detr(self, x):
    """A decoder that starts with nothing but its queries."""
    queries = self.queries.weight.unsqueeze(0).repeat(len(x), 1, 1)
    target = torch.zeros_like(queries)
    target = target + self.attention(target + queries, target + queries, target)[0]
    return self.attention(target + queries, x, x)[0]


def pooling(self, x):
    return self.attention(self.probe.repeat(len(x), 1, 1), x, x)[0]


def token_and_positions(self, x):
    return self.fc(torch.cat([batch(self.token, x), x], 1) + self.positions)


def resized_positions(self, x):
    positions = F.interpolate(self.positions, (1, x.shape[1]), mode="bicubic")
    return self.fc(x + positions.flatten(2).transpose(1, 2))


SIZES = {
    "probe": (1, 1, WIDTH), "latents": (7, WIDTH), "queries": (4, 7, WIDTH // 4), "k": (4, 7, WIDTH // 4),
    "v": (4, 7, WIDTH // 4), "wide": (WIDTH, WIDTH), "steps": (9, 5), "token": (1, WIDTH), "table": (9, WIDTH), "image": (1, 3, 16, 16),
    "kernel": (8, 3, 3, 3),
}  # fmt: skip
MODELS = {
    "a probe, repeated": (pooling, {"probe": ..., "attention": attention}),
    "a probe, without weights": (
        lambda self, x: self.attention(batch(self.probe[0], x), x, x, need_weights=False)[0],
        {"probe": ..., "attention": attention},
    ),
    "a query that is a buffer": (
        lambda self, x: self.attention(batch(self.query, x), x, x)[0],
        {"query": lambda: torch.randn(7, WIDTH), "attention": attention},
    ),
    "bias_k and bias_v": (
        lambda self, x: self.attention(batch(self.latents, x), x, x)[0],
        {"latents": ..., "attention": lambda: attention(add_bias_kv=True)},
    ),
    "queries of an embedding": (detr, {"queries": lambda: nn.Embedding(7, WIDTH), "attention": attention}),
    "queries of a decoder": (
        lambda self, x: self.layer(batch(self.latents, x), x),
        {"latents": ..., "layer": lambda: nn.TransformerDecoderLayer(WIDTH, 4, 64, batch_first=True)},
    ),
    "token and positions": (
        token_and_positions,
        {"token": ..., "positions": lambda: parameter(1, 6, WIDTH), "fc": lambda: nn.Linear(WIDTH, WIDTH)},
    ),
    "resized positions": (
        resized_positions,
        {"positions": lambda: parameter(1, WIDTH, 3, 3), "fc": lambda: nn.Linear(WIDTH, WIDTH)},
    ),
    "positions from a table": (
        lambda self, x: self.fc(x + F.embedding(self.ids, self.table)),
        {"ids": lambda: torch.arange(5), "table": ..., "fc": lambda: nn.Linear(WIDTH, WIDTH)},
    ),
    "latents as query": (
        lambda self, x: F.scaled_dot_product_attention(batch(self.queries, x), heads(x), heads(x)),
        {"queries": ...},
    ),
    "parameters as key and value": (
        lambda self, x: F.scaled_dot_product_attention(heads(x), batch(self.k, x), batch(self.v, x)),
        {"k": ..., "v": ...},
    ),
    "@ on the right": (lambda self, x: x @ self.wide, {"wide": ...}),
    "@ on the left": (lambda self, x: self.steps @ x, {"steps": ...}),
    "bmm on the right": (lambda self, x: torch.bmm(x, batch(self.wide, x)), {"wide": ...}),
    "bmm on the left": (lambda self, x: torch.bmm(self.steps.repeat(len(x), 1, 1), x), {"steps": ...}),
    "einsum on the right": (lambda self, x: torch.einsum("btd,de->bte", x, self.wide), {"wide": ...}),
    "einsum on the left": (lambda self, x: torch.einsum("st,btd->bsd", self.steps, x), {"steps": ...}),
    "a linear layer of latents": (
        lambda self, x: self.fc(self.latents) @ x.transpose(1, 2),
        {"latents": ..., "fc": lambda: nn.Linear(WIDTH, WIDTH)},
    ),
    "F.linear of latents": (
        lambda self, x: F.linear(self.latents, self.wide) @ x.transpose(1, 2), {"latents": ..., "wide": ...}
    ),
    "F.linear of latents, normalized": (
        lambda self, x: F.linear(F.layer_norm(self.latents, (WIDTH,)), self.wide) @ x.transpose(1, 2),
        {"latents": ..., "wide": ...},
    ),
    "F.linear with a weight that is computed": (
        lambda self, x: F.linear(self.latents, self.wide / self.wide.norm()) @ x.transpose(1, 2),
        {"latents": ..., "wide": ...},
    ),
    "F.conv2d of an image": (
        lambda self, x: F.conv2d(self.image, self.kernel).flatten(2).sum(2) @ x[:, :, :8].transpose(1, 2),
        {"image": ..., "kernel": ...},
    ),
}  # fmt: skip


def made(name):
    forward, members = MODELS[name]
    built = {key: parameter(*SIZES[key]) if make is ... else make() for key, make in members.items()}
    return Net(forward, **built).eval()


@pytest.mark.parametrize("name", MODELS)
def test_every_product_reads_grids(name):
    net, x = made(name), torch.randn(4, 5, WIDTH)
    sim = calibrated(net, x, quant_scheme="training_range_learning_with_tf_init")
    sim.model(x).square().sum().backward()
    assert all(sim.model.get_parameter(key).grad is not None for key, _ in net.named_parameters())
    with torch.no_grad():
        off, seen = inputs_off_grid(sim.model, lambda: sim.model(x))
    assert seen and off == []


def test_a_probe_is_quantized_at_its_owner_and_its_projection_is_a_layer():
    sim = calibrated(made("a probe, repeated"), torch.randn(4, 5, WIDTH))
    held = names(sim)
    assert "param_quantizers.probe" in held and sim.model.repeat_0.params == {0: "probe"}
    assert "attention.linear_0.output_quantizers.0" in held and "attention.mul_0.output_quantizers.0" in held
    assert "attention.linear_0.input_quantizers.0" not in held  # its grid is the probe's


def test_what_is_computed_for_a_weight_is_no_layer():
    """LoRA's two matrices make a weight; only the sum is rounded."""
    net = Net(
        lambda self, x: F.linear(x, self.wide + self.up @ self.down),
        wide=parameter(WIDTH, WIDTH), up=parameter(WIDTH, 4), down=parameter(4, WIDTH),
    )  # fmt: skip
    sim = calibrated(net.eval(), torch.randn(4, 5, WIDTH))
    assert names(sim) == [
        "linear_0.input_quantizers.0", "linear_0.input_quantizers.1", "linear_0.output_quantizers.0"
    ]  # fmt: skip
    assert sim.model.linear_0.input_quantizers[1].shape == (WIDTH, 1)


def test_an_embedding_of_functions_is_rounded_once():
    sim = calibrated(made("positions from a table"), torch.randn(4, 5, WIDTH))
    assert "param_quantizers.table" in names(sim) and "add_0.input_quantizers.1" not in names(sim)


def test_an_embedding_that_is_never_called_has_no_output():
    sim = calibrated(made("queries of an embedding"), torch.randn(4, 5, WIDTH))
    assert [name for name in names(sim) if name.startswith("queries")] == ["queries.param_quantizers.weight"]


# --- constants ---------------------------------------------------------------------------------------------------------


def rotated(self, x):
    """Rotary positions, as language models compute them in every forward."""
    positions = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
    angles = (self.frequencies[None, :, None].float() @ positions[:, None, :].float()).transpose(1, 2)
    angles = torch.cat([angles, angles], -1)
    y = self.fc(x)
    return y * angles.cos() + torch.cat([-y[..., WIDTH // 2 :], y[..., : WIDTH // 2]], -1) * angles.sin()


def test_positions_are_rounded_after_the_sine():
    """On a device cosine and sine are a table. An angle of up to 511 on 8 bits would be off by a radian."""
    frequencies = 10000 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
    net, x = Net(rotated, frequencies=frequencies, fc=nn.Linear(WIDTH, WIDTH)).eval(), torch.randn(1, 512, WIDTH)
    sim = calibrated(net, x)
    sites = {name.split(".")[0] for name in names(sim)}
    assert sites == {"fc", "neg_0", "cat_1", "mul_0", "mul_1", "add_0"}
    with torch.no_grad():
        assert (sim.model(x) - net(x)).norm() <= 0.05 * net(x).norm()


@pytest.mark.parametrize(
    "made, constant",
    [
        (lambda self, x: torch.ones(WIDTH), True),
        (lambda self, x: torch.linspace(-1, 1, WIDTH), True),
        (lambda self, x: torch.arange(WIDTH) * 0.1, True),
        (lambda self, x: self.tensor, True),  # an attribute that is no buffer
        (lambda self, x: torch.zeros(WIDTH).add_(self.tensor), True),
        (lambda self, x: torch.tensor([1.0] * WIDTH, dtype=x.dtype), True),
        (lambda self, x: torch.randn(WIDTH), False),
        (lambda self, x: torch.empty(WIDTH).uniform_(), False),
        (lambda self, x: torch.zeros(WIDTH).copy_(x[0, 0]), False),
        (lambda self, x: torch.ones(WIDTH) * (x[0, 0] > 0), False),
        (lambda self, x: torch.zeros(WIDTH).add_(x[0, 0]), False),
    ],
)  # fmt: skip
def test_what_is_a_constant(made, constant):
    net = Net(lambda self, x: x * torch.cos(made(self, x)))
    net.__dict__["tensor"] = torch.randn(WIDTH)
    sim = calibrated(net.eval(), torch.randn(4, 5, WIDTH))
    assert ("cos_0.output_quantizers.0" not in names(sim)) == constant
    assert ("mul_0.input_quantizers.1" in names(sim)) == constant
