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

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", printable(self.file))
        object.__setattr__(self, "detail", printable(self.detail))


def printable(text: str) -> str:
    """A file's name as text that can be printed and written: not all names are UTF-8.

    Python holds what is none as lone surrogates; b"caf\\xe9.wav" becomes "caf\\\\xe9.wav".
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def summarize(problems: Iterable[dict[str, Any]], examples: int = 3) -> list[str]:
    """Lines that count the problems of a report by kind and show the first few of each."""
    by_kind: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for problem in problems:
        by_kind[problem["kind"]].append(problem)
    lines = []
    for kind, found in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        lines.append(f"  {kind}: {len(found)}")
        for problem in found[:examples]:
            split = "" if problem["split"] is None else f"{problem['split']}: "
            lines.append(f"    {split}{problem['file']}: {problem['detail']}")
        if len(found) > examples:
            lines.append(f"    ... and {len(found) - examples} more")
    return lines
