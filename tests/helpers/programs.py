"""Starts programs as users do: what they say is text, and their environment that of the tests."""

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence

TIMEOUT = 600  # seconds; a loaded machine is no failure
Word = str | os.PathLike


def run(
    command: Sequence[Word], environment: Mapping[str, str] = {}, **options
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end; environment: what its environment has besides."""
    with start(command, environment, **options) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def start(
    command: Sequence[Word], environment: Mapping[str, str] = {}, **options
) -> subprocess.Popen[str]:
    """The same, but does not wait for its end."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | environment, **(pipes | options))


def free_address() -> str:
    """HOST:PORT of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def write(path: os.PathLike, text: str) -> None:
    """Writes a program that can be started."""
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o755)
