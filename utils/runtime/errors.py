"""Failures that a user can fix, and texts of others that are safe to print."""

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def printable(text: object, limit: int | None = None) -> str:
    """The first `limit` characters of `text`, with control characters, line breaks and invisible ones written out.

    So that names in files and messages of other programs can neither steer a terminal nor pretend to be another
    line: an escape becomes the four characters `\\x1b`.
    """
    return "".join(
        letter if letter.isprintable() or unicodedata.category(letter) == "Zs" else ascii(letter)[1:-1]
        for letter in str(text)[:limit]
    )


class UserError(Exception):
    """What went wrong and what to do about it; ends the program with `exit_code`."""

    exit_code = 1

    def __init__(self, what: str, hint: str = ""):
        super().__init__(what)
        self.hint = hint

    def __str__(self) -> str:
        what = super().__str__()
        return f"{what} (hint: {self.hint})" if self.hint else what


class DamagedFile(UserError):
    """A file that is not what it should be."""


@contextmanager
def reading(path: Path, hint: str = "use another copy, or make it again") -> Iterator[None]:
    """Within the block, the content of a file is checked or used: any error in it becomes a DamagedFile of `path`.

    UserError and OSError, which name the file themselves, and MemoryError pass.
    """
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # the content decides which
        what = f"{type(error).__name__}: {printable(' '.join(str(error).split()), 120)}"
        raise DamagedFile(f"{path} is damaged ({what})", hint) from error


class UsageError(UserError):
    """A command that cannot be carried out as it was given."""

    exit_code = 2


class Interrupted(BaseException):
    """SIGINT or SIGTERM, raised where it is safe to stop. Not an `Exception`: nothing may swallow it."""

    def __init__(self, signal_number: int, note: str = ""):
        super().__init__(note)
        self.signal_number = signal_number
