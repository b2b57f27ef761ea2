"""Drafts a class map: pairs each class of the data with the teacher's class of the nearest name.

    psl-jax classes transformers:MIT/ast-finetuned-audioset-10-10-0.4593 DATA --out=map.csv

The map has the columns class, teacher_class and match: how the class was found, by an equal name,
a name in other case, a synonym (AudioSet's names list some, with commas between) or similar
spelling. Check the map by hand: add a line where several classes of the teacher fit a class (the
highest score counts), and fill in what was not found. relabel and evaluate take it as --class_map,
experiments as config.relabel.class_map (docs/TEACHERS.md).
"""

import argparse
import collections
from collections.abc import Sequence

from psl_jax.data import split_index_files
from psl_jax.networks import class_lists
from psl_jax.runtime import cli_entry, disk_errors, distributed, files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of
from psl_jax.scoring.settings import RelabelSettings
from psl_jax.teachers import open_teacher, scoring_cli


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    parser = cli_entry.parser("classes", __doc__ or "")
    add = parser.add_argument
    add("teacher", metavar="TEACHER", help=scoring_cli.MODEL_HELP)
    add("data", metavar="DATA", help=cli_entry.DATA_HELP)
    add(
        "--out",
        required=True,
        metavar="CSV",
        help="CSV to write, which must not exist yet (required)",
    )
    cli_entry.add_setting(parser, RelabelSettings, "trust_remote_code")
    return parser.parse_intermixed_args(arguments[1:])


def main(arguments: argparse.Namespace) -> None:
    """Writes the map, and lists what a person should look at."""
    distributed.configure()
    out = path_of(arguments.out)
    if out.exists():
        raise UserError(f"--out={out} is there, perhaps with a person's changes: name another file")
    disk_errors.check_writable(out.parent, "--out")
    classes = split_index_files.class_names(split_index_files.find_data_dir(arguments.data))
    teacher_classes = open_teacher.list_classes(
        arguments.teacher, trust_remote_code=arguments.trust_remote_code
    )
    draft = class_lists.draft_class_map(classes, teacher_classes)
    files.write_csv(out, ("class", "teacher_class", "match"), draft)
    numbers = collections.Counter(match for _, _, match in draft)
    for name, teacher_class, match in draft:
        if match in ("synonym", "spelling"):
            print(f"by {match}, is it the same?  {name} -> {teacher_class}")
    for name, _, match in draft:
        if not match:
            print(f"nothing found for  {name}")
    print(
        f"{len(draft)} classes in {out}: {numbers['equal']} of equal names, {numbers['case']} in "
        f"other case, {numbers['synonym']} by a synonym, {numbers['spelling']} by spelling, "
        f"{numbers['']} without any"
    )
