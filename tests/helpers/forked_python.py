"""A Python whose programs start at once: each is forked from a process that has imported much.

Importing JAX, Orbax and TensorFlow takes longer than most programs of the tests run. `path()` is
for subprocess and for launch scripts; it takes `-m MODULE`, `-c CODE` or a script, as python does.
What it starts is a process of its own, with its own signals and end. Variables that are read when
JAX or Python starts are those of the tests: a program that needs others is one of sys.executable.
"""

import atexit
import contextlib
import fcntl
import functools
import marshal
import os
import select
import signal
import socket
import sys

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_IMPORTED_LATE = (
    *("orbax.checkpoint", "tensorflow_datasets", "tensorboardX", "matplotlib.figure"),
    *("gcsfs", "s3fs"),
)


@functools.cache
def path() -> str:
    """An executable file. All workers of the tests ask one process, which ends with the last."""
    import pathlib
    import subprocess

    folder = pathlib.Path(os.environ["FORKED_PYTHON"])  # of conftest.py
    file, needed = folder / "python", folder / "needed"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not needed.exists():
            os.mkfifo(needed)
            _start_server(folder / "socket", needed)
            start = f"{sys.executable} -IS {__file__} start {folder / 'socket'}"
            file.write_text(f'#!/bin/sh\nexec {start} "$@"\n')
            file.chmod(0o755)
            subprocess.run([file, "-c", ""], check=True)  # tests' timeouts are for programs alone
        else:
            os.open(needed, os.O_WRONLY | os.O_NONBLOCK)  # until this process ends
    return str(file)


def _start_server(address: os.PathLike, needed: os.PathLike) -> None:
    """Starts the process that programs are forked from.

    It ends when no process has `needed` open any more. No object stands for it, as another worker
    may need it longer than this one.
    """
    reading = os.open(needed, os.O_RDONLY | os.O_NONBLOCK)
    os.open(needed, os.O_WRONLY)  # until this process ends
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        os.set_inheritable(listener.fileno(), True)
        command = [sys.executable, __file__, "serve", str(listener.fileno())]
        actions = [(os.POSIX_SPAWN_DUP2, reading, 0)]
        os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
    os.close(reading)


def _start(address: str, arguments: list[str]) -> None:
    """Asks for a program, and ends as it ends."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    request = marshal.dumps((arguments, os.getcwd(), dict(os.environ)))
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    socket.send_fds(connection, [len(request).to_bytes(4, "little")], [0, 1, 2])
    connection.sendall(request)
    with connection.makefile("r") as answers:
        pid = int(answers.readline())
        for number in _FORWARDED:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, _: os.kill(pid, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        status = int(answers.readline())
    if status < 0:
        if status != -signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _serve(listener: socket.socket) -> list[str]:
    """Returns in each program, with its arguments; ends when the tests have ended."""
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # those that waited for programs
                pass
        readable, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in readable:
            os._exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            break
        connection.close()
    listener.close()
    size, files, _, _ = socket.recv_fds(connection, 4, 3)
    request = b""
    while len(request) < int.from_bytes(size, "little"):
        request += connection.recv(1 << 20)
    arguments, folder, environment = marshal.loads(request)
    pid = os.fork()
    if pid:
        _wait_for(pid, connection)
    connection.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    given = {"encoding": environment.get("PYTHONIOENCODING"), "closefd": False}
    sys.stdin, sys.stdout = open(0, **given), open(1, "w", **given)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", **given)  # noqa: SIM115
    os.chdir(folder)
    return arguments


def _wait_for(pid: int, connection: socket.socket) -> None:
    """Tells the end of a program, and kills it when nobody asks for that any more."""
    connection.sendall(f"{pid}\n".encode())
    for number in (0, 1, 2):  # whoever reads them sees their end with the program's
        os.close(number)
    readable, _, _ = select.select([os.pidfd_open(pid), connection], [], [])
    if connection in readable:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    try:
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    finally:
        os._exit(0)


def _import_much() -> None:
    """All that programs of the tests use, but for modules that are run as programs."""
    import gc
    import importlib
    import pkgutil

    import psl_jax
    from psl_jax.runtime import quiet_tensorflow

    for module in pkgutil.iter_modules(psl_jax.__path__):
        if module.ispkg:
            package = importlib.import_module(f"psl_jax.{module.name}")
            for inner in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                importlib.import_module(inner.name)
    quiet_tensorflow.tensorflow_quietly()
    for name in _IMPORTED_LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # programs need not look at all of that
    gc.set_threshold(10_000)
    from jax._src import xla_bridge

    assert not xla_bridge.backends_are_initialized(), "its threads would be missing in programs"


def _run(arguments: list[str]) -> None:
    """Goes on as python would with these arguments."""
    import runpy
    import types

    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    kind, *given = arguments
    if kind == "-m":
        sys.argv, sys.path[:0] = given, [os.getcwd()]
        runpy.run_module(given[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv, sys.path[:0] = ["-c", *given[1:]], [""]
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(given[0], "<string>", "exec"), module.__dict__)
    else:
        sys.argv, sys.path[:0] = arguments, [os.path.dirname(os.path.abspath(kind))]
        runpy.run_path(kind, run_name="__main__")


def _end(program) -> None:
    """Runs it and ends as Python does, but lets its modules be: to clear them takes long."""
    import threading

    status: int | str | None = 0
    try:
        program()
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    if not isinstance(status, int | None):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.write(2, f"Exception ignored in: {stream}\n{error!r}\n".encode())
            status = 120
    os._exit(status or 0)


if __name__ == "__main__":
    if sys.argv[1] == "start":
        _start(sys.argv[2], sys.argv[3:])
    else:
        with socket.socket(fileno=int(sys.argv[2])) as given_listener:
            _import_much()
            given = _serve(given_listener)
        _end(functools.partial(_run, given))
