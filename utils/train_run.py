"""One run from its settings to its results: what train.py does for each network."""

import platform
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from utils.data.batches import Batches
from utils.data.dataset import Dataset
from utils.distillation.cache import cached
from utils.distillation.taps import TappedNetwork
from utils.distillation.teacher import LiveTeacher, load_teacher
from utils.evaluation.analysis import analyse, predict
from utils.evaluation.metrics import count_parameters, format_metrics
from utils.losses.method import CrossEntropy, Method
from utils.reporting.curves import plot_run
from utils.reporting.sweep import VALIDATION
from utils.runtime.checkpoint import BuildModel, load_checkpoint, require_fit, weights_sha256
from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.files import DamagedFile
from utils.runtime.identity import SETTING, Identity
from utils.runtime.run_dir import RESULT_KEYS, WEIGHTS, RunDir, write_json
from utils.training.checkpoint_writer import EVERY, CheckpointWriter
from utils.training.loop import LoopOptions, fit
from utils.training.progress import TrainingDisplay, print_header
from utils.training.state import Schedule, TrainState
from utils.training.tensorboard import TensorBoardLogger

VIEWS_ON_CPU = 8  # of these the teacher's outputs are paid once; more did not help (see benchmarks/README.md)
ADVICE = "a GPU, fewer --epochs, --limit or a smaller --teacher would be faster"


@dataclass
class Run:
    """What a run is made of, before anything of it is written."""

    config: Any
    run_dir: RunDir
    dataset: Dataset
    compute: Compute
    batches: Batches
    method: Method
    teacher: LiveTeacher | None
    identity: Identity

    def record(self) -> dict[str, Any]:
        """What config.json and each checkpoint say of the run's settings."""
        paths = {"run": self.config.run_dir.parent.name, "data_dir": self.config.data_dir}
        if self.teacher is not None:
            paths |= {"teacher_path": str(self.config.teacher_path), "teacher_run": self.teacher.run}
        return self.identity.to_record() | {"data": self.dataset.counts()} | paths


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
        run = _prepare(config, run_dir, dataset, compute, build_model)
        action = run_dir.prepare(run.identity, config.resume, config.overwrite, skip)
        if action == "skip":
            print(f"{run_dir.path}: finished already, nothing to do")
            return
        state = _build(run, build_model)
        if action == "resume":
            _restore(run_dir.last, state, run.identity)
            run_dir.write_history(state.history)  # the checkpoint is right where the two differ
        _train(run, state, action, check_interrupt)
        _finish(run, state)


def run_dir_of(config) -> RunDir:
    """Where the run of `config` is."""
    return RunDir(config.run_dir, VALIDATION) if config.swept else RunDir(config.run_dir)


def identity_of(config) -> Identity:
    """What the command line alone tells of a run's identity."""
    values = {name: value for name, value in config.identity().items() if value is not None or name == "limit"}
    label, defaults = "", dict(config.identity_defaults)
    if config.method is not None:
        values |= {f"{SETTING}{name}": value for name, value in values.pop("settings").items()}
        defaults |= {f"{SETTING}{name}": value for name, value in config.method.defaults.items()}
        label = config.method.kind.__name__
    return Identity(values, defaults, label, partial=True)


def _prepare(config, run_dir: RunDir, dataset: Dataset, compute: Compute, build_model: BuildModel) -> Run:
    """Load the teacher and settle the run's identity."""
    views = _views(config, compute)
    augmentation = dataset.augmentation(config.padding, config.flip, config.cutout)
    batches = dataset.training_batches(config.batch_size, config.seed, augmentation, views)
    known = identity_of(config)
    values = known.values | {"padding": augmentation.padding, "flip": augmentation.flip}
    values |= {"precision": compute.precision} | dataset.fingerprints
    if config.role != "teacher":
        values["views"] = min(views, config.epochs) or config.epochs  # distinct ones
    teacher, method = None, CrossEntropy()
    method.label_smoothing = config.label_smoothing
    if config.role == "kd":
        method = config.method.build(config.label_smoothing)
        teacher = load_teacher(config.teacher_path, config.teacher, method.needs, dataset, compute, build_model)
        values |= {"teacher": teacher.name, "teacher_sha256": teacher.sha256[:16]}
    identity = Identity(values, known.defaults, known.label, len(dataset.train))
    return Run(config, run_dir, dataset, compute, batches, method, teacher, identity)


def _build(run: Run, build_model: BuildModel) -> TrainState:
    """Make the network and the trainable parts of the method."""
    config = run.config
    torch.manual_seed(config.seed)
    model = run.compute.place(build_model(config.network, run.dataset.train.num_classes))
    if run.teacher is not None:
        images = next(run.batches.epoch(0)).images
        try:
            student = TappedNetwork(model, run.method.needs, images).example(images)
            run.method.adapt(student, run.teacher.network.example(images))
        except ValueError as error:
            raise UserError(f"--method {config.method.spec}: {error}", "python train.py --list-methods") from error
        run.method.to(run.compute.device)
    settings = {
        field.name: getattr(config, field.name) for field in fields(Schedule) if field.name in vars(config)
    }
    return TrainState(model, Schedule(steps_per_epoch=len(run.batches), **settings), run.method)


def _train(run: Run, state: TrainState, action: str, check_interrupt: Callable[[], None]) -> None:
    """Show what will happen, record it, and train."""
    config, dataset, compute = run.config, run.dataset, run.compute
    teacher, header = run.teacher, _header(run, state)
    if teacher is not None:
        header["teacher"] = teacher.description
        teacher, header["outputs"] = _with_cache(run, check_interrupt)
    print_header(f"{config.run_dir.parent.name}, seed {config.seed}", header)
    if action == "start":
        run.run_dir.clear()
        record = {"command": config.command_line, "objective": run.method.formula(), "device": str(compute)}
        write_json(run.run_dir.config, run.record() | record | {"python": platform.python_version()})
    content = {"model_name": config.network, "config": run.record()} | dataset.describe()
    advice = ADVICE if compute.device.type == "cpu" else ""
    with ExitStack() as stack:
        display = stack.enter_context(TrainingDisplay(config.epochs, len(run.batches), advice))
        writer = CheckpointWriter(run.run_dir, state, content, EVERY[compute.device.type])
        listeners = [stack.enter_context(writer), display]
        if config.tensorboard:
            logger = TensorBoardLogger(run.run_dir.tensorboard, state, run.batches, compute, teacher)
            listeners.append(stack.enter_context(logger))
        graph = config.cuda_graph == "auto"
        options = LoopOptions(config.eval_every, graph, config.compile, display.progress, check_interrupt)
        for record in fit(state, teacher, run.batches, dataset.val_batches(), compute, options):
            for listener in listeners:
                listener.epoch_done(record)


def _with_cache(run: Run, check_interrupt: Callable[[], None]):
    """The teacher, with its outputs cached where that can be; and a text of which."""
    config = run.config
    if not run.batches.views or config.teacher_cache == "off":
        return run.teacher, "live"
    beside_the_runs = config.dataset_dir / "teacher-outputs"
    folder = beside_the_runs if config.teacher_cache == "auto" else Path(config.teacher_cache)
    data, limit = run.dataset.fingerprints["data"], config.teacher_cache_limit
    return cached(run.teacher, run.batches, data, config.epochs, folder, limit, check_interrupt)


def _finish(run: Run, state: TrainState) -> None:
    """Measure the trained network, draw its curves, and write the metrics that make the run a finished one."""
    config, dataset = run.config, run.dataset
    part = "val" if config.swept else "test"
    batches = dataset.val_batches() if config.swept else dataset.test_batches()
    analysis = analyse(*predict(state.result, batches, run.compute), dataset.train.class_names)
    analysis |= {"parameters": count_parameters(state.model), "epoch": state.epoch}
    weights = {name: tensor.cpu() for name, tensor in state.result.state_dict().items()}
    analysis |= {"model": config.network, "dataset": config.dataset, WEIGHTS: weights_sha256(weights)}
    metrics = {name: analysis[name] for name in RESULT_KEYS}
    try:
        test = None if config.swept else metrics
        history = run.run_dir.read_history()
        plot_run(config.run_dir.parent.name, history, run.run_dir.accuracy, run.run_dir.loss, test)
    except OSError as error:
        print(f"warning: no plots: {error}", file=sys.stderr)  # metrics are worth more than their plot
    write_json(run.run_dir.results, metrics)
    print(format_metrics(metrics, part), flush=True)


def _header(run: Run, state: TrainState) -> dict[str, str]:
    config, counts, size = run.config, run.dataset.counts(), run.dataset.train.image_size
    images = ", ".join(f"{count:,} {part}" for part, count in counts.items())
    classes = run.dataset.train.num_classes
    header = {
        "data": f"{config.dataset}: {images}; {classes} classes, {size}x{size} pixels",
        "network": f"{config.network}, {count_parameters(state.model):,} parameters",
        "objective": run.method.formula(),
        "recipe": config.recipe_text(),
        "views": _views_text(run.batches.views, config.epochs),
        "device": str(run.compute),
        "results": str(config.run_dir),
    }
    if adapters := count_parameters(run.method):
        header["network"] += f"; {adapters:,} more of the method, trained with it and left out of the result"
    if run.batches.num_images < len(run.batches.image_set):
        header["note"] = "the last batch of an epoch would be a single image; it is left out"
    if state.epoch:
        header["resumed"] = f"after epoch {state.epoch} of {config.epochs}"
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


def _restore(path: Path, state: TrainState, identity: Identity) -> None:
    """Continue from the checkpoint of an earlier process. Raises DamagedFile if it is not of this run."""
    checkpoint = load_checkpoint(path)
    changed = identity.explain(Identity.from_record(checkpoint["config"]))
    if changed:
        raise DamagedFile(f"{path} is of another run: {', '.join(changed)}", "--overwrite starts the run again")
    expected = {key: tensor.shape for key, tensor in state.result.state_dict().items()}
    require_fit(path, checkpoint["model"], expected, f"the {identity['network']} of this run")
    try:
        state.load_state_dict(checkpoint["model"], checkpoint)
    except (UserError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        hint = "--overwrite starts the run again"
        raise DamagedFile(f"{path} cannot be resumed: {error!s:.200}", hint) from error
