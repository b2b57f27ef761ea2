"""What somebody should know of an experiment before believing its figures.

Small data works, but a network that made twenty steps, or that was scored on clips that it was
trained on, gives figures that say little. Each such thing is a note: printed where it is seen, kept
in the run folder, and shown in the report.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from psl_jax.config import Settings
from psl_jax.data.clip_index import ClipIndex, shared_clips

FEW_STEPS = 200
FEW_EVALUATED = 50  # clips
_EMPTY = 0.9  # share of clips without a soft label from which on labels are called empty
_FLOOD = 5  # times as many soft labels as weak ones, of segments of
_SHORTEST_JUDGED = 1.0  # seconds or more


def before_training(
    settings: Settings, indices: Mapping[str, ClipIndex], *, steps: int
) -> Iterator[str]:
    """Yields notes on an experiment that is about to be trained for `steps` steps.

    indices: by the name of the setting in config.data.
    """
    train = indices["train_split"]
    if steps < FEW_STEPS:
        yield (
            f"only {steps} steps of training (fewer than {FEW_STEPS}): what it learns in them is "
            "little; give more clips, or more train.epochs or train.min_steps"
        )
    if (validation := indices.get("validation_split")) is not None:
        yield from _of_validation(train, validation)
    if (evaluated := indices.get("eval_split")) is not None:
        yield from _of_evaluation(train, evaluated)
    if settings.augmentation != settings.augment:
        yield (
            f"width {settings.model.width:g} is below augment.min_width "
            f"{settings.augment.min_width:g}: trained without masks and mixup"
        )
    rates = train.sample_rate, settings.architecture.sample_rate
    if rates[0] != rates[1]:
        yield (
            f"the data are at {rates[0] // 1000} kHz and the network takes {rates[1] // 1000} "
            f"kHz: audio is resampled on the fly, and nothing above {min(rates) // 2000} kHz "
            "counts"
        )


def _of_validation(train: ClipIndex, validation: ClipIndex) -> Iterator[str]:
    if not validation.is_labelled:
        yield (
            f"no validation, as split {validation.split!r} has no labels: training does not stop "
            "early, and its last checkpoints are averaged instead of the best"
        )
    elif len(shared := _shared_clips(train, validation)) >= max(len(validation), 1):
        yield (
            "validated on clips that it is trained on, as in the paper: its validation mAP says "
            "little about other clips, and the best checkpoints are chosen by it"
        )
    elif len(shared):
        yield _describe_copies(train, validation, shared)


def _of_evaluation(train: ClipIndex, evaluated: ClipIndex) -> Iterator[str]:
    if not evaluated.is_labelled:
        yield (
            f"no evaluation, as split {evaluated.split!r} has no labels; psl-jax evaluate measures "
            "the model on labelled clips"
        )
        return
    if len(shared := _shared_clips(train, evaluated)):
        yield _describe_copies(train, evaluated, shared)
    if len(evaluated) < FEW_EVALUATED:
        yield f"evaluated on {len(evaluated)} clips only: figures may be off by much"


def _shared_clips(train: ClipIndex, other: ClipIndex) -> np.ndarray:
    """Pairs of clips [N, 2] of both, each of the other split once."""
    shared = shared_clips(train, other)
    return shared[np.unique(shared[:, 1], return_index=True)[1]]


def _describe_copies(train: ClipIndex, other: ClipIndex, shared: np.ndarray) -> str:
    a, b = train.ids[shared[0, 0]], other.ids[shared[0, 1]]
    return (
        f"{len(shared)} of the {len(other)} clips of split {other.split!r} are among the training "
        f"clips, by id or audio, such as {a if a == b else f'{a} and {b}'}: their scores are too "
        "good. Delete such copies, or move them into one split"
    )


def of_labels(quality: Mapping[str, Any]) -> list[str]:
    """Notes on soft labels, from their statistics (see metrics.summarize_labels)."""
    statistics = quality["statistics"]
    empty = statistics["share_without_labels"]["soft"]
    soft, weak = (statistics["mean_labels"][kind] for kind in ("soft", "weak"))
    threshold = statistics["threshold"]
    notes = []
    if empty >= _EMPTY:
        notes.append(
            f"{100 * empty:.0f} % of the clips have no soft label above {threshold:g}: the teacher "
            "is unsure of nearly everything, and a student learns little else from it"
        )
    # Of frames a clip has many, and any of them may be over the threshold for once.
    if soft > _FLOOD * max(weak, 1) and quality["segment_seconds"] >= _SHORTEST_JUDGED:
        notes.append(
            f"{soft:.0f} soft labels a clip above {threshold:g}, where there are {weak:.1f} weak "
            "ones: the teacher says yes to nearly everything"
        )
    return notes
