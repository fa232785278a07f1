"""Train a teacher, a student, or a student with knowledge distillation.

python train.py --tto True                 # the teacher (tto: train the teacher only)
python train.py                            # the student alone
python train.py --kd True --temp 5         # the student, distilled from the teacher
python train.py --all --temp 5 20          # all of them, then the table
"""

import shlex
import sys

from config import parse
from models import MODELS, build_model
from utils.data.sources import SOURCES
from utils.losses import METHODS, resolve_method
from utils.runtime.errors import UsageError
from utils.runtime.program import run


def main(argv: list[str]) -> None:
    config = parse("train.py", argv, MODELS, SOURCES, METHODS)

    if config.list_methods:
        from utils.losses.spec import list_methods

        print(*list_methods().splitlines(), sep="\n")
        return
    try:
        runs = config.runs(resolve_method)
    except ValueError as error:
        raise UsageError(str(error), "python train.py --list-methods") from None
    for each in runs if config.role in ("kd", "sweep") else ():
        missing = [path for path in each.teacher_paths if not path.exists()]
        if each.method.needs_teacher and missing:
            train_it = f"train it first: {config.command('teacher')}"
            hint = "check the path" if config.teacher_checkpoint else train_it
            raise UsageError(f"--{config.role} needs a trained teacher: there is none at {missing[0]}", hint)

    # Only now: importing torch takes seconds, and a mistyped command is answered at once.
    from utils.data.dataset import load_dataset
    from utils.reporting.page import PAGE, write_page
    from utils.reporting.sweep import write_sweep
    from utils.reporting.table import read_rows, terminal_table, write_report
    from utils.run import identity_of, kinds_of, run_dir_of
    from utils.runtime.device import Compute
    from utils.runtime.signals import Interrupt
    from utils.train_run import train_run
    from utils.training.progress import in_turn
    from utils.training.tensorboard import require_tensorboard

    if config.tensorboard:
        require_tensorboard()
    skip = len(runs) > 1  # finished runs are passed over where the command means several
    for each in runs:  # first: what the others say does not hold for a run in use
        run_dir_of(each).require_free()
    # Before anything is loaded or trained: is there a run that this would overwrite?
    actions = [run_dir_of(each).prepare(identity_of(each), each.resume, each.overwrite, skip) for each in runs]

    compute = Compute.choose(config.device, config.precision)
    dataset = load_dataset(config, compute)
    if config.role == "sweep" and dataset.val is None:
        raise UsageError(
            "--sweep needs validation images, and so few images have none", "--val-size holds some out"
        )
    again = [*argv, *["--no-overwrite"] * config.overwrite, *["--resume"] * (not config.resume)]
    with Interrupt(note=f"go on with: {shlex.join(['python', 'train.py', *again])}") as interrupt:
        for each in runs if config.overwrite else ():  # from here on, --resume may finish it
            run_dir_of(each).mark_overwrite(identity_of(each))
        for each in in_turn(runs, actions, kinds_of):
            train_run(each, dataset, compute, build_model, interrupt.check_interrupt, skip)
            interrupt.check_interrupt()
    if config.role == "sweep":
        print(f"tables and heat maps: {write_sweep(config.sweep_dir, [run_dir_of(each) for each in runs])}")
    else:
        if len(runs) > 1:
            print(*terminal_table(read_rows(config.dataset_dir)), sep="\n")
        print(f"table and plots: {write_report(config.dataset_dir)}")
        if (config.dataset_dir / PAGE).exists():  # it has the same table, and must not lag behind
            write_page(config.dataset_dir)


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
