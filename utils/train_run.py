"""One run from its settings to its results: what train.py does for each network."""

import platform
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from utils.data.dataset import Dataset
from utils.distillation.cache import Answers, open_answers
from utils.distillation.teacher import Teacher, load_teacher
from utils.evaluation.analysis import analyse, predict
from utils.evaluation.metrics import count_parameters
from utils.losses import OBJECTIVES
from utils.reporting.curves import plot_run
from utils.reporting.sweep import VALIDATION
from utils.runtime.checkpoint import BuildModel, load_checkpoint, require_fit
from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.files import DamagedFile
from utils.runtime.run_dir import RESULT_KEYS, RunDir, write_json
from utils.training.checkpoint_writer import EVERY, CheckpointWriter
from utils.training.loop import Schedule, TrainState, fit
from utils.training.progress import TrainingDisplay, print_header
from utils.training.tensorboard import TensorBoardLogger

VIEWS_ON_CPU = 8  # of these the teacher's answers are paid once; more did not help (see the README)
ADVICE = "a GPU, fewer --epochs, --limit or a smaller --teacher would be faster"


def train_run(
    config,
    dataset: Dataset,
    compute: Compute,
    build_model: BuildModel,
    check_interrupt: Callable[[], None],
    skip: bool,
) -> None:
    """Train, save and test the one network that `config` names, in its run directory.

    `skip` passes over a run that is finished already instead of refusing it. A run of a sweep is measured on the
    validation images instead of the test images.
    """
    run_dir = run_dir_of(config)
    with run_dir.locked():
        views = _views(config, compute)
        identity = config.identity() | {"precision": compute.precision} | dataset.fingerprints
        if config.role != "teacher":
            identity["views"] = min(views, config.epochs) or config.epochs  # distinct ones
        teacher = None
        if config.role == "kd":
            teacher = load_teacher(config.teacher_path, config.teacher, dataset, compute, build_model)
            identity |= {"teacher": teacher.name, "teacher_sha256": teacher.sha256[:16]}
        action = run_dir.prepare(identity, config.resume, config.overwrite, skip)
        if action == "skip":
            print(f"{run_dir.path}: finished already, nothing to do")
            return

        torch.manual_seed(config.seed)
        model = compute.place(build_model(config.network, dataset.train.num_classes))
        augmentation = dataset.augmentation(None, None, config.cutout)
        batches = dataset.training_batches(config.batch_size, config.seed, augmentation, views)
        training = TrainState(model, Schedule(steps_per_epoch=len(batches), **_schedule_settings(config)))
        if action == "resume":
            _restore(run_dir.last, training, identity)
            run_dir.write_history(training.history)  # the checkpoint is right where the two differ
        objective = OBJECTIVES[config.role](config)
        header = _header(config, dataset, compute, training, objective, batches)
        answers = None
        if teacher is not None:
            answers, where = _answers(config, dataset, teacher, batches, check_interrupt)
            header |= {"teacher": teacher.description, "answers": where}
        print_header(f"{config.run_dir.parent.name}, seed {config.seed}", header)
        if action == "start":
            run_dir.clear()
            record = {"identity": identity, "command": config.command_line, "objective": str(objective)}
            record |= {"data": dataset.counts(), "device": str(compute), "python": platform.python_version()}
            write_json(run_dir.config, record)

        places = {"data_dir": config.data_dir} | ({"teacher_path": str(config.teacher_path)} if teacher else {})
        content = {"model_name": config.network, "config": identity | places}
        content |= dataset.describe()
        val, advice = dataset.val_batches(), ADVICE if compute.device.type == "cpu" else ""
        with ExitStack() as stack:
            display = stack.enter_context(TrainingDisplay(config.epochs, len(batches), advice))
            listeners = [
                stack.enter_context(CheckpointWriter(run_dir, training, content, EVERY[compute.device.type])),
                display,
            ]
            if config.tensorboard:
                watch = TensorBoardLogger(
                    run_dir.tensorboard, training, objective, batches, compute, teacher, answers
                )
                listeners.append(stack.enter_context(watch))
            for record in fit(
                training,
                objective,
                batches,
                val,
                compute,
                teacher,
                answers,
                config.eval_every,
                config.cuda_graph == "auto",
                config.compile,
                display.progress,
                check_interrupt,
            ):
                for listener in listeners:
                    listener.epoch_done(record)
        _finish(config, run_dir, dataset, compute, training)


def run_dir_of(config) -> RunDir:
    """Where the run of `config` is."""
    return RunDir(config.run_dir, VALIDATION) if config.swept else RunDir(config.run_dir)


def _answers(config, dataset: Dataset, teacher: Teacher, batches, check_interrupt) -> tuple[Answers | None, str]:
    """The teacher's kept answers, or None where it answers live; and a text of which."""
    if not batches.views or config.teacher_cache == "off":
        return None, "live"
    beside_the_runs = config.dataset_dir / "teacher-answers"
    folder = beside_the_runs if config.teacher_cache == "auto" else Path(config.teacher_cache)
    data, limit = dataset.fingerprints["data"], config.teacher_cache_limit
    return open_answers(teacher, batches, data, config.epochs, folder, limit, check_interrupt)


def _finish(config, run_dir: RunDir, dataset: Dataset, compute: Compute, training: TrainState) -> None:
    """Measure the trained network, draw its curves, and write the figures that make the run a finished one."""
    part = "val" if config.swept else "test"
    batches = dataset.val_batches() if config.swept else dataset.test_batches()
    found = analyse(*predict(training.result, batches, compute), dataset.train.class_names)
    found |= {"parameters": count_parameters(training.model), "epoch": training.epoch}
    found |= {"model": config.network, "dataset": config.dataset}
    result = {name: found[name] for name in RESULT_KEYS}
    try:
        shown = None if config.swept else result
        plot_run(config.run_dir.parent.name, run_dir.read_history(), run_dir.accuracy, run_dir.loss, shown)
    except OSError as error:
        print(f"warning: no plots: {error}", file=sys.stderr)  # figures are worth more than their picture
    write_json(run_dir.results, result)
    print(format_metrics(result, part), flush=True)


def _header(
    config, dataset: Dataset, compute: Compute, training: TrainState, objective, batches
) -> dict[str, str]:
    counts, size = dataset.counts(), dataset.train.image_size
    images = ", ".join(f"{count:,} {part}" for part, count in counts.items())
    header = {
        "data": f"{config.dataset}: {images}; {dataset.train.num_classes} classes, {size}x{size} pixels",
        "network": f"{config.network}, {count_parameters(training.model):,} parameters",
        "objective": str(objective),
        "recipe": config.recipe_text(),
        "views": _views_text(batches.views, config.epochs),
        "device": str(compute),
        "results": str(config.run_dir),
    }
    if batches.num_images < len(batches.image_set):
        header["note"] = "the last batch of an epoch would be a single image; it is left out"
    if training.epoch:
        header["resumed"] = f"after epoch {training.epoch} of {config.epochs}"
    return header


def _views(config, compute: Compute) -> int:
    """How many views of an image a network sees in turn; 0: a new one in each epoch."""
    if config.role == "teacher":
        return 0
    if config.views is not None:
        return config.views
    return VIEWS_ON_CPU if compute.device.type == "cpu" else config.epochs


def _views_text(views: int, epochs: int) -> str:
    if views and views < epochs:
        return f"{views} augmentations of each image in turn"
    return "a new augmentation of each image in each epoch"


def _schedule_settings(config) -> dict[str, Any]:
    names = {field.name for field in fields(Schedule)} - {"steps_per_epoch"}
    return {name: getattr(config, name) for name in names}


def _restore(path: Path, training: TrainState, identity: dict[str, Any]) -> None:
    """Continue from the checkpoint of an earlier process. Raises DamagedFile if it is not of this run."""
    kept = load_checkpoint(path)
    for name, value in identity.items():
        if kept["config"].get(name) != value:
            what = f"{path} is of another run: {name} {kept['config'].get(name)} instead of {value}"
            raise DamagedFile(what, "--overwrite starts the run again")
    expected = {key: tensor.shape for key, tensor in training.result.state_dict().items()}
    require_fit(path, kept["model"], expected, f"the {identity['network']} of this run")
    try:
        training.load_state_dict(kept["model"], kept)
    except (UserError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedFile(
            f"{path} cannot be resumed: {error!s:.200}", "--overwrite starts the run again"
        ) from error


def format_metrics(result: dict[str, Any], part: str = "test") -> str:
    """The figures of a network in one line."""
    return (
        f"{part}: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %, loss {result['loss']:.4f}, "
        f"ECE {result['ece']:.2f} % on {result['images']:,} images; {result['parameters']:,} parameters, "
        f"epoch {result['epoch']}"
    )
