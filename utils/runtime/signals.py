"""Signals that end a program: in a training after the step and after saving, elsewhere at once."""

import os
import signal
import stat
from contextlib import suppress
from types import FrameType

from utils.runtime.errors import Interrupted

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopProgram:
    """The handler of SIGINT outside of a training: ends the program by a KeyboardInterrupt.

    While modules are imported it ends the process instead: there, exceptions are swallowed by callbacks and by
    `except` of libraries, or cross C++ code that aborts. A second SIGINT ends the process in any case.
    """

    def __init__(self):
        self.signal_number: int | None = None  # of the first signal

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None or _is_importing(frame):
            with suppress(OSError):
                os.write(2, b"\nstopped by SIGINT\n")
            os._exit(128 + number)
        self.signal_number = number
        raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


class Interrupt:
    """Within the block, a signal is noted; `check_interrupt` raises it where it is safe to stop.

    A second SIGINT ends the process at once: files are whole at any moment (see `utils.runtime.atomic`).
    """

    def __init__(self, note: str):
        self.note = note  # what to tell the user, such as how to go on
        self.signal_number: int | None = None

    def __enter__(self) -> "Interrupt":
        self.previous = {}
        for number in SIGNALS:
            if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves SIGHUP
                self.previous[number] = signal.signal(number, self._handle)
        self.signal_number = getattr(self.previous[signal.SIGINT], "signal_number", None)  # swallowed before
        return self

    def __exit__(self, kind: type[BaseException] | None, *_more) -> None:
        if kind is not None:
            return  # the program is ending: a signal in its last moments must not end it in another way
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            os._exit(128 + number)
        self.signal_number = number
        if number not in (signal.SIGINT, signal.SIGTERM):
            _leave_closed_terminal()
        with suppress(OSError):  # print is not safe in a handler
            os.write(2, b"\nstopping after this step; Ctrl-C again ends at once\n")

    def check_interrupt(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.signal_number is not None:
            raise Interrupted(self.signal_number, self.note)


def _leave_closed_terminal() -> None:
    """Let what is written to a terminal that has been closed go nowhere, instead of failing."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                try:
                    os.write(descriptor, b"\n")
                except OSError:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
