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
    assert (
        streams[1].getvalue()
        == "error: unexpected RuntimeError: a b (hint: --debug shows where; please report it)\n"
    )


def test_debug_lets_the_error_through():
    def main(_argv):
        raise RuntimeError("here")

    with pytest.raises(RuntimeError, match="here"):
        run(main, ["--debug"])


def test_a_character_that_the_terminal_lacks_is_replaced(tmp_path, monkeypatch):
    with open(tmp_path / "out", "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run(lambda _argv: print("α"), []) == 0
    assert (tmp_path / "out").read_bytes() == b"?" + os.linesep.encode()
