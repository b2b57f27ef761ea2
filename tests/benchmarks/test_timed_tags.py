"""F1 of tags with times: what sed_eval makes of events that are known."""

import dataclasses
import json

import numpy as np
import pytest
import synthetic_data
import tagging
import timed_tags

from psl_jax.data import split_index_files
from psl_jax.data.clip_index import ClipIndex
from psl_jax.runtime.errors import UserError

try:
    timed_tags._sed_eval()
except UserError:
    pytest.skip("sed_eval is not installed", allow_module_level=True)

ROWS = 32  # of 10 s
ON_GRID = 0.32 * np.arange(ROWS + 1) - 0.16  # where rows begin


def with_events(index: ClipIndex, events: list[list[tuple[float, float, int]]]) -> ClipIndex:
    every = [event for clip in events for event in clip]
    return dataclasses.replace(
        index,
        event_offsets=np.cumsum([0, *map(len, events)]).astype(np.int64),
        event_times=np.array([event[:2] for event in every], np.float32).reshape(-1, 2),
        event_values=np.array([event[2] for event in every], np.int32),
    )


@pytest.fixture(scope="module")
def index():
    """Two clips of 10 s, three classes of which two sound."""
    events = [
        [(ON_GRID[3], ON_GRID[9], 0), (ON_GRID[5], ON_GRID[8], 1)],
        [(ON_GRID[10], ON_GRID[20], 1)],
    ]
    return with_events(synthetic_data.make_index([2], 160_000), events)


def scores_of(index: ClipIndex, levels: tuple[float, ...]) -> list[np.ndarray]:
    """Frame scores that are `levels[class]` while an event sounds, else a tenth of it."""
    scores = [np.tile(np.float32(levels) / 10, (ROWS, 1)) for _ in range(len(index))]
    for rows, events in zip(scores, timed_tags.true_events(index), strict=True):
        for event in events:
            first, stop = (round((t + 0.16) / 0.32) for t in (event.onset, event.offset))
            label = index.classes.index(event.label)
            rows[first:stop, label] = levels[label]
    return scores


def by_threshold(index, scores):
    return {t: timed_tags.found_events(scores, index, t, 1) for t in timed_tags.THRESHOLDS}


@pytest.mark.parametrize("kind", timed_tags.KINDS)
def test_scores_that_follow_the_events_are_perfect(index, kind):
    found = by_threshold(index, scores_of(index, (0.92, 0.32, 0.2)))
    chosen = timed_tags.choose_thresholds(index, found, kind, 0.2)
    first, second, _ = index.classes
    assert (
        chosen[first] == 0.9 and chosen[second] == 0.3
    )  # of thresholds that separate, the highest
    result = timed_tags.compare(index, timed_tags.with_thresholds(found, chosen), kind, 0.2)
    assert result.macro == result.micro == 1
    assert timed_tags.compare(index, found[0.5], kind, 0.2).macro == 0.5  # class 1 is not found


def test_event_based_and_segment_based_differ_in_what_they_forgive(index):
    late = [
        [event._replace(onset=event.onset + 0.3) for event in clip]
        for clip in timed_tags.true_events(index)
    ]
    assert timed_tags.compare(index, late, "event", 0.2).macro == 0
    assert timed_tags.compare(index, late, "event", 0.4).macro == 1
    assert timed_tags.compare(index, late, "segment", 0.2).macro > 0.8
    assert timed_tags.compare(index, [[], []], "event", 0.2).macro == 0


def test_the_script(tmp_path, capsys):
    run, data = tagging.save(tmp_path / "run"), tmp_path / "data"
    data.mkdir()
    for split, seed in (("balanced", 1), ("eval", 2)):
        index = synthetic_data.make_index([2, 1], 64_000, num_classes=6, split=split)
        index = dataclasses.replace(index, classes=tagging.LABELS)
        index = with_events(index, [[(0.5, 1.5, 0)], [(1.0, 3.0, 2), (0.0, 4.0, 5)], []])
        audio = [tagging.recording(4.0, seed + i) for i in range(3)]
        synthetic_data.write_prepared(data, index, audio)
        written = split_index_files.load_index(data, split)  # without events: records hold none
        names = [f.name for f in dataclasses.fields(index) if f.name.startswith("event")]
        events = {name: getattr(index, name) for name in names}
        dataclasses.replace(written, **events).save(split_index_files.index_path(data, split))
    out = tmp_path / "out.json"
    arguments = ["timed_tags.py", run, f"--data_dir={data}", f"--out={out}"]
    timed_tags.main(timed_tags.parse(arguments))
    printed = capsys.readouterr().out
    assert "2 clips of eval, 3 events" in printed and "event F1" in printed
    (result,) = json.loads(out.read_text())["results"]
    for kind in timed_tags.KINDS:
        assert 0 <= result[kind]["macro"] <= 1
        assert set(result[kind]["thresholds"]) == set(tagging.LABELS)
    assert result["segment"]["macro"] > 0  # at low thresholds something is found


def test_scores_are_those_of_tag():
    index = synthetic_data.make_index([1, 1], [64_000, 40_000], num_classes=6)
    audio = [tagging.recording(n / 16_000, i) for i, n in enumerate(index.num_samples)]
    model = tagging.tagger()
    found = timed_tags.frame_scores(model, synthetic_data.MemorySource(index, audio))
    for rows, waveform in zip(found, audio, strict=True):
        expected = model.tag(waveform, 16_000, segment_seconds=2.0).frame_scores
        np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_data_without_events_is_refused(tmp_path):
    index = synthetic_data.make_index([2], 400, split="eval")
    synthetic_data.write_prepared(tmp_path, index, synthetic_data.make_audio(index), "eval")
    with pytest.raises(UserError, match="has no true events"):
        timed_tags.open_split(str(tmp_path), "eval")
