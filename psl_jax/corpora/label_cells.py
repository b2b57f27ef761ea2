"""Labels as people write them: several in a cell, as a Python list, in upper and lower case.

What can be meant in one way only is read so, and told; nothing becomes another class in silence.
"""

import collections
import re
from collections.abc import Iterable

from psl_jax.networks.class_lists import clean_name

SEPARATORS = (";", ",", "|")
_LIST = re.compile(r"\s*(?:\[.*\]|[({]\s*['\"].*[)}])\s*", re.DOTALL)
_QUOTED = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""")


class LabelCells:
    """The labels of the cells of some tables.

    Attributes:
      classes: all names in them, or the given ones, sorted where none were given.
      notes: (kind, detail) of what there is to tell.
    """

    def __init__(
        self,
        cells: Iterable[str],
        event_labels: Iterable[str],
        separator: str,
        classes: tuple[str, ...] | None = None,
    ):
        """cells: texts of label columns; event_labels: of events, a name each.

        classes: the only ones there are; default: all that are named.
        """
        self.notes: list[tuple[str, str]] = []
        self._separator = separator
        counts = collections.Counter(cells)
        self._parts = {text: self._split(text) for text in counts}
        self._split_further(classes)
        names: collections.Counter[str] = collections.Counter()
        for text, times in counts.items():
            names.update(dict.fromkeys(self._parts[text], times))
        events = collections.Counter(map(clean_name, event_labels))
        self._spelling = self._spellings(names + events, classes)
        if classes is None:
            mine = {self.name(name) for name in names}
            if others := sorted({self.name(name) for name in events} - mine - {""}):
                shown = ", ".join(map(repr, others[:5]))
                detail = f"{len(others)} classes are in the events alone: {shown}"
                self.notes.append(("class of events alone", detail))
            classes = tuple(sorted((mine | set(others)) - {""}))
        self.classes = classes

    def of(self, cell: str) -> list[str]:
        """The names in a cell."""
        return list(dict.fromkeys(map(self.name, self._parts[cell])))

    def name(self, text: str) -> str:
        """A class as it is spelt elsewhere."""
        name = clean_name(text)
        return self._spelling.get(name.casefold(), name) if name not in self._exact else name

    def _split(self, text: str) -> list[str]:
        if _LIST.fullmatch(text):
            parts = [a or b for a, b in _QUOTED.findall(text)] or text.strip()[1:-1].split(",")
            if not any(kind == "Python list" for kind, _ in self.notes):
                self.notes.append(("Python list", f"labels such as {text!r} are read as lists"))
        else:
            parts = text.split(self._separator)
        return [name for name in map(clean_name, parts) if name]

    def _split_further(self, classes: tuple[str, ...] | None) -> None:
        """Reads names that hold another separator as lists where their parts are classes."""
        uses_own = any(self._separator in text for text in self._parts)
        for other in SEPARATORS:
            names = {name for parts in self._parts.values() for name in parts}
            known = {n.casefold() for n in classes or names if classes or other not in n}
            joined = {n: [p for p in map(clean_name, n.split(other)) if p] for n in names}
            if classes:
                joined = {n: p for n, p in joined.items() if n.casefold() not in known}
            joined = {n: parts for n, parts in joined.items() if other in n and len(parts) > 1}
            found = {n: [p.casefold() in known for p in parts] for n, parts in joined.items()}
            lists = {n for n in joined if all(found[n])}
            if lists and not classes and not uses_own:  # so the others are lists, too
                lists |= {n for n in joined if any(found[n])}
            if lists:
                for text, parts in self._parts.items():
                    split = [joined[n] if n in lists else [n] for n in parts]
                    self._parts[text] = [name for names in split for name in names]
                detail = f"{len(lists)} labels such as {min(lists)!r} are read as several, "
                detail += f"separated by {other!r}: the parts are classes themselves"
                self.notes.append(("several labels", detail))
            unsure = {n for n in joined if n not in lists and any(found[n])}
            if not uses_own and not classes:  # "Vehicle horn, car horn" is one of AudioSet's names
                unsure |= {n for n in joined if n not in lists and f"{other} " not in n}
            if unsure and other != self._separator and not classes:
                detail = (
                    f"{len(unsure)} labels hold {other!r}, such as {min(unsure)!r}, which is one "
                    f"class here: labels are separated by {self._separator!r}. If {other!r} "
                    f"separates them, give --label_separator='{other}' "
                    "(--config.data.label_separator)"
                )
                self.notes.append(("one label or several?", detail))

    def _spellings(
        self, names: collections.Counter[str], classes: tuple[str, ...] | None
    ) -> dict[str, str]:
        """How each name is spelt, by its case-folded form; tells of those in several spellings."""
        groups: dict[str, list[str]] = {}
        for name in sorted(names, key=lambda n: (-names[n], n)):
            groups.setdefault(name.casefold(), []).append(name)
        self._exact = set(classes or ())
        if classes:
            folded = collections.Counter(name.casefold() for name in classes)
            spelling = {n.casefold(): n for n in classes if folded[n.casefold()] == 1}
        else:
            spelling = {key: spelt[0] for key, spelt in groups.items()}
        several = {
            key: [name for name in spelt if name != spelling[key]]
            for key, spelt in groups.items()
            if key in spelling
        }
        if changed := {spelling[key]: others for key, others in several.items() if others}:
            shown = "; ".join(f"{', '.join(o)} as {name}" for name, o in list(changed.items())[:5])
            detail = f"{len(changed)} classes are spelt in several ways, and read as one: {shown}"
            self.notes.append(("other spelling", detail))
        return spelling
