"""Errors a user can mend: one paragraph that names the thing and the cure, and no stack trace."""

import io
import os
import sys
from collections.abc import Callable

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_DATA_ERROR = 65  # the data, or every checkpoint, is damaged (EX_DATAERR of sysexits.h)
EXIT_LOST_PEER = 69  # another process of the run is gone; start all again to go on (EX_UNAVAILABLE)
EXIT_NON_FINITE = 70  # the loss or a gradient is no finite number (EX_SOFTWARE)
EXIT_STORAGE = 74  # a checkpoint or the log could not be written (EX_IOERR)
EXIT_INTERRUPTED = 75  # saved; start the same command again to go on (EX_TEMPFAIL)
EXIT_STALLED = 124  # nothing has moved for config.train.stall_seconds; as of timeout(1)
EXIT_KEYBOARD = 130
EXIT_OUTPUT_CLOSED = 141


class UserError(Exception):
    """Bad input. The message says what is wrong and what to do about it."""


class DataError(UserError):
    """Data that was sound when it was written is not any more, or is not what it claims to be."""


class StorageError(UserError):
    """What a run must keep could not be written."""


class NonFinite(UserError):
    """The loss or a gradient is not a finite number."""


class LostPeer(Exception):
    """Another process of this run is gone, or can no longer be reached."""


class Interrupted(Exception):
    """Training was asked to stop (Ctrl-C, SIGTERM), has saved its state and can go on from it."""


# What each kind of error is called, and its exit code.
KINDS = {
    DataError: ("data error", EXIT_DATA_ERROR),
    StorageError: ("storage error", EXIT_STORAGE),
    NonFinite: ("not finite", EXIT_NON_FINITE),
    UserError: ("error", EXIT_USER_ERROR),
}


def exit_code(command: Callable[[], None]) -> int:
    """Runs a command and returns its exit code, with errors and interruptions told on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        command()
    except UserError as error:
        kind = next(kind for kind in KINDS if isinstance(error, kind))
        name, code = KINDS[kind]
        print(f"{name}: {error}", file=sys.stderr)
        return code
    except LostPeer as error:
        print(f"lost peer: {error}", file=sys.stderr)
        return EXIT_LOST_PEER
    except Interrupted as message:
        print(f"interrupted: {message}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_KEYBOARD
    except BrokenPipeError:  # of `command | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OUTPUT_CLOSED
    except OSError as error:
        print(f"error: {error}; see that it is there, may be read and written, and has room", file=sys.stderr)
        return EXIT_USER_ERROR
    return EXIT_OK
