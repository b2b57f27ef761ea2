"""The page on which a person decides which classes sound in segments, and stores decisions."""

import io
import itertools
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import soundfile
from fastapi import APIRouter, FastAPI, Query
from starlette.responses import JSONResponse, Response

from psl_jax.audio.segments import SAMPLE_RATE, flatten
from psl_jax.data.corrections import split_id
from psl_jax.data.decision_table import NO, OTHERS, RANDOM, YES, DecisionTable, drop_undone
from psl_jax.data.segment_loader import Segments
from psl_jax.reporting.audio_examples import draw_png
from psl_jax.scoring.segment_choice import ChosenSegment
from psl_jax.web.access import Access
from psl_jax.web.application import make_base, render, store_decision
from psl_jax.web.forms import SegmentForm
from psl_jax.web.service import RefusedError

_AROUND = 3.0  # seconds of the clip that can be heard before and after a segment
_AHEAD = 20  # segments that the page is told of at a time


class Span(NamedTuple):
    """What a decision is on: seconds of a recording or clip, as in the table."""

    filename: str
    onset: float
    offset: float


class Excerpt(NamedTuple):
    """The seconds of a clip that can be played around a segment; `shift`: the clip's own onset."""

    clip: int
    low: float
    high: float
    shift: float


Answers = dict[tuple[str, float, float], dict[str, str]]  # of each span {label: decision}


class Review:
    """The segments to decide on, and the decisions."""

    def __init__(
        self,
        segments: Segments,
        chosen: Sequence[ChosenSegment],
        table: DecisionTable,
        *,
        name: str,
    ):
        """name: of what the segments were chosen with, for people."""
        self.segments, self.chosen, self.table, self.name = segments, chosen, table, name
        index = segments.source.index
        self.classes, ids = index.classes, set(index.ids.tolist())
        self._spans: list[Span] = []
        self._excerpts: list[Excerpt] = []
        clips, numbers = segments.places(np.array([segment.number for segment in chosen]))
        times = zip(*segments.segmentation.compute_times(numbers), strict=True)
        for clip, (onset, offset) in zip(clips.tolist(), times, strict=True):
            clip_id, seconds = str(index.ids[clip]), float(index.num_samples[clip]) / SAMPLE_RATE
            recording, start = split_id(clip_id)
            if start is None or recording in ids:
                recording, start = clip_id, 0.0
            offset = min(offset, seconds)
            self._spans.append(Span(recording, round(start + onset, 3), round(start + offset, 3)))
            low, high = max(onset - _AROUND, 0.0), min(offset + _AROUND, seconds)
            self._excerpts.append(Excerpt(clip, low, high, start))

    def _collect_answers(self) -> Answers:
        """Collects the last decision on each label, by anybody, of each span."""
        answers: Answers = {}
        for decision in drop_undone(self.table.decisions):
            answers.setdefault(decision[:3], {})[decision.label] = decision.decision
        return answers

    def describe(self, place: int, answers: Answers) -> dict[str, Any]:
        """Describes a segment for the page."""
        span, excerpt, chosen = self._spans[place], self._excerpts[place], self.chosen[place]
        by_label = answers.get(span, {})
        names = [self.classes[label] for label in chosen.classes]
        names += [label for label in by_label if label not in (*names, OTHERS)]
        return span._asdict() | {
            "place": place,
            "excerpt": [excerpt.low + excerpt.shift, excerpt.high + excerpt.shift],
            "classes": [[name, by_label.get(name, "")] for name in names],
            "chosen": chosen.chosen,
        }

    def list_open(self, first: int) -> dict[str, Any]:
        """Lists the next segments from place `first` on that nobody has decided."""
        answers = self._collect_answers()
        places = (
            place for place in range(first, len(self._spans)) if not self._is_done(place, answers)
        )
        described = [self.describe(place, answers) for place in itertools.islice(places, _AHEAD)]
        return self._count(answers) | {"segments": described}

    def decide(self, form: SegmentForm) -> dict[str, Any]:
        """Stores a decision. Raises RefusedError."""
        self._check_place(form.place)
        store_decision(
            self.table,
            **self._spans[form.place]._asdict(),
            label=form.label,
            decision=form.decision,
            chosen=self.chosen[form.place].chosen,
        )
        return self._count(self._collect_answers())

    def undo(self) -> dict[str, Any]:
        """Takes back the last decision; returns its segment, or none where it is not one here."""
        try:
            undone = self.table.undo()
        except OSError as error:
            raise RefusedError(
                500, f"{self.table.path} cannot be written: {error}", "disk"
            ) from error
        answers = self._collect_answers()
        result = self._count(answers) | {"undone": undone and undone.label, "segment": None}
        if undone is not None and undone[:3] in self._spans:
            result["segment"] = self.describe(self._spans.index(Span(*undone[:3])), answers)
        return result

    def _is_done(self, place: int, answers: Answers) -> bool:
        by_label = answers.get(self._spans[place], {})
        asked = (self.classes[label] for label in self.chosen[place].classes)
        return OTHERS in by_label or all(name in by_label for name in asked)

    def _count(self, answers: Answers) -> dict[str, Any]:
        """Counts decided segments, and how often labels are right in those drawn at random."""
        done = [place for place in range(len(self._spans)) if self._is_done(place, answers)]
        decisions = [
            by_label.get(self.classes[label], by_label.get(OTHERS))
            for place in done
            if self.chosen[place].chosen == RANDOM
            for by_label in [answers[self._spans[place]]]
            for label in self.chosen[place].present
        ]
        right, wrong = decisions.count(YES), decisions.count(NO)
        return {
            "decided": len(done),
            "total": len(self._spans),
            "right": right,
            "named": right + wrong,
        }

    def read_excerpt(self, place: int) -> np.ndarray:
        """Reads the sound of a segment and what is around it: int16 [ticks, *tick_shape]."""
        self._check_place(place)
        clip, low, high, _ = self._excerpts[place]
        start, stop = round(low * SAMPLE_RATE), round(high * SAMPLE_RATE)
        source = self.segments.source
        samples = np.zeros((stop - start, *source.tick_shape), np.int16)
        rows = samples.reshape(1, *samples.shape)  # of samples[None], NumPy tells no stride
        source.read(np.array([clip]), np.array([start]), np.array([stop - start]), rows)
        return samples

    def _check_place(self, place: int) -> None:
        if not 0 <= place < len(self._spans):
            raise RefusedError(422, f"place: there are {len(self._spans)} segments", "setting")


def make_review(review: Review, access: Access) -> FastAPI:
    """Makes the web application of `psl-jax review`."""
    app = make_base(access)
    router = APIRouter(prefix="/review", dependencies=access.checks(api=False))

    @router.get("/queue")
    def queue(first: int = 0) -> Response:
        return JSONResponse(review.list_open(max(first, 0)))

    @router.get("/sound")
    def sound(place: int) -> Response:
        file = io.BytesIO()
        soundfile.write(file, *flatten(review.read_excerpt(place)), "PCM_16", format="WAV")
        return Response(file.getvalue(), media_type="audio/wav")

    @router.get("/picture")
    def picture(place: int) -> Response:
        return Response(draw_png(review.read_excerpt(place)), media_type="image/png")

    @router.post("/decide")
    def decide(form: Annotated[SegmentForm, Query()]) -> Response:
        return JSONResponse(review.decide(form))

    @router.post("/undo")
    def undo() -> Response:
        return JSONResponse(review.undo())

    app.include_router(router)

    @app.get("/")
    async def page() -> Response:
        index = review.segments.source.index
        return render(
            "review.html.jinja",
            name=review.name,
            split=index.split,
            seconds=review.segments.segmentation.seconds,
            table=str(review.table.path),
            who=review.table.who,
            about={"labels": list(review.classes)},
        )

    return app
