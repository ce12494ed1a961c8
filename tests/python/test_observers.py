"""Observers: what counts, how batches join, and the ranges they give."""

import pytest
import torch
from detent.observers import MinMaxObserver, MovingAverageObserver


def test_running_minimum_and_maximum_over_batches():
    observer = MinMaxObserver((1,))
    for batch in ([1.0, -0.5], [3.0, 0.0], [-2.0]):
        observer.update(torch.tensor(batch))
    assert observer.min.tolist() == [-2.0] and observer.max.tolist() == [3.0]


def test_values_that_do_not_count_are_ignored_and_counted():
    observer = MinMaxObserver((1,))
    observer.update(torch.tensor([1.0, float("inf"), float("-inf"), float("nan"), -3e38, -1.0]))
    assert observer.min.tolist() == [-1.0] and observer.max.tolist() == [1.0]
    assert observer.ignored.tolist() == [4]


@pytest.mark.parametrize(
    "shape, axes", [((4, 1, 1, 1), (1, 2, 3)), ((3, 1, 1), (0, 2, 3)), ((1, 3, 1, 1), (0, 2, 3)), ((5,), (0, 1, 2))]
)
def test_channels_are_read_from_the_right(shape, axes):
    x = torch.randn(4, 3, 2, 5)
    observer = MinMaxObserver(shape)
    observer.update(x)
    assert observer.min.shape == torch.Size(shape)
    assert torch.equal(observer.min.flatten(), x.amin(axes)) and torch.equal(observer.max.flatten(), x.amax(axes))


def test_blocks():
    x = torch.randn(2, 6)
    observer = MinMaxObserver((2, 2), block_size=(1, 3))
    observer.update(x)
    assert torch.equal(observer.min, x.reshape(2, 2, 3).amin(2))


def test_channel_that_fits_no_axis_raises():
    with pytest.raises(ValueError, match="expected"):
        MinMaxObserver((7, 1, 1, 1)).update(torch.randn(4, 3, 2, 5))


def test_empty_batch_and_no_batch_change_nothing():
    observer = MinMaxObserver((1,))
    observer.update(torch.empty(0, 3))
    assert not observer.seen
    observer.update(torch.full((3,), float("nan")))
    assert not observer.seen and observer.ignored.tolist() == [3]


def test_merge_equals_seeing_everything():
    first, second, both = (MinMaxObserver((3, 1)) for _ in range(3))
    a, b = torch.randn(3, 5), torch.randn(3, 7)
    first.update(a), second.update(b), both.update(a), both.update(b)
    first.merge(second)
    assert torch.equal(first.min, both.min) and torch.equal(first.max, both.max)
    with pytest.raises(ValueError, match="another|expected"):
        first.merge(MinMaxObserver((1,)))


def test_reset_forgets():
    observer = MinMaxObserver((1,))
    observer.update(torch.ones(2))
    observer.reset()
    assert not observer.seen


def test_moving_average():
    observer = MovingAverageObserver((1,), momentum=0.25)
    observer.update(torch.tensor([0.0, 4.0]))
    observer.update(torch.tensor([-4.0, 8.0]))
    assert observer.min.tolist() == [-1.0] and observer.max.tolist() == [5.0]
    with pytest.raises(ValueError, match="momentum"):
        MovingAverageObserver((1,), momentum=0.0)


def test_range_contains_zero_and_symmetric_range_is_matched():
    observer = MinMaxObserver((1,))
    observer.update(torch.tensor([2.0, 5.0]))
    low, high = observer.range(0, 255, False)
    assert low.item() == 0.0 and high.item() == 5.0
    low, high = observer.range(-128, 127, True)
    assert high.item() == pytest.approx(5.0) and low.item() == pytest.approx(-5.0 * 128 / 127)


def test_inference_mode_and_float64_batches_mix():
    observer = MinMaxObserver((1,))
    with torch.inference_mode():
        observer.update(torch.tensor([1.0]))
    observer.update(torch.tensor([-1.0], requires_grad=True))
    observer.update(torch.tensor([-1e-300 - 2], dtype=torch.float64))
    observer.update(torch.tensor([4.0], dtype=torch.float16))
    assert observer.min.item() == -2 and observer.max.item() == 4
