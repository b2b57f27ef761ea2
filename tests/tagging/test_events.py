"""Events: thresholds and median filter."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from psl_jax.runtime.errors import UserError
from psl_jax.tagging import events
from psl_jax.tagging.events import EventSettings, find_events


def expected(rows: np.ndarray, settings: EventSettings) -> list[tuple]:
    """The definition, written out: runs at or above the threshold."""
    rows = ndimage.median_filter(rows, (settings.median_filter, 1), mode="nearest")
    events = []
    for label, column in enumerate(rows.T):
        for above, indexed in itertools.groupby(
            enumerate(column), lambda x: x[1] >= np.float32(settings.threshold)
        ):
            run = [i for i, _ in indexed]
            if above:
                last = run[-1] == len(column) - 1
                onset = max(run[0] - 0.5, 0) * 0.32
                offset = (run[-1] + (1.0 if last else 0.5)) * 0.32
                events.append((onset, offset, label, column[run].max()))
    return sorted(events)


@pytest.mark.parametrize("median", [1, 3, 7])
@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_events_are_those_of_the_definition(median, threshold, monkeypatch):
    monkeypatch.setattr(events, "_CLASSES_AT_ONCE", 3)
    rng = np.random.default_rng(median)
    settings = EventSettings(threshold, median)
    for length in [1, 2, 3, 5, 40, 400]:
        steps = rng.normal(scale=0.2, size=(length, 4)).cumsum(axis=0)
        rows = (1 / (1 + np.exp(-steps))).astype(np.float32)
        found = find_events(rows, settings, list("0123"), length * 0.32)
        wanted = np.array(expected(rows, settings)).reshape(-1, 4)
        np.testing.assert_allclose(np.array(found, float).reshape(-1, 4), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0}, "threshold is 0"),
        ({"threshold": 1.5}, "at most 1"),
        ({"median_filter": 4}, "odd"),
        ({"median_filter": 0}, "odd"),
        ({"median_filter": 2.5}, "odd"),
        ({"median_filter": 10**9 + 1}, "up to 9999"),
        ({"median_filter": "3"}, "median_filter is '3', expected a number"),
        ({"threshold": "0.5"}, "threshold is '0.5', expected a number"),
        ({"threshold": [0.5, 0.5]}, "expected a number"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        EventSettings(**settings)
