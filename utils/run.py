"""What a run is made of, from its settings: its directory and identity, images, teacher, method and network."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from utils.data.batches import Batches
from utils.data.dataset import Dataset
from utils.distillation.check import TeacherCheck
from utils.distillation.ensemble import Ensemble
from utils.distillation.taps import TappedNetwork
from utils.distillation.teacher import LiveTeacher, load_teacher
from utils.losses.method import CrossEntropy, Method
from utils.reporting.sweep import VALIDATION
from utils.runtime.checkpoint import BuildModel
from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.identity import SETTING, Identity
from utils.runtime.run_dir import RunDir
from utils.training.state import Schedule, TrainState

VIEWS_ON_CPU = 8  # of these the teacher's outputs are paid once; more did not help (see benchmarks/README.md)


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


def prepare_run(config, run_dir: RunDir, dataset: Dataset, compute: Compute, build_model: BuildModel) -> Run:
    """Load the teacher and settle the run's identity; writes nothing."""
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
            teacher = load_teachers(config, method.needs, dataset, compute, build_model)
            values |= {"teacher": teacher.name, "teacher_sha256": teacher.sha256[:16]} | teacher.settings
    identity = Identity(values, known.defaults, known.label, len(dataset.train))
    return Run(config, run_dir, dataset, compute, batches, method, teacher, identity)


def _views(config, compute: Compute) -> int:
    """How many views of an image a network sees in turn; 0: a new one in each epoch."""
    if config.role == "teacher":
        return 0
    if config.views is not None:
        return config.views
    return VIEWS_ON_CPU if compute.device.type == "cpu" else config.epochs


def load_teachers(
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


def build_state(run: Run, build_model: BuildModel) -> TrainState:
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
