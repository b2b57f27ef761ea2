"""Huge pages for a program's memory, which glibc gives only to those that ask before they start.

XLA:CPU takes the memory of a training step's arrays from malloc and gives it back after the step;
in pages of 4 KiB the kernel then spends a quarter of the step on handing them out again (see
docs/PERFORMANCE.md). glibc reads the choice from GLIBC_TUNABLES at start.
"""

import os
import pathlib
import sys

_TUNABLE = "glibc.malloc.hugetlb"
_SINCE = (2, 35)  # of glibc
_KERNEL_SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_them() -> None:
    """Runs the same command again in this process, with huge pages; returns where not needed.

    What the process did so far is forgotten. Nothing happens where the user set the tunable, or
    neither glibc nor the kernel waits to be asked.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if _TUNABLE in tunables or not sys.orig_argv or not _would_help():
        return
    huge_pages = f"{_TUNABLE}=1"
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{huge_pages}" if tunables else huge_pages
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except OSError:  # then without
        return


def is_command(name: str) -> bool:
    """Whether Python was started to run the command `name`: not by a notebook, script or runpy."""
    words = sys.orig_argv[1:]
    while words and words[0].startswith("-") and words[0][-1] not in "mc-":
        words = words[1:]  # options of the interpreter
    is_script = bool(words) and pathlib.Path(words[0]).name == "psl-jax" and words[1:2] == [name]
    is_module = bool(words) and words[0].startswith("-") and words[0].endswith("m")  # -m, -um
    return is_script or (
        is_module and (words[1:2] == [f"psl_jax.{name}"] or words[1:3] == ["psl_jax", name])
    )


def _would_help() -> bool:
    """Whether the kernel gives huge pages to those who ask, and this C library can ask."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        asked = "[madvise]" in _KERNEL_SETTING.read_text()
        return name == "glibc" and asked and tuple(map(int, version.split("."))) >= _SINCE
    except (AttributeError, OSError, ValueError):
        return False
