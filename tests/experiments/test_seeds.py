"""A config over several seeds."""

import numpy as np
import pytest
import synthetic_data
from main_command import call_main

from psl_jax import UserError
from psl_jax import config as config_lib
from psl_jax.experiments import suite, suite_results
from psl_jax.experiments.suite_results import Repetition
from psl_jax.reporting import result_tables
from psl_jax.runtime import files
from psl_jax.scoring import bootstrap, evaluation, metrics


@pytest.mark.parametrize("text", ["", "0,a", "0,0", "1.5", "0,,1", "-1"])
@pytest.mark.parametrize("option", ["seeds", "folds"])
def test_numbers_that_are_none(option, text):
    with pytest.raises(UserError, match=f"--{option}={text}: expected .*different numbers"):
        call_main("--config", "esc50", f"--{option}={text}")


def row(name, mean_ap, **more):
    return {"name": name, "mAP": mean_ap, "d_prime": 1.0, "seconds": 2.0, "notes": [], **more}


def test_means_and_spreads_of_values_and_of_gains():
    found = [
        {"name": "s", "experiments": [row("weak", weak), row("psl2s", soft, notes=[note, "same"])]}
        for weak, soft, note in ((0.1, 0.3, "a"), (0.2, 0.6, "b"), (0.3, 0.3, "a"))
    ]
    result = suite_results.merge(found, Repetition("seed", (4, 5, 6)), is_suite=True)
    assert result["seeds"] == [4, 5, 6]
    weak, soft = result["experiments"]
    assert weak["mAP"] == pytest.approx(0.2) and weak["mAP_spread"] == pytest.approx(0.1)
    assert soft["mAP"] == pytest.approx(0.4)
    assert soft["gain_spread"] == pytest.approx(np.std([0.2, 0.4, 0.0], ddof=1))
    assert soft["notes"] == ["a", "same", "b"] and soft["run_dirs"] == [
        f"seed{seed}/psl2s" for seed in (4, 5, 6)
    ]
    assert soft["seconds"] == 6.0 and soft["mAP_by_seed"] == [0.3, 0.6, 0.3]


@pytest.mark.parametrize("kind", ["seed", "fold"])
def test_intervals_are_of_clips_and_seeds_or_folds_together(tmp_path, kind):
    """Where the scores of all are kept; the words of the table are of these intervals."""
    index = synthetic_data.make_index([40], 16_000)
    truth, rng = index.weak_labels(), np.random.default_rng(0)
    scores = {
        name: [np.clip(truth + noise * rng.normal(size=truth.shape), 0, 1) for _ in range(3)]
        for name, noise in (("weak", 2.0), ("psl2s", 0.3), ("psl5s", 2.0), ("lost", 1.0))
    }
    rows = []
    for name, each in scores.items():
        dirs = [f"{kind}{number}/{name}" for number in range(3)]
        for folder, values in zip(dirs, each, strict=True):
            evaluation.write_results(tmp_path / folder, index, values, {})
        mean = np.mean([metrics.mean_average_precision(truth, values) for values in each])
        rows.append({"name": name, "run_dirs": dirs, "mAP": float(mean)})
    (tmp_path / f"{kind}1/lost/scores.npz").unlink()
    results = {"experiments": rows, f"{kind}s": [0, 1, 2]}
    suite_results.add_intervals(results, tmp_path)
    for name in ("psl2s", "psl5s"):
        parts = [(truth, scores[name], scores["weak"])]
        if kind == "fold":
            pairs = zip(scores[name], scores["weak"], strict=True)
            parts = [(truth, [ours], [theirs]) for ours, theirs in pairs]
        expected = bootstrap.compute_difference(parts)
        one = next(row for row in rows if row["name"] == name)
        assert one["over_reference"] == {"low": expected.low, "high": expected.high}
        assert one["mAP"] - rows[0]["mAP"] == pytest.approx(expected.difference)
    assert "over_reference" not in rows[0] and "over_reference" not in rows[3]
    table = result_tables.format_table(results)
    lines = {line.split()[0]: line for line in table.splitlines() if line}
    assert "not told apart" in lines["psl5s"] and "not told apart" not in lines["psl2s"]


def test_each_seed_is_run_in_a_folder_of_its_own(tmp_path, capsys, monkeypatch):
    config = config_lib.base()
    config.name, config.experiments = "twice", {"weak": {}, "psl2s": {"labels": "soft"}}
    run = []

    def run_suite(changed, workdir, **options):
        run.append((changed.seed, workdir, changed.data.data_dir))
        value = changed.seed / 8
        return {"name": "twice", "experiments": [row("weak", value), row("psl2s", 2 * value)]}

    monkeypatch.setattr(suite, "_run_suite", run_suite)
    found = suite.run(config, tmp_path, seeds=(3, 5))
    data = str(tmp_path / "data")
    assert run == [(seed, tmp_path / f"seed{seed}", data) for seed in (3, 5)]
    assert config.seed == 0 and found == files.read_json(tmp_path / "results.json")
    assert found["experiments"][1]["mAP_by_seed"] == [0.75, 1.25]
    assert " ± " in capsys.readouterr().out.partition("standard deviation over 2 seeds")[2]
    assert "with other seeds" in (tmp_path / "report.html").read_text()
