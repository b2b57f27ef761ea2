"""Label qualities of several seeds as one."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

Quality = Mapping[str, Any]  # what `relabeling.label_quality` gives


def pooled(found: Sequence[Mapping[str, Quality]]) -> dict[str, dict[str, Any]]:
    """{name: quality} of each seed as one: clips are counted together, mAPs and APs are means.

    The seeds have the same clips; only their teachers differ.
    """
    return {
        name: _pooled([one[name] for one in found])
        for name in found[0]
        if all(name in one for one in found)
    }


def _pooled(found: Sequence[Quality]) -> dict[str, Any]:
    result = dict(found[0])
    if all("statistics" in one for one in found):
        result["statistics"] = _statistics([one["statistics"] for one in found])
    for key in ("segment_mAP", "segment_AP"):
        if key in result and all(key in one for one in found):
            mean = {kind: _means([one[key][kind] for one in found]) for kind in ("soft", "weak")}
            result[key] = dict(result[key]) | mean
        else:
            result.pop(key, None)
    return result


def _statistics(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = found[0]

    def mean(key: str) -> dict[str, float]:
        return {k: statistics.fmean(one[key][k] for one in found) for k in ("soft", "weak")}

    counts = {k: _sums([one["labels_per_clip"][k] for one in found]) for k in ("soft", "weak")}
    coverages = [one["coverage"] for one in found]
    means = [one["mean"] for one in coverages if one["mean"] is not None]
    coverage = {
        "num_clips": sum(one["num_clips"] for one in coverages),
        "mean": statistics.fmean(means) if means else None,
        "clips": _sums([one["clips"] for one in coverages]),
    }
    return dict(first) | {
        "teachers": len(found),
        "num_clips": sum(one["num_clips"] for one in found),
        "labels_per_clip": counts,
        "mean_labels": mean("mean_labels"),
        "share_without_labels": mean("share_without_labels"),
        "coverage": dict(first["coverage"]) | coverage,
    }


def _sums(lists: Sequence[Sequence[int]]) -> list[int]:
    return [sum(values) for values in zip_longest(*lists, fillvalue=0)]


def _means(found: Sequence[Any]) -> Any:
    """The mean of numbers; of lists of numbers that of each place, None where one has none."""
    if not isinstance(found[0], list):
        return statistics.fmean(found)
    return [
        None if None in values else statistics.fmean(values) for values in zip(*found, strict=True)
    ]
