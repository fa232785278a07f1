"""What not every system has: asked for here, so that the rest of the program runs without it."""

import os
from contextlib import suppress


def physical_memory() -> int:
    """Bytes, or 0 where the system does not tell."""
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0
