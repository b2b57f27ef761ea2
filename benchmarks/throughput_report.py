"""The benchmark's results in words; what else was measured stands in the JSON lines."""


def one_line(result: dict) -> str:
    """A case, and below it each of the others."""
    lines = [
        f"{result['operation']:8} {result['seconds']:2} s x {result['batch']:<4} "
        f"{result['dtype']:8} {_rates(result)}, {result['matmul_fraction']:.2f} of a product's rate"
    ]
    lines += [f"    {_rates(one)}  {name}" for name, one in result["others"].items()]
    return "\n".join(lines)


def _rates(one: dict) -> str:
    error = f", error {one['error']:.1e}" if "error" in one else ""
    return (
        f"{one['segments_per_second']:9,.1f} segments/s, {one['cpu_ms_per_segment']:8.3f} ms of "
        f"CPU, ours is {one['ours_by_this']:.2f} x this{error}"
    )


def best_batches(results: list[dict]) -> str:
    """The best batch of each side, for each operation, length and type."""
    lines = ["Each side at its best batch:"]
    groups: dict[tuple, list[dict]] = {}
    for result in results:
        key = tuple(result[name] for name in ("operation", "seconds", "dtype"))
        groups.setdefault(key, []).append(result)
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
