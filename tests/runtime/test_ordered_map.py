"""A parallel map that keeps the order."""

import pytest

from psl_jax.runtime.ordered_map import ordered_map


@pytest.mark.parametrize("num_workers", [1, 3])
def test_ordered_map_keeps_order_and_stops_early(num_workers):
    started = []

    def square(number):
        started.append(number)
        return number**2

    assert list(ordered_map(square, range(100), num_workers)) == [n**2 for n in range(100)]
    started.clear()
    for result in ordered_map(square, range(10_000), num_workers):
        if result == 25:
            break
    assert len(started) < 100
