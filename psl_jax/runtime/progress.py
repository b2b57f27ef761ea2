"""Progress bars with rate and time left, on standard error."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def bar(
    total: float | None, unit: str, description: str | None, initial: int = 0, show: bool = True
) -> tqdm:
    """A bar to `update(n)`; in a log file (no terminal) it prints a line every half minute."""
    return tqdm(
        total=total,
        unit=f" {unit}",
        desc=description,
        initial=initial,
        disable=not show,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 30,
        smoothing=0.0,  # the mean since the start: a moving one jumps with each validation
    )


def track(items: Iterable[Any], total: int | None, unit: str, description: str) -> Iterable[Any]:
    """Yields `items` while a bar counts them."""
    with bar(total, unit, description) as progress:
        for item in items:
            yield item
            progress.update()
