"""Trains in forked children that are killed with SIGKILL, resumes them, and compares with an unbroken run.

    python tests/kill_driver.py FOLDER MOMENTS
    python tests/kill_driver.py FOLDER --overwrite STRIDE

Kills at MOMENTS random moments and at each stage of a save; or a table that is made again with other settings and
`--overwrite`, before every STRIDE-th of its calls that change files. Prints a line for each kill that did not end
in the same weights, optimizer, history and metrics, then how many kills there were. Everything is imported, and
nothing computed, before the first fork: OpenMP's threads do not survive one.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from utils.runtime.program import SPIN_COUNT, run

os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

import torch
from kills import die_at

import models.cnn  # noqa: F401
import utils.data.sources.shapes
import utils.reporting.table
import utils.train_run
from train import main
from utils.runtime import files as storage

FLAGS = "--dataset shapes --limit 130 --student cnn_tiny --epochs 4 --batch-size 40 --ema 0.9".split()
STAGES = ("half written", "written", "synced", "renamed")
SAVES = (1, 2, 4, 5)  # of last.pt and best.pt, some of each


def start(results: Path, *words: str, prepare=lambda: None) -> int:
    """Fork a child that trains; returns its process number."""
    child = os.fork()
    if child:
        return child
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    prepare()
    code = run(main, [*FLAGS, "--results-dir", str(results), *words])
    os._exit(code)


def killed(child: int, delay: float | None = None) -> bool:
    """Wait for a child, after killing it in `delay` seconds where that is given; whether a kill ended it."""
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def finish(results: Path, *words: str) -> bool:
    """Resume to the end; whether that went well."""
    _, status = os.waitpid(start(results, *words, "--resume"), 0)
    return status == 0


def outcome(results: Path, *runs: str) -> str:
    """Everything that must not depend on a kill, as text; read in a child, because reading computes too."""
    output, report = os.pipe()
    if not os.fork():
        outcomes = [read_outcome(results / "shapes" / run / "seed0") for run in runs or ("student-cnn_tiny",)]
        os.write(report, "\n".join(outcomes).encode())
        os._exit(0)
    os.close(report)
    with os.fdopen(output) as file:
        text = file.read()
    os.wait()
    return text


def read_outcome(folder: Path) -> str:
    last, best = (torch.load(folder / name, weights_only=True) for name in ("last.pt", "best.pt"))
    for content in (last, best):
        content.pop("checksum")
        content["metrics"]["seconds"] = 0
        content["config"].pop("teacher_path", None)
    for record in last["history"]:
        record["seconds"] = 0
    sums = [storage.checksum(content) for content in (last, best)]
    history = [line.rsplit(",", 1)[0] for line in (folder / "history.csv").read_text().splitlines()]
    left = sorted(path.name for path in folder.iterdir())
    return json.dumps([sums, history, json.loads((folder / "test.json").read_text()), left])


def kill_in_save(stage: str, number: int):
    """Make the process kill itself at a stage of its save number `number`."""
    saves = []

    def die() -> None:
        if len(saves) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def prepare() -> None:
        real_save, real_fsync, real_replace = torch.save, os.fsync, os.replace

        def save(content, file):
            saves.append(1)
            if stage == "half written" and len(saves) == number:
                file.write(b"PK" + bytes(1000))
                file.flush()
                die()
            real_save(content, file)

        def fsync(descriptor):
            if stage == "written":
                die()
            real_fsync(descriptor)

        def replace(source, target):
            if stage == "synced":
                die()
            real_replace(source, target)
            if stage == "renamed":
                die()

        torch.save, os.fsync, os.replace = save, fsync, replace

    return prepare


def drive(folder: Path, moments: int) -> None:
    utils.data.sources.shapes.TRAIN, utils.data.sources.shapes.TEST = 200, 50  # drawn at every start
    began = time.perf_counter()
    assert finish(folder / "unbroken")
    length = time.perf_counter() - began
    kills = [(f"at moment {number}", None) for number in range(moments)]
    for stage in STAGES:
        kills += [(f"save {number} {stage}", kill_in_save(stage, number)) for number in SAVES]
    hit = []
    for number, (name, prepare) in enumerate(kills):
        results = folder / f"killed{number}"
        if prepare:
            was_killed = killed(start(results, prepare=prepare))
        else:
            while not (was_killed := killed(start(results), delay := random.uniform(0, length))):
                length = delay  # the machine is faster now than it was: this run was over before the kill
                shutil.rmtree(results)
        if was_killed:
            hit.append(name)
        done = finish(results)
        if not done or outcome(results) != outcome(folder / "unbroken"):
            print(f"{name}: resuming {'ended differently' if done else 'failed'}")
    in_saves = sum(name.startswith("save") for name in hit)
    print(f"killed: {len(hit) - in_saves} at random moments, {in_saves} in saves")


def drive_overwriting(folder: Path, stride: int) -> None:
    utils.data.sources.shapes.TRAIN, utils.data.sources.shapes.TEST = 200, 50
    table = ["--all", "--teacher", "cnn_tiny", "--temp", "4"]
    runs = "teacher-cnn_tiny", "student-cnn_tiny", "kd-cnn_tiny-t4"
    new = [*table, "--epochs", "2"]
    assert finish(folder / "old", *table, "--epochs", "1")
    assert finish(folder / "unbroken", *new)
    expected, kills, step = outcome(folder / "unbroken", *runs), 0, stride
    while True:
        results = shutil.copytree(folder / "old", folder / f"killed{step}")
        if not killed(start(results, *new, "--overwrite", prepare=lambda step=step: die_at(step))):
            break
        kills += 1
        done = finish(results, *new)
        if not done or outcome(results, *runs) != expected:
            print(f"before call {step}: resuming {'ended differently' if done else 'failed'}")
        step += stride
    print(f"killed: {kills} times")


if __name__ == "__main__":
    random.seed(0)
    if "--overwrite" in sys.argv:
        drive_overwriting(Path(sys.argv[1]), int(sys.argv[3]))
    else:
        drive(Path(sys.argv[1]), int(sys.argv[2]))
