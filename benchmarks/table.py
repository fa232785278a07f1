"""Where the time of a whole command goes, from the start of its process to its exit.

    python -m benchmarks.table [--json FILE] [flags of train.py]

Without flags: `train.py --all --dataset shapes`. Results go to a temporary folder. Each second is counted once:
what is done within something else (the teacher's outputs within an epoch) is taken off that.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
# phase -> the functions (module, name or class.name) whose time it is
PHASES = {
    "data": [("utils.data.dataset", "load_dataset")],
    "teacher": [("utils.run", "load_teacher")],
    "teacher's outputs": [("utils.distillation.cached_teacher", "CachedTeacher.set_view")],
    "capture": [("utils.training.cuda_graph", "GraphedStep._captured")],
    "training": [("utils.training.loop", "_train_epoch")],
    "evaluation": [("utils.training.loop", "evaluate"), ("utils.train_run", "predict")],
    "saving": [("utils.training.checkpoint_writer", "CheckpointWriter.write")],
    "plots and table": [("utils.train_run", "plot_run"), ("utils.reporting.table", "write_report")],
}


class Clock:
    """Seconds of each phase; a phase within another one stops the clock of that."""

    def __init__(self, started: float):
        self.seconds, self.phases, self.since = {}, ["imports"], started

    def switch(self, phases: list[str]) -> None:
        now = time.time()
        phase = self.phases[-1] if self.phases else "everything else"
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.since
        self.phases, self.since = phases, now

    def timed(self, phase: str, function: Callable) -> Callable:
        def wrapper(*words, **more):
            self.switch([*self.phases, phase])
            try:
                return function(*words, **more)
            finally:
                self.switch(self.phases[:-1])

        return wrapper


def child(started: float, flags: list[str], target: Path) -> None:
    """Run train.py in this process with its functions timed, and write the results to `target`."""
    from importlib import import_module
    from operator import attrgetter

    from utils.runtime.program import run

    clock = Clock(started)
    os.environ["GOMP_SPINCOUNT"] = "2000"  # as utils.runtime.program sets it, but before the imports here
    for phase, functions in PHASES.items():
        for module, name in functions:
            owner, _, attribute = name.rpartition(".")
            namespace = import_module(module)
            namespace = attrgetter(owner)(namespace) if owner else namespace
            setattr(namespace, attribute, clock.timed(phase, getattr(namespace, attribute)))
    import train

    clock.switch([])
    code = run(train.main, flags)
    clock.switch([])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    target.write_text(json.dumps({"exit_code": code, "seconds": clock.seconds, "peak_memory_gb": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.table", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args, flags = parser.parse_known_args()
    if args.child:
        child(float(args.child[0]), flags, Path(args.child[1]))
        return
    flags = flags or ["--all", "--dataset", "shapes"]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "results.json")
        words = [sys.executable, "-m", "benchmarks.table", "--child", repr(time.time()), str(target), *flags]
        started = time.time()
        subprocess.run([*words, "--results-dir", folder], cwd=ROOT, check=True)
        total = time.time() - started
        results = json.loads(target.read_text())
    if results["exit_code"]:
        sys.exit(results["exit_code"])
    seconds = results["seconds"]
    seconds["exit"] = total - sum(seconds.values())
    print(f"\npython train.py {' '.join(flags)}: {total:.1f} s, {results['peak_memory_gb']:.2f} GB at most\n")
    for phase in ("imports", *PHASES, "everything else", "exit"):
        if phase in seconds:
            print(f"{phase:18} {seconds[phase]:>9.2f} s {seconds[phase] / total:>7.1%}")
    if args.json:
        args.json.write_text(json.dumps(results | {"flags": flags, "total": total}, indent=1) + "\n")


if __name__ == "__main__":
    main()
