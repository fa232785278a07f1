"""Train a teacher, a student, or a student taught by the teacher.

python train.py --tto True                 # the teacher
python train.py                            # the student alone
python train.py --kd True --temp 5         # the student, taught by the teacher
python train.py --all --temp 5 20          # all of them, then the table
"""

import shlex
import sys

from config import parse
from models import MODELS, build_model
from utils.data.sources import SOURCES
from utils.errors import UsageError
from utils.program import run


def main(argv: list[str]) -> None:
    config = parse("train.py", argv, MODELS, SOURCES)
    if config.role == "kd" and not config.teacher_path.exists():
        hint = "check the path" if config.teacher_checkpoint else f"train it first: {config.command('teacher')}"
        raise UsageError(f"--kd needs a trained teacher, and there is none at {config.teacher_path}", hint)

    # Only now: importing torch takes seconds, and a mistyped command is answered at once.
    from utils.data.dataset import load_dataset
    from utils.device import Compute
    from utils.interrupt import Interrupt
    from utils.report import write_report
    from utils.results import RunDir
    from utils.run import train_run

    runs, skip = config.runs(), config.role == "all"
    for each in runs:  # before anything is loaded or trained: is there a run that this would overwrite?
        RunDir(each.run_dir).prepare(each.identity(), each.resume, each.overwrite, skip)

    compute = Compute.choose(config.device, config.precision)
    dataset = load_dataset(config, compute)
    again = [*argv, *["--no-overwrite"] * config.overwrite, *["--resume"] * (not config.resume)]
    with Interrupt(note=f"go on with: {shlex.join(['python', 'train.py', *again])}") as interrupt:
        for each in runs:
            train_run(each, dataset, compute, build_model, interrupt.check, skip)
            interrupt.check()
    print(f"table and plots: {write_report(config.dataset_dir)}")


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
