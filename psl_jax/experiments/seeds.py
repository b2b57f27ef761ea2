"""One config over several seeds, and the table of their means and spreads."""

import copy
import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from psl_jax.experiments import suite
from psl_jax.reporting import audio_examples, label_sets, result_tables, run_page, suite_page
from psl_jax.runtime import files, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of
from psl_jax.scoring import bootstrap, evaluation

_AVERAGED = ("mAP", "d_prime", "AUC", "lwlrap", "mAP_at_3")


def read(text: str) -> list[int]:
    """The seeds of "0,1,2". Raises UserError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise UserError(f"--seeds={text}: expected different numbers, such as 0,1,2")
    return [int(part) for part in parts]


def run(
    config: ConfigDict,
    workdir: str | os.PathLike,
    seeds: Sequence[int],
    last_stage: str | None = None,
    start_afresh: bool = False,
) -> dict[str, Any] | None:
    """Runs `config` once for each seed, in WORKDIR/seed<N>, on the same data; see `suite.run`.

    The seed is that of weights, order and augmentation; the data keeps its own. Returns the results
    of runs to their end, in process 0.
    """
    workdir = path_of(workdir)
    found = []
    for number, seed in enumerate(seeds):
        one = copy.deepcopy(config)
        one.seed = seed
        if not one.data.data_dir:
            one.data.data_dir = os.fspath(workdir / "data")
        if jax.process_index() == 0:
            print(f"\n=== seed {seed} ({number + 1} of {len(seeds)})", flush=True)
        results = suite.run(one, workdir / f"seed{seed}", last_stage, start_afresh)
        if results is not None:
            found.append(results)
    together = summary(found, seeds, bool(len(config.experiments))) if found else None

    def write() -> None:
        if together is not None:
            _write(together, workdir)

    parallel.run_in_first_process(f"results in {workdir}", write)
    return together


def _write(together: dict[str, Any], workdir: pathlib.Path) -> None:
    _add_intervals(together, workdir)
    files.write_json(workdir / suite.RESULTS, together)
    suite_page.write(workdir, together)
    print(f"\nmean ± standard deviation over {len(together['seeds'])} seeds\n")
    print(run_page.format_table(together))
    print(f"\n  report: {workdir / 'report.html'}\n  results: {workdir / suite.RESULTS}")


def summary(
    found: Sequence[Mapping[str, Any]], seeds: Sequence[int], is_suite: bool
) -> dict[str, Any]:
    """The results of a suite over seeds: means, with spreads of mAP and of what it gains."""
    first = found[0]
    result = {k: v for k, v in first.items() if k not in ("experiments", "label_quality")}
    qualities = [one["label_quality"] for one in found if "label_quality" in one]
    if qualities:
        result["label_quality"] = label_sets.pool_seeds(qualities)
    by_seed = [{row["name"]: row for row in one["experiments"]} for one in found]
    rows = []
    for row in first["experiments"]:
        same = [one[row["name"]] for one in by_seed]
        mean = {k: _mean([one.get(k) for one in same]) for k in _AVERAGED if row.get(k) is not None}
        reference = result_tables.reference_of(result, row["name"])
        gains = [
            one[row["name"]]["mAP"] - one[reference]["mAP"] for one in by_seed if reference in one
        ]
        merged = {k: v for k, v in row.items() if k not in ("over_reference", "seed")} | mean
        merged |= {
            "mAP_spread": _spread([one["mAP"] for one in same]),
            "gain_spread": _spread(gains),
            "mAP_by_seed": [one["mAP"] for one in same],
            "run_dirs": [f"seed{seed}" + f"/{row['name']}" * is_suite for seed in seeds],
            "seconds": sum(one["seconds"] for one in same),
            "notes": result_tables.shared_notes(same),
        }
        rows.append(merged)
    clips = f"seed{seeds[0]}/{audio_examples.FOLDER}"
    return result | {"seeds": list(seeds), "clips": clips, "experiments": rows}


def _add_intervals(results: dict[str, Any], workdir: pathlib.Path) -> None:
    """Adds to each row how far its mAP may lie from the reference's, on other clips and seeds.

    Only where the scores of all seeds are there with their targets, and of the same clips.
    """
    found = {}
    for row in results["experiments"]:
        each = [evaluation.read_scores(workdir / folder) for folder in row["run_dirs"]]
        known = [one for one in each if one is not None]
        if known and len(known) == len(each):
            found[row["name"]] = known
    reference = results.get("reference", "weak")
    if reference not in found:
        return
    ours = found[reference][0]
    alike = {
        name: [one["scores"] for one in each]
        for name, each in found.items()
        if all(
            np.array_equal(one[key], ours[key])
            for one in each
            for key in ("ids", "classes", "targets")
        )
    }
    if reference not in alike:
        return
    intervals = bootstrap.compute_differences_over_seeds(ours["targets"], alike, reference)
    for row in results["experiments"]:
        if (one := intervals.get(row["name"])) is not None:
            row["over_reference"] = {"low": one.low, "high": one.high}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
