"""Settings as frozen dataclasses: each stands, with default and limits, beside what it sets."""

import dataclasses
import enum
import math
import operator
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from psl_jax.runtime.errors import UserError

_Settings = TypeVar("_Settings")
_MOST_INTEGER = 2**31 - 1  # what counts steps and samples on a device


class Kind(enum.Enum):
    """What a change of a setting means for a run folder that is there already.

    SCIENTIFIC: another folder is needed. OPERATIONAL: nothing. EVALUATION: the finished model is
    evaluated anew.
    """

    SCIENTIFIC = "scientific"
    OPERATIONAL = "operational"
    EVALUATION = "evaluation"


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a setting may be. Limits are inclusive: `least`, `most`; or not: `above`, `below`."""

    kind: Kind = Kind.SCIENTIFIC
    choices: Sequence[str | int] = ()
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def allows(self, value: Any) -> bool:
        """Whether a value of the right type lies within the limits; of a tuple, all its numbers."""
        if self.choices:
            return value in self.choices
        numbers = value if isinstance(value, tuple | list) else (value,)
        return all(
            math.isfinite(number) and all(holds(number, limit) for _, holds, limit in self._limits)
            for number in numbers
            if isinstance(number, int | float)
        )

    @property
    def _limits(self) -> list[tuple[str, Callable[[float, float], bool], float]]:
        limits = (
            ("at least", operator.ge, self.least),
            ("above", operator.gt, self.above),
            ("at most", operator.le, self.most),
            ("below", operator.lt, self.below),
        )
        return [(words, holds, limit) for words, holds, limit in limits if limit is not None]

    def __str__(self) -> str:
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        limits = " and ".join(f"{words} {limit}" for words, _, limit in self._limits)
        return f"a number {limits}" if limits else "a finite number"


def setting(default: Any, *, help: str, **rule: Any) -> Any:
    """The field of a settings dataclass.

    help: a phrase on what it is, with its unit, without the default. rule: the fields of `Rule`.
    """
    return dataclasses.field(default=default, metadata={"help": help, "rule": Rule(**rule)})


def operational(default: Any, *, help: str, **rule: Any) -> Any:
    """A `setting` that may change between two starts of a run."""
    return setting(default, help=help, kind=Kind.OPERATIONAL, **rule)


def evaluation(default: Any, *, help: str, **rule: Any) -> Any:
    """A `setting` that a finished model is evaluated anew for."""
    return setting(default, help=help, kind=Kind.EVALUATION, **rule)


@dataclasses.dataclass(frozen=True)
class SettingInfo:
    """A setting that there is: its type, its default, its rule, and a phrase on what it is."""

    type: Any
    default: Any
    rule: Rule
    help: str


def list_settings(owner: type, prefix: str = "") -> Iterator[tuple[str, SettingInfo]]:
    """Yields (dotted name, info) of each setting of a dataclass, nested ones too."""
    hints = typing.get_type_hints(owner)
    for field in dataclasses.fields(owner):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from list_settings(typing.cast(type, hint), f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, _describe_field(field, hint)


def _describe_field(field: dataclasses.Field[Any], hint: Any) -> SettingInfo:
    return SettingInfo(hint, field.default, **field.metadata)


def read(owner: type[_Settings], values: Mapping[str, Any], prefix: str = "") -> _Settings:
    """The dataclass with `values`, else defaults, nested. Raises UserError naming the setting."""
    hints = typing.get_type_hints(owner)
    values_by_name: dict[str, Any] = {}
    for field in dataclasses.fields(owner):  # type: ignore[arg-type]
        if field.name not in values:
            continue
        name, hint, value = prefix + field.name, hints[field.name], values[field.name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise UserError(f"config.{name} must be a group of settings, not {value!r}")
            values_by_name[field.name] = read(typing.cast(type, hint), value, f"{name}.")
        else:
            check(name, value, _describe_field(field, hint))
            values_by_name[field.name] = tuple(value) if isinstance(value, list) else value
    return owner(**values_by_name)


def check(name: str, value: Any, info: SettingInfo, where: str = "config.") -> None:
    """Raises UserError where the value of the setting `name` is of another type or out of range.

    where: what a message has before the name.
    """
    if not _has_type(value, info.type):
        raise UserError(
            f"{where}{name} is {value!r} ({type(value).__name__}), expected "
            f"{getattr(info.type, '__name__', info.type)}, such as {info.default!r}"
        )
    if isinstance(value, int) and value > _MOST_INTEGER and info.rule.most is None:
        raise UserError(f"{where}{name} is {value}, expected at most {_MOST_INTEGER}")
    if not info.rule.allows(value):
        raise UserError(f"{where}{name} is {value!r}, expected {info.rule}")


def _has_type(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is tuple:
        parts = typing.get_args(hint)
        right_length = isinstance(value, tuple | list) and len(value) == len(parts)
        return right_length and all(map(_has_type, value, parts))
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, hint)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of the leaves of nested dicts."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
