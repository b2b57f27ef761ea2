"""The restart of a program with huge pages."""

import os
import subprocess
import sys

import programs
import pytest

from psl_jax.runtime import huge_pages


@pytest.fixture
def restarts(monkeypatch):
    """The commands that would have replaced this process; the system is one that helps."""
    calls = []
    monkeypatch.setattr(huge_pages, "_would_help", lambda: True)
    monkeypatch.setattr(os, "execv", lambda program, arguments: calls.append(arguments))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "psl_jax.main", "--config=a b.py"])
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return calls


def test_other_tunables_stay(restarts, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=3")
    huge_pages.restart_with_them()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=3:glibc.malloc.hugetlb=1"
    assert len(restarts) == 1


@pytest.mark.parametrize("tunables", ["glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=1"])
def test_nothing_happens_where_the_user_chose(restarts, monkeypatch, tunables):
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    huge_pages.restart_with_them()
    assert (restarts, os.environ["GLIBC_TUNABLES"]) == ([], tunables)


@pytest.mark.parametrize(
    ("kernel", "library", "helps"),
    [
        ("always [madvise] never", "glibc 2.35", True),
        ("[always] madvise never", "glibc 2.35", False),
        (None, "glibc 2.35", False),
        ("always [madvise] never", "glibc 2.34", False),
        ("always [madvise] never", "musl", False),
        ("always [madvise] never", None, False),
    ],
)
def test_only_where_kernel_and_c_library_can_be_asked(
    tmp_path, monkeypatch, kernel, library, helps
):
    setting = tmp_path / "enabled"
    if kernel is not None:
        setting.write_text(kernel)
    monkeypatch.setattr(huge_pages, "_KERNEL_SETTING", setting)
    monkeypatch.setattr(os, "confstr", lambda name: library)
    assert huge_pages._would_help() == helps


@pytest.mark.parametrize(
    ("command", "is_ours"),
    [
        ("python -m psl_jax.main --config x", True),
        ("python -I -m psl_jax main --config x", True),
        ("python -um psl_jax.main --config x", True),
        ("/bin/python3 /opt/bin/psl-jax main --config x", True),
        ("python -m ipykernel_launcher -f kernel.json", False),  # %run -m psl_jax.main
        ("python script.py -m psl_jax.main", False),  # runpy
        ("python - -m psl_jax.main", False),  # a script on standard input
        ("python", False),
        ("python -c code -m psl_jax.main", False),
        ("python -m pdb -m psl_jax.main", False),
        ("python /opt/bin/psl-jax tag x", False),
    ],
)
def test_only_a_process_that_runs_the_command_alone_is_restarted(monkeypatch, command, is_ours):
    monkeypatch.setattr(sys, "orig_argv", command.split())
    assert huge_pages.is_command("main") == is_ours


def test_a_program_that_restarts_runs_once_with_its_arguments_and_input(monkeypatch):
    code = (  # which is made to take any system for one that helps
        "import os, sys; from psl_jax.runtime import huge_pages; "
        "huge_pages._would_help = lambda: True; huge_pages.restart_with_them(); "
        "print(os.getpid(), os.environ['GLIBC_TUNABLES'], sys.argv[1:], sys.stdin.read())"
    )
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    command = [sys.executable, "-c", code, "--a b", "c"]
    with programs.start(command, stdin=subprocess.PIPE) as process:
        printed, _ = process.communicate("input")
    assert printed == f"{process.pid} glibc.malloc.hugetlb=1 ['--a b', 'c'] input\n"
