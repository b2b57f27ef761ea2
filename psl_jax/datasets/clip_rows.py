"""The clip of a row of a folder of one's own recordings. Needs neither TensorFlow nor TFDS."""

from collections.abc import Sequence

from psl_jax.datasets import records
from psl_jax.datasets.decoding import DecodeError, decode
from psl_jax.datasets.own_folder import ClipRow, Event
from psl_jax.datasets.problems import Problem
from psl_jax.segments import SAMPLE_RATE


def load_clip(row: ClipRow, max_seconds: float) -> records.Loaded:
    """Decodes the clip of a row, cut to `max_seconds`: pure and picklable.

    A file without usable audio gives no clip but its problem. A silent file is kept.
    """
    try:
        audio = decode(row.path, max_seconds)
    except DecodeError as error:
        return records.Loaded(None, (Problem(row.filename, error.kind, error.detail),))
    problems = []
    if audio.cut:
        whole = "" if audio.source_seconds is None else f" of {audio.source_seconds:.1f} s"
        problems.append(Problem(row.filename, "cut", f"the first {max_seconds:g} s{whole} kept"))
    if audio.silent:
        problems.append(Problem(row.filename, "silent", "every sample is zero; kept"))
    seconds = len(audio.samples) / SAMPLE_RATE
    events = None
    if row.events is not None:
        events, outside = _trim(row.events, seconds)
        if outside and not audio.cut:
            detail = f"{outside} begin after the end of the file ({seconds:.2f} s); left out"
            problems.append(Problem(row.filename, "bad event", detail))
    return records.Loaded(records.Clip(row.id, audio.samples, row.labels, events), tuple(problems))


def _trim(events: Sequence[Event], seconds: float) -> tuple[tuple[Event, ...], int]:
    """The events inside the first `seconds`, trimmed to them, and how many were outside."""
    inside = tuple((on, min(off, seconds), label) for on, off, label in events if on < seconds)
    return inside, len(events) - len(inside)
