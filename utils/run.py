"""One run from its settings to its results: what train.py and test.py do with a network."""

import platform
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from utils.answers import open_answers
from utils.checkpoint import BuildModel, load_checkpoint, require_fit, restore_network
from utils.console import TrainingDisplay, print_header
from utils.data.batches import Normalise
from utils.data.dataset import Dataset, evaluation_batches, load_parts
from utils.device import Compute
from utils.errors import UserError
from utils.losses import OBJECTIVES
from utils.metrics import count_parameters, measure
from utils.plots import plot_run
from utils.results import RunDir, write_json
from utils.saver import EVERY, Saver
from utils.storage import DamagedFile
from utils.teacher import load_teacher
from utils.trainer import Schedule, Training, fit

VIEWS_ON_CPU = 8  # of these the teacher's answers are paid once; more did not help (see the README)
ADVICE = "a GPU, fewer --epochs, --limit or a smaller --teacher would be faster"


def train_run(
    config,
    dataset: Dataset,
    compute: Compute,
    build_model: BuildModel,
    stop_if_asked: Callable[[], None],
    skip: bool,
) -> None:
    """Train, save and test the one network that `config` names, in its run directory.

    `skip` passes over a run that is finished already instead of refusing it.
    """
    run_dir = RunDir(config.run_dir)
    with run_dir.locked():
        views = _views(config, compute)
        identity = config.identity() | {"precision": compute.precision} | dataset.fingerprints
        if config.role != "teacher":
            identity["views"] = min(views, config.epochs) or config.epochs  # distinct ones
        teacher = answers = None
        if config.role == "kd":
            teacher = load_teacher(config.teacher_path, config.teacher, dataset, compute, build_model)
            identity |= {"teacher": teacher.name, "teacher_sha256": teacher.sha256[:16]}
        action = run_dir.prepare(identity, config.resume, config.overwrite, skip)
        if action == "skip":
            print(f"{run_dir.path}: finished already, nothing to do")
            return

        torch.manual_seed(config.seed)
        model = compute.place(build_model(config.network, dataset.train.num_classes))
        batches = dataset.training_batches(config.batch_size, config.seed, config.cutout, views)
        training = Training(model, Schedule(steps_per_epoch=len(batches), **_schedule_settings(config)))
        if action == "resume":
            _restore(run_dir.last, training, identity)
            run_dir.write_history(training.history)  # the checkpoint is right where the two differ
        objective = OBJECTIVES[config.role](config)
        header = _header(config, dataset, compute, training, objective, batches)
        if teacher is not None:
            header["teacher"], header["answers"] = teacher.description, "live"
            if views and config.teacher_cache != "off":
                auto = config.dataset_dir / "teacher-answers"
                folder = auto if config.teacher_cache == "auto" else Path(config.teacher_cache)
                limit, data = config.teacher_cache_limit, dataset.fingerprints["data"]
                answers, header["answers"] = open_answers(
                    teacher, batches, data, config.epochs, folder, limit, stop_if_asked
                )
        print_header(f"{config.run_dir.parent.name}, seed {config.seed}", header)
        if action == "start":
            run_dir.clear()
            record = {"identity": identity, "command": config.command_line, "objective": str(objective)}
            record |= {"data": dataset.counts(), "device": str(compute), "python": platform.python_version()}
            write_json(run_dir.config, record)

        content = {"model_name": config.network, "config": identity | {"data_dir": config.data_dir}}
        content |= dataset.describe()
        val = dataset.val_batches()
        advice = ADVICE if compute.device.type == "cpu" else ""
        saver = Saver(run_dir, training, content, EVERY[compute.device.type])
        with TrainingDisplay(config.epochs, len(batches), advice) as display, saver:
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
                stop_if_asked,
            ):
                saver.epoch_done()
                display.epoch_done(record)

        result = measure(training.result, dataset.test_batches(), compute)
        result |= {"epoch": training.epoch, "model": config.network, "dataset": config.dataset}
        try:
            plot_run(config.run_dir.parent.name, run_dir.read_history(), run_dir.accuracy, run_dir.loss, result)
        except OSError as error:
            print(f"warning: no plots: {error}", file=sys.stderr)  # figures are worth more than their picture
        write_json(run_dir.test, result)
        print(_sentence(result), flush=True)


def test_checkpoint(
    path: Path, typed: dict[str, Any], compute: Compute, build_model: BuildModel, own_run: Path | None
) -> dict[str, Any]:
    """Measure the network in `path` on the test images that it was trained for, or those that `typed` names.

    `typed` may hold `dataset`, `data_dir`, `image_size` and `limit`. The result goes to test.json in `own_run` if
    that run is finished and was measured on the same images, else to a file beside the checkpoint.
    """
    kept = load_checkpoint(path)
    where = kept["config"] | typed
    _, test = load_parts(SimpleNamespace(**where))
    for name, value in (("class_names", list(test.class_names)), ("image_size", test.image_size)):
        if kept[name] != value:
            raise UserError(f"{path} has {name} {kept[name]}, dataset {where['dataset']} has {value}")
    model = compute.place(restore_network(path, kept, build_model))
    batches = evaluation_batches(test.to(compute.device), Normalise(kept["mean"], kept["std"]))
    print_header(str(path), {"network": kept["model_name"], "device": str(compute)})
    result = measure(model, batches, compute)
    result |= {"epoch": kept["epoch"], "model": kept["model_name"], "dataset": where["dataset"]}
    same_images = kept["config"].get("test_data") == test.fingerprint()
    finished = kept["epoch"] == kept["config"]["epochs"]
    target = path.with_suffix(".test.json")
    if own_run is not None and finished and same_images:
        target = RunDir(own_run).test
    print(_sentence(result))
    write_json(target, result)
    print(f"written to {target}")
    return result


def _header(config, dataset: Dataset, compute: Compute, training: Training, objective, batches) -> dict[str, str]:
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


def _restore(path: Path, training: Training, identity: dict[str, Any]) -> None:
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


def _sentence(result: dict[str, Any]) -> str:
    return (
        f"test: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %, loss {result['loss']:.4f} "
        f"on {result['images']:,} images; {result['parameters']:,} parameters, epoch {result['epoch']}"
    )
