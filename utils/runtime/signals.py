"""SIGINT and SIGTERM: finish the step, keep what is there, say how to go on."""

import os
import signal

from utils.runtime.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Within the block, a signal is noted; `check_interrupt` raises it where it is safe to stop.

    A second SIGINT ends the process at once: files are whole at any moment (see `utils.runtime.files`).
    """

    def __init__(self, note: str):
        self.note = note  # what to tell the user, such as how to go on
        self.signal_number: int | None = None

    def __enter__(self) -> "Interrupt":
        self.previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_more) -> None:
        if kind is not None:
            return  # the program is ending: a signal in its last moments must not end it in another way
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            os._exit(128 + number)
        self.signal_number = number
        os.write(2, b"\nstopping after this step; Ctrl-C again ends at once\n")  # print is not safe in a handler

    def check_interrupt(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.signal_number is not None:
            raise Interrupted(self.signal_number, self.note)
