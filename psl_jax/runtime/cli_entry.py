"""What all entry points do: errors that a user can mend are one message, not a traceback."""

import argparse
import contextlib
import faulthandler
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from psl_jax.runtime import disk_errors, errors, interrupts, paths, settings
from psl_jax.runtime.errors import UnreachableError, UserError

DATA_HELP = (  # what the argument DATA of commands is
    "folder of a prepared data set, or the --data_dir of psl-jax prepare where it holds only one"
)
_PLACE = re.compile(r"(?:--?[\w.\-]+=)?([\w+.\-]+://.*)", re.DOTALL)


def run(
    main: Callable[..., Any],
    parse: Callable[[list[str]], Any] = list,
    takes_buckets: bool = False,
    leaves_threads: bool = False,
) -> None:
    """Runs `main` with what `parse` makes of the command line; its result is the exit status.

    takes_buckets: arguments may be places in buckets.
    leaves_threads: threads that still compile or compute at its end are not waited for.
    Exit status 2 for a UserError, 130 when interrupted, 75 when told to end by SIGTERM, left by the
    other processes or cut off from a bucket: then the same command goes on.
    """
    interrupts.install_handlers()
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # whoever started the program has closed it
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # What the terminal cannot show must not end the work.
            stream.reconfigure(errors="backslashreplace")
    with contextlib.suppress(AttributeError, OSError, ValueError):  # a notebook has no such file
        faulthandler.enable()  # the stacks name a library that crashes
    sys.argv[1:] = map(with_home, sys.argv[1:])
    try:
        check_values(sys.argv[1:])
        check_places(sys.argv[1:], takes_buckets)
        try:
            sys.exit(main(parse(sys.argv)))
        finally:
            disk_errors.write_output("")  # what cannot be written is not left for Python's exit
    except SystemExit as ended:
        if leaves_threads and isinstance(ended.code, int | None):
            _exit_at_once(ended.code or 0)
        raise
    except BaseException as error:
        message, status = _explain(error)
        if status is None and not errors.has_joined_others():
            raise
        if status is None:
            traceback.print_exc()
        elif message:
            with contextlib.suppress(OSError):  # the status counts, also where nobody reads
                print(f"\n{message}", file=sys.stderr)
        if not errors.has_joined_others():
            sys.exit(status)
        _exit_at_once(status or 1)  # JAX would first wait for the others


def _explain(error: BaseException) -> tuple[str, int | None]:
    """What to print on standard error, and the exit status; None: Python's traceback says more."""
    again = "Run the same command again to go on"
    if isinstance(error, UnreachableError):
        return f"error: {error} {again}", interrupts.RESTART
    if isinstance(error, UserError):
        return f"error: {error}", 2
    if isinstance(error, BrokenPipeError):  # `... | head` ends quietly
        disk_errors.drop_output()
        return "", 141
    if isinstance(error, KeyboardInterrupt):
        return "stopped; run the same command again to go on", 130
    if isinstance(error, interrupts.Preempted):
        if errors.has_joined_others():
            from psl_jax.runtime import distributed

            distributed.leave()
        return f"stopped; {error}. {again}", interrupts.RESTART
    if isinstance(error, OSError) and not disk_errors.can_print():
        disk_errors.drop_output()
        return f"error: cannot write to standard output: {error.strerror}", 2
    buckets = sys.modules.get("psl_jax.runtime.buckets")
    if buckets is not None and (bucket_error := buckets.error_within(error)) is not None:
        return _explain(bucket_error)
    if isinstance(error, OSError) and (error.filename or disk_errors.is_full(error)):
        # Of a file that is renamed, its new name.
        place = error.filename2 or error.filename or "a disk"
        return f"error: {place}: {error.strerror}", 2
    if "JAX_PLATFORMS" in os.environ and _is_of_missing_devices(error):
        return (
            f"error: JAX_PLATFORMS is {os.environ['JAX_PLATFORMS']!r}, and JAX finds no such "
            "device on this machine: leave the variable out, or give another, such as cpu"
        ), 2
    if errors.is_loss_of_others(error):
        return (
            "another process of this run has ended or was killed: see its own messages; "
            f"{interrupts.KEPT}. {again}\n"
            f"({type(error).__name__}: {errors.first_line(error)})"
        ), interrupts.RESTART
    return "", None


def with_home(argument: str) -> str:
    """An argument such as --out=~/tags, in which a shell leaves `~`, with the user's home."""
    option, equals, value = argument.partition("=")
    is_option = option.startswith("-") and value.startswith("~")
    return option + equals + os.path.expanduser(value) if is_option else argument


def check_values(arguments: Sequence[str]) -> None:
    """Raises UserError for an argument without a value; the empty text is one of a setting."""
    for argument in arguments:
        if not argument or re.fullmatch(r"--(?!config\.)\w+=", argument):
            raise UserError(
                f"{argument or 'an argument'} is empty: is a variable of the shell not set? Give a "
                "value, or leave it out"
            )


def check_places(arguments: Sequence[str], takes_buckets: bool) -> None:
    """Raises UserError where an argument is a place in a bucket that cannot be used."""
    matches = filter(None, map(_PLACE.fullmatch, arguments))
    places = [match[1] for match in matches if paths.is_remote(match[1])]
    one_of_each_bucket = {tuple(place.split("/")[:3]): place for place in places}
    for place in one_of_each_bucket.values():
        if not takes_buckets:
            raise UserError(
                f"{place}: this command reads and writes no buckets. Copy what it needs (gcloud "
                "storage cp -r, aws s3 cp --recursive), or mount the bucket (docs/BUCKETS.md)"
            )
        from psl_jax.runtime import buckets

        try:
            buckets.check(place)
        except UnreachableError as error:  # from the start, so perhaps for ever
            raise UserError(str(error)) from error


class _Parser(argparse.ArgumentParser):
    """Does not list all options in an error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; {self.prog} --help lists all options\n")


def parser(name: str, doc: str) -> argparse.ArgumentParser:
    """For the command `name`, which its module's docstring `doc` tells of."""
    about, _, more = doc.partition("\n\n")
    return _Parser(
        prog=f"psl-jax {name}",
        description=about,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_setting(group: Any, owner: type, name: str, **changes: Any) -> None:
    """Adds to a parser or a group the option --NAME of a setting of the dataclass `owner`.

    changes: what `add_argument` is told otherwise than the setting says.
    """
    info = dict(settings.list_settings(owner))[name]
    kwargs: dict[str, Any] = {"default": info.default, "action": "store_true"}
    shown = "no"
    if info.type is not bool:
        shown = "none" if info.default == "" else info.default
        kwargs = {"default": info.default, "type": info.type, "choices": info.rule.choices or None}
    if info.type in (int, float):
        kwargs["type"] = make_number_reader(name, info.type, **vars(info.rule))
    text = info.help if info.help[1].isupper() else info.help[0].lower() + info.help[1:]
    group.add_argument(f"--{name}", **({"help": add_default(text, shown)} | kwargs | changes))


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds what a command is told that several processes share."""
    add = parser.add_argument_group("several processes").add_argument
    of_job = "(default: that of the pod or job)"
    add(
        "--distributed",
        action="store_true",
        help="share the work with other processes; on a TPU pod and in Slurm and MPI jobs they "
        "find each other, elsewhere give the three options below (default: a single process)",
    )
    add(
        "--coordinator_address",
        metavar="HOST:PORT",
        help=f"address where process 0 listens {of_job}",
    )
    add("--num_processes", type=int, metavar="N", help=f"number of processes {of_job}")
    add("--process_id", type=int, metavar="I", help=f"number of this process, from 0 {of_job}")


def make_number_reader(name: str, number_type: type, **rule: Any) -> Callable[[str], Any]:
    """Makes the `type` of a parser's option --NAME, int or float, which raises UserError.

    rule: the fields of `settings.Rule`.
    """
    info = settings.SettingInfo(number_type, None, settings.Rule(**rule), "")

    def read(text: str) -> Any:
        value = number_type(text)
        settings.check(name, value, info, "--")
        return value

    read.__name__ = number_type.__name__  # as argparse calls it
    return read


def add_default(text: str, shown: object) -> str:
    """A help text with its default: what it says of an empty value, else `shown`."""
    text, _, meaning = text.partition("; empty: ")
    return f"{text} (default: {meaning or shown})"


def _exit_at_once(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _is_of_missing_devices(error: BaseException) -> bool:
    """Whether JAX raised it when it looked for its devices."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.endswith("xla_bridge.py")
