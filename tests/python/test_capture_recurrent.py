"""Recurrent layers: weights, inputs, outputs and states around torch's fused call."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from detent.quantsim import QuantizationSimModel, quantization_disabled

LEARNED = "training_range_learning_with_tf_init"
KINDS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}


def flat(y):
    return [y] if torch.is_tensor(y) else [part for each in y for part in flat(each)]


@pytest.mark.parametrize("options", [
    {"num_layers": 2}, {"bidirectional": True, "batch_first": True, "bias": False}, {"proj_size": 4},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_layers(kind, options):
    if "proj_size" in options and kind != "LSTM":
        pytest.skip("torch has projections in nn.LSTM only")
    torch.manual_seed(0)
    net, x = KINDS[kind](6, 8, **options).eval(), torch.randn(5, 3, 6)
    sim = QuantizationSimModel(net, x, LEARNED, default_output_bw=6, default_param_bw=4)
    sim.compute_encodings(lambda model: model(x))
    names = {name for name, _ in sim.named_quantizers()}
    outputs = len(flat(net(x)))
    assert names == {
        "input_quantizers.0", *(f"output_quantizers.{i}" for i in range(outputs)),
        *(f"param_quantizers.{name}" for name, _ in net.named_parameters() if name.startswith("weight")),
    }  # fmt: skip
    expected = copy.deepcopy(net)
    with torch.no_grad():
        for name, parameter in expected.named_parameters():
            if name.startswith("weight"):
                parameter.copy_(sim.model.param_quantizers[name](parameter))
    quantized = expected(sim.model.input_quantizers[0](x))
    y = sim.model(x)
    for i, (ours, theirs) in enumerate(zip(flat(y), flat(quantized), strict=True)):
        assert torch.equal(ours, sim.model.output_quantizers[i](theirs)) and ours.unique().numel() <= 64
    sum(part.sum() for part in flat(sim.model.train()(x))).backward()
    assert all(parameter.grad is not None for parameter in sim.model.parameters())
    with quantization_disabled(sim.model):
        assert all(torch.equal(a, b) for a, b in zip(flat(sim.model(x)), flat(net(x))))
    assert all(torch.equal(a, b) for a, b in zip(flat(copy.deepcopy(sim.model)(x)), flat(y)))
    assert all(torch.equal(a, b) for a, b in zip(flat(pickle.loads(pickle.dumps(sim.model))(x)), flat(y)))


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x, lengths, state):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, (h, c) = self.lstm(packed, hx=state)
        return self.head(pad_packed_sequence(y, batch_first=True)[0]), h, c


def test_packed_sequences_and_given_states():
    torch.manual_seed(0)
    net, state = Packed().eval(), (torch.randn(1, 3, 8), torch.randn(1, 3, 8))
    data = (torch.randn(3, 5, 6), torch.tensor([2, 5, 3]), state)
    sim = QuantizationSimModel(net, data)
    sim.compute_encodings(lambda model: model(*data))
    names = {name for name, _ in sim.named_quantizers()}
    assert {f"lstm.{slot}_quantizers.{i}" for slot in ("input", "output") for i in range(3)} <= names
    y = sim.model(*data)
    assert all(0 < (a - b).abs().max() < 0.1 for a, b in zip(y, net(*data)))
    with quantization_disabled(sim.model):
        assert all(torch.equal(a, b) for a, b in zip(sim.model(*data), net(*data)))


class Steps(nn.Module):
    """Cells, called once a step."""

    def __init__(self):
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(6, 8), nn.GRUCell(8, 8), nn.RNNCell(8, 4)

    def forward(self, x):
        state, h, outputs = None, None, []
        for step in x:
            state = self.lstm(step, state)
            h = self.gru(state[0], h)
            outputs.append(self.rnn(h))
        return torch.stack(outputs)


def test_cells():
    torch.manual_seed(0)
    net, x = Steps().eval(), torch.randn(3, 2, 6)
    sim = QuantizationSimModel(net, (x,), LEARNED)
    sim.compute_encodings(lambda model: model(x))
    names = {name for name, _ in sim.named_quantizers()}
    lstm = {name for name in names if name.startswith("lstm") and "output" in name}
    assert lstm == {f"lstm.{use}output_quantizers.{i}" for use in ("", "use_1.", "use_2.") for i in (0, 1)} - {
        "lstm.use_2.output_quantizers.1"  # nobody reads it
    }
    y = sim.model(x)
    y.sum().backward()
    assert sim.model.gru.weight_hh.grad is not None and 0 < (y - net(x)).abs().max() < 0.1
    fresh = QuantizationSimModel(net, (x,), LEARNED)
    fresh.model.load_state_dict(sim.model.state_dict())
    assert torch.equal(fresh.model(x), y)
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model(x), net(x))
