"""Reads what a compiled program's text says of its work: operations, cycles, bytes, collectives."""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

PHASES = (  # in the names of operations, the first that is there
    *("frontend", "augmentation", "optimizer", "batch_norm"),
)
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_FREE = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "copy-done")
_MOVES = (  # no arithmetic
    *("broadcast", "concatenate", "copy", "copy-start", "iota", "pad", "reshape", "reverse"),
    *("slice", "dynamic-slice", "dynamic-update-slice", "transpose", "gather", "scatter"),
)
_PASSES = 6  # of bfloat16 that a TPU makes of a float32 product at the highest precision
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4}
_BYTES |= {"f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BOUND = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_NAME = re.compile(r'op_name="([^"]*)"')
_IN_FAST_MEMORY = re.compile(r"S\([1-9]")  # of a layout: not in the chip's main memory


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a program, a loop's as often as it runs; counts are those of one run.

    Attributes:
      kind: of HLO, such as "fusion".
      scope: where it comes from in the source, as JAX names it.
      bytes_moved: of operands and results; main_bytes: those that lie in the main memory.
      flops: of matrix products and convolutions, the sums of each filled up to whole tiles of a
        matrix unit; elements: that other arithmetic makes.
    """

    name: str
    kind: str
    shape: str
    scope: str
    times: int
    cycles: int
    bytes_moved: int
    main_bytes: int
    flops: int
    elements: int

    @property
    def phase(self) -> str:
        if self.kind.removesuffix("-start").removesuffix("-done") in _COLLECTIVES:
            return "collectives"
        return next((phase for phase in PHASES if phase in self.scope), "convolutions and the rest")


@dataclasses.dataclass
class Work:
    """What a program does, a loop's body as often as it runs."""

    operations: int = 0
    cycles: int = 0
    bytes_moved: int = 0
    phases: dict[str, int] = dataclasses.field(default_factory=dict)  # cycles
    collectives: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)


def read(text: str) -> Work:
    """Sums over `operations`."""
    work = Work()
    for operation in operations(text):
        work.operations += operation.times
        work.cycles += operation.times * operation.cycles
        work.bytes_moved += operation.times * operation.bytes_moved
        work.phases[operation.phase] = (
            work.phases.get(operation.phase, 0) + operation.times * operation.cycles
        )
        name = operation.kind.removesuffix("-start")
        if name in _COLLECTIVES:
            total = work.collectives.setdefault(name, {"count": 0, "bytes": 0})
            total["count"] += operation.times
            total["bytes"] += operation.times * _size(operation.shape)
    return work


def operations(text: str, tile: int = 1) -> list[Operation]:
    """Those of the entry computation and of the loops and calls that it makes.

    tile: how many terms a matrix unit adds at a time.
    """
    bodies, entry = _computations(text)

    @functools.cache
    def work_in(name: str) -> tuple[int, int]:
        """(flops, elements) of a fused computation."""
        shapes, flops, elements = {}, 0, 0
        for line, shape, kind, operands, rest in _lines(bodies[name]):
            shapes[line] = shape
            if kind == "fusion":
                more_flops, more_elements = work_in(_called(rest, "calls"))
                flops, elements = flops + more_flops, elements + more_elements
            else:
                arguments = [shapes.get(operand, "") for operand in operands]
                more_flops, more_elements = _work(kind, shape, arguments, rest, tile)
                flops, elements = flops + more_flops, elements + more_elements
        return flops, elements

    def of(name: str, times: int) -> Iterator[Operation]:
        shapes: dict[str, str] = {}
        for line, shape, kind, operands, rest in _lines(bodies[name]):
            shapes[line] = shape
            if kind == "while":
                yield from of(_called(rest, "body"), times * trips(rest))
                continue
            called = _called(rest, "calls")
            if kind in ("call", "conditional", "async-start") and called:
                yield from of(called, times)
                continue
            if kind in _FREE:
                continue
            arguments = [shapes.get(operand, "") for operand in operands]
            if kind == "fusion" and called in bodies:
                flops, elements = work_in(called)
            else:
                flops, elements = _work(kind, shape, arguments, rest, tile)
            yield Operation(
                name=line,
                kind=kind,
                shape=shape,
                scope=scope[1] if (scope := _NAME.search(rest)) else "",
                times=times,
                cycles=int(cycles[1]) if (cycles := _CYCLES.search(rest)) else 0,
                bytes_moved=sum(map(_size, [shape, *arguments])),
                main_bytes=sum(_size(one, main=True) for one in [shape, *arguments]),
                flops=flops,
                elements=elements,
            )

    def trips(rest: str) -> int:
        """How often a loop runs: as the compiler says, or what its condition compares with."""
        if told := _TRIPS.search(rest):
            return int(told[1])
        condition = "\n".join(bodies[_called(rest, "condition")])
        return max((int(n) for n in _BOUND.findall(condition)), default=1)

    return list(of(entry, 1))


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


def _lines(body: list[str]) -> Iterator[tuple[str, str, str, list[str], str]]:
    """(name, shape, kind, operands, the rest of the line) of each operation."""
    for line in body:
        if match := _LINE.match(line):
            name, shape, kind, rest = match.groups()
            yield name, shape, kind, re.findall(r"%([\w.\-]+)", rest.split("), ")[0]), rest


def _work(kind: str, shape: str, arguments: list[str], rest: str, tile: int) -> tuple[int, int]:
    """(flops of a product, elements of other arithmetic) of one operation."""
    passes = _PASSES if "operand_precision={highest" in rest else 1
    if kind == "dot":
        sizes = _dimensions(arguments[0])
        numbers = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)
        summed = [sizes[int(n)] for n in numbers[1].split(",") if n] if numbers else []
        return 2 * passes * _elements(shape) * _filled(math.prod(summed), tile), 0
    if kind == "convolution":
        return 2 * passes * _elements(shape) * _filled(_terms(shape, arguments, rest), tile), 0
    if kind in _FREE or kind in _MOVES:
        return 0, 0
    if kind in ("reduce", "reduce-window"):
        return 0, sum(map(_elements, arguments))
    return 0, _elements(shape)


def _filled(count: float, tile: int) -> int:
    return math.ceil(count / tile) * tile


def _terms(shape: str, arguments: list[str], rest: str) -> float:
    """That a convolution adds for each value of its result on average, those of padding left out.

    Compilers write a product as a convolution of one place with a window as large as the map.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest)
    if labels is None:
        return 1.0
    inputs, kernel, outputs = (
        dict(zip(names, _dimensions(one), strict=True))
        for names, one in zip(labels.groups(), [*arguments, shape], strict=True)
    )
    window = re.search(r"window=\{([^}]*)\}", rest)
    told = dict(part.split("=") for part in window[1].split()) if window else {}
    terms = float(kernel["i"])
    for axis in range(len(outputs) - 2):

        def of(name: str, default: str, axis: int = axis) -> list[int]:
            return [int(n) for n in told.get(name, default).split("x")[axis].split("_")]

        every = "x".join("1" * (axis + 1))
        (step,), (spread,), (apart,) = (
            of(name, every) for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        before = of("pad", "x".join(["0_0"] * (axis + 1)))[0]
        size, name = inputs[str(axis)], str(axis)
        places = (
            output * step + place * apart - before
            for output in range(outputs[name])
            for place in range(kernel[name])
        )
        met = sum(place % spread == 0 and 0 <= place // spread < size for place in places)
        terms *= met / outputs[name]
    return terms


def _called(rest: str, attribute: str) -> str:
    match = re.search(rf"{attribute}=%?([\w.\-]+)", rest)
    return match[1] if match else ""


def _dimensions(shape: str) -> list[int]:
    found = _SHAPE.search(shape)
    return [int(n) for n in found[2].split(",") if n] if found else []


def _elements(shape: str) -> int:
    return sum(
        math.prod(map(int, filter(None, dimensions.split(","))))
        for _, dimensions, _ in _SHAPE.findall(shape)
    )


def _size(shape: str, main: bool = False) -> int:
    """Bytes; main: only of what lies in the main memory."""
    return sum(
        _BYTES[kind] * math.prod(map(int, filter(None, dimensions.split(","))))
        for kind, dimensions, layout in _SHAPE.findall(shape)
        if kind in _BYTES and not (main and _IN_FAST_MEMORY.search(layout))
    )
