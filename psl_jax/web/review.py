"""The page on which a person decides which classes sound in segments, and stores decisions."""

import io
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import soundfile
from fastapi import APIRouter, FastAPI, Query
from starlette.responses import JSONResponse, Response

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.data.corrections import split_id
from psl_jax.data.decision_table import NO, OTHERS, RANDOM, YES, DecisionTable, drop_undone
from psl_jax.data.segment_loader import Segments
from psl_jax.reporting.audio_examples import png, spectrogram_of
from psl_jax.scoring.segment_choice import ChosenSegment
from psl_jax.web.access import Access
from psl_jax.web.application import make_base, render, store_decision
from psl_jax.web.forms import SegmentForm
from psl_jax.web.service import RefusedError

_AROUND = 3.0  # seconds of the clip that can be heard before and after a segment
_AHEAD = 20  # segments that the page is told of at a time


class Review:
    """The segments to decide on, and what was decided."""

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

    @cached_property
    def _spans(self) -> list[tuple[str, float, float]]:
        """File name, onset and offset of each chosen segment, as in the table."""
        index, segmentation = self.segments.source.index, self.segments.segmentation
        clips, segments = self.segments.places(np.array([c.number for c in self.chosen]))
        onsets, offsets = segmentation.compute_times(segments)
        ends = np.minimum(offsets, index.num_samples[clips] / SAMPLE_RATE)
        ids = set(index.ids.tolist())
        spans = []
        for clip_id, onset, end in zip(index.ids[clips].tolist(), onsets, ends, strict=True):
            recording, start = split_id(clip_id)
            if start is None or recording in ids:
                recording, start = clip_id, 0.0
            spans.append((recording, round(start + onset, 3), round(start + end, 3)))
        return spans

    def _answers(self) -> dict[tuple[str, float, float], dict[str, str]]:
        """The last decision on each label, by anybody, of each stretch."""
        answers: dict[tuple[str, float, float], dict[str, str]] = {}
        for decision in drop_undone(self.table.decisions):
            answers.setdefault(decision[:3], {})[decision.label] = decision.decision
        return answers

    def describe(self, place: int, answers: dict[str, str]) -> dict[str, Any]:
        """A segment for the page."""
        (filename, onset, offset), chosen = self._spans[place], self.chosen[place]
        low, high, shift = self._excerpt(place)
        names = [self.segments.source.index.classes[label] for label in chosen.classes]
        names += [label for label in answers if label not in (*names, OTHERS)]
        return {
            "place": place,
            "filename": filename,
            "onset": onset,
            "offset": offset,
            "excerpt": [low + shift, high + shift],
            "classes": [[name, answers.get(name, "")] for name in names],
            "chosen": chosen.chosen,
        }

    def list_open(self, first: int) -> dict[str, Any]:
        """The next segments from place `first` on that nobody has decided, and the progress."""
        answers = self._answers()
        places = [
            place for place in range(first, len(self._spans)) if not self._is_done(place, answers)
        ]
        return self._count(answers) | {
            "segments": [
                self.describe(place, answers.get(self._spans[place], {}))
                for place in places[:_AHEAD]
            ]
        }

    def decide(self, form: SegmentForm) -> dict[str, Any]:
        """Stores a decision. Raises RefusedError."""
        if form.place >= len(self._spans):
            raise RefusedError(422, f"place: there are {len(self._spans)} segments", "setting")
        filename, onset, offset = self._spans[form.place]
        store_decision(
            self.table,
            filename=filename,
            onset=onset,
            offset=offset,
            label=form.label,
            decision=form.decision,
            chosen=self.chosen[form.place].chosen,
        )
        return self._count(self._answers())

    def undo(self) -> dict[str, Any]:
        """Takes back the last decision; returns its segment, or none where it is not one here."""
        try:
            undone = self.table.undo()
        except OSError as error:
            raise RefusedError(
                500, f"{self.table.path} cannot be written: {error}", "disk"
            ) from error
        answers = self._answers()
        result = self._count(answers) | {"undone": undone and undone.label, "segment": None}
        if undone is not None and undone[:3] in self._spans:
            place = self._spans.index(undone[:3])
            result["segment"] = self.describe(place, answers.get(undone[:3], {}))
        return result

    def _is_done(self, place: int, answers: dict[tuple[str, float, float], dict[str, str]]) -> bool:
        own, classes = answers.get(self._spans[place], {}), self.segments.source.index.classes
        return OTHERS in own or all(classes[k] in own for k in self.chosen[place].classes)

    def _count(self, answers: dict[tuple[str, float, float], dict[str, str]]) -> dict[str, Any]:
        """How many segments are decided, and how often labels are right in those at random."""
        done = [place for place in range(len(self._spans)) if self._is_done(place, answers)]
        classes, found = self.segments.source.index.classes, []
        for place in done:
            if self.chosen[place].chosen == RANDOM:
                own = answers[self._spans[place]]
                found += [own.get(classes[k], own.get(OTHERS)) for k in self.chosen[place].present]
        right, wrong = found.count(YES), found.count(NO)
        return {
            "decided": len(done),
            "total": len(self._spans),
            "right": right,
            "named": right + wrong,
        }

    def _excerpt(self, place: int) -> tuple[float, float, float]:
        """What can be heard of the clip: from, to, and the clip's start in its recording."""
        clip, segment = self.segments.places(np.array([self.chosen[place].number]))
        seconds = float(self.segments.source.index.num_samples[clip[0]]) / SAMPLE_RATE
        onset = float(self.segments.segmentation.compute_times(segment)[0][0])
        shift = self._spans[place][1] - onset
        offset = self._spans[place][2] - shift
        return max(onset - _AROUND, 0.0), min(offset + _AROUND, seconds), round(shift, 3)

    def read_excerpt(self, place: int) -> np.ndarray:
        """The sound of a segment and what is around it: int16 [samples]."""
        if not 0 <= place < len(self._spans):
            raise RefusedError(422, f"place: there are {len(self._spans)} segments", "setting")
        low, high, _ = self._excerpt(place)
        clip, _ = self.segments.places(np.array([self.chosen[place].number]))
        start, stop = round(low * SAMPLE_RATE), round(high * SAMPLE_RATE)
        samples: np.ndarray = np.zeros(stop - start, np.int16)
        self.segments.source.read(clip, np.array([start]), np.array([stop - start]), samples[None])
        return samples


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
        soundfile.write(file, review.read_excerpt(place), SAMPLE_RATE, "PCM_16", format="WAV")
        return Response(file.getvalue(), media_type="audio/wav")

    @router.get("/picture")
    def picture(place: int) -> Response:
        return Response(png(*spectrogram_of(review.read_excerpt(place))), media_type="image/png")

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
            about={"labels": list(index.classes)},
        )

    return app
