"""Kills a process at each of its calls that change files, as a power cut or `kill -9` might."""

import os
import signal
from collections.abc import Callable

CALLS = ("mkdir", "fsync", "replace", "rename", "unlink", "rmdir")


def killed_before(number: int, action: Callable[[], object]) -> bool:
    """Do `action` in a forked process that is killed before its call `number` (0, 1, ...) of `CALLS`.

    Returns whether it was; False: it has ended before. Nothing in it may use several threads.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            die_at(number)
            action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert os.WEXITSTATUS(status) == 0, "the action failed before its end"
    return os.WIFSIGNALED(status)


def die_at(number: int) -> None:
    """Let this process kill itself before its call `number` of `CALLS`."""
    count = 0

    def deadly(real):
        def call(*arguments, **more):
            nonlocal count
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return real(*arguments, **more)

        return call

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))
