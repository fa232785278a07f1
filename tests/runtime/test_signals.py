"""Signals end a program wherever they come: while modules are imported, before and in a training."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.runtime.program import run
from utils.runtime.signals import Interrupt

ROOT = Path(__file__).parent.parent.parent
HEAD = """
import os, signal, sys, time, weakref
from utils.runtime.program import run
from utils.runtime.signals import Interrupt
def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)
    time.sleep(0.01)
"""
TAIL = "\nsys.exit(run(main, []))\n"
# What a module may do while it is imported: `send` sends SIGINT.
IMPORTED = {
    "nothing": "send()",
    "swallows": "try:\n    send()\nexcept BaseException:\n    pass",
    "has a callback": "class A: pass\na = A()\nref = weakref.ref(a, lambda _: send())\ndel a",
    "has a finaliser": "class A:\n    def __del__(self): send()\na = A()\ndel a",
}


@pytest.fixture(autouse=True)
def in_the_foreground():
    """Programs begin as in a terminal, also where the tests run in the background or under `nohup`."""
    numbers = (signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in zip(numbers, (signal.default_int_handler, signal.SIG_DFL), strict=True):
        signal.signal(number, handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def python(main: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    """Run a program whose `main` has this body."""
    body = "def main(argv):\n" + "".join(f"    {line}\n" for line in main.strip().splitlines())
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{folder}"}
    line = [sys.executable, "-c", HEAD + body + TAIL]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("kind", IMPORTED)
def test_ctrl_c_while_modules_are_imported_ends_the_program_whatever_they_do_with_it(tmp_path, kind):
    (tmp_path / "module.py").write_text(f"import weakref\nfrom __main__ import send\n{IMPORTED[kind]}\n")
    done = python("import module\nprint('went on')", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nstopped by SIGINT\n")


def test_ctrl_c_elsewhere_lets_what_was_begun_be_cleaned_up():
    done = python("try:\n    send()\nfinally:\n    print('cleaned up')")
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned up\n", "\nstopped by SIGINT\n")


def test_a_ctrl_c_that_was_swallowed_stops_the_training_or_a_second_one_the_program():
    swallow = "try:\n    send()\nexcept BaseException:\n    pass\n"
    for more in ("with Interrupt('go on') as interrupt:\n    interrupt.check_interrupt()", "send()"):
        done = python(f"{swallow}{more}\nprint('went on')")
        assert (done.returncode, done.stdout) == (130, "")


@pytest.mark.parametrize(
    ("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)], ids=lambda value: str(value)
)
def test_a_signal_in_a_training_ends_it_after_the_step_with_a_note(name, code):
    done = python(f"""
with Interrupt("how to go on") as interrupt:
    send(signal.{name})
    print("the step is finished")
    interrupt.check_interrupt()
print("went on")""")
    assert (done.returncode, done.stdout) == (code, "the step is finished\n")
    assert f"stopped by {name}: how to go on" in done.stderr


def test_a_signal_that_is_ignored_from_outside_stays_so():
    """As `nohup` does with SIGHUP, and a shell with SIGINT of what runs in its background."""
    done = python(
        """
with Interrupt("") as interrupt:
    send(signal.SIGHUP)
    interrupt.check_interrupt()
signal.signal(signal.SIGINT, signal.SIG_IGN)
assert run(lambda argv: send(), []) == 0
print("went on")""".replace("with", "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nwith", 1)
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


def test_a_training_whose_terminal_is_closed_saves_and_ends(tmp_path):
    code = f"""{HEAD}
def main(argv):
    with Interrupt("how to go on") as interrupt:
        try:
            print("ready", flush=True)
            while True:
                time.sleep(0.01)
                interrupt.check_interrupt()
        finally:
            print("on a terminal that is gone", flush=True)
            open(sys.argv[1], "w").close()
{TAIL}"""
    child, terminal = pty.fork()  # in the child: the leader of a session with a terminal of its own
    if child == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", code, str(tmp_path / "saved")])
    assert os.read(terminal, 100).startswith(b"ready")
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert (tmp_path / "saved").exists()


def test_a_program_that_ends_leaves_the_handlers_as_they_were():
    def fail(argv):
        raise OSError(28, "No space left on device", "file")

    def train(argv):
        with Interrupt(""):
            pass

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert [run(main, []) for main in (train, fail)] == [0, 1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
