"""make demo, with a program in place of Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
ROOT = Path(__file__).parent.parent


def demo(folder: Path, script: str) -> subprocess.CompletedProcess:
    """Run `make demo` where `script` stands for Python, its environment finished already."""
    for name in ("bin/python", ".installed"):
        (folder / "venv" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "venv" / name).touch()
    os.utime(folder / "venv" / ".installed")
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    words = ["make", "-s", "demo", f"VENV={folder / 'venv'}", f"RUN={program}"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


def test_the_demo_ends_with_what_people_read_and_not_with_the_json(tmp_path):
    done = demo(tmp_path, 'echo "table of $1"; echo "{}"')
    assert done.returncode == 0, done.stderr
    assert done.stdout == "table of train.py\n{}\ntable of test.py\n"


def test_a_program_that_fails_in_the_demo_fails_it(tmp_path):
    for failing in ("train.py", "test.py"):
        assert demo(tmp_path, f'echo "$1"; test "$1" != {failing}').returncode != 0
