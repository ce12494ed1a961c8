"""Capture inside functions that are made of others: attention, embeddings, parameters read through views."""

import copy

import pytest
import torch
import torch.nn.functional as F
from simulations import calibrated, names
from torch import nn
from torch.utils.checkpoint import checkpoint

from detent.capture.composites import BODIES
from detent.quantsim import quantization_disabled


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(2, 5, 16)


class Attention(nn.Module):
    def __init__(self, need_weights, **options):
        super().__init__()
        self.attention, self.need_weights = nn.MultiheadAttention(16, 4, batch_first=True, **options), need_weights

    def forward(self, q, k, v, mask=None):
        return self.attention(q, k, v, mask, self.need_weights)[0]


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("options", [{}, {"kdim": 12, "vdim": 20, "bias": False}, {"add_bias_kv": True}], ids=str)
def test_multihead_attention(x, options, need_weights):
    net = Attention(need_weights, **options).eval()
    data = (x, torch.randn(2, 4, options.get("kdim", 16)), torch.randn(2, 4, options.get("vdim", 16)))
    sim = calibrated(net, *data, default_output_bw=4)
    inside = [name.removeprefix("attention.") for name in names(sim)]
    weights = ["in_proj_weight"] if "kdim" not in options else ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
    product = "bmm" if need_weights else "matmul"
    expected = [*(f"param_quantizers.{weight}" for weight in weights), "out_proj.param_quantizers.weight"]
    expected += [f"linear_{i}.output_quantizers.0" for i in range(4)]
    expected += [f"{site}.output_quantizers.0" for site in ("mul_0", f"{product}_0", "softmax_0", f"{product}_1")]
    assert set(expected) <= set(inside)
    assert sim.model.attention.out_proj.param_quantizers["weight"].shape == (16, 1)
    with torch.no_grad():
        assert sim.model(*data).unique().numel() <= 16 < net(*data).unique().numel()
        with quantization_disabled(sim.model):
            assert torch.equal(sim.model(*data), net(*data))


def test_a_packed_projection_is_one_parameter(x):
    net = Attention(False).eval()
    y = x + 1
    sims = [calibrated(net, x, x, x), calibrated(net, x, y, y), calibrated(net, x, y, x - 1)]
    for sim, sites in zip(sims, ((), ("split_0",), ("chunk_0",))):
        (weight,) = [name for name in names(sim) if "in_proj_weight" in name]
        assert sim.model.get_submodule(weight).shape == (48, 1)
        assert all(sim.model.attention.get_submodule(site).params == {0: "in_proj_weight"} for site in sites)


def test_an_encoder_in_eval_without_gradients_is_quantized(x):
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2).eval()
    padding = torch.arange(5).expand(2, 5) >= torch.tensor([[5], [3]])
    for data in ((x,), (x, None, padding)):
        sim = calibrated(net, *data, default_output_bw=4)
        with torch.no_grad():
            assert sim.model(*data).unique().numel() <= 16 < net(*data).unique().numel()
            with quantization_disabled(sim.model):
                assert torch.equal(sim.model(*data), net(*data))
    assert "masked_fill_0" in str(sim) and not any("masked_fill" in name for name in names(sim))


def test_ways_of_running_attention(x):
    mask = torch.arange(5).expand(2, 5) >= torch.tensor([[5], [3]])
    net, data = Attention(False), (x, x + 1, x + 1, mask)
    model = calibrated(net, *data, quant_scheme="training_range_learning_with_tf_init").model
    expected = model(*data)
    expected.sum().backward()
    weight = model.attention.in_proj_weight
    gradient = weight.grad.clone()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert torch.equal(copy.deepcopy(model)(*data), expected)
    for reentrant in (False, True):
        model.zero_grad()
        y = checkpoint(model, x.clone().requires_grad_(), *data[1:], use_reentrant=reentrant)
        y.sum().backward()
        assert torch.equal(y, expected) and torch.equal(weight.grad, gradient)
    assert torch.equal(torch.export.export(model, data).module()(*data), expected)
    assert torch.equal(torch.jit.trace(model, data)(*data), expected)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(*data), expected)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"is_causal": True}, {"scale": 0.3}, {"enable_gqa": True}, {"attn_mask": torch.zeros(5, 5)},
        {"attn_mask": torch.ones(5, 5).tril(-1).bool()},
    ],
    ids=str,
)  # fmt: skip
def test_attention_in_parts_equals_the_kernel(options):
    q, k, v = torch.randn(2, 4, 5, 8).double(), *torch.randn(2, 2, 2 if "enable_gqa" in options else 4, 5, 8).double()
    options = {name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
               for name, value in options.items()}  # fmt: skip
    torch.testing.assert_close(
        BODIES[F.scaled_dot_product_attention](q, k, v, **options), F.scaled_dot_product_attention(q, k, v, **options)
    )


class Functional(nn.Module):
    """Weights in functions, through views and from children."""

    def __init__(self):
        super().__init__()
        self.table, self.tokens = nn.Parameter(torch.randn(9, 8)), nn.Parameter(torch.randn(1, 1, 8))
        self.head = nn.Linear(8, 6)

    def forward(self, tokens):
        x = F.embedding(tokens, self.table)
        x = torch.cat([self.tokens.expand(len(x), -1, -1), x], 1)
        x = F.layer_norm(torch.addmm(self.head.bias, x.flatten(0, 1), self.head.weight.t()), (6,))
        return 1 - x**2, F.embedding_bag(tokens, self.table, mode="sum")


def test_functions_read_parameters():
    net, tokens = Functional().eval(), torch.arange(9).view(3, 3)
    sim = calibrated(net, tokens)
    assert [name for name in names(sim) if "param" in name] == [
        "head.param_quantizers.weight", "param_quantizers.table", "param_quantizers.tokens",
    ]  # fmt: skip
    sites = {name.split(".")[0] for name in names(sim) if "param" not in name and "head" not in name}
    assert sites == {"cat_0", "addmm_0", "layer_norm_0", "pow_0", "sub_0", "embedding_bag_0"}
    expected = sim.model(tokens)[0]
    with torch.no_grad():
        net.head.weight[0, 0] += 1
        sim.model.head.weight[0, 0] += 1
    assert not torch.equal(sim.model(tokens)[0], expected)
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model(tokens)[0], net(tokens)[0])
    torch._dynamo.reset()
    compiled = torch.compile(sim.model, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(y, z) for y, z in zip(compiled(tokens), sim.model(tokens)))
