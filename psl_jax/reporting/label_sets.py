"""Label qualities of several seeds as one."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

Quality = Mapping[str, Any]  # what `relabeling.label_quality` gives


def pool_seeds(qualities_of_seeds: Sequence[Mapping[str, Quality]]) -> dict[str, dict[str, Any]]:
    """{name: quality} of each seed as one: clips are counted together, mAPs and APs are means.

    The seeds have the same clips; only their teachers differ.
    """
    return {
        name: _pool_qualities([qualities[name] for qualities in qualities_of_seeds])
        for name in qualities_of_seeds[0]
        if all(name in qualities for qualities in qualities_of_seeds)
    }


def _pool_qualities(qualities: Sequence[Quality]) -> dict[str, Any]:
    result = dict(qualities[0])
    if all("statistics" in quality for quality in qualities):
        result["statistics"] = _statistics([quality["statistics"] for quality in qualities])
    for key in ("segment_mAP", "segment_AP"):
        if key in result and all(key in quality for quality in qualities):
            mean = {
                label_source: _means([quality[key][label_source] for quality in qualities])
                for label_source in ("soft", "weak")
            }
            result[key] = dict(result[key]) | mean
        else:
            result.pop(key, None)
    return result


def _statistics(statistics_of_seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = statistics_of_seeds[0]

    def mean(key: str) -> dict[str, float]:
        return {
            k: statistics.fmean(seed[key][k] for seed in statistics_of_seeds)
            for k in ("soft", "weak")
        }

    counts = {
        k: _sums([seed["labels_per_clip"][k] for seed in statistics_of_seeds])
        for k in ("soft", "weak")
    }
    coverages = [seed["coverage"] for seed in statistics_of_seeds]
    means = [seed["mean"] for seed in coverages if seed["mean"] is not None]
    coverage = {
        "num_clips": sum(seed["num_clips"] for seed in coverages),
        "mean": statistics.fmean(means) if means else None,
        "clips": _sums([seed["clips"] for seed in coverages]),
    }
    return dict(first) | {
        "teachers": len(statistics_of_seeds),
        "num_clips": sum(seed["num_clips"] for seed in statistics_of_seeds),
        "labels_per_clip": counts,
        "mean_labels": mean("mean_labels"),
        "share_without_labels": mean("share_without_labels"),
        "coverage": dict(first["coverage"]) | coverage,
    }


def _sums(lists: Sequence[Sequence[int]]) -> list[int]:
    return [sum(values) for values in zip_longest(*lists, fillvalue=0)]


def _means(values_of_seeds: Sequence[Any]) -> Any:
    """The mean of numbers; of lists of numbers that of each place, None where one has none."""
    if not isinstance(values_of_seeds[0], list):
        return statistics.fmean(values_of_seeds)
    return [
        None if None in values else statistics.fmean(values)
        for values in zip(*values_of_seeds, strict=True)
    ]
