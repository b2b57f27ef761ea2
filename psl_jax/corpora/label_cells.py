"""Labels as people write them: several in a cell, as a Python list, in upper and lower case.

What can be meant in one way only is read so, and told; nothing becomes another class in silence.
"""

import collections
import contextlib
import json
import re
from collections.abc import Collection, Iterable, Mapping

from psl_jax.corpora.annotations.table_events import UNSURE
from psl_jax.networks.class_lists import clean_name

OTHER_SPELLING = "other spelling"  # a kind of note
SEPARATORS = (";", ",", "|")
# What names hold as well: it separates labels only where all parts are classes themselves.
_IN_NAMES = tuple("/+&\uff1b\uff0c\u3001 ")
_MISSING = {"nan", "none", "null", "na", "n/a", "<na>"}
_MISSING |= {"#n/a", "#ref!", "#name?", "#value!", "#div/0!"}  # of formulas
# Texts that spreadsheets make of names such as MAR1.
_CONVERTED = re.compile(r"\d{4}-\d\d-\d\d( 00:00:00)?|true|false|wahr|falsch", re.IGNORECASE)
LIST = re.compile(r"\s*(?:\[.*\]|[({]\s*['\"].*[)}])\s*", re.DOTALL)
QUOTED = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""")


class LabelCells:
    """The labels of the cells of some tables."""

    def __init__(
        self,
        cells: Iterable[str],
        event_labels: Iterable[str],
        separator: str,
        listed: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
    ):
        """cells: texts of label columns; listed: names and ids of the only classes there are."""
        classes = listed and (*listed[0], *(name for name in listed[1] if name not in listed[0]))
        self.notes: list[tuple[str, str]] = []  # kind and detail of what there is to tell
        self._separator, self._exact = separator, set(classes or ())
        counts, event_counts = collections.Counter(cells), collections.Counter(event_labels)
        self._parts = {text: self._split(text) for text in counts | event_counts}
        self._split_further(classes)
        self._note_unsure()
        names, events = self._count_names(counts), self._count_names(event_counts)
        self._spelling = self._choose_spellings(names + events, classes)
        if classes is None:
            mine = {self.name(name) for name in names}
            others = sorted({self.name(name) for name in events} - mine - {""})
            if mine and others:
                shown = ", ".join(map(repr, others[:5]))
                detail = f"{len(others)} classes are in the events alone: {shown}"
                self.notes.append(("class of events alone", detail))
            classes = tuple(sorted((mine | set(others)) - {""}))
            self._note_doubtful(classes)
        self.classes, self.class_ids = listed or (classes, classes)
        numbered = [*enumerate(self.class_ids), *enumerate(self.classes)]
        self.numbers = {name: number for number, name in numbered}

    def of(self, cell: str) -> list[str]:
        """The names in a cell of which somebody is sure."""
        names = (name for name in self._parts[cell] if not self._is_unsure(name))
        return list(dict.fromkeys(map(self.name, names)))

    def unsure(self, cell: str) -> list[str]:
        """The names in a cell that end with UNSURE, without it; "" for it alone: any class."""
        unsure = (name for name in self._parts[cell] if self._is_unsure(name))
        return [self.name(name.rstrip(UNSURE).strip()) for name in unsure]

    def find_unsure(self, names: Iterable[str]) -> list[int | None]:
        """The numbers of classes; None for any, of an empty name. What is no class is left out."""
        return [self.numbers.get(name) for name in names if not name or name in self.numbers]

    def names(self, text: str) -> list[str]:
        """The names in a text that was not among the cells: of classes, such as annotated ones."""
        return [self.name(name) for name in self._split(text)]

    def is_respelt(self, cell: str) -> bool:
        """Whether a cell spells a class otherwise than it is read."""
        return any(self.name(name) != name for name in self._parts.get(cell, ()))

    def _is_unsure(self, name: str) -> bool:
        return name.endswith(UNSURE) and name not in self._exact

    def _note_unsure(self) -> None:
        cells = sorted(text for text in self._parts if any(map(self._is_unsure, self._parts[text])))
        if cells:
            detail = f"in {len(cells)} cells such as {cells[0]!r} a {UNSURE} says that it is not "
            self.notes.append(("unsure", detail + "known whether the class is there"))

    def name(self, name: str) -> str:
        """A class as it is spelt elsewhere."""
        return self._spelling.get(name.casefold(), name) if name not in self._exact else name

    def _count_names(self, cells: Mapping[str, int]) -> collections.Counter[str]:
        names: collections.Counter[str] = collections.Counter()
        for text, times in cells.items():
            sure = (name for name in self._parts[text] if not self._is_unsure(name))
            names.update(dict.fromkeys(sure, times))
        return names

    def _split(self, text: str) -> list[str]:
        if LIST.fullmatch(text):
            names = [_unquote(quoted[0]) for quoted in QUOTED.finditer(text)]
            names = names or text.strip()[1:-1].split(",")
            self._note_once("Python list", f"labels such as {text!r} are read as lists")
        else:
            if re.search("[\t\r\n]", text):
                detail = f"labels such as {text!r} are read as several, in lines or with tabs"
                self._note_once("several labels", detail)
            names = re.split(f"[\t\r\n]|{re.escape(self._separator)}", _strip_quotes(text))
            names = list(map(_strip_quotes, names))
        return [name for name in map(clean_name, names) if name]

    def _note_once(self, kind: str, detail: str) -> None:
        if all(noted != kind for noted, _ in self.notes):
            self.notes.append((kind, detail))

    def _split_further(self, classes: tuple[str, ...] | None) -> None:
        """Reads names that hold another separator as lists where their parts are classes."""
        uses_own = any(self._separator in text for text in self._parts)
        for other in (*SEPARATORS, *_IN_NAMES):
            may_separate_others = other in SEPARATORS and not classes and not uses_own
            all_lists: set[str] = set()
            while True:  # the parts of a list are classes by which others are known as lists
                joined, of_classes, partly_of_classes = self._find_joined(other, classes)
                lists, unsure = of_classes, partly_of_classes
                if other == " ":  # also within names
                    lists, unsure = set(), of_classes
                if may_separate_others and (lists or all_lists):
                    lists = lists | partly_of_classes
                if not lists:
                    break
                for text, parts in self._parts.items():
                    split = [joined[n] if n in lists else [n] for n in parts]
                    self._parts[text] = [name for names in split for name in names]
                all_lists |= lists
            if all_lists:
                detail = f"{len(all_lists)} labels such as {min(all_lists)!r} are read as several, "
                detail += f"separated by {other!r}: the parts are classes themselves"
                self.notes.append(("several labels", detail))
            if other in SEPARATORS and not uses_own:  # "Vehicle horn, car horn" is AudioSet's name
                counts = collections.Counter(p.casefold() for n in joined for p in set(joined[n]))
                unsure |= {
                    n
                    for n, parts in joined.items()
                    if f"{other} " not in n or any(counts[p.casefold()] > 1 for p in parts)
                }
            if unsure and other != self._separator and not classes:
                detail = (
                    f"{len(unsure)} labels hold {other!r}, such as {min(unsure)!r}, which is one "
                    f"class here: labels are separated by {self._separator!r}. If {other!r} "
                    f"separates them, give --label_separator='{other}' "
                    "(--config.data.label_separator)"
                )
                self.notes.append(("one label or several?", detail))

    def _find_joined(
        self, separator: str, classes: tuple[str, ...] | None
    ) -> tuple[dict[str, list[str]], set[str], set[str]]:
        """The parts of names that hold a separator; those names of which all, some are classes.

        classes: names of the only ones there are; None: all names without the separator.
        """
        names = {name for parts in self._parts.values() for name in parts}
        class_names = {name.casefold() for name in classes or names}
        if classes:
            names = {name for name in names if name.casefold() not in class_names}
        else:
            class_names = {name.casefold() for name in names if separator not in name}
        joined = {}
        of_classes, partly_of_classes = set(), set()
        for name in names:
            parts = [part for part in map(clean_name, name.split(separator)) if part]
            if len(parts) > 1:
                joined[name] = parts
                are_classes = [part.casefold() in class_names for part in parts]
                if all(are_classes):
                    of_classes.add(name)
                elif any(are_classes):
                    partly_of_classes.add(name)
        return joined, of_classes, partly_of_classes

    def _choose_spellings(
        self, names: collections.Counter[str], classes: tuple[str, ...] | None
    ) -> dict[str, str]:
        """How each name is spelt, by its case-folded form; tells of those in several spellings."""
        groups: dict[str, list[str]] = {}
        for name in sorted(names, key=lambda n: (-names[n], n)):
            groups.setdefault(name.casefold(), []).append(name)
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
            read = [f"{', '.join(o)} is read as {name}" for name, o in changed.items()]
            count = "1 class is" if len(changed) == 1 else f"{len(changed)} classes are"
            detail = f"{count} spelt in several ways: {'; '.join(read[:5])}"
            self.notes.append((OTHER_SPELLING, detail))
        return spelling

    def _note_doubtful(self, classes: Collection[str]) -> None:
        """Notes classes that may be one in several spellings, or no names."""
        alike: dict[str, list[str]] = {}
        for name in classes:
            alike.setdefault(re.sub(r"[\W_]", "", name.casefold()) or name, []).append(name)
        if same := [names for names in alike.values() if len(names) > 1]:
            shown = "; ".join(", ".join(map(repr, names)) for names in same[:5])
            detail = f"{len(same)} classes are spelt in several ways: {shown}. "
            detail += "If each is one class, spell it in one way"
            self.notes.append(("one class or several?", detail))
        if missing := [repr(name) for name in classes if name.casefold() in _MISSING]:
            detail = f"{', '.join(missing)} is a class here: for no label leave the cell empty"
            self.notes.append(("no label?", detail))
        if converted := [repr(name) for name in classes if _CONVERTED.fullmatch(name)]:
            detail = f"{', '.join(converted)} is a class here: if a spreadsheet made it of a name, "
            self.notes.append(("date or truth value?", detail + "type the name there as text"))


def _unquote(quoted: str) -> str:
    """The name in quotes of JSON, which codes umlauts as \\u00fc, or of Python."""
    with contextlib.suppress(ValueError):
        return str(json.loads(quoted, strict=False))
    return re.sub(r"\\(.)", r"\1", quoted[1:-1])


def _strip_quotes(text: str) -> str:
    """The text between the quotes that stand around it, if any do."""
    quoted = QUOTED.fullmatch(text.strip())
    return (quoted[1] or quoted[2] or "") if quoted else text
