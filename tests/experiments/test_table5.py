"""The paper's table 5: data of its own for each experiment."""

import pytest

from psl_jax import config as config_lib
from psl_jax.config import STUDENTS
from psl_jax.experiments import paper_tables
from psl_jax.reporting import result_tables


def test_the_rows_are_the_papers():
    config = paper_tables.table5()
    config.teacher, config.init_from = "ma.pt", "psl2s.pt"
    found = config_lib.experiments(config)
    table = paper_tables.table_of(config.name)
    assert found.keys() == table.reported.keys()
    for name, one in found.items():
        model, _, target = name.partition("_")
        assert one.init_from == {"ma": "ma.pt", "psl2s": "psl2s.pt"}[model]
        assert one.segment_seconds == {"ma": 10.0, "psl2s": STUDENTS["psl2s"]}[model]
        assert (one.train.trainable, one.evaluate.segments) == ("classifier", "whole")
        assert one.data.data_set == paper_tables.TARGETS[target].corpus
        assert one.labels == "weak" and one.data.eval_split in ("eval", "test")
    improvements = [9.82, 1.90, 3.02, 0.92]  # as printed
    for improvement, target in zip(improvements, paper_tables.TARGETS, strict=True):
        ours, theirs = (table.reported[f"{model}_{target}"][0] for model in ("psl2s", "ma"))
        assert 100 * (ours - theirs) == pytest.approx(improvement, abs=1e-6)


def test_the_table_tells_each_data_set_by_its_measure():
    def row(name, clips, mean_ap, lwlrap, **more):
        counted = {"name": name, "num_clips": clips, "clip_ids_sha256": str(clips)}
        return counted | {"mAP": mean_ap, "lwlrap": lwlrap} | more

    table = paper_tables.TABLES["table5"]
    results = {
        "name": "table5",
        "references": paper_tables.REFERENCES,
        "measures": paper_tables.MEASURES,
        "paper": {name: value for name, (value, _) in table.reported.items()},
        "experiments": [
            row("ma_fsd50k", 10, 0.4, 0.9),
            row("psl2s_fsd50k", 10, 0.5, 0.9, over_reference={"low": 0.05, "high": 0.2}),
            row("ma_fsd2019_noisy", 20, 0.1, 0.5),
            row("psl2s_fsd2019_noisy", 20, 0.2, 0.55, over_reference={"low": 0, "high": 1}),
        ],
    }
    text = result_tables.format_table(results)
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert lines["experiment"][:6] == ["experiment", "mAP", "%", "measure", "value", "%"]
    assert {"mAP", "50.00", "+10.00", "54.23", "-4.23"} <= set(lines["psl2s_fsd50k"])
    assert {"lwlrap", "55.00", "+5.00", "54.49", "+0.51"} <= set(lines["psl2s_fsd2019_noisy"])
    assert "+100.00" not in lines["psl2s_fsd2019_noisy"]  # an interval is of mAP
    assert "different clips" not in text
    results["experiments"][1]["num_clips"] = 9
    assert "different clips" in result_tables.format_table(results)
