"""Reports: everything is on the page, nothing comes from elsewhere, and nothing is let through."""

import html.parser
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from psl_jax.reporting import result_tables, run_page, suite_page
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.scoring import metrics
from psl_jax.training.metric_log import MetricLog

NASTY = 'Bow-wow, "loud" <script>alert(1)</script> & co'
VOID = {"meta", "input", "br", "line", "link", "img"}


class Page(html.parser.HTMLParser):
    """Parses a page, insisting that tags nest; collects text, attributes and drawings."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open, self.texts, self.attributes, self.tags = [], [], [], []
        self.feed(self.source)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.texts).split())
        self.drawings = [
            ElementTree.fromstring(svg)
            for svg in re.findall(r"<svg.*?</svg>", self.source, flags=re.DOTALL)
        ]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)


def label_quality(seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.random((60, 5, 4)) < 0.3
    soft = (0.6 * truth + 0.4 * rng.random(truth.shape)).astype(np.float16)
    weak = truth.any(axis=1)
    label_counts = metrics.count_labels(soft, np.full(60, 5), weak)
    flat = truth.reshape(-1, truth.shape[-1])
    scores = {"soft": soft.reshape(flat.shape), "weak": np.repeat(weak, 5, axis=0)}
    return {
        "segment_seconds": 2.0,
        "num_segments": 300,
        "segment_mAP": {
            name: metrics.mean_average_precision(flat, labels) for name, labels in scores.items()
        },
        "statistics": metrics.summarize_labels(label_counts),
    }


def make_run(folder, num_classes=30, quality=None):
    rng = np.random.default_rng(0)
    config = {"name": "psl2s", "seed": 3, "train": {"learning_rate": 1e-4, "mixup": False}}
    files.write_json(folder / "config.json", config)
    with MetricLog(folder) as log:
        for step in range(10, 2010, 10):
            log.write(step, {"loss": 1 / step, "learning_rate": 1e-4 * (1 - step / 3000)})
            if step % 200 == 0:
                log.write(step, {"val_mAP": [0.1, 0.3, 0.2, 0.4, 0.35][step // 200 % 5]})
    truth = rng.random((80, num_classes)) < 0.3
    truth[:, 1] = False
    scores = truth + rng.normal(size=truth.shape)
    names = [NASTY, *(f"class {i}" for i in range(1, num_classes))]
    summary = metrics.summarize(truth, scores, range(80))
    steps = {"averaged_steps": [600, 800, 1600, 1800]}  # the four best ones
    files.write_json(folder / "metrics.json", summary | steps)
    rows = metrics.tabulate_classes(truth, scores, names)
    files.write_csv(folder / "per_class.csv", metrics.PER_CLASS_HEADER, rows)
    if quality:
        files.write_json(folder / "label_quality.json", quality)
    return summary, rows


@pytest.fixture
def results():
    rows = {"teacher": (0.42, 10), "weak": (0.1769, 10)}
    rows |= {"psl10s": (0.3113, 10), "psl5s": (0.3411, 5), "psl2s": (0.35482, 2)}
    same = {"AUC": 0.9, "lwlrap": None, "num_clips": 1234, "clip_ids_sha256": "ab" * 32}
    same |= {"train_clips": 3000, "seconds": 61.0, "steps": 4000}
    experiments = [
        same
        | {"name": name, "mAP": value, "d_prime": 1 + value, "segment_seconds": length}
        | {"label": "soft" if "psl" in name else "weak", "train_segments": 30000 // length}
        for name, (value, length) in rows.items()
    ]
    return {
        "experiments": experiments,
        "label_quality": {name: label_quality(i) for i, name in enumerate(list(rows)[2:])},
        "paper": {"weak": 0.1769, "psl2s": 0.3548},
    }


def assert_self_contained(page):
    loading = ("src", "srcset", "data", "action", "poster")
    assert not [a for a in page.attributes if a[0] in loading]
    links = [value for name, value in page.attributes if name in ("href", "xlink:href")]
    assert not [link for link in links if re.match(r"\w+:|//|/", link)]
    assert not {"link", "img", "iframe", "object", "embed"} & set(page.tags)
    assert not re.search(r"https?://|url\((?!#)|@import|fetch\(", page.source)


# --- A run ----------------------------------------------------------------------------------


def test_run_report_holds_everything(tmp_path):
    summary, rows = make_run(tmp_path, quality=label_quality())
    defaults = {"name": "psl2s", "seed": 0, "train": {"learning_rate": 1e-4}}
    path = run_page.write_run_report(tmp_path, defaults)
    assert path == tmp_path / "report.html"
    page = Page(path)
    assert_self_contained(page)
    for expected in (
        result_tables.format_percent(summary["mAP"]),
        result_tables.format_decimal(summary["d_prime"]),
        summary["clip_ids_sha256"],
        "29 scored; 1 without a positive clip",
        "learning_rate 0.0001",
        "seed 3 default 0",
        "mixup False default none",
        "Training loss",
        "Validation mAP",
        "best 4",
        "Labels per clip",
        "Label coverage",
    ):
        assert expected in page.text, expected
    for name, ap, _, _ in rows:
        assert name in page.text
        assert result_tables.format_percent(ap) in page.text
    assert "not evaluated" not in page.text.lower()
    assert "alert(1)</script>" not in page.source and page.tags.count("script") == 1
    charts = [d for d in page.drawings if d.get("class") == "chart"]
    assert len(charts) == 4
    labels = {chart.get("aria-label"): [t.text for t in chart.iter("text")] for chart in charts}
    assert {"training step", "mAP (%)", "best 4", "500"} <= set(labels["Validation mAP"])
    assert {"labels a clip", "clips (%)", "weak", "soft"} <= set(labels["Labels per clip"])


def test_report_of_an_empty_folder(tmp_path):
    page = Page(run_page.write_run_report(tmp_path))
    for name in ("config.json", "train_log.jsonl", "metrics.json", "per_class.csv"):
        assert f"here is no {name}" in page.text
    assert "here is no label_quality.json" in page.text
    assert_self_contained(page)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", '{"mAP": '),
        ("config.json", "[1, 2]"),
        ("per_class.csv", "class,AP\na,0.5\n"),
        ("per_class.csv", "class,AP,AUC,num_positives\na,high,0.5,3\n"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=name):
        run_page.write_run_report(tmp_path)


def test_one_clip_run_without_auc(tmp_path):
    summary = metrics.summarize([[1, 0]], [[0.5, 0.1]], ["x"])
    files.write_json(tmp_path / "metrics.json", summary)
    page = Page(run_page.write_run_report(tmp_path))
    assert "100.00" in page.text
    assert "nan" not in page.text.lower()


# --- A suite --------------------------------------------------------------------------------


def test_suite_report_holds_everything(tmp_path, results):
    for experiment in results["experiments"][:3]:
        (tmp_path / experiment["name"]).mkdir()
        make_run(tmp_path / experiment["name"], num_classes=3)
        run_page.write_run_report(tmp_path / experiment["name"])
    page = Page(suite_page.write(tmp_path, json.loads(json.dumps(results))))
    assert_self_contained(page)
    for expected in (
        "35.48 % mAP psl2s",
        "+17.79 points from 17.69 %",
        "34.11",
        "1.355",
        "Validation mAP while training",
        "Labels per clip",
        "Label coverage",
        "ab" * 32,
    ):
        assert expected in page.text, expected
    links = [v for name, v in page.attributes if name == "href" and not v.startswith("#")]
    assert links == [f"{name}/report.html" for name in ("teacher", "weak", "psl10s")]
    assert len([d for d in page.drawings if d.get("class") == "chart"]) == 5


def test_the_headline_gain_is_over_the_reference(tmp_path, results):
    """Its interval is: of another difference it says nothing."""
    results["experiments"][-1]["over_reference"] = {"low": -0.1, "high": 0.2}
    del results["label_quality"]  # whose figures take long to draw
    page = Page(suite_page.write(tmp_path, results | {"reference": "psl5s"}))
    assert "over psl5s +1.37 points from 34.11 %; not told apart on these clips" in page.text


def test_weak_labels_that_are_best_are_called_no_student(tmp_path, results):
    results["experiments"][1]["mAP"] = 0.9
    del results["label_quality"]
    page = Page(suite_page.write(tmp_path, results))
    assert "best experiment 90.00 % mAP weak" in page.text


def test_suite_report_of_little(tmp_path):
    page = Page(suite_page.write(tmp_path, {"experiments": []}))
    assert "No experiment is finished yet" in page.text
    unfinished = {"experiments": [{"name": NASTY}, {"name": "weak", "mAP": 0.2}]}
    page = Page(suite_page.write(tmp_path, unfinished))
    assert NASTY in page.text
    assert "not scored" in page.text
    assert page.tags.count("script") == 1


def test_links_follow_run_dirs(tmp_path):
    run = tmp_path / "elsewhere" / "a #1"
    run.mkdir(parents=True)
    run_page.write_run_report(run)
    suite = tmp_path / "suite"
    suite.mkdir()
    results = {"experiments": [{"name": "x", "mAP": 0.5, "run_dirs": [str(run)]}]}
    page = Page(suite_page.write(suite, results))
    assert ("href", "../elsewhere/a%20%231/report.html") in page.attributes


def test_different_clips_are_warned_of(tmp_path, results):
    results["experiments"][1]["num_clips"] = 1200
    del results["label_quality"]
    text = result_tables.format_table(results)
    assert "WARNING: The experiments were evaluated on different clips" in text
    assert "eval clips" in text
    assert "weak 1,200" in text
    assert "different clips" in Page(suite_page.write(tmp_path, results)).text
    results["experiments"][1] |= {"num_clips": 1234, "clip_ids_sha256": "cd" * 32}
    assert "different clips" in result_tables.format_table(results)


def test_plain_table(results):
    lines = result_tables.format_table(results).splitlines()
    assert " ".join(lines[0].split()) == (
        "experiment labels segment mAP % vs weak paper % vs paper d' AUC clips segments steps time"
    )
    table = lines[2:7]
    assert "35.48 +17.79 35.48 +0.00 1.355" in " ".join(table[-1].split())
    assert "1 min 01 s" in table[0]
    column = lines[0].index("mAP %") + len("mAP %")
    assert [line[:column].split()[-1] for line in table] == [
        *("42.00", "17.69", "31.13", "34.11", "35.48"),
    ]
    assert lines[8] == "Evaluated on 1,234 clips (SHA-256 of their ids: abababababab…)."
    quality = results["label_quality"]["psl5s"]["segment_mAP"]
    assert result_tables.format_percent(quality["soft"]) in lines[-2]
    assert result_tables.format_percent(quality["weak"]) in lines[-2]


def test_intervals_and_spreads(results):
    """What may be chance is said in words; over seeds a mean has its spread behind it."""
    weak, psl2s = results["experiments"][1], results["experiments"][-1]
    psl2s |= {"over_reference": {"low": 0.15, "high": 0.2}, "mAP_spread": 0.0123}
    psl2s["gain_spread"] = 0.01
    results["experiments"][2]["over_reference"] = {"low": -0.01, "high": 0.2}
    results["experiments"][0]["over_reference"] = {"low": 0.31, "high": 0.32}  # the teacher's
    lines = result_tables.format_table(results).splitlines()
    assert "35.48 ± 1.23 +17.79 ± 1.00 +15.00 to +20.00 35.48" in " ".join(lines[6].split())
    assert "-1.00 to +20.00, not told apart" in lines[4]
    assert "+31.00" not in lines[2]  # whose gain is not told either
    assert "over_reference" not in weak and "not told apart" not in lines[3]


def test_label_quality_without_true_events(tmp_path):
    quality = label_quality()
    del quality["segment_mAP"]
    results = {"experiments": [{"name": "x", "mAP": 0.5}], "label_quality": {"x": quality}}
    assert "no true events" in Page(suite_page.write(tmp_path, results)).text


def test_durations():
    durations = {0: "0 s", 59.6: "1 min 00 s", 95: "1 min 35 s"}
    durations |= {1500: "25 min", 8000: "2 h 13 min"}
    assert {x: result_tables.format_duration(x) for x in durations} == durations
