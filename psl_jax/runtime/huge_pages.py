"""Huge pages for a program's memory, which glibc gives only to those that ask before they start.

XLA:CPU takes the memory of a training step's arrays from malloc and gives it back after the step;
in pages of 4 KiB the kernel then spends a quarter of the step on handing them out again (see
docs/PERFORMANCE.md). The choice is an environment variable that glibc reads at start, so the
program replaces itself with one that has it. To choose otherwise set the variable, e.g. to
GLIBC_TUNABLES=glibc.malloc.hugetlb=0.
"""

import os
import pathlib
import sys

_TUNABLE = "glibc.malloc.hugetlb"
_SINCE = (2, 35)  # of glibc
_KERNEL_SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_them() -> None:
    """Runs the same command again in this process, with huge pages; returns where not needed.

    To be called before anything else is done: what the process did so far is forgotten. It keeps
    its number, its open standard streams and its environment. Nothing happens on other systems
    than Linux with glibc, where the kernel gives huge pages to all or to none, and where
    GLIBC_TUNABLES already speaks of them.
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
    """Whether Python was started to run the command `name` and nothing else.

    Not where a notebook's kernel, a script or `runpy` runs it: such a process is not ours.
    """
    words = sys.orig_argv[1:]
    while words and words[0].startswith("-") and words[0] not in ("-m", "-c", "-"):
        words = words[1:]  # options of the interpreter
    is_script = bool(words) and pathlib.Path(words[0]).name == "psl-jax" and words[1:2] == [name]
    modules = ["-m", f"psl_jax.{name}"], ["-m", "psl_jax", name]
    return is_script or any(words[: len(module)] == module for module in modules)


def _would_help() -> bool:
    """Whether the kernel gives huge pages to those who ask, and this C library can ask."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        asked = "[madvise]" in _KERNEL_SETTING.read_text()
        return name == "glibc" and asked and tuple(map(int, version.split("."))) >= _SINCE
    except (AttributeError, OSError, ValueError):
        return False
