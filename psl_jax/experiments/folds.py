"""Cross-validation: a config once for each fold of a data set, and the table of the means.

    python -m psl_jax.main --config esc50 --folds=all --config.data.source_dir=ESC50

A fold is evaluated, all others of the data set are trained on. With --seeds each fold has a mean
over seeds first.
"""

import copy
import os
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from psl_jax import config as config_lib
from psl_jax.experiments import seeds as seeds_lib
from psl_jax.experiments import suite
from psl_jax.reporting import result_tables, run_page, suite_page
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of
from psl_jax.scoring import bootstrap, evaluation

_AVERAGED = ("mAP", "d_prime", "AUC", "lwlrap", "mAP_at_3")


def read(text: str) -> list[int] | None:
    """The folds of "1,2,3"; None for "all". Raises UserError for anything else."""
    if text.strip() == "all":
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise UserError(f"--folds={text}: expected all, or different numbers, such as 1,2,3")
    return [int(part) for part in parts]


def run(
    config: ConfigDict,
    workdir: str | os.PathLike,
    folds: Sequence[int] | None,
    seeds: Sequence[int] | None = None,
    last_stage: str | None = None,
    start_afresh: bool = False,
) -> None:
    """Runs `config` once for each of `folds` (None: all), in WORKDIR/fold<K>; see `suite.run`.

    seeds: several of each fold, see `seeds.run`. Raises UserError where the data have no such fold.
    """
    workdir = path_of(workdir)
    config = copy.deepcopy(config)
    if not config.data.data_dir:
        config.data.data_dir = os.fspath(workdir / "data")
    there = _folds_of(config, workdir)
    chosen = there if folds is None else list(folds)
    if unknown := [k for k in chosen if k not in there]:
        known = ", ".join(map(str, there)) or "none"
        raise UserError(f"--folds: the data have no fold {unknown[0]}; they have {known}")
    if len(there) < 2:
        raise UserError("--folds: of one fold nothing is left to train on")
    found = []
    for number, fold in enumerate(chosen):
        if jax.process_index() == 0:
            print(f"\n=== fold {fold} ({number + 1} of {len(chosen)})", flush=True)
        one, folder = _without(config, fold, there), workdir / f"fold{fold}"
        results = (
            suite.run(one, folder, last_stage, start_afresh)
            if seeds is None
            else seeds_lib.run(one, folder, seeds, last_stage, start_afresh)
        )
        if results is not None:
            found.append(results)
    if found:
        together = summary(found, chosen, bool(len(config.experiments)))
        _add_intervals(together, workdir)
        files.write_json(workdir / suite.RESULTS, together)
        suite_page.write(workdir, together)
        print(f"\nmean ± standard deviation over {len(found)} folds\n")
        print(run_page.format_table(together))
        print(f"\n  report: {workdir / 'report.html'}\n  results: {workdir / suite.RESULTS}")


def _folds_of(config: ConfigDict, workdir: pathlib.Path) -> list[int]:
    """The numbers of the splits fold1, fold2, ... of the data, which are prepared for it."""
    data = next(iter(config_lib.experiments(config).values())).data
    folder = suite.prepare(data, workdir)
    from psl_jax.data import split_index_files

    names = split_index_files.splits(folder)
    return sorted(int(name[4:]) for name in names if re.fullmatch(r"fold\d+", name))


def _without(config: ConfigDict, fold: int, folds: Sequence[int]) -> ConfigDict:
    """`config` with one fold to evaluate, and the others to train on."""
    one = copy.deepcopy(config)
    others = "+".join(f"fold{k}" for k in folds if k != fold)
    one.data.train_split = one.data.validation_split = others
    one.data.eval_split = f"fold{fold}"
    return one


def summary(
    found: Sequence[Mapping[str, Any]], folds: Sequence[int], is_suite: bool
) -> dict[str, Any]:
    """The results of a suite over folds: means, with spreads over the folds."""
    first = found[0]
    result = {k: v for k, v in first.items() if k not in ("experiments", "label_quality", "clips")}
    by_fold = [{row["name"]: row for row in one["experiments"]} for one in found]
    rows = []
    for row in first["experiments"]:
        name = row["name"]
        same = [one[name] for one in by_fold]
        reference = result_tables.reference_of(result, name)
        gains = [one[name]["mAP"] - one[reference]["mAP"] for one in by_fold if reference in one]
        left_out = ("over_reference", "seed", "mAP_by_seed")
        merged = {k: v for k, v in row.items() if k not in left_out}
        for key in _AVERAGED:
            values = [one[key] for one in same if one.get(key) is not None]
            merged[key] = statistics.fmean(values) if values else None
        merged |= {
            "mAP_spread": _spread([one["mAP"] for one in same]),
            "gain_spread": _spread(gains),
            "mAP_by_fold": [one["mAP"] for one in same],
            "num_clips": sum(one["num_clips"] for one in same),
            "clip_ids_sha256": files.json_digest([one["clip_ids_sha256"] for one in same]),
            "run_dirs": [
                f"fold{fold}/{folder}".rstrip("/")
                for fold, one in zip(folds, same, strict=True)
                for folder in one.get("run_dirs", [name if is_suite else ""])
            ],
            "seconds": sum(one["seconds"] for one in same),
            "notes": result_tables.shared_notes(same),
        }
        rows.append(merged)
    return result | {"folds": list(folds), "experiments": rows}


def _add_intervals(results: dict[str, Any], workdir: pathlib.Path) -> None:
    """Adds to each row how far its mean mAP may lie from the reference's, on other clips and seeds.

    Only where the scores of all runs are there with their targets, and of the same clips.
    """
    count, found = len(results["folds"]), {}
    for row in results["experiments"]:
        each = [evaluation.read_scores(workdir / folder) for folder in row["run_dirs"]]
        known = [one for one in each if one is not None]
        if known and len(known) == len(each):
            by_fold = len(known) // count
            found[row["name"]] = [known[k * by_fold : (k + 1) * by_fold] for k in range(count)]
    for row in results["experiments"]:
        reference = result_tables.reference_of(results, row["name"])
        ours, theirs = found.get(row["name"]), found.get(reference)
        if row["name"] == reference or ours is None or theirs is None or not _alike(ours, theirs):
            continue
        folds = [
            (other[0]["targets"], {"ours": _scores(mine), "theirs": _scores(other)})
            for mine, other in zip(ours, theirs, strict=True)
        ]
        interval = bootstrap.compute_differences_over_folds(folds, "theirs")["ours"]
        row["over_reference"] = {"low": interval.low, "high": interval.high}


def _scores(runs: Sequence[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
    return [one["scores"] for one in runs]


def _alike(ours: Sequence[Sequence[Mapping]], theirs: Sequence[Sequence[Mapping]]) -> bool:
    """Whether all runs of each fold are of the same clips."""
    return all(
        len(mine) == len(other)
        and all(
            np.array_equal(one[key], other[0][key])
            for one in (*mine, *other)
            for key in ("ids", "classes", "targets")
        )
        for mine, other in zip(ours, theirs, strict=True)
    )


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
