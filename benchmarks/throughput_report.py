"""The benchmark's results as a table."""

import math

COLUMNS = (
    "operation", "s", "batch", "dtype", "segments/s", "best other", "ratio", "CPU ms", "error",
    "compile s", "peak MiB", "GFLOP", "GB", "of matmul", "of copy", "of floor", "which other",
)  # fmt: skip
LEGEND = """\
segments/s: medians of psl_jax and of the best other; ratio: median of the rounds. CPU ms: of a
segment. error: of probabilities, root mean square in standard deviations of float32's.
peak: arguments, outputs and temporaries of the program. GFLOP and GB: XLA's cost analysis of a run,
none where a loop takes the batch in parts.
of matmul: necessary FLOPs / time / measured matrix product. of copy: GB / time / measured copy.
of floor: bytes that perfectly fused convolutions would move / time / measured copy."""


def one_line(result: dict) -> str:
    """A case, and below it each of the others."""
    lines = [
        f"{result['operation']:8} {result['seconds']:2} s x {result['batch']:<4} "
        f"{result['dtype']:8} {_rates(result)}"
    ]
    lines += [f"    {_rates(one)}  {name}" for name, one in result["others"].items()]
    return "\n".join(lines)


def _rates(one: dict) -> str:
    return (
        f"{one['segments_per_second']:9,.1f} segments/s, {one['cpu_ms_per_segment']:8.3f} ms of "
        f"CPU, ours is {one['ours_by_this']:.2f} x this, error {_number(one.get('error'), '.1e')}"
    )


def table(results: list[dict]) -> str:
    """All cases, then the best batch of each side for each operation, length and type."""
    lines = ["", *_aligned([COLUMNS, *[_row(result) for result in results]]), "", LEGEND, ""]
    lines.append("Each side at its best batch:")
    groups: dict[tuple, list[dict]] = {}
    for result in results:
        groups.setdefault((result["operation"], result["seconds"], result["dtype"]), []).append(
            result
        )
    for (operation, seconds, dtype), group in groups.items():
        ours = max(group, key=lambda r: r["segments_per_second"])
        line = f"{operation} {seconds} s {dtype}: {ours['segments_per_second']:,.0f} segments/s "
        line += f"(batch {ours['batch']})"
        compared = [result for result in group if "best_other" in result]
        if compared:
            other = max(compared, key=lambda r: r["best_other_segments_per_second"])
            rate = other["best_other_segments_per_second"]
            line += f", {other['best_other']} {rate:,.0f} (batch {other['batch']}), "
            line += f"ratio {ours['segments_per_second'] / rate:.2f}"
        lines.append(line)
    return "\n".join(lines)


def _row(result: dict) -> tuple[str, ...]:
    return (
        result["operation"],
        str(result["seconds"]),
        str(result["batch"]),
        result["dtype"],
        f"{result['segments_per_second']:,.0f}",
        _number(result.get("best_other_segments_per_second"), ",.0f"),
        _number(result.get("ratio"), ".2f"),
        _number(result["cpu_ms_per_segment"], ".3f"),
        _number(result.get("error"), ".1e"),
        _number(result["compile_seconds"], ".1f"),
        _number(result["peak_bytes"], ",.0f", 2**20),
        _number(result["xla_flops"], ".4g", 1e9),
        _number(result["xla_bytes"], ".4g", 1e9),
        _number(result["matmul_fraction"], ".3f"),
        _number(result["copy_fraction"], ".3f"),
        _number(result["bandwidth_floor_fraction"], ".3f"),
        result.get("best_other", "-"),
    )


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
