"""Functions under torch.compile: what it traces has the quantizers of the eager model."""

import torch
import torch.nn.functional as F

from simulations import calibrated, module_of


def activations(self, x):
    """Functions that torch.compile traces into, that it does not, and methods."""
    x = F.hardswish(x) + F.hardsigmoid(1.5 * x)
    x = F.relu6(2 * x) - F.silu(x) - F.elu(x)
    return F.tanh(x) * F.sigmoid(x) + torch.tanh(x) * x.sigmoid() + F.softsign(x)


def test_compiled_functions_are_rounded_as_in_eager():
    torch._dynamo.reset()
    x, graphs = torch.randn(6, 5), []
    sim = calibrated(module_of(activations), x, default_output_bw=2)

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    assert torch.equal(torch.compile(sim.model, fullgraph=True, backend=counting)(x), sim.model(x))
    rounded = sum("fake_quantize" in str(node.target) for node in graphs[0].graph.nodes)
    assert rounded == sum(quantizer.enabled for quantizer in sim.quantizers()) > 12
    torch._dynamo.reset()
