"""Errors that the user can fix, and the exit codes of commands.

A message is one paragraph that names what is wrong and the cure; no stack trace is printed.
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_DATA_ERROR = 65  # the data, or every checkpoint, is damaged (EX_DATAERR of sysexits.h)
EXIT_LOST_PEER = 69  # another process of the run is gone or out of reach; start all again to resume (EX_UNAVAILABLE)
EXIT_NON_FINITE = 70  # the loss or a gradient is not finite (EX_SOFTWARE)
EXIT_STORAGE = 74  # a checkpoint or the log could not be written (EX_IOERR)
EXIT_INTERRUPTED = 75  # Ctrl-C or SIGTERM; the state is saved; start the same command again to resume (EX_TEMPFAIL)
EXIT_STALLED = 124  # no progress for config.train.stall_seconds; the code of timeout(1)
EXIT_KEYBOARD = 130
EXIT_OUTPUT_CLOSED = 141


class CommandError(Exception):
    """An error that ends a command with `prefix` and a message on stderr, and the exit code `code`."""

    prefix: str
    code: int


class UserError(CommandError):
    """Bad input. The message says what is wrong and what to do about it."""

    prefix, code = "error", EXIT_USER_ERROR


class DataError(UserError):
    """Data that has been damaged since it was written, or is not what it claims to be."""

    prefix, code = "data error", EXIT_DATA_ERROR


class StorageError(UserError):
    prefix, code = "storage error", EXIT_STORAGE


class NonFinite(UserError):
    prefix, code = "not finite", EXIT_NON_FINITE


class LostPeer(CommandError):
    prefix, code = "lost peer", EXIT_LOST_PEER


class Interrupted(CommandError):
    prefix, code = "interrupted", EXIT_INTERRUPTED


@contextlib.contextmanager
def reading(problem: str, cure: str = "", kind: type[UserError] = DataError) -> Iterator[None]:
    """Report whatever libraries raise for a damaged file as `kind`; but one that is missing or locked as it is."""
    try:
        yield
    except (CommandError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        raise kind(f"{problem}: {' '.join(str(error).split())[:300]}{cure}") from None


@contextlib.contextmanager
def keeping(path: Path) -> Iterator[None]:
    """Write a file that saves work later but is not needed; where it cannot be written, say so on stderr."""
    try:
        yield
    except OSError as error:
        print(f"warning: {path} is not kept: {error}", file=sys.stderr)


def check_writable(path: Path, cure: str) -> None:
    """Raise UserError unless `path`, a folder or a file, can be written: before work whose result would be lost."""
    if not os.access(path, os.W_OK):
        raise UserError(f"{path} cannot be written; {cure}")


def exit_code(command: Callable[[], None]) -> int:
    """Run a command, report errors and interruptions on stderr, and return the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may hold characters that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        command()
    except CommandError as error:
        print(f"{error.prefix}: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_KEYBOARD
    except BrokenPipeError:  # in `command | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OUTPUT_CLOSED
    except OSError as error:
        print(f"error: {error}; check that it exists, is accessible, and has free space", file=sys.stderr)
        return EXIT_USER_ERROR
    return EXIT_OK
