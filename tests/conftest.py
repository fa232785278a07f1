import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.runtime.program import SPIN_COUNT

os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # before torch is imported, as the programs do
if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each worker, also in the programs that the tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def command():
    """Run a program of the project in a process of its own, as a user would."""

    def run(*words: object, check: int | None = 0, **more) -> subprocess.CompletedProcess:
        line = [sys.executable, *map(str, words)]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, **{"timeout": 240} | more)
        if check is not None:
            assert done.returncode == check, f"{line}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
