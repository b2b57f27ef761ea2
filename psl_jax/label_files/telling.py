"""What was done to labels, in lines for people."""

import pathlib
from typing import Any

from psl_jax.label_files.importing import Imported

_SHOWN_CLASSES = 15


def imported(found: Imported, path: pathlib.Path, clips: int) -> list[str]:
    """What was read of a file for a split of so many clips."""
    lines = [f"{path}: {found.rows:,} rows for {found.segments:,} segments of {clips:,} clips"]
    if found.other_rows:
        examples = ", ".join(found.other_examples)
        lines.append(f"  {found.other_rows:,} rows are of clips that the split lacks: {examples}")
    if found.idle_rows:
        lines.append(
            f"  {found.idle_rows:,} rows hold for no segment: no segment's middle lies in their "
            "times, such as past a clip's end"
        )
    if found.filled_segments:
        lines.append(
            f"  {found.filled_segments:,} segments of {found.filled_clips:,} clips had no row and "
            "have their weak labels"
        )
    if found.unmapped:
        shown = ", ".join(found.unmapped[:5]) + (", ..." if len(found.unmapped) > 5 else "")
        lines.append(f"  {len(found.unmapped)} classes had no column and have weak labels: {shown}")
    return lines


def changed(changes: dict[str, Any], file: str) -> list[str]:
    """What rules changed, and the classes that changed most; `file` has all."""
    total, limit = changes["segments"], changes["present_from"]
    most = sorted(changes["classes"].items(), key=lambda item: -item[1]["share_changed"])
    shown = [item for item in most if item[1]["share_changed"]][:_SHOWN_CLASSES]
    width = max([len(name) for name, _ in shown], default=5)
    lines = [
        f"changed {100 * changes['share_changed']:.2f} % of {total:,} segments x "
        f"{len(most)} classes; labels from {limit:g} on: {changes['present_before']:,} before, "
        f"{changes['present_after']:,} after",
        f"  {'class':{width}}  changed %   before    after   mean before   after",
    ]
    lines += [
        f"  {name:{width}}  {100 * one['share_changed']:9.2f} {one['present_before']:8,} "
        f"{one['present_after']:8,}   {one['mean_before']:11.4f}  {one['mean_after']:.4f}"
        for name, one in shown
    ]
    left = changes["classes_changed"] - len(shown)
    return [*lines, *([f"  and {left} more in {file}"] if left else [])]
