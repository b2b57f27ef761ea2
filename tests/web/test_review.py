"""A person decides on segments: which come first, and the page, by keys."""

import contextlib
import dataclasses
import io
import os
import signal
import subprocess
import sys

import browser
import forked_python
import numpy as np
import pytest
import small_experiments
import soundfile
import synthetic_data
from serving import served, wait_for

from psl_jax.audio.segments import Segmentation, by_ticks
from psl_jax.commands import review, serve
from psl_jax.data.corrections import Corrections
from psl_jax.data.decision_table import DecisionTable, read_decisions
from psl_jax.data.segment_loader import Segments
from psl_jax.data.source import Source, open_folder
from psl_jax.runtime.errors import UserError
from psl_jax.scoring import segment_choice
from psl_jax.web import application
from psl_jax.web.service import RefusedError
from psl_jax.weights.load_model import load_model

pytest.importorskip("uvicorn", reason="needs the [serve] extra")
testclient = pytest.importorskip("fastapi.testclient", reason="needs the [serve] extra")

# --- Which segments come first ----------------------------------------------------------------


def choose(scores, labels, random_share=0.0, thresholds=0.5):
    scores, labels = np.array(scores), np.array(labels)
    limits = np.full(scores.shape[1], thresholds)
    return segment_choice.choose_useful(
        np.arange(len(scores)) + 10, scores, labels, thresholds=limits, random_share=random_share
    )


def test_scores_near_the_threshold_and_at_odds_come_first():
    scores = [[0.01], [0.99], [0.2], [0.9], [0.02]]
    labels = [[0.01], [0.99], [0.2], [0.1], [0.02]]
    assert [c.number for c in choose(scores, labels)] == [13, 12, 14, 11, 10]
    near = choose(labels, labels, thresholds=0.02)
    assert near[0].number == 14
    assert choose(scores, labels)[0].present == () and choose(scores, labels)[3].present == (0,)


def test_rare_classes_come_first_and_likely_ones_are_asked_for():
    scores = np.full((20, 2), 0.01)
    scores[:19, 0] = 0.3
    scores[19, 1] = 0.3
    chosen = choose(scores, scores)
    assert chosen[0].number == 29 and chosen[0].classes == (1,)
    assert {c.classes for c in chosen[1:]} == {(0,)}


def test_a_share_is_drawn_at_random_and_no_segment_twice():
    scores = np.random.default_rng(0).uniform(size=(1000, 3))
    chosen = choose(scores, scores, random_share=0.3)
    assert sorted(c.number for c in chosen) == list(range(10, 1010))
    at_random = [c.number for c in chosen if c.chosen == "random"]
    assert 0.2 < len(at_random) / 1000 < 0.4
    # Those at random are as useful as all are.
    spread = np.std(scores[np.array(at_random) - 10])
    assert abs(spread - np.std(scores)) < 0.05
    assert choose(scores, scores, random_share=0.3) == chosen


def test_the_segments_nearest_to_an_example_come_first():
    embeddings = np.array([[1, 0], [0, 2], [3, 3.0], [-1, 0]])
    chosen = segment_choice.choose_similar(np.arange(4), embeddings, np.array([0, 5.0]), 1)
    assert [c.number for c in chosen] == [1, 2, 0, 3] and chosen[0].classes == (1,)


# --- The page ---------------------------------------------------------------------------------


def make_page(folder, chosen, who="ann", source=None):
    from psl_jax.web.access import Access
    from psl_jax.web.review import Review, make_review

    index = synthetic_data.make_index([4], 160_000, [[0], [1], [2], []])
    segments = Segments(source or synthetic_data.MemorySource(index), Segmentation(2.0))
    table = DecisionTable(folder / "corrections.csv", who)
    return make_review(Review(segments, chosen, table, name="a run"), Access())


CHOSEN = [
    segment_choice.ChosenSegment(1, (0, 2), "useful"),
    segment_choice.ChosenSegment(7, (1,), "random", (1,)),
    segment_choice.ChosenSegment(14, (2,), "useful"),
]


@pytest.fixture
def driver(tmp_path):
    with browser.opened(tmp_path) as driver:
        browser.resize(driver, 1280)
        yield driver


def text(driver, name):
    return driver.execute_script("return document.getElementById(arguments[0]).textContent", name)


def press(driver, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(driver).send_keys(*keys).perform()


def open_page(driver, port, first):
    driver.get(f"http://127.0.0.1:{port}/")
    wait_for(lambda: text(driver, "where") == first)


# A server of the page on its stdin, a socket, that is killed before it answers to a decision.
KILLED = """
import os, pathlib, signal, socket, test_review, uvicorn
page = test_review.make_page(pathlib.Path(), test_review.CHOSEN)
os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)
uvicorn.Server(uvicorn.Config(page, log_level="error")).run(sockets=[socket.socket(fileno=0)])
"""


@contextlib.contextmanager
def killed_server(folder):
    """The port of such a server, which works in `folder`; it has ended afterwards."""
    command = [forked_python.path(), "-c", KILLED]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    with contextlib.closing(serve.listen("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = subprocess.Popen(command, stdin=listener, cwd=folder, env=variables)
    with process:
        yield port
        assert process.wait(60) == -signal.SIGKILL


def test_segments_are_decided_by_keys_alone_and_go_on_where_they_were(driver, tmp_path):
    from selenium.webdriver import Keys

    def progress(count, more=""):
        said = f"{count} of 3 segments decided.{more}"
        return wait_for(lambda: text(driver, "progress") == said)

    first, second = "-clip_0 0:02.0 to 0:04.0", "-clip_1 0:04.0 to 0:06.0"
    with killed_server(tmp_path) as port:
        open_page(driver, port, first)
        press(driver, "y")
        wait_for(lambda: text(driver, "status").startswith("The server cannot be reached."))
    driver.get_log("browser")
    # The decision is in the table, and is stored once, though the person repeats it.
    with served(make_page(tmp_path, CHOSEN)) as port:
        open_page(driver, port, first)
        press(driver, "y", "u", "o")
        press(driver, "CLASS 1", Keys.ENTER, Keys.ENTER)
        wait_for(lambda: text(driver, "where") == second)
        progress(1)
        press(driver, "n")
        right = " Of those drawn at random, the labels are right in 0 of 1 classes that they name."
        progress(2, right)
        press(driver, "z")
        progress(1)
        press(driver, "z")
        wait_for(lambda: text(driver, "where") == first)
        press(driver, "n")
        wait_for(lambda: len(read_decisions(tmp_path / "corrections.csv")) == 8)
        assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []
    decided = Corrections.read(str(tmp_path / "corrections.csv")).decisions
    assert [(d.label, d.decision, d.who, d.chosen) for d in decided] == [
        ("class 0", "yes", "ann", "useful"),
        ("class 2", "unsure", "ann", "useful"),
        ("class 1", "yes", "ann", "useful"),
        ("class 0", "no", "ann", "useful"),
    ]
    assert decided[0][:3] == ("-clip_0", 2.0, 4.0)
    # Another person goes on with what nobody has decided.
    with served(make_page(tmp_path, CHOSEN, "bo")) as port:
        open_page(driver, port, second)
        press(driver, Keys.ARROW_RIGHT)
        wait_for(lambda: text(driver, "where") == "-clip_2 0:08.0 to 0:10.0")
        press(driver, "z")
        wait_for(lambda: text(driver, "status") == "There is nothing to undo.")


def client_of(page):
    return testclient.TestClient(page, base_url="http://127.0.0.1")


def test_what_is_wrong_is_said(tmp_path):
    client = client_of(make_page(tmp_path, CHOSEN))
    answer = client.post("/review/decide?place=3&label=x&decision=yes")
    assert answer.status_code == 422 and answer.json()["error"] == "place: there are 3 segments"
    answer = client.post("/review/decide?place=0&label=x&decision=maybe")
    assert answer.status_code == 422 and "decision" in answer.json()["error"]
    foreign = client.post("/review/undo", headers={"Origin": "https://example.org"})
    assert foreign.status_code == 403


def test_what_the_table_could_not_be_read_with_is_refused(tmp_path):
    path = tmp_path / "decisions.csv"
    table = DecisionTable(path, who="two\nlines")
    decision = {"filename": "a", "onset": 1.0, "offset": 2.0, "label": "dog", "decision": "yes"}
    wrong = {"filename": ("a\nb", "a\u2028b"), "label": (" \u200b", "*"), "offset": (1.0001,)}
    for name, value in ((name, value) for name, values in wrong.items() for value in values):
        with pytest.raises(RefusedError):
            application.store_decision(table, **decision | {name: value})
    application.store_decision(table, **decision)
    assert [(line.label, line.who) for line in read_decisions(path)] == [("dog", "two lines")]


@pytest.mark.parametrize("rate", [16_000, 32_000])
def test_a_segment_is_heard_and_drawn_at_the_rate_of_the_data(tmp_path, rate):
    index = dataclasses.replace(synthetic_data.make_index([4], 160_000), sample_rate=rate)
    noise = np.random.default_rng(0).integers(-9999, 9999, (4, 10 * rate)).astype(np.int16)
    synthetic_data.write_prepared(tmp_path, index, [by_ticks(samples, rate) for samples in noise])
    client = client_of(make_page(tmp_path, CHOSEN, source=Source.open(tmp_path, "train")))
    sound = io.BytesIO(client.get("/review/sound?place=0").content)
    samples, heard_rate = soundfile.read(sound, dtype="int16")
    np.testing.assert_array_equal(samples, noise[0, : 7 * rate])
    assert heard_rate == rate
    assert client.get("/review/picture?place=2").content.startswith(b"\x89PNG")


# --- The command ------------------------------------------------------------------------------


def test_the_command_scores_segments_and_goes_on_after_the_table(tmp_path, monkeypatch):
    data = small_experiments.write_data(tmp_path / "data")
    run = small_experiments.save_model(tmp_path / "run")
    pages = []
    monkeypatch.setattr(serve, "run_server", lambda app, *_: pages.append(app))

    def start(*more):
        options = ["--split=eval", "--port=0", f"--out={tmp_path / 'mine.csv'}", "--who=ann"]
        review.main(review.parse(["review", str(run), str(data), *options, *more]))
        return client_of(pages[-1])

    page = start()
    before = page.get("/review/queue").json()
    assert (before["decided"], before["total"]) == (0, 10)
    decided = page.post("/review/decide?place=0&label=*&decision=no").json()
    assert decided["decided"] == 1
    left = start().get("/review/queue").json()["segments"]
    assert [s["place"] for s in left] == [s["place"] for s in before["segments"][1:]]
    # The segments nearest to an example.
    example = tmp_path / "sound.npz"
    segments = Segments(open_folder(data, "eval"), Segmentation(1.0))
    embeddings = segment_choice.score_segments(
        load_model(run), segments, np.arange(10), "embeddings"
    )
    np.savez(example, embedding=embeddings[7])
    near = start(f"--example={example}", "--label=CLASS 2").get("/review/queue").json()["segments"]
    clips, places = segments.places(np.array([7]))
    assert near[0]["filename"] == segments.source.index.ids[clips[0]]
    assert near[0]["onset"] == places[0] and near[0]["classes"] == [["class 2", ""]]
    np.savez(example, embedding=np.zeros(7))
    with pytest.raises(UserError, match="its embedding has 7 values, the run's have"):
        start(f"--example={example}", "--label=class 2")
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(example.read_bytes()[:100])
    with pytest.raises(UserError, match=r"damaged\.npz: .*; expected a file that psl-jax tag"):
        start(f"--example={damaged}", "--label=class 2")
    with pytest.raises(UserError, match=r"--label=clas 2: the data have no such class \(near"):
        start(f"--example={example}", "--label=clas 2")
