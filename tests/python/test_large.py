"""More than 2^31 elements: every index is 64 bits wide."""

import pytest
import torch

import detent  # noqa: F401
from checks import same_bits

ops = torch.ops.detent
LENGTH = 2**31 + 5
GIB = 2**30
NAN = float("nan")


def free_gib() -> float:
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        free = int(lines["MemAvailable"].split()[0]) / 2**20
    except (OSError, KeyError):
        return 0.0
    try:  # a container's own limit
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            return min(free, (int(limit.read()) - int(used.read())) / GIB)
    except (OSError, ValueError):
        return free


def need(gib: float) -> None:
    if free_gib() < gib:
        pytest.skip(f"needs {gib:.0f} GiB of free memory, there are {free_gib():.1f}")


def test_forward_mask_and_observer_beyond_two_to_the_31():
    need(10)
    scale = torch.tensor(0.5)
    x = torch.zeros(LENGTH, dtype=torch.float16)  # pages of zeros cost nothing until written
    # First elements, the last three below 2^31, the five from there on; each with what comes out, forward and backward.
    edges = [
        (slice(0, 2), [0.3, 0.3], [0.5, 0.5], [0.3, 0.3]),
        (slice(2**31 - 3, 2**31), [9.0, -1.1, 0.0], [3.5, -1.0, 0.0], [0.0, -1.1, 0.0]),
        (slice(2**31, LENGTH), [-9.0, -0.3, 0.8, 8.0, NAN], [-4.0, -0.5, 1.0, 3.5, NAN], [0.0, -0.3, 0.8, 0.0, 0.0]),
    ]
    for edge, values, _, _ in edges:
        x[edge] = torch.tensor(values)
    low, high, ignored = ops.observe_min_max(x)
    assert (low.item(), high.item(), ignored.item()) == (-9.0, 9.0, 1)
    y, mask = ops.fake_quantize_mask(x, scale, None, -8, 7)
    for edge, _, expected, _ in edges:
        same_bits(y[edge], torch.tensor(expected, dtype=torch.float16))
    assert mask.numel() == (LENGTH + 7) // 8
    assert (mask[0].item(), mask[2**28 - 1].item(), mask[2**28].item()) == (0b11111111, 0b11011111, 0b00000110)
    del y
    if free_gib() < 5:
        pytest.skip(f"forward passed; backward needs 5 GiB of free memory, there are {free_gib():.1f}")
    grad = ops.fake_quantize_mask_backward(x, mask)
    for edge, _, _, expected in edges:
        same_bits(grad[edge], torch.tensor(expected, dtype=torch.float16))
