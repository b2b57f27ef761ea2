"""What a model file of another runtime does not say of itself: a small TOML or JSON file."""

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
    """How a model file is used.

    Attributes:
      file: the model.
      rate: samples a second that it hears.
      input: "waveform" or "logmel".
      scale: what a waveform in [-1, 1] is multiplied by.
      outputs: "probabilities" or "logits".
      output: name of the output; "": the first.
      classes: CSV of them, or their names; empty: told by the file or by how many there are.
      patch, patch_hop: what it hears at a time, in samples or frames, and from one to the next; of
        a file of fixed size by default its size and half of it.
      spectrum: of log-mel input.
      given: whether there is a description at all.
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
    given: bool = False

    def as_json(self) -> dict[str, Any]:
        """All but where the file lies, and what came later and has no effect."""
        found = dataclasses.asdict(self) | {"file": None, "classes": None, "given": None}
        if self.spectrum is not None and not self.spectrum.top_db:
            del found["spectrum"]["top_db"]
        return found


def describe(path: str) -> Description:
    """The description `path`, or that beside the model `path`: FILE.toml or FILE.json.

    Raises UserError for a file that is not there, unknown keys and values.
    """
    where = pathlib.Path(path)
    if not where.is_file():
        raise UserError(f"{path}: there is no such file")
    if where.suffix in _SUFFIXES:
        return _read(where, None)
    beside = [pathlib.Path(f"{path}{suffix}") for suffix in _SUFFIXES]
    found = next((one for one in beside if one.is_file()), None)
    return Description(where) if found is None else _read(found, where)


def _read(path: pathlib.Path, model: pathlib.Path | None) -> Description:
    values = _parsed(path)
    known = {f.name for f in dataclasses.fields(Description)} - {"spectrum", "given"} | {"logmel"}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, sorted(known), 1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise UserError(
                f"{path}: unknown key {key!r}{hint} (known: {', '.join(sorted(known))})"
            )
    found = dict(values)
    named = found.pop("file", None)
    if model is None and not isinstance(named, str):
        raise UserError(f'{path}: give the model as file = "MODEL.onnx" (beside it)')
    spectrum = _spectrum(found.pop("logmel", None), path)
    if spectrum is not None:
        found.setdefault("input", "logmel")
    if found.get("input") == "logmel" and spectrum is None:
        raise UserError(f'{path}: input = "logmel" needs logmel, "yamnet", "panns" or a table')
    if isinstance(found.get("classes"), str):
        found["classes"] = os.fspath(path.parent / found["classes"])
    elif isinstance(found.get("classes"), list):
        found["classes"] = tuple(map(str, found["classes"]))
    _check(found, path)
    file = model or path.parent / str(named)
    if not file.is_file():
        raise UserError(f"{path}: there is no {file}")
    return Description(file, spectrum=spectrum, given=True, **found)


def _parsed(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} as a description of a teacher: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values, found {values!r:.60}")
    return values


def _check(values: Mapping[str, Any], path: pathlib.Path) -> None:
    choices = {"input": ("waveform", "logmel"), "outputs": ("probabilities", "logits")}
    for name, allowed in choices.items():
        if name in values and values[name] not in allowed:
            raise UserError(f"{path}: {name} is {values[name]!r}, expected {' or '.join(allowed)}")
    for name in ("rate", "patch", "patch_hop"):
        value = values.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{path}: {name} is {value!r}, expected a whole number above 0")
    if not _RATES[0] <= values.get("rate", _RATES[0]) <= _RATES[1]:
        raise UserError(f"{path}: rate is {values['rate']}, expected samples a second, as 32000")
    if not isinstance(values.get("scale", 1.0), int | float):
        raise UserError(f"{path}: scale is {values['scale']!r}, expected a number such as 32768")


def _spectrum(value: Any, path: pathlib.Path) -> Spectrum | None:
    """Of a preset's name, or of a table with `like` and what differs."""
    if value is None:
        return None
    table = {"like": value} if isinstance(value, str) else value
    known = {field.name for field in dataclasses.fields(Spectrum)}
    if not isinstance(table, dict) or (bad := sorted(table.keys() - known - {"like"})):
        what = bad[0] if isinstance(table, dict) else table
        raise UserError(
            f"{path}: logmel: unknown {what!r}; known: like, {', '.join(sorted(known))}"
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
