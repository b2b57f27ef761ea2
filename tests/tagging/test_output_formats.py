import tracemalloc

import numpy as np
import tagging

from psl_jax.tagging import file_tagging
from psl_jax.tagging.events import Event
from psl_jax.tagging.file_tagging import FileTags, Input
from psl_jax.tagging.output_formats import choose_output_paths, format_clock, format_table


def test_clock():
    assert [format_clock(x) for x in (0, 3.24, 59.96)] == ["0:00.0", "0:03.2", "1:00.0"]
    assert format_clock(3599.96) == "1:00:00.0"
    assert [format_clock(x, 0) for x in (0, 61.4, 3661)] == ["0:00", "1:01", "1:01:01"]


def test_names_of_outputs_do_not_collide_in_any_order(tmp_path):
    names = ["a.wav", "a.flac", "b.wav", "b.wav", "deep/a.wav", "c"]
    inputs = [Input(f"/{i}/{name}", name) for i, name in enumerate(names)]
    expected = ["a.wav.csv", "a.flac.csv", "2/b.csv", "3/b.csv", "deep/a.csv", "c.csv"]
    for order in (inputs, inputs[::-1]):
        found = choose_output_paths(tmp_path, order, ".csv")
        assert [str(found[item].relative_to(tmp_path)) for item in inputs] == expected


def tags_of(labels, seconds=1.0, events=()):
    """Of a file; the first label has the highest score."""
    scores = np.linspace(0.9, 0.1, len(labels), dtype=np.float32)
    return FileTags(
        labels, scores, scores[None], np.zeros(1), seconds,
        input=Input("x.wav", "x.wav"), found_events=list(events),
    )  # fmt: skip


def test_table_with_long_labels_and_no_events():
    lines = format_table(tags_of(("z" * 70, "b"), 3700.0), 5).splitlines()
    assert lines[0] == "x.wav  (1:01:40.0)" and lines[2].endswith("z…")
    assert max(map(len, lines)) < 70


def test_names_with_commas_stay_apart_in_a_table():
    names = ("Vehicle horn, car horn", "Rain, drizzle")
    events = [Event(0.0, 1.0, name, 0.9) for name in names]
    last = format_table(tags_of(("dog", *names), events=events), 1).splitlines()[-2]
    assert last == "  also, at times: Vehicle horn, car horn; Rain, drizzle"


def test_memory_does_not_grow_with_length():
    """The scores over time of a file lie on disk."""
    file = file_tagging.OpenFile(Input("x.wav", "x.wav"), tagging.tagger())
    rows = np.zeros((5_000, len(tagging.LABELS)), np.float32)
    tracemalloc.start()
    for number in range(40):
        file.add(rows, 1600.0 * number)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * rows.nbytes
