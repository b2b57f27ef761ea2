"""Settings of earlier versions: which values an older folder may have, and which are refused."""

from collections.abc import Mapping
from typing import Any

from psl_jax.runtime.errors import UserError

LAST_COMMIT = "de85886"  # the last one that supports them, but for
_LAST_COMMITS = {"model.batch_norm": "5e5c1fb", "data.sounds": "373f4ba"} | dict.fromkeys(
    ("frontend.fft", "frontend.transform", "relabel.mean"), "0da9f9d"
)

# A removed setting -> the values with which an older run or label folder is still used, the default
# first. None: all of them, as the setting changes nothing by itself.
REMOVED: dict[str, tuple[Any, ...] | None] = {
    "evaluate.segment_seconds": (-1.0,),
    "data.reader": None,
    "data.reader_threads": None,
    "train.cache_features": ("auto", "off"),  # off: as where they do not fit into memory
    "train.resident": (False,),
    "train.steps_per_dispatch": None,
    "train.window_clips": (2048,),
    "relabel.overlap": (0.0,),
    "relabel.heard": (0.0,),
    "relabel.prior": (0.0,),
    "relabel.prior_recall": None,
    "relabel.calibrate": ("none",),
    "relabel.temperature": (1.0,),
    "relabel.top_k": (0,),
    "relabel.views": (1,),
    "relabel.view_seed": None,
    "model.batch_norm": ("global",),
    "num_devices": None,
    "frontend.fft": ("auto",),
    "frontend.transform": ("auto",),
    "relabel.mean": ("probabilities",),
    "data.sounds": ("all",),
}
# A setting of another name -> what it is called today.
RENAMED = {"data.max_clip_seconds": "data.clip_seconds"}
# A setting that stays -> the values that it had besides.
REMOVED_VALUES: dict[str, tuple[Any, ...]] = {"data.corpus": ("packed",)}


def check(values: Mapping[str, Any], where: object) -> None:
    """Raises UserError where the folder `where` was made with what was removed since."""
    for name, value in values.items():
        accepted = REMOVED.get(name)
        if value in REMOVED_VALUES.get(name, ()) or (accepted and value not in accepted):
            raise UserError(
                f"{where} was made with config.{name}={value!r}, which is not supported any more. "
                f"Continue it with commit {_last_commit(name)}, the last one that supports this, "
                "or make it anew in another folder"
            )


def message(name: str) -> str | None:
    """What to tell who gives a setting that was removed; None for another name."""
    if name in RENAMED:
        return f"config.{name} is now config.{RENAMED[name]}"
    if name not in REMOVED:
        return None
    return f"config.{name} was removed; commit {_last_commit(name)} is the last one that has it"


def _last_commit(name: str) -> str:
    return _LAST_COMMITS.get(name, LAST_COMMIT)
