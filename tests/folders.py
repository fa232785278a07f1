"""One's own images as the tests load them."""

import shutil
import time
from pathlib import Path

from utils.data.sources import Parts, load_images


def load(root: Path, size: int = 32, **more) -> Parts:
    return load_images("folder", root, size, **more)


def load_fresh(root: Path, size: int = 32) -> Parts:
    """What the images of `root` are without any cache."""
    copy = root.with_name(f"{root.name}-{time.monotonic_ns()}")
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".*"))
    return load(copy, size)


def same(one: Parts, other: Parts) -> bool:
    return [part.fingerprint() for part in one[:2]] == [part.fingerprint() for part in other[:2]]


def notes(tree: Path, **more) -> str:
    return "\n".join(load(tree, **more).notes)
