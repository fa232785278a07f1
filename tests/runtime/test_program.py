import io
import os
import sys

import pytest

from utils.runtime.program import run


def test_without_torch_one_line_says_which_python_lacks_it_and_what_to_do(command):
    for line in (["train.py", "--dataset", "shapes"], ["train.py", "--all"], ["test.py", "--all"]):
        without = "import runpy, sys; sys.modules['torch'] = None; sys.modules['numpy'] = None;"
        without += f"sys.argv = {line}; sys.path.insert(0, '.'); runpy.run_path({line[0]!r}, run_name='__main__')"
        done = command("-c", without, check=1)
        hint = "activate .venv, or pip install -r requirements.txt, or make demo"
        module = done.stderr.split()[1]
        assert module in ("torch", "numpy")
        assert done.stderr == f"error: {module} is not installed for {sys.executable} (hint: {hint})\n"
        assert done.stdout == ""


def test_any_other_missing_module_is_reported_as_unexpected(capsys):
    def main(_argv):
        raise ModuleNotFoundError("No module named 'models.gone'", name="models.gone")

    assert run(main, []) == 1
    assert capsys.readouterr().err.startswith("error: unexpected ModuleNotFoundError: ")


def test_a_notebook_whose_streams_cannot_be_reconfigured_sees_output_and_errors(monkeypatch):
    def main(argv):
        print("trained")
        if argv:
            raise RuntimeError("a\nb")

    streams = io.StringIO(), io.StringIO()
    assert not hasattr(streams[0], "reconfigure")
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    assert run(main, []) == 0
    assert run(main, ["fail"]) == 1
    assert streams[0].getvalue() == "trained\ntrained\n"
    hint = "(hint: --debug shows where; please report it)"
    assert streams[1].getvalue() == f"error: unexpected RuntimeError: a b {hint}\n"


SMALL = "--all --dataset shapes --limit 60 --epochs 1 --teacher cnn_tiny --temp 5 --results-dir".split()
WINDOWS = """
import os, signal, sys
import matplotlib.figure, PIL.Image, subprocess, tempfile, torch, tqdm
from tests.test_architecture import POSIX_MODULES, POSIX_NAMES
for module in (os, signal):
    for name in POSIX_NAMES & set(dir(module)):
        delattr(module, name)
sys.modules.update(dict.fromkeys(POSIX_MODULES - {"posix"}))
sys.modules["torch.fx.experimental.optimization"] = None  # in some versions of torch it cannot be imported
sys.platform = "win32"
from utils.data.sources import shapes
shapes.TRAIN = shapes.TEST = 60
import test, train, utils.evaluation.cost as cost
cost.LATENCY_SECONDS = cost.BATCH_SECONDS = cost.LONGEST_PASS = 0.01
from utils.runtime.program import run
code = run(train.main, sys.argv[1:])
sys.exit(code or run(test.main, ["--all", "--dataset", "shapes", *sys.argv[-2:]]))
"""


@pytest.mark.slow
def test_all_is_trained_and_measured_without_what_windows_lacks_and_without_a_part_of_torch(command, tmp_path):
    done = command("-c", WINDOWS, *SMALL, tmp_path)
    assert done.stderr.count("error") == 0
    assert (tmp_path / "shapes/kd-cnn_tiny-t5/seed0/analysis.json").exists()
    assert (tmp_path / "shapes/report.html").exists()


def test_debug_lets_the_error_through():
    def main(_argv):
        raise RuntimeError("here")

    with pytest.raises(RuntimeError, match="here"):
        run(main, ["--debug"])


def test_a_character_that_the_terminal_lacks_is_replaced(tmp_path, monkeypatch):
    with open(tmp_path / "out", "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run(lambda _argv: print("ä"), []) == 0
    assert (tmp_path / "out").read_bytes() == b"?" + os.linesep.encode()
