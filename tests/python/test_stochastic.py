"""Stochastic rounding, bit by bit against Philox and the formula in float64, and its expectation."""

import math

import pytest
import torch

import cases
import oracle
from checks import like_empty_like, same_bits
from detent import functional

ops = torch.ops.detent
pytestmark = pytest.mark.both_autograd_paths

RANDOM = torch.tensor([1234567890123, 7])


@pytest.mark.parametrize(
    "counter, key, expected",
    [  # Random123's known answers
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_the_oracles_philox_gives_the_known_answers(counter, key, expected):
    words = [int(word, 16) for word in counter.split()]
    got = oracle.philox([int(word, 16) for word in key.split()], torch.tensor(words).view(4, 1))
    assert [f"{word:08x}" for word in got.flatten().tolist()] == expected.split()


@pytest.mark.parametrize("dtype", cases.FLOATS, ids=str)
@pytest.mark.parametrize("name", cases.GRANULARITIES)
def test_equals_the_oracle_bit_for_bit(name, dtype):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x = cases.data(shape, dtype, scale=0.25)
    scale, zero_point = cases.encodings(x, axis, block_size, False)
    for zero in (zero_point, None):
        for grid in [(-8, 7), (0, 2**32 - 1)]:
            got = ops.fake_quantize_stochastic(x, scale, zero, RANDOM, *grid, axis, block_size)
            real = oracle.math_dtype(dtype, *grid)
            expected = oracle.fake_quantize_stochastic(x, scale, zero, RANDOM, *grid, axis, block_size, real)
            same_bits(got, expected.to(dtype), grid=grid)


@pytest.mark.parametrize("length", cases.LENGTHS)
def test_every_length_equals_the_oracle(length):
    x = cases.data((length,), scale=0.25)
    random = torch.tensor([-3, 2**62 + length])
    got = ops.fake_quantize_stochastic(x, torch.tensor(0.3), None, random, -8, 7)
    same_bits(got, oracle.fake_quantize_stochastic(x, torch.tensor(0.3), None, random, -8, 7, real=torch.float32))


@pytest.mark.parametrize("name", ["tensor", "middle axis", "last axis", "blocks of the last", "interleaved"])
@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_layouts_change_no_bit(name, layout):
    shape, axis, block_size = cases.GRANULARITIES[name]
    dense = cases.data(shape)
    scale, zero_point = cases.encodings(dense, axis, block_size, False)
    x = cases.LAYOUTS[layout](dense)
    got = ops.fake_quantize_stochastic(x, scale, zero_point, RANDOM, -8, 7, axis, block_size)
    same_bits(got, ops.fake_quantize_stochastic(dense, scale, zero_point, RANDOM, -8, 7, axis, block_size))
    like_empty_like(got, x)


def test_threads_change_no_bit():
    x, threads = torch.randn(300_007), torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(ops.fake_quantize_stochastic(x, torch.tensor(0.1), None, RANDOM, -128, 127))
    finally:
        torch.set_num_threads(threads)
    same_bits(results[1], results[0])
    same_bits(results[2], results[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("value", [0.25, 1.75, -2.375, 5.0, 2.0**-9, -(2.0**-30), 100.999])
def test_the_expectation_is_x(value, dtype):
    """Hoeffding: a mean of n roundings is off by more than t steps with probability 2 exp(-2 n t^2), here 1e-9."""
    n = 2**18
    x = torch.full((n,), value, dtype=dtype)
    got = functional.fake_quantize_stochastic(x, torch.tensor(1.0), random=RANDOM, qmin=-128, qmax=127)
    assert set(got.tolist()) <= {math.floor(value), math.ceil(value)}
    bound = math.sqrt(math.log(2e9) / (2 * n)) + 2.0**-24
    assert abs(got.double().mean().item() - x[0].item()) <= bound


def test_another_seed_or_offset_draws_other_numbers():
    x = torch.full((4096,), 0.5)
    draws = [
        functional.fake_quantize_stochastic(x, torch.tensor(1.0), random=torch.tensor(random), qmin=-8, qmax=7)
        for random in [(0, 0), (0, 1), (1, 0), (2**32, 0), (0, 2**32)]
    ]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert abs((a != b).float().mean().item() - 0.5) <= math.sqrt(math.log(2e9) / (2 * 4096))


def test_what_is_on_the_grid_stays_and_strange_values_keep_their_place():
    grid = torch.arange(-8, 8) * 0.3
    same_bits(ops.fake_quantize_stochastic(grid, torch.tensor(0.3), None, RANDOM, -8, 7), grid)
    strange = torch.tensor([math.nan, math.inf, -math.inf, -1e30, 1e30])
    got = ops.fake_quantize_stochastic(strange, torch.tensor(0.5), None, RANDOM, -8, 7)
    same_bits(got, torch.tensor([math.nan, 3.5, -4.0, -4.0, 3.5]))


@pytest.mark.parametrize("name", ["tensor", "middle axis", "interleaved"])
def test_gradients_are_those_of_rounding_to_nearest(name):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x, g = cases.data(shape), cases.data(shape, spread=1.0)
    scale, zero_point = cases.encodings(x, axis, block_size, False)
    grads = []
    for stochastic in (False, True):
        leaves = [t.clone().requires_grad_() for t in (x, scale, zero_point)]
        where = -8, 7, axis, block_size
        y = (
            ops.fake_quantize_stochastic(*leaves, RANDOM, *where)
            if stochastic
            else ops.fake_quantize(*leaves, *where)
        )
        y.backward(g)
        grads.append([leaf.grad for leaf in leaves])
    for got, expected in zip(*reversed(grads)):
        same_bits(got, expected)


def test_x_alone_has_a_gradient_too():
    x = torch.tensor([0.3, 100.0], requires_grad=True)
    functional.fake_quantize_stochastic(x, torch.tensor(0.5), random=RANDOM, qmin=-8, qmax=7).sum().backward()
    assert x.grad.tolist() == [1.0, 0.0]


def test_a_compiled_step_advances_its_own_offset():
    def step(x, random):
        y = functional.fake_quantize_stochastic(x, torch.tensor(1.0), random=random, qmin=-8, qmax=7)
        random[1] += 1
        return y

    x, eager, compiled = torch.rand(64), torch.tensor([5, 0]), torch.tensor([5, 0])
    compile_step = torch.compile(step, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        same_bits(compile_step(x, compiled), step(x, eager))
    assert compiled.tolist() == [5, 3]


def test_wrong_random_numbers_are_refused():
    for random in (torch.tensor([1, 2, 3]), torch.tensor([1.0, 2.0]), torch.tensor(1)):
        with pytest.raises(ValueError, match="expected .2,. and int64: seed and offset"):
            functional.fake_quantize_stochastic(torch.ones(2), torch.tensor(1.0), random=random, qmin=-8, qmax=7)


def test_empty_and_zero_dimensional_tensors():
    for shape in [(), (0,), (3, 0)]:
        assert ops.fake_quantize_stochastic(torch.ones(shape), torch.tensor(1.0), None, RANDOM, -8, 7).shape == shape
