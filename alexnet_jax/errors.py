"""Errors a user can mend: one paragraph that names the thing and the cure, and no stack trace."""

import io
import os
import sys
from collections.abc import Callable

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_DATA_ERROR = 65  # the data is damaged (EX_DATAERR of sysexits.h)
EXIT_INTERRUPTED = 75  # saved; start the same command again to go on (EX_TEMPFAIL of sysexits.h)
EXIT_KEYBOARD = 130
EXIT_OUTPUT_CLOSED = 141


class UserError(Exception):
    """Bad input. The message says what is wrong and what to do about it."""


class DataError(UserError):
    """Data that was sound when it was written is not any more, or is not what it claims to be."""


class Interrupted(Exception):
    """Training was asked to stop (Ctrl-C, SIGTERM), has saved its state and can go on from it."""


def exit_code(command: Callable[[], None]) -> int:
    """Runs a command and returns its exit code, with errors and interruptions told on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        command()
    except DataError as error:
        print(f"data error: {error}", file=sys.stderr)
        return EXIT_DATA_ERROR
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
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
