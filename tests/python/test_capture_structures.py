"""What goes into a model and comes out: dataclasses, mappings, keywords, None, integers, booleans, branches."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detent.quantsim import QuantizationSimModel, quantization_disabled


class Output(OrderedDict):
    """A mapping whose entries are attributes too, as transformers returns."""

    def __getattr__(self, name):
        return self[name]


@dataclass
class Inner:
    hidden: Tensor
    mask: Tensor | None = None
    count: int = 0


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.linear = nn.Embedding(11, 8), nn.Linear(8, 8)

    def forward(self, tokens, *, mask=None, features=None):
        x = self.embed(tokens)
        if features is not None:
            x = x + features["added"]
        if mask is not None and mask.dtype == torch.bool:
            x = x.masked_fill(~mask[..., None], 0.0)
        return Inner(torch.sigmoid(self.linear(x)), mask, int(tokens.shape[1]))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = Encoder(), nn.Linear(8, 3)

    def forward(self, tokens, mask=None, features=None, labels=None, flags=(True, "text", 3)):
        inner = self.encoder(tokens, mask=mask, features=features)
        logits = self.head(inner.hidden) * inner.count
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Output(logits=logits, loss=loss, states=(inner, [inner.hidden.argmax(-1)]), flags=flags)


def sample():
    tokens = torch.arange(8).view(2, 4)
    return {
        "tokens": tokens, "mask": tokens % 4 < 3, "features": {"added": torch.randn(2, 4, 8)}, "labels": tokens % 3,
    }  # fmt: skip


def test_structures_pass_through_as_they_are():
    torch.manual_seed(0)
    net, data = Model().eval(), sample()
    sim = QuantizationSimModel(net, data, "training_range_learning_with_tf_init", default_output_bw=4)
    sim.compute_encodings(lambda model: model(**data))
    y, expected = sim.model(**data), net(**data)
    assert type(y) is Output and type(y.states[0]) is Inner and y.flags == expected.flags and y.states[0].count == 4
    assert y.states[0].mask is data["mask"] and y.states[1][0].dtype == torch.int64
    assert y.logits.unique().numel() <= 16 and y.states[0].hidden.unique().numel() <= 16
    y.loss.backward()
    assert all(parameter.grad is not None for parameter in net_parameters(sim.model))
    with quantization_disabled(sim.model):
        off = sim.model(**data)
    assert torch.equal(off.logits, expected.logits) and torch.equal(off.loss, expected.loss)


def net_parameters(model):
    return [parameter for name, parameter in model.named_parameters() if "quantizers" not in name]


def test_every_tensor_that_enters_a_layer_is_on_a_grid():
    torch.manual_seed(0)
    net, data = Model().eval(), sample()
    sim = QuantizationSimModel(net, data)
    names = [name for name, _ in sim.named_quantizers() if "param" not in name]
    assert sorted(names) == [
        "encoder.add_0.input_quantizers.1", "encoder.add_0.output_quantizers.0", "encoder.linear.output_quantizers.0",
        "encoder.masked_fill_0.output_quantizers.0", "encoder.sigmoid_0.output_quantizers.0",
        "head.output_quantizers.0", "mul_0.output_quantizers.0",
    ]  # fmt: skip


def test_branches_that_the_arguments_choose():
    torch.manual_seed(0)
    net, data = Model().eval(), sample()
    sim = QuantizationSimModel(net, data)
    sim.compute_encodings(lambda model: [model(**data), model(data["tokens"])])
    y = sim.model(data["tokens"], features=None, mask=None)
    assert y.loss is None and y.states[0].mask is None and y.logits.unique().numel() <= 256
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model(data["tokens"]).logits, net(data["tokens"]).logits)
