"""How a program starts and ends: its environment, and the one place where an ending becomes an exit code."""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable

from utils.runtime.console import escaped_output
from utils.runtime.errors import Interrupted, UserError, printable
from utils.runtime.signals import StopProgram

# How long OpenMP's threads (libgomp, in torch's CPU builds) turn idle before they sleep. Its default is for a
# machine of one's own: beside another busy torch process on two cores, an epoch of cnn_tiny that takes 1.5 s alone
# did not end within a minute. Two trainings at once took 17 s an epoch at 20,000 and 5.4 s at 2,000, which costs
# 0.1 s of those 1.5 s when alone.
SPIN_COUNT = "2000"
REQUIRED = {"torch", "torchvision", "matplotlib", "numpy", "tqdm", "jinja2", "PIL"}  # requirements.txt brings them


def describe(error: BaseException) -> tuple[str, str]:
    """Return (what went wrong, hint) for any exception, each without line breaks."""
    if isinstance(error, UserError):
        return Exception.__str__(error), error.hint
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] in REQUIRED:
        what = f"{error.name} is not installed for {sys.executable}"
        return what, "activate .venv, or pip install -r requirements.txt, or make demo"
    if isinstance(error, MemoryError) or re.search("out of memory|an(no|')t allocate memory|ALLOC_FAILED", text):
        return "out of memory", "a smaller --batch-size, a smaller network, or --limit"
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        hint = {
            errno.ENOSPC: "free some space or choose another --results-dir",
            errno.EDQUOT: "free some space or choose another --results-dir",
            errno.EFBIG: "the file size limit (ulimit -f) is too low for a checkpoint",
            errno.EACCES: "check the permissions, or choose another --results-dir",
            errno.EISDIR: "a file is needed there, and this is a folder",
            errno.ENOTDIR: "a folder is needed there, and this is a file",
            errno.EROFS: "choose a --results-dir that can be written",
            errno.ELOOP: "it is a link, and nothing is written through one: remove it",
        }.get(error.errno, "")
        return f"{where}{os.strerror(error.errno)}", hint
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"--compile failed: {text[:100]}", "leave --compile out, or install a C++ compiler"
    return f"unexpected {type(error).__name__}: {text}", "--debug shows where; please report it"


@escaped_output()
def run(main: Callable[[list[str]], None], argv: list[str]) -> int:
    """Run an entry point and return its exit code: 0, 1, 2, or 128 and the number of a signal: 129, 130 or 143.

    Every error ends as one line on stderr; `--debug` among the arguments shows the traceback too.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read when torch is imported, which is later
    os.environ["MPLBACKEND"] = "agg"  # plots are files; matplotlib fails at import for a backend that it lacks
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's streams are not files
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 must not end a training
    handler, before = StopProgram(), signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:  # as a shell leaves it to what it starts in the background
        signal.signal(signal.SIGINT, handler)
    try:
        main(argv)
        sys.stdout.flush()
    except (Interrupted, KeyboardInterrupt) as stop:
        number = stop.signal_number if isinstance(stop, Interrupted) else signal.SIGINT
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second one would change the exit code
        note = f": {stop}" if str(stop) else ""
        print(f"\nstopped by {signal.Signals(number).name}{note}", file=sys.stderr)
        return 128 + number
    except BrokenPipeError:
        # Whoever read our output has gone; Python's own flush at exit would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if "--debug" in argv:
            raise
        what, hint = describe(error)
        print(printable(f"error: {what} (hint: {hint})" if hint else f"error: {what}"), file=sys.stderr)
        return error.exit_code if isinstance(error, UserError) else 1
    finally:
        if signal.getsignal(signal.SIGINT) is handler:
            signal.signal(signal.SIGINT, before)
    return 0
