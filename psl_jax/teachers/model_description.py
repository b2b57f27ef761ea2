"""Reads a small TOML or JSON file that describes a model file of another runtime."""

import dataclasses
import json
import os
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

from psl_jax.networks.class_lists import near_names
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.settings import check, list_settings, setting
from psl_jax.teachers import host_logmel
from psl_jax.teachers.host_logmel import Spectrum

_SUFFIXES = (".toml", ".json")


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """What a description says of inputs and outputs, besides `file`, `classes` and `logmel`."""

    rate: int = setting(16_000, least=4000, most=192_000, help="Sample rate of the input in Hz")
    input: str = setting("waveform", choices=("waveform", "logmel"), help="What the input is")
    scale: float = setting(1.0, help="Factor of a waveform in [-1, 1]")
    outputs: str = setting(
        "probabilities", choices=("probabilities", "logits"), help="What the output is"
    )
    output: str = setting("", help="Name of the output; empty: the first")
    patch: int = setting(
        0, least=1, help="Length of the input in samples or frames; default: that of a fixed input"
    )
    patch_hop: int = setting(0, least=1, help="From one patch to the next; default: half of it")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description(ModelSettings):
    """Inputs and outputs of a model file.

    Attributes:
      file: the model.
      classes: CSV of its classes, or their names; empty: those in the file, or AudioSet's.
      spectrum: settings of log-mel input.
      is_given: whether the user gave a description; else it is made of defaults.
    """

    file: pathlib.Path
    classes: str | tuple[str, ...] = ()
    spectrum: Spectrum | None = None
    is_given: bool = False

    def as_json(self) -> dict[str, Any]:
        """Values that change the scores; a new key without effect must not change the digest."""
        values = dataclasses.asdict(self) | {"file": None, "classes": None, "given": None}
        del values["is_given"]
        if self.spectrum is not None and not self.spectrum.top_db:
            del values["spectrum"]["top_db"]
        return values


def find_description(path: str) -> Description:
    """Reads the description `path`, or that beside the model `path`: FILE.toml or FILE.json.

    Raises UserError for a missing file, and for unknown keys and values.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise UserError(f"{path}: there is no such file")
    if file.suffix in _SUFFIXES:
        return _read_description(file, None)
    beside = (pathlib.Path(f"{path}{suffix}") for suffix in _SUFFIXES)
    description = next((candidate for candidate in beside if candidate.is_file()), None)
    return _read_description(description, file) if description else Description(file=file)


def _read_description(path: pathlib.Path, model: pathlib.Path | None) -> Description:
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} as a description of a teacher: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values, found {values!r:.60}")
    settings = dict(values)
    file_name, logmel = settings.pop("file", None), settings.pop("logmel", None)
    classes = settings.pop("classes", ())
    _check(ModelSettings, settings, f"{path}: ", ("file", "classes", "logmel"))
    if model is None and not isinstance(file_name, str):
        raise UserError(f'{path}: give the model as file = "MODEL.onnx" (beside it)')
    spectrum = None if logmel is None else _make_spectrum(logmel, path)
    if spectrum is not None:
        settings.setdefault("input", "logmel")
    if settings.get("input") == "logmel" and spectrum is None:
        raise UserError(f'{path}: input = "logmel" needs logmel, "yamnet", "panns" or a table')
    if isinstance(classes, str):
        classes = os.fspath(path.parent / classes)
    elif isinstance(classes, (list, tuple)):
        classes = tuple(map(str, classes))
    else:
        raise UserError(f"{path}: classes is {classes!r}, expected a CSV or a list of names")
    file = model or path.parent / str(file_name)
    if not file.is_file():
        raise UserError(f"{path}: there is no {file}")
    return Description(file=file, classes=classes, spectrum=spectrum, is_given=True, **settings)


def _make_spectrum(value: Any, path: pathlib.Path) -> Spectrum:
    """Makes the settings of a preset's name, or of a table with `like` and the differences."""
    table = {"like": value} if isinstance(value, str) else value
    if not isinstance(table, dict):
        raise UserError(f"{path}: logmel is {value!r}, expected a name or a table")
    changes = dict(table)
    preset = changes.pop("like", "yamnet")
    if preset not in host_logmel.PRESETS:
        raise UserError(f"{path}: logmel {preset!r}: expected {' or '.join(host_logmel.PRESETS)}")
    _check(Spectrum, changes, f"{path}: logmel.", ("like",))
    return dataclasses.replace(host_logmel.PRESETS[preset], **changes)


def _check(owner: type, values: Mapping[str, Any], where: str, other_keys: tuple[str, ...]) -> None:
    """Raises UserError for a key that is no setting of `owner`, and for a value that is wrong."""
    infos = dict(list_settings(owner))
    for key, value in values.items():
        if key not in infos:
            keys = [*infos, *other_keys]
            raise UserError(
                f"{where}unknown key {key!r}{near_names(key, keys)}; known: {', '.join(keys)}"
            )
        check(key, value, infos[key], where)
