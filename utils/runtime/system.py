"""What not every system has: asked for here, so that the rest of the program runs without it."""

import os
from contextlib import suppress


def physical_memory() -> int:
    """Bytes, or 0 where the system does not tell."""
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0


def load_average() -> float:
    """Processes that wanted to run in the last minute, on average; 0 where the system does not tell."""
    with suppress(AttributeError, OSError):  # Windows has no such count
        return os.getloadavg()[0]
    return 0.0
