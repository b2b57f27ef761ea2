"""What a preparation leaves out or changes, and how that is told."""

import collections
import dataclasses
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that was left out or changed, and why: one line of the preparation report."""

    file: str
    kind: str
    detail: str


def summarize(problems: Iterable[dict[str, Any]], examples: int = 3) -> list[str]:
    """Lines that count the problems of a report by kind and show the first few of each."""
    by_kind: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for problem in problems:
        by_kind[problem["kind"]].append(problem)
    lines = []
    for kind, found in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        lines.append(f"  {kind}: {len(found)}")
        lines += [f"    {p['split']}: {p['file']}: {p['detail']}" for p in found[:examples]]
        if len(found) > examples:
            lines.append(f"    ... and {len(found) - examples} more")
    return lines
