"""What a program prints: no name of a file, folder or key can steer the terminal or begin a line of its own."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from utils.runtime.errors import printable

BREAKS = "\r\n"


class EscapedStream:
    """A text stream that writes out control characters, as `printable` does, in each text that it is given.

    But for line breaks at both ends of a text, which are the program's own: `print` gives one text, then its end,
    and a progress bar begins with a return. A text of several lines is printed line by line.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        rest = text.lstrip(BREAKS)
        line = rest.rstrip(BREAKS)
        self._stream.write(text[: len(text) - len(rest)] + printable(line) + rest[len(line) :])
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def escaped_output() -> Iterator[None]:
    """Within the block, `sys.stdout` and `sys.stderr` are escaped."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and EscapedStream(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
