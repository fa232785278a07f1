"""Training that is stopped in the middle ends with the same weights as training that is not."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from utils.runtime.files import checksum

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
FLAGS = "--dataset shapes --limit 400 --teacher cnn_tiny --student cnn_tiny --epochs 6 --batch-size 50".split()


def stop_after_an_epoch(words: list, epoch: int, number: signal.Signals) -> subprocess.CompletedProcess:
    """Run train.py and send it a signal as soon as the line of `epoch` is printed."""
    line = [sys.executable, "train.py", *map(str, words)]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = ""
    for text in process.stdout:
        seen += text
        if text.startswith(f"epoch {epoch}/"):
            process.send_signal(number)
            break
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(line, process.returncode, seen + out, err)


def outcome(results: Path, run: str):
    """What must not depend on an interruption: weights, optimizer, history but for times, metrics."""
    folder = results / "shapes" / run / "seed0"
    last = torch.load(folder / "last.pt", weights_only=True)
    history = [record | {"seconds": 0} for record in last["history"]]
    best = torch.load(folder / "best.pt", weights_only=True)
    return (
        last["sha256"],
        best["sha256"],
        best["epoch"],
        history,
        last["optimizer"],
        json.loads((folder / "test.json").read_text()),
    )


def assert_same(first, second) -> None:
    *values, optimizer, test = first
    *others, other_optimizer, other_test = second
    assert values == others
    assert test == other_test
    assert checksum(optimizer) == checksum(other_optimizer)


@pytest.fixture(scope="module")
def unbroken(command, tmp_path_factory):
    results = tmp_path_factory.mktemp("unbroken")
    command("train.py", "--all", "--temp", 4, *FLAGS, "--ema", "0.9", "--results-dir", results)
    return results


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_stopped_table_goes_on_to_the_same_weights(unbroken, command, tmp_path, number, code):
    words = ["--all", "--temp", 4, *FLAGS, "--ema", "0.9", "--results-dir", tmp_path]
    done = stop_after_an_epoch(words, 2, number)
    assert done.returncode == code
    if number != signal.SIGKILL:
        assert "--resume" in done.stderr
        assert "Traceback" not in done.stderr
    refused = command("train.py", *words, check=1)
    assert "unfinished" in refused.stderr
    resumed = command("train.py", *words, "--resume")
    assert "resumed    after epoch" in resumed.stdout
    for run in ("teacher-cnn_tiny", "student-cnn_tiny", "kd-cnn_tiny-t4"):
        assert_same(outcome(unbroken, run), outcome(tmp_path, run))


def test_resuming_a_finished_run_is_nothing_to_do(unbroken, command):
    line = [*FLAGS, "--ema", "0.9", "--results-dir", unbroken, "--resume"]
    assert "finished already, nothing to do" in command("train.py", *line).stdout


def test_a_changed_setting_is_refused_on_resume_with_what_changed(unbroken, command):
    line = [*FLAGS, "--ema", "0.9", "--results-dir", unbroken, "--resume", "--epochs", 9]
    assert "epochs 6 instead of 9" in command("train.py", *line, check=1).stderr


def test_resuming_where_nothing_is_starts(command, tmp_path):
    command("train.py", *FLAGS[:-4], "--epochs", 1, "--results-dir", tmp_path, "--resume")
    assert (tmp_path / "shapes/student-cnn_tiny/seed0/test.json").exists()


def test_a_second_sigint_ends_at_once():
    step_without_end = "with Interrupt(''):\n    print(flush=True)\n    while True:\n        time.sleep(0.01)"
    line = [sys.executable, "-c", f"import time\nfrom utils.runtime.signals import Interrupt\n{step_without_end}"]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    while "Ctrl-C again" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=240)
    assert process.returncode == 130


def test_output_that_nobody_reads_any_more_ends_quietly(tmp_path):
    line = f"{sys.executable} train.py {' '.join(FLAGS)} --results-dir {tmp_path} | head -n 3"
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.stderr == ""
