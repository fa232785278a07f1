"""One run from its settings to its results: what train.py does for each network."""

import platform
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from utils.data.batches import Batches
from utils.data.dataset import Dataset
from utils.distillation.cache import cached
from utils.distillation.check import TeacherCheck, check_teacher
from utils.distillation.ensemble import Ensemble
from utils.distillation.taps import TappedNetwork
from utils.distillation.teacher import LiveTeacher, load_teacher
from utils.evaluation.analysis import analyse, predict
from utils.evaluation.metrics import count_parameters, format_metrics
from utils.losses.method import CrossEntropy, Method
from utils.reporting.curves import plot_run
from utils.reporting.format import duplicates_text
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
    teacher: LiveTeacher | Ensemble | None
    identity: Identity
    check: TeacherCheck | None = None  # of the teacher, before the training

    def record(self) -> dict[str, Any]:
        """What config.json and each checkpoint say of the run's settings."""
        paths = {"run": self.config.run_dir.parent.name, "data_dir": self.config.data_dir}
        data = {"data": self.dataset.counts(), "duplicates": self.dataset.duplicates}
        record = self.identity.to_record() | data | paths
        if self.teacher is not None:
            teacher = {"sha256": self.teacher.sha256, "note": self.teacher.note} | self.check.record()
            record |= {"teacher": teacher}
            if isinstance(self.teacher, LiveTeacher):  # what test.py compares the student with
                record |= {"teacher_path": str(self.teacher.path), "teacher_run": self.teacher.run}
        return record


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
        if action != "start":
            run_dir.keep()
        if action == "skip":
            print(f"{run_dir.path}: finished already, nothing to do")
            return
        state = _build(run, build_model)
        if action == "resume":
            _restore(run_dir.last, state, run.identity, compute)
            run_dir.write_history(state.history)  # the checkpoint is right where the two differ
        _train(run, state, action, check_interrupt)
        _finish(run, state)


def run_dir_of(config) -> RunDir:
    """Where the run of `config` is."""
    return RunDir(config.run_dir, VALIDATION) if config.swept else RunDir(config.run_dir)


def kinds_of(config) -> tuple[Any, ...]:
    """What a run may have in common with another that takes as long: all but its seed, or the roles alone."""
    return config.run_dir.parent, (config.role, config.network, config.method and config.method.name)


def identity_of(config) -> Identity:
    """What the command line alone tells of a run's identity."""
    values = {name: value for name, value in config.identity().items() if value is not None or name == "limit"}
    label, defaults = "", dict(config.identity_defaults)
    if config.method is not None:
        values |= {f"{SETTING}{name}": value for name, value in values.pop("settings").items()}
        defaults |= {f"{SETTING}{name}": value for name, value in config.method.defaults.items()}
        label = config.method.label
    return Identity(values, defaults, label, partial=True)


def _prepare(config, run_dir: RunDir, dataset: Dataset, compute: Compute, build_model: BuildModel) -> Run:
    """Load the teacher and settle the run's identity."""
    views = _views(config, compute)
    augmentation = dataset.augmentation(config.padding, config.flip, config.cutout)
    method = CrossEntropy()
    method.label_smoothing = config.label_smoothing
    if config.role == "kd":
        method = config.method.build(config.label_smoothing)
        augmentation = replace(augmentation, strong=method.strong_view)
    batches = dataset.training_batches(config.batch_size, config.seed, augmentation, views)
    known = identity_of(config)
    values = known.values | {"padding": augmentation.padding, "flip": augmentation.flip}
    values |= {"precision": compute.precision} | dataset.fingerprints
    if config.role != "teacher":
        values["views"] = min(views, config.epochs) or config.epochs  # distinct ones
    teacher = None
    if config.role == "kd":
        if method.compares_samples and config.batch_size == 1:
            what = f"--method {config.method.name} compares the images of a batch, and --batch-size is 1"
            raise UserError(what, "--batch-size 2 or more")
        if method.needs != "labels":
            teacher = _load_teachers(config, method.needs, dataset, compute, build_model)
            values |= {"teacher": teacher.name, "teacher_sha256": teacher.sha256[:16]} | teacher.settings
    identity = Identity(values, known.defaults, known.label, len(dataset.train))
    return Run(config, run_dir, dataset, compute, batches, method, teacher, identity)


def _load_teachers(
    config, needs: str, dataset: Dataset, compute: Compute, build_model: BuildModel
) -> LiveTeacher | Ensemble:
    paths, normalisation = config.teacher_paths, config.teacher_normalisation
    if len(paths) > 1 and needs != "logits":
        hint = "name one --teacher-checkpoint, or a --method that matches logits alone"
        raise UserError("of several teachers, only the logits can be mixed", hint)
    members = tuple(
        load_teacher(path, config.teacher, needs, dataset, compute, build_model, normalisation) for path in paths
    )
    if len({member.sha256 for member in members}) < len(members):
        what = f"two of the teachers have the same weights: {', '.join(map(str, paths))}"
        raise UserError(what, "name each --teacher-checkpoint once")
    return members[0] if len(members) == 1 else Ensemble(members, members, config.teacher_mix)


def _build(run: Run, build_model: BuildModel) -> TrainState:
    """Make the network and the trainable parts of the method."""
    config = run.config
    torch.manual_seed(config.seed)
    model = run.compute.place(build_model(config.network, run.dataset.train.num_classes))
    if run.teacher is not None:
        images = next(run.batches.epoch(0)).images
        try:
            student = TappedNetwork(model, run.method.needs, images).example(images)
            run.method.adapt(student, run.teacher.example(images))
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
        run.check = check_teacher(teacher, dataset, check_interrupt)
        note = f" ({teacher.note})" if teacher.note else ""
        header["teacher"] = f"{teacher.name}, {run.check}, {teacher.path}{note}"
        if isinstance(teacher, Ensemble):
            checks = [check_teacher(member, dataset, check_interrupt) for member in teacher.members]
            alone = ", ".join(f"{m.name} {c.top1:.2f} %" for m, c in zip(teacher.members, checks, strict=True))
            header["teacher"] = f"{len(checks)}, mixed by {teacher.mix}: {run.check}; alone: {alone}"
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

    def stored(teacher: LiveTeacher):
        return cached(teacher, run.batches, data, config.epochs, folder, limit, check_interrupt)

    if isinstance(run.teacher, LiveTeacher):
        return stored(run.teacher)
    teachers, texts = zip(*map(stored, run.teacher.members), strict=True)
    return replace(run.teacher, teachers=teachers), "; ".join(texts)


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
        name, files = config.run_dir.parent.name, (run.run_dir.accuracy, run.run_dir.loss)
        plot_run(name, run.identity["role"], history, *files, test)
    except OSError as error:  # metrics are worth more than their plot
        print(f"warning: no plots in {config.run_dir}: {error}", file=sys.stderr)
    write_json(run.run_dir.results, metrics)
    print(format_metrics(metrics, part), flush=True)


def _header(run: Run, state: TrainState) -> dict[str, str]:
    config, counts, size = run.config, run.dataset.counts(), run.dataset.train.image_size
    images = ", ".join(f"{count:,} {part}" for part, count in counts.items())
    classes = run.dataset.train.num_classes
    header = {"data": f"{config.dataset}: {images}; {classes} classes, {size}x{size} pixels"}
    if text := duplicates_text(run.dataset.duplicates, counts):
        hint = "" if config.drop_duplicates else " (--drop-duplicates True trains without them)"
        header["duplicates"] = f"{text}{hint}"
    header |= {
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


def _restore(path: Path, state: TrainState, identity: Identity, compute: Compute) -> None:
    """Continue from the checkpoint of an earlier process. Raises DamagedFile if it is not of this run."""
    checkpoint = load_checkpoint(path)
    changed = identity.explain(Identity.from_record(checkpoint["config"]))
    if changed:
        raise DamagedFile(f"{path} is of another run: {', '.join(changed)}", "--overwrite starts the run again")
    require_fit(path, checkpoint["model"], state.result.state_dict(), f"the {identity['network']} of this run")
    try:
        state.load_state_dict(checkpoint["model"], checkpoint)
    except Exception as error:  # the content of the file decides which
        hint = "--overwrite starts the run again"
        raise DamagedFile(f"{path} cannot be resumed: {error!s:.200}", hint) from error
    before, now = checkpoint.get("threads"), torch.get_num_threads()
    if isinstance(before, int) and before != now and compute.device.type == "cpu":
        what = f"the run began with {before} CPU thread{'s' * (before != 1)} and goes on with {now}"
        print(f"note: {what}: its last bits will differ from those of an unbroken run", file=sys.stderr)
