"""The benchmark's results as a table, as JSON and as a bar chart."""

import json
import math
import pathlib

COLUMNS = (
    "operation", "s", "batch", "dtype", "segments/s", "x real time", "torch best", "ratio",
    "compile s", "peak MiB", "GFLOP", "GB", "of matmul", "of copy", "of floor", "torch variant",
)  # fmt: skip
LEGEND = """\
segments/s: medians of psl_jax and of PyTorch's best variant; ratio: median of the rounds.
peak: arguments, outputs and temporaries of the program. GFLOP and GB: XLA's cost analysis of a run,
none where a loop takes the batch in parts.
of matmul: necessary FLOPs / time / measured matrix product. of copy: GB / time / measured copy.
of floor: bytes that perfectly fused convolutions would move / time / measured copy."""


def one_line(result: dict) -> str:
    line = (
        f"{result['operation']:8} {result['seconds']:2} s x {result['batch']:<4} "
        f"{result['dtype']:8} {result['segments_per_second']:9,.0f} segments/s"
    )
    if "ratio" in result:
        line += f", torch {result['torch_segments_per_second']:9,.0f}, ratio {result['ratio']:.2f}"
    return line


def table(results: list[dict], machine: dict) -> str:
    """All cases, then the best batch of each side for each operation, length and type."""
    lines = ["", *_aligned([COLUMNS, *[_row(result) for result in results]]), "", LEGEND, ""]
    lines += ["Each side at its best batch:", *_aligned(_best_rows(results))]
    return "\n".join(lines)


def _row(result: dict) -> tuple[str, ...]:
    return (
        result["operation"],
        str(result["seconds"]),
        str(result["batch"]),
        result["dtype"],
        f"{result['segments_per_second']:,.0f}",
        f"{result['times_real_time']:,.0f}",
        _number(result.get("torch_segments_per_second"), ",.0f"),
        _number(result.get("ratio"), ".2f"),
        _number(result["compile_seconds"], ".1f"),
        _number(result["peak_bytes"], ",.0f", 2**20),
        _number(result["xla_flops"], ".4g", 1e9),
        _number(result["xla_bytes"], ".4g", 1e9),
        _number(result["matmul_fraction"], ".3f"),
        _number(result["copy_fraction"], ".3f"),
        _number(result["bandwidth_floor_fraction"], ".3f"),
        result.get("torch_best", "-").removeprefix("torch "),
    )


def _best_rows(results: list[dict]) -> list[tuple[str, ...]]:
    titles = (
        *("operation", "s", "dtype", "segments/s", "batch", "torch best", "batch", "ratio"),
        "torch variant",
    )
    rows: list[tuple[str, ...]] = [titles]
    for group in _groups(results):
        ours = max(group, key=lambda r: r["segments_per_second"])
        other = max(group, key=lambda r: r.get("torch_segments_per_second", 0.0))
        theirs = other.get("torch_segments_per_second")
        rows.append(
            (
                ours["operation"],
                str(ours["seconds"]),
                ours["dtype"],
                f"{ours['segments_per_second']:,.0f}",
                str(ours["batch"]),
                _number(theirs, ",.0f"),
                str(other["batch"]),
                _number(ours["segments_per_second"] / theirs if theirs else None, ".2f"),
                other.get("torch_best", "-").removeprefix("torch "),
            )
        )
    return rows


def _groups(results: list[dict]) -> list[list[dict]]:
    """Results that differ only in their batch size."""
    groups: dict[tuple, list[dict]] = {}
    for result in results:
        key = tuple(result[name] for name in ("operation", "seconds", "dtype"))
        groups.setdefault(key, []).append(result)
    return list(groups.values())


def _number(value, form: str, unit: float = 1.0) -> str:
    return "-" if value is None or not math.isfinite(value) else format(value / unit, form)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    last = len(widths) - 1
    return [
        "  ".join(
            cell.ljust(width) if i in (0, last) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def write(results: list[dict], machine: dict, folder: pathlib.Path) -> None:
    """throughput.json and, where matplotlib is installed, throughput.png in `folder`."""
    print(f"\nwrote {write_json(results, machine, folder)}")
    try:
        print(f"wrote {chart(results, machine, folder)}")
    except ImportError:
        print("no chart: matplotlib is not installed")


def write_json(results: list[dict], machine: dict, folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "throughput.json"
    path.write_text(json.dumps({"machine": machine, "cases": results}, indent=1) + "\n")
    return path


def chart(results: list[dict], machine: dict, folder: pathlib.Path) -> pathlib.Path:
    """Bars of psl_jax's speed, where PyTorch's best is 1, each side at its best batch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = _groups(results)
    ours = [max(r["segments_per_second"] for r in group) for group in groups]
    other = [max(r.get("torch_segments_per_second", 0.0) for r in group) for group in groups]
    compared = all(other) and bool(groups)
    heights = [a / b for a, b in zip(ours, other, strict=True)] if compared else ours
    labels = [
        f"{a:,.0f}/s\n" + (f"({b:,.0f}/s)" if b else "") for a, b in zip(ours, other, strict=True)
    ]
    names = [f"{g[0]['operation']}\n{g[0]['seconds']} s\n{g[0]['dtype']}" for g in groups]
    figure, axes = pyplot.subplots(figsize=(max(6, 1.0 * len(groups)), 4.5), layout="constrained")
    bars = axes.bar(range(len(groups)), heights, 0.6, color="#2a6fb0")
    axes.bar_label(bars, labels, fontsize=7, padding=2)
    axes.margins(y=0.15)
    axes.set_xticks(range(len(groups)), names, fontsize=8)
    if compared:
        axes.axhline(1, color="#666666", linewidth=1, linestyle="--")
        axes.set_ylabel("speed, PyTorch's best variant = 1")
    else:
        axes.set_ylabel("segments per second")
    title = "segments per second of psl_jax" + (" (of PyTorch)" if compared else "")
    axes.set_title(f"{title}\n{machine['device']}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    path = folder / "throughput.png"
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return path
