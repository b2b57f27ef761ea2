"""Reads a small TOML or JSON file that describes a model file of another runtime."""

import dataclasses
import difflib
import json
import os
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

from psl_jax.runtime.errors import UserError
from psl_jax.teachers import host_logmel
from psl_jax.teachers.host_logmel import Spectrum

_SUFFIXES = (".toml", ".json")
_RATES = (4000, 192_000)


@dataclasses.dataclass(frozen=True)
class Description:
    """Inputs and outputs of a model file.

    Attributes:
      file: the model.
      rate: sample rate of its input in Hz.
      input: "waveform" or "logmel".
      scale: factor of a waveform in [-1, 1].
      outputs: "probabilities" or "logits".
      output: name of the output; "": the first.
      classes: CSV of its classes, or their names; empty: those in the file, or AudioSet's.
      patch, patch_hop: length of its input in samples or frames, and the hop from one to the next;
        by default the size of a fixed input, and half of it.
      spectrum: settings of log-mel input.
      is_given: whether the user gave a description.
    """

    file: pathlib.Path
    rate: int = 16_000
    input: str = "waveform"
    scale: float = 1.0
    outputs: str = "probabilities"
    output: str = ""
    classes: str | tuple[str, ...] = ()
    patch: int = 0
    patch_hop: int = 0
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
    return _read_description(description, file) if description else Description(file)


def _read_description(path: pathlib.Path, model: pathlib.Path | None) -> Description:
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} as a description of a teacher: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values, found {values!r:.60}")
    fields = {field.name for field in dataclasses.fields(Description)}
    known_keys = fields - {"spectrum", "is_given"} | {"logmel"}
    for key in sorted(values.keys() - known_keys):
        similar = difflib.get_close_matches(key, sorted(known_keys), 1)
        hint = f", did you mean {similar[0]}?" if similar else ""
        known = ", ".join(sorted(known_keys))
        raise UserError(f"{path}: unknown key {key!r}{hint} (known: {known})")
    settings = dict(values)
    file_name = settings.pop("file", None)
    if model is None and not isinstance(file_name, str):
        raise UserError(f'{path}: give the model as file = "MODEL.onnx" (beside it)')
    spectrum = _make_spectrum(settings.pop("logmel", None), path)
    if spectrum is not None:
        settings.setdefault("input", "logmel")
    if settings.get("input") == "logmel" and spectrum is None:
        raise UserError(f'{path}: input = "logmel" needs logmel, "yamnet", "panns" or a table')
    classes = settings.get("classes", ())
    if isinstance(classes, str):
        settings["classes"] = os.fspath(path.parent / classes)
    elif isinstance(classes, (list, tuple)):
        settings["classes"] = tuple(map(str, classes))
    else:
        raise UserError(f"{path}: classes is {classes!r}, expected a CSV or a list of names")
    _check(settings, path)
    file = model or path.parent / str(file_name)
    if not file.is_file():
        raise UserError(f"{path}: there is no {file}")
    return Description(file, spectrum=spectrum, is_given=True, **settings)


def _check(values: Mapping[str, Any], path: pathlib.Path) -> None:
    choices = {"input": ("waveform", "logmel"), "outputs": ("probabilities", "logits")}
    for name, allowed in choices.items():
        if values.get(name, allowed[0]) not in allowed:
            raise UserError(f"{path}: {name} is {values[name]!r}, expected {' or '.join(allowed)}")
    for name in ("rate", "patch", "patch_hop"):
        if type(values.get(name, 1)) is not int or values.get(name, 1) < 1:
            raise UserError(f"{path}: {name} is {values[name]!r}, expected a whole number above 0")
    if not _RATES[0] <= values.get("rate", _RATES[0]) <= _RATES[1]:
        raise UserError(f"{path}: rate is {values['rate']}, expected samples a second, as 32000")
    if not isinstance(values.get("scale", 1.0), int | float):
        raise UserError(f"{path}: scale is {values['scale']!r}, expected a number such as 32768")


def _make_spectrum(value: Any, path: pathlib.Path) -> Spectrum | None:
    """Makes the settings of a preset's name, or of a table with `like` and the differences."""
    if value is None:
        return None
    table = {"like": value} if isinstance(value, str) else value
    known_keys = {field.name for field in dataclasses.fields(Spectrum)}
    if not isinstance(table, dict) or (unknown := sorted(table.keys() - known_keys - {"like"})):
        example = unknown[0] if isinstance(table, dict) else table
        raise UserError(
            f"{path}: logmel: unknown {example!r}; known: like, {', '.join(sorted(known_keys))}"
        )
    changes = dict(table)
    preset = changes.pop("like", "yamnet")
    if preset not in host_logmel.PRESETS:
        raise UserError(f"{path}: logmel {preset!r}: expected {' or '.join(host_logmel.PRESETS)}")
    for name, choices in host_logmel.CHOICES.items():
        if name in changes and changes[name] not in choices:
            allowed = ", ".join(map(str, choices))
            raise UserError(f"{path}: logmel.{name} is {changes[name]!r}, expected {allowed}")
    return dataclasses.replace(host_logmel.PRESETS[preset], **changes)
