"""Draws what compile_for.py found: where the cycles or the bytes of each program go.

python benchmarks/compile_chart.py compiled.json compiled.png
"""

import json
import pathlib
import sys
from typing import Any

PHASES = {  # as compiled_text names them, from the bottom of a bar up
    "convolutions and the rest": "#4477aa",
    "batch_norm": "#66ccee",
    "frontend": "#228833",
    "augmentation": "#ccbb44",
    "optimizer": "#ee6677",
    "collectives": "#aa3377",
}


def draw(results: list[dict[str, Any]], path: pathlib.Path) -> None:
    """One panel for each thing that there is: cycles by phase, bytes moved, memory a chip."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [
        f"{r['target']}\n{r['program']}\n{r['seconds']:g} s x {r['per_chip']}" for r in results
    ]
    timed = [i for i, r in enumerate(results) if "cycles_by_phase" in r]
    panels = [_cycles] * bool(timed) + [_bytes, _memory]
    width = max(6.0, 1.0 * len(results) + 2)
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(width, 3.2 * len(panels)), layout="constrained", squeeze=False
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        panel(axis, results)
        axis.set_xticks(range(len(results)), names, fontsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Estimates of the targets' compilers, no measurements", fontsize=10)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _cycles(axis: Any, results: list[dict[str, Any]]) -> None:
    base = [0.0] * len(results)
    for phase, colour in PHASES.items():
        heights = [r.get("cycles_by_phase", {}).get(phase, 0) / 1e6 for r in results]
        axis.bar(range(len(results)), heights, 0.7, bottom=base, color=colour, label=phase)
        base = [b + h for b, h in zip(base, heights, strict=True)]
    for i, total in enumerate(base):
        axis.annotate(f"{total:.1f}" if total else "not told", (i, total), ha="center", va="bottom")
    axis.set_ylim(top=1.12 * max(base))  # room for the totals
    axis.set_ylabel("million cycles a step")
    _legend(axis)


def _bytes(axis: Any, results: list[dict[str, Any]]) -> None:
    moved = [r["bytes_moved"] / 1e9 for r in results]
    axis.bar(range(len(results)), moved, 0.7, color="#bbbbbb", label="moved by the operations")
    least = [r["minimum_bytes"] / 1e9 for r in results]
    axis.bar(range(len(results)), least, 0.7, color="#4477aa", label="the least")
    axis.set_ylabel("GB a step and chip")
    _legend(axis)


def _legend(axis: Any) -> None:
    """Above the panel, where there is no bar."""
    where = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    axis.legend(fontsize=7, frameon=False, ncols=3, columnspacing=1, **where)


def _memory(axis: Any, results: list[dict[str, Any]]) -> None:
    used = [(r["arguments_bytes"] + r["temporary_bytes"]) / 2**30 for r in results]
    axis.bar(range(len(results)), used, 0.7, color="#228833")
    for i, (value, result) in enumerate(zip(used, results, strict=True)):
        of = f"{value:.2f} of\n{result['chip_bytes'] >> 30}"
        axis.annotate(of, (i, value), ha="center", va="bottom", fontsize=7)
    axis.margins(y=0.25)
    axis.set_ylabel("GiB a chip")


if __name__ == "__main__":
    draw(json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2]))
