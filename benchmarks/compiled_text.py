"""Reads what a compiled program's text says of its work: operations, cycles, bytes, collectives."""

import collections
import dataclasses
import math
import re
from collections.abc import Callable

PHASES = (  # in the names of operations, the first that is there
    *("frontend", "augmentation", "optimizer", "batch_norm"),
)
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_FREE = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "copy-done")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4}
_BYTES |= {"f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BOUND = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass
class Found:
    """What a program does, a loop's body as often as it runs."""

    operations: int = 0
    cycles: int = 0
    bytes_moved: int = 0
    phases: dict[str, int] = dataclasses.field(default_factory=dict)  # cycles
    collectives: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)

    def add(self, other: "Found", times: int) -> None:
        self.operations += times * other.operations
        self.cycles += times * other.cycles
        self.bytes_moved += times * other.bytes_moved
        for phase, cycles in other.phases.items():
            self.phases[phase] = self.phases.get(phase, 0) + times * cycles
        for kind, one in other.collectives.items():
            mine = self.collectives.setdefault(kind, {"count": 0, "bytes": 0})
            for name in mine:
                mine[name] += times * one[name]


def read(text: str) -> Found:
    """Sums over the entry computation and the loops and calls that it makes."""
    bodies, entry = _computations(text)
    known: dict[str, Found] = {}

    def of(name: str) -> Found:
        if name not in known:
            known[name] = _sum(bodies[name], of, trips)
        return known[name]

    def trips(rest: str) -> int:
        """How often a loop runs: as the compiler says, or what its condition compares with."""
        if told := _TRIPS.search(rest):
            return int(told[1])
        condition = "\n".join(bodies[_called(rest, "condition")])
        return max((int(n) for n in _BOUND.findall(condition)), default=1)

    return of(entry)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    bodies: dict[str, list[str]] = collections.defaultdict(list)
    current, entry = "", ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = head[2]
            entry = current if head[1] else entry
        elif line.startswith("}"):
            current = ""
        elif current:
            bodies[current].append(line)
    return bodies, entry


def _sum(lines: list[str], of: Callable[[str], Found], trips: Callable[[str], int]) -> Found:
    found = Found()
    sizes: dict[str, int] = {}
    for line in lines:
        if not (match := _LINE.match(line)):
            continue
        name, shape, kind, rest = match.groups()
        sizes[name] = _size(shape)
        if kind == "while":
            found.add(of(_called(rest, "body")), trips(rest))
            continue
        if kind in ("call", "conditional", "async-start") and (called := _called(rest, "calls")):
            found.add(of(called), 1)
            continue
        if kind in _FREE:
            continue
        arguments = rest.split("), ")[0]
        operands = re.findall(r"%([\w.\-]+)", arguments)
        found.operations += 1
        found.bytes_moved += sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
        cycles = int(c[1]) if (c := _CYCLES.search(rest)) else 0
        found.cycles += cycles
        phase = _phase(kind, n[1] if (n := _NAME.search(rest)) else "")
        found.phases[phase] = found.phases.get(phase, 0) + cycles
        base = kind.removesuffix("-start")
        if base in _COLLECTIVES:
            one = found.collectives.setdefault(base, {"count": 0, "bytes": 0})
            one["count"] += 1
            one["bytes"] += sizes[name]
    return found


def _phase(kind: str, name: str) -> str:
    if kind.removesuffix("-start").removesuffix("-done") in _COLLECTIVES:
        return "collectives"
    return next((phase for phase in PHASES if phase in name), "convolutions and the rest")


def _called(rest: str, attribute: str) -> str:
    match = re.search(rf"{attribute}=%?([\w.\-]+)", rest)
    return match[1] if match else ""


def _size(shape: str) -> int:
    return sum(
        _BYTES[kind] * math.prod(map(int, filter(None, dimensions.split(","))))
        for kind, dimensions in _SHAPE.findall(shape)
        if kind in _BYTES
    )
