"""Histograms, and the ranges that searches find in them, against the float64 oracle."""

import itertools
import math

import pytest
import torch
from detent.observers import (
    EntropyObserver,
    HistogramObserver,
    MinMaxObserver,
    MseObserver,
    PercentileObserver,
    SqnrObserver,
)

import cases
import oracle
from checks import same_bits, within

ops = torch.ops.detent
INF = float("inf")
GRIDS = [
    ((0, 255), False), ((-128, 127), True), ((-127, 127), True), ((0, 15), False), ((-8, 7), True), ((-2, 1), True),
    ((0, 3), False), ((0, 255), True),
]  # fmt: skip


def fresh(groups, bins, real=torch.float32):
    return (
        torch.full(groups, INF, dtype=real), torch.full(groups, -INF, dtype=real),
        torch.zeros(groups, dtype=torch.int64), torch.zeros((*groups, bins), dtype=torch.int64),
    )  # fmt: skip


def observed(batches, bins, axis=None, block_size=None):
    real = torch.float64 if batches[0].dtype == torch.float64 else torch.float32
    held = fresh(oracle.group_shape(batches[0], axis, block_size), bins, real)
    for batch in batches:
        assert ops.observe_histogram_update_(batch, *held, axis, block_size) is None
    return held


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("bins", [16, 2048])
@pytest.mark.parametrize("length", [0, 1, 513, 8191, 40009])
def test_counts_at_every_length_equal_the_oracle(length, bins, dtype):
    x = cases.data((length,), dtype, scale=0.25)
    low, high, ignored, counts = observed([x], bins)
    expected = oracle.observe(x)
    for got, want in zip((low, high, ignored, counts), (*expected, oracle.histogram(x, bins)[0])):
        within(got, want, 0.0, length=length)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "every other"])
@pytest.mark.parametrize("name", [name for name in cases.FOUR_DIMENSIONAL if "every" not in name])
def test_counts_in_every_granularity_equal_the_oracle(name, layout):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x = cases.data(shape, scale=0.25)
    counts = observed([cases.LAYOUTS[layout](x)], 64, axis, block_size)[3]
    within(counts, oracle.histogram(x, 64, axis, block_size)[0], 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_neither_order_nor_merging_nor_threads_change_a_count(dtype):
    spreads = (1e-3, 1.0, 40.0, 1e-40)
    batches = [cases.data((5, 3000), dtype, spread=s) for s in spreads]
    together = torch.cat(batches, 1)
    want = oracle.histogram(together, 128, 0)[0]
    for order in ((0, 1, 2, 3), (2, 0, 3, 1), (3, 1, 2, 0), (1, 3, 0, 2)):
        within(observed([batches[i] for i in order], 128, 0)[3], want, 0.0, order=order)
        left, right = observed([batches[i] for i in order[:1]], 128, 0), observed([batches[i] for i in order[1:]], 128, 0)
        before = [tensor.clone() for tensor in right]
        ops.observe_histogram_merge_(*left, *right)
        within(left[3], want, 0.0, order=order)
        for got, expected in zip(left, observed([together], 128, 0)):
            same_bits(got, expected)
        for got, expected in zip(right, before):
            same_bits(got, expected)
    long = cases.data((400_000,), dtype)
    counts = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        counts.append(observed([long], 2048)[3])
    same_bits(*counts)


def test_counts_do_not_stop_at_two_to_the_24():
    held = observed([torch.ones(4)], 16)
    held[3][...] *= 2**40
    ops.observe_histogram_update_(torch.ones(3), *held)
    assert held[3].sum().item() == 2**42 + 3


def test_bins_on_their_edges_and_around_zero():
    tiny = torch.finfo(torch.float32).smallest_normal / 4
    low, high, _, counts = observed([torch.tensor([-4.0, -0.5, -tiny, -0.0, 0.0, tiny, 0.5, 3.999])], 16)
    assert low.item() == -4.0 and high.item() < 4.0
    assert counts.tolist() == [[0, 0, 0, 1, 0, 0, 0, 2, 4, 0, 0, 1, 0, 0, 0, 0]]  # 1 wide: 4 is not below 8 / 2


# --- searches ---------------------------------------------------------------------------------------------------------


def samples():
    torch.manual_seed(7)
    normal = torch.randn(4000, dtype=torch.float64)
    return {
        "normal": normal,
        "after a ReLU": normal.relu(),
        "far from zero": normal * 0.01 - 3,
        "heavy tails": normal * torch.rand(4000, dtype=torch.float64) ** -0.4,
        "an outlier": torch.cat([normal, torch.tensor([25.0], dtype=torch.float64)]),
        "few": torch.tensor([-1.0, 0.25, 0.5], dtype=torch.float64),
    }


def one_group(x, bins=512):
    low, high, _, counts = observed([x], bins)
    exponent = int(oracle.histogram(x, bins)[1])
    return (low, high, counts), counts[0].double(), oracle.bin_centres(bins, exponent), float(low), float(high)


def chosen(ends, qmin, qmax, symmetric):
    """The candidate that a range stands for."""
    low, high = (float(end) for end in ends)
    scale = (high - low) / (qmax - qmin)
    point = float(qmin - round(low / scale))
    return torch.tensor([scale], dtype=torch.float64), torch.tensor([point], dtype=torch.float64)


def too_fine(lo, hi, centres, grid, symmetric):
    low, high = oracle.range_of_observed(*torch.tensor([lo, hi], dtype=torch.float64), *grid, symmetric)
    return float(high - low) < float(centres[1] - centres[0]) * (grid[1] - grid[0])


@pytest.mark.parametrize("grid, symmetric", GRIDS)
@pytest.mark.parametrize("name", samples())
def test_sqnr_finds_the_cheapest_of_the_oracles_candidates(name, grid, symmetric):
    if symmetric and oracle.centre(*grid) == grid[0]:
        pytest.skip("no two sides")
    arguments, counts, centres, lo, hi = one_group(samples()[name])
    ends = ops.encode_sqnr(*arguments, *grid, symmetric)
    if too_fine(lo, hi, centres, grid, symmetric):
        for got, want in zip(ends, oracle.range_of_observed(*arguments[:2], *grid, symmetric)):
            within(got, want, 1e-12 * abs(float(want)))
        return
    scale, point = oracle.sqnr_candidates(lo, hi, *grid, symmetric)
    best = oracle.squared_error(counts, centres, scale, point, *grid, 3.0).min()
    got = oracle.squared_error(counts, centres, *chosen(ends, *grid, symmetric), *grid, 3.0)
    assert float(got) == pytest.approx(float(best), rel=1e-9)
    float32 = ops.encode_sqnr(*(t.float() for t in arguments[:2]), arguments[2], *grid, symmetric)
    for narrow, wide in zip(float32, ends):
        within(narrow, wide, 1e-6 * float((ends[1] - ends[0])))


@pytest.mark.parametrize("grid, symmetric", GRIDS)
@pytest.mark.parametrize("name", samples())
def test_mse_is_no_worse_than_a_dense_search(name, grid, symmetric):
    arguments, counts, centres, lo, hi = one_group(samples()[name])
    if too_fine(lo, hi, centres, grid, symmetric):
        return
    ends = ops.encode_mse(*arguments, *grid, symmetric)
    got = float(oracle.squared_error(counts, centres, *chosen(ends, *grid, symmetric), *grid, 1.0))
    parts = torch.arange(1, 33).double() / 32
    if symmetric:
        scale = oracle.widest_step(lo, hi, *grid) * parts if oracle.centre(*grid) != grid[0] else max(hi, 0) / grid[1] * parts
        point = torch.full_like(scale, oracle.centre(*grid))
    else:
        low, high = torch.meshgrid(min(lo, 0.0) * parts, max(hi, 0.0) * parts, indexing="ij")
        scale = ((high - low) / (grid[1] - grid[0])).flatten().clamp(min=1e-12)
        point = oracle.clamp(grid[0] - torch.round(low.flatten() / scale), *grid)
    dense = oracle.squared_error(counts, centres, scale, point, *grid, 1.0).min()
    assert got <= 1.1 * float(dense) + 1e-300, (got, float(dense))


@pytest.mark.parametrize("grid, symmetric", GRIDS)
@pytest.mark.parametrize("name", ["after a ReLU", "an outlier"])
def test_entropy_finds_the_least_divergence_of_its_candidates(name, grid, symmetric):
    if symmetric and oracle.centre(*grid) == grid[0]:
        pytest.skip("no two sides")
    arguments, counts, centres, lo, hi = one_group(samples()[name])
    if too_fine(lo, hi, centres, grid, symmetric):
        return
    width, n = float(centres[1] - centres[0]), grid[1] - grid[0]

    def cost(scale, point):
        return oracle.divergence(counts, centres, scale, point, *grid) if scale >= width else INF

    got = cost(*(float(v) for v in chosen(ops.encode_entropy(*arguments, *grid, symmetric), *grid, symmetric)))
    if symmetric:
        step = oracle.widest_step(lo, hi, *grid)
        dense = min(cost(step * k / 32, oracle.centre(*grid)) for k in range(1, 33))
    else:
        dense = INF
        for i, k in itertools.product(range(17) if lo < 0 else [16], range(17)):
            low, high = min(lo, 0.0) * i / 16, hi * k / 16
            scale = max((high - low) / n, 1e-12)
            dense = min(dense, cost(scale, min(max(grid[0] - round(low / scale), grid[0]), grid[1])))
    assert got <= dense * (1 + 1e-9) + 1e-12, (got, dense)


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.9, 100.0])
@pytest.mark.parametrize("name", samples())
def test_percentile_equals_the_oracle(name, percent):
    arguments, counts, centres, lo, hi = one_group(samples()[name])
    ends = oracle.percentile_ends(counts, centres, percent, lo, hi)
    for grid, symmetric in GRIDS:
        want = oracle.range_of_observed(*(torch.tensor([end], dtype=torch.float64) for end in ends), *grid, symmetric)
        for got, expected in zip(ops.encode_percentile(*arguments, percent, *grid, symmetric), want):
            within(got, expected, 1e-9 * abs(hi - lo), grid=grid)
    width = float(centres[1] - centres[0])
    if len(samples()[name]) > 100:
        for end, q in zip(ends, (1 - percent / 100, percent / 100)):
            assert abs(end - float(samples()[name].quantile(q))) <= 2 * width


SEARCHES = [SqnrObserver, MseObserver, EntropyObserver, PercentileObserver]


@pytest.mark.parametrize("kind", SEARCHES)
def test_groups_are_searched_apart(kind):
    x = torch.randn(6, 500) * torch.tensor([1e-3, 1.0, 5.0, 0.0, 100.0, 1e30])[:, None]
    x[5, 0] = INF
    whole = kind((6, 1))
    whole.update(x)
    for group in range(6):
        alone = kind((1,))
        alone.update(x[group])
        for grid, symmetric in GRIDS:
            for got, want in zip(whole.range(*grid, symmetric), alone.range(*grid, symmetric)):
                same_bits(got[group], want)


@pytest.mark.parametrize("kind", SEARCHES)
def test_any_number_of_threads_finds_the_same(kind):
    alone, several = kind((1,)), kind((7, 1))
    alone.update(torch.randn(5000).relu()), several.update(torch.randn(7, 300))
    for grid, symmetric in GRIDS:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append((*alone.range(*grid, symmetric), *several.range(*grid, symmetric)))
        for got, want in zip(*found):
            same_bits(got, want)


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("bits", [2, 4, 8, 10, 16, 24, 32])
@pytest.mark.parametrize("symmetric", [False, True])
def test_any_bitwidth_gives_a_finite_range_with_zero_inside(kind, bits, symmetric):
    observer = kind((2, 1))
    observer.update(torch.stack([torch.randn(300), torch.zeros(300)]))
    low = -(2 ** (bits - 1)) if symmetric else 0
    least, most = observer.range(low, low + 2**bits - 1, symmetric)
    assert bool(torch.isfinite(least).all() and torch.isfinite(most).all())
    assert bool((least <= 0).all() and (most >= 0).all() and (most > least).all())
    if bits >= 16:  # a grid finer than the bins keeps every value
        full = MinMaxObserver.range(observer, low, low + 2**bits - 1, symmetric)
        for got, want in zip((least, most), full):
            within(got, want, 1e-6 * want.abs().double().max())


@pytest.mark.parametrize("kind", SEARCHES)
def test_nothing_seen_gives_the_range_of_nothing(kind):
    observer = kind((1,))
    observer.update(torch.tensor([float("nan"), INF]))
    assert not observer.seen and observer.ignored.item() == 2
    for got, want in zip(observer.range(0, 255, False), MinMaxObserver((1,)).range(0, 255, False)):
        within(got, want, 1e-12)


# --- observers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [HistogramObserver, *SEARCHES])
def test_merged_observers_are_the_one_that_saw_everything(kind):
    first, second, both = (kind((3, 1)) for _ in range(3))
    a, b = torch.randn(3, 50), torch.randn(3, 70) * 100
    first.update(a), second.update(b.double()), both.update(b), both.update(a)
    kept = second.counts
    first.merge(second)
    assert torch.equal(first.counts, both.counts) and torch.equal(second.counts, kept)
    assert torch.equal(first.bin_width, both.bin_width)
    for got, want in zip(first.range(-8, 7, True), both.range(-8, 7, True)):
        within(got, want, 1e-6 * want.abs().double())
    with pytest.raises(ValueError, match="2048 bins"):
        first.merge(MinMaxObserver((3, 1)))
    with pytest.raises(ValueError, match="2048 bins"):
        first.merge(HistogramObserver((3, 1), bins=64))


def test_bin_width_is_the_kernels():
    for x in (torch.tensor([1.0]), torch.tensor([0.999]), torch.tensor([-1e-44]), torch.tensor([3e30]), torch.empty(0)):
        observer = HistogramObserver((1,), bins=32)
        observer.update(x)
        assert observer.bin_width.item() == 2.0 ** int(oracle.histogram(x, 32)[1])


def test_wrong_arguments_say_what_was_expected():
    held = fresh((2,), 64)
    with pytest.raises(ValueError, match="48 bins, expected a power of two"):
        ops.observe_histogram_update_(torch.ones(2, 3), *held[:3], torch.zeros(2, 48, dtype=torch.int64), 0)
    with pytest.raises(ValueError, match="expected 2 groups of bins"):
        ops.observe_histogram_update_(torch.ones(2, 3), *held[:3], torch.zeros(2, 64), 0)
    with pytest.raises(ValueError, match="expected 3 contiguous elements"):
        ops.observe_histogram_update_(torch.ones(3, 3), *held, 0)
    with pytest.raises(ValueError, match="same number of bins"):
        ops.observe_histogram_merge_(*held, *fresh((2,), 32))
    with pytest.raises(ValueError, match="percentile is 40"):
        ops.encode_percentile(*held[:2], held[3], 40.0, 0, 255, False)
    with pytest.raises(ValueError, match="gamma is nan"):
        ops.encode_sqnr(*held[:2], held[3], 0, 255, False, None, math.nan)
    with pytest.raises(ValueError, match="offsets is 2"):
        ops.encode_sqnr(*held[:2], held[3], 0, 255, False, None, 3.0, 17, 2)
    for bins in (15, 4096, 100, 16.0):
        with pytest.raises(ValueError, match="power of two"):
            HistogramObserver((1,), bins=bins)
    with pytest.raises(ValueError, match="from 50 to 100"):
        PercentileObserver((1,), percentile=101)


def test_searches_carry_no_gradient():
    low, high, _, counts = fresh((1,), 16)
    with pytest.raises(RuntimeError, match="encode_mse is not differentiable"):
        ops.encode_mse(low.requires_grad_(), high, counts, 0, 255, False)[0].backward()
