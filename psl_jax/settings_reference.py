"""All settings with their help: for `psl-jax main --help`, and for docs/SETTINGS.md.

python -m psl_jax.settings_reference > docs/SETTINGS.md
"""

import dataclasses
import textwrap
import typing
from collections.abc import Iterator

from psl_jax import config
from psl_jax.runtime.settings import Kind, SettingInfo

_WIDTH = 100
_INTRODUCTION = """# Settings

Give a setting on the command line, `psl-jax main --config NAME --config.train.epochs=10`, or in a
config file, as those in `configs/` do. For one experiment of a suite, give
`--config.experiments.NAME.train.epochs=10`. `config.base()` has the defaults below; a config file
changes some. Settings marked *operational* may change between two starts of a run. A change of one
marked *evaluation* evaluates the finished model again. A change of any other needs another run
folder.

`python -m psl_jax.settings_reference > docs/SETTINGS.md` writes this page.
"""


def page() -> str:
    """The text of docs/SETTINGS.md."""
    return f"{_INTRODUCTION}\n{list_settings()}"


def list_settings() -> str:
    """All settings by group, in Markdown."""
    lines = []
    for title, about, settings in _groups():
        lines += [f"## {title}", "", f"{about}", ""]
        for name, known in settings:
            kind = "" if known.rule.kind is Kind.SCIENTIFIC else f", *{known.rule.kind.value}*"
            text = f"- `{name}` (default `{_shown(known.default)}`{kind}): {_words(known)}"
            lines += textwrap.wrap(
                text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
            )
        lines.append("")
    return "\n".join(lines)


def _groups() -> Iterator[tuple[str, str, list[tuple[str, SettingInfo]]]]:
    """Title, a sentence and the settings of each group, first those that are in none."""
    settings = list(config.KNOWN.items())
    yield "config", "The experiment as a whole.", [s for s in settings if "." not in s[0]]
    hints = typing.get_type_hints(config.Settings)
    for field in dataclasses.fields(config.Settings):
        if dataclasses.is_dataclass(hints[field.name]):
            first_line = (hints[field.name].__doc__ or "").partition("\n")[0]
            about = first_line.partition(": ")[2]
            members = [s for s in settings if s[0].startswith(f"{field.name}.")]
            yield f"config.{field.name}", about[:1].upper() + about[1:], members


def _words(known: SettingInfo) -> str:
    """Help and limits as one paragraph."""
    has_limits = known.rule != dataclasses.replace(type(known.rule)(), kind=known.rule.kind)
    limits = f"{known.rule}".removeprefix("a number ") if has_limits else ""
    return f"{known.help}." + (f" {limits[0].upper()}{limits[1:]}." if limits else "")


def _shown(default: object) -> str:
    return '""' if default == "" else str(default)


if __name__ == "__main__":
    print(page(), end="")
