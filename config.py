"""Every flag, its default and its check, and the name of a run. Standard library only: `--help` is instant."""

import argparse
import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from utils.runtime.arguments import Parser, add_boolean, bounded, known, matching, nearest, pair, per_channel

OBJECTIVE = "L = (1 - alpha) * CE(student, label) + alpha * T^2 * KL(teacher/T || student/T)"
ALSO = "also accepted: --data, --temperature, --output-dir, --gpu [N] (--device cuda:N), --workers N"
EPILOGS = {
    "train.py": f"""\
examples:
  python train.py --tto True                 the teacher
  python train.py                            the student alone
  python train.py --kd True --temp 5         the student with KD
  python train.py --all --temp 5 20          all of them, then the table
  python train.py --all --seeds 3            the same three times: mean, standard deviation, gain
  python train.py --sweep --temp 2 5 20 --alpha 0.5 0.9    which T and alpha, by validation alone
  python train.py --all --dataset shapes     the same in minutes, with nothing to download
  python train.py --all --dataset folder --data-dir my_images --image-size 64

objective with --kd:
  {OBJECTIVE}

{ALSO}, --learning-rate
""",
    "test.py": f"""\
examples:
  python test.py --tto True                  the teacher
  python test.py                             the student alone
  python test.py --kd True --temp 5          the student with KD
  python test.py --all                       every finished run, then the page report.html and the table
  python test.py --kd True --export my_student             files for other programs
  python test.py --kd True --predict photos a.jpg          class and confidence of one's own images
  python test.py --checkpoint results/cifar10/student-cnn/seed0/best.pt
  python test.py --checkpoint weights.pth --teacher vgg19_bn       of another program

{ALSO}
""",
}
ALIASES = {
    "--learning-rate": "--lr",
    "--data": "--data-dir",
    "--temperature": "--temp",
    "--output-dir": "--results-dir",
    "--num-workers": "--workers",
}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The student has the same recipe with and without a teacher."""

    epochs: int = 40
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.2
    schedule: str = "linear"
    label_smoothing: float = 0.0
    ema: float = 0.0
    cutout: int = 0


@dataclass(frozen=True)
class DatasetDefaults:
    """The networks of a dataset and their recipes."""

    teacher: str = "vgg19_bn"
    student: str = "cnn"
    teacher_recipe: Recipe = Recipe(lr=0.03)  # a VGG has no shortcuts: with 0.1 it starts slowly or not at all
    student_recipe: Recipe = Recipe()


DEFAULTS = {
    # Small enough for two CPU cores: all four rows in minutes.
    "shapes": DatasetDefaults("cnn", "cnn_tiny", Recipe(20, batch_size=64), Recipe(12, batch_size=64)),
}
RECIPE_FLAGS = tuple(field.name for field in fields(Recipe))
# Protocols of published tables. In Tian et al., 2020, light networks have 0.01 (see `recipe_for`).
PROTOCOLS = {"crd-cifar100": Recipe(240, batch_size=64, lr=0.05, warmup=0.0, schedule="step")}
LIGHT, LIGHT_LR = ("mobilenet", "shufflenet"), 0.01
LONGER = 4  # times the epochs with --recipe long, of which distillation gains more than plain training
ADAMW = {"lr": 1e-3, "weight_decay": 0.05}  # the steps of AdamW have the size of lr: with SGD's it diverges
ALL_TEMPS = (5.0, 20.0)  # of kd, where neither --method nor --temp is explicit
SWEEP_TEMPS, SWEEP_ALPHAS = (1.0, 2.0, 5.0, 10.0, 20.0), (0.5, 0.9, 1.0)
MOST_SEEDS = 1000
# Of runs from before these were settings.
IDENTITY_DEFAULTS = {"optimizer": "sgd", "padding": 4, "flip": True, "drop_duplicates": False}


def defaults_for(dataset: str) -> DatasetDefaults:
    return DEFAULTS.get(dataset, DatasetDefaults())


def recipe_for(dataset: str, role: str, network: str, name: str, explicit: dict[str, Any]) -> dict[str, Any]:
    """The values of the recipe `name` for a network in a role, under those that are explicit."""
    defaults = defaults_for(dataset)
    own = defaults.teacher_recipe if role == "teacher" else defaults.student_recipe
    recipe = asdict(PROTOCOLS.get(name, own))
    if name == "long":
        recipe["epochs"] *= LONGER
    if name in PROTOCOLS and network.startswith(LIGHT):
        recipe["lr"] = LIGHT_LR
    return recipe | (ADAMW if explicit.get("optimizer") == "adamw" else {}) | explicit


def number(value: float) -> str:
    """The shortest text that reads back as `value`: 5, 2.5, 1e-07."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# What a command for another role of the same experiment repeats.
EXPERIMENT = ("dataset", "data_dir", "image_size", "limit", "skip_bad_images", "drop_duplicates", "val_size")
EXPERIMENT += ("teacher", "student", "seed", "recipe", "device", "precision", "results_dir")


@dataclass(frozen=True, kw_only=True)
class Config(Recipe):
    """One command line with every default filled in; `runs()` gives a Config for each network to train."""

    role: str  # "teacher", "student", "kd", "all" or "sweep"
    swept: bool = False  # whether this is one point of a sweep
    dataset: str
    data_dir: str
    collection: str  # the name of the dataset's folder in `results_dir`
    image_size: int
    limit: int | None
    skip_bad_images: bool
    drop_duplicates: bool
    val_size: int | None
    teacher: str
    student: str
    teacher_checkpoint: tuple[str, ...]  # (): what --tto trained
    teacher_mix: str
    teacher_mean: tuple[float, ...] | None  # R, G, B on the scale 0 to 1; None: what the file says, or the data's
    teacher_std: tuple[float, ...] | None
    methods: tuple[str, ...]  # specs such as "dkd:beta=2"
    temps: tuple[float, ...]  # in place of the methods' own; () leaves these
    alphas: tuple[float, ...]  # likewise
    method: Any = None  # of this run, resolved; None of a teacher, a student alone, and before `runs()`
    list_methods: bool
    views: int | None
    teacher_cache: str
    teacher_cache_limit: float  # GB
    recipe: str
    padding: int | None  # pixels; None: an eighth of the side
    flip: bool | None  # None: what the dataset says
    eval_every: int
    seed: int
    seeds: tuple[int, ...]
    device: str
    precision: str
    cuda_graph: str
    compile: bool
    results_dir: str
    tensorboard: bool
    resume: bool
    overwrite: bool
    debug: bool
    checkpoint: str | None
    export: str | None
    predict: tuple[str, ...]
    csv: str | None
    explicit: tuple[str, ...]  # the names of the flags that were explicit
    command_line: str  # all of it

    @property
    def network(self) -> str:
        """The name of the network that is trained."""
        return self.teacher if self.role == "teacher" else self.student

    @property
    def identity_defaults(self) -> dict[str, Any]:
        return IDENTITY_DEFAULTS

    @property
    def dataset_dir(self) -> Path:
        return Path(self.results_dir, self.collection)

    @property
    def legacy_dataset_dir(self) -> Path | None:
        """Where results of one's own images were before they had the name of their folder."""
        return Path(self.results_dir, "folder") if self.dataset == "folder" else None

    @property
    def sweep_dir(self) -> Path:
        return self.dataset_dir / "sweep"

    @property
    def run_dir(self) -> Path:
        """For instance `results/cifar10/kd-cnn-t5/seed0`. With KD, only of a Config that `runs()` returned."""
        name = f"{self.method.folder if self.role == 'kd' else self.role}-{self.network}"
        if self.role == "kd" and (slug := self.method.slug(*("temperature", "alpha") * self.swept)):
            name += f"-{slug}"
        if self.role == "kd" and len(self.teacher_checkpoint) > 1:
            mix = "" if self.teacher_mix == "mean" else f"-{self.teacher_mix}"
            name += f"-{len(self.teacher_checkpoint)}teachers{mix}"
        return (self.sweep_dir if self.swept else self.dataset_dir) / name / f"seed{self.seed}"

    def locate(self, path: Path) -> Path:
        """`path` below `dataset_dir`, or where it was before one's own images had a folder of their own."""
        legacy = self.legacy_dataset_dir
        if legacy and not path.exists() and (old := legacy / path.relative_to(self.dataset_dir)).exists():
            return old
        return path

    @property
    def teacher_paths(self) -> tuple[Path, ...]:
        """The checkpoints that the student is distilled from, one or several."""
        own = self.locate(self.as_role("teacher").run_dir / "last.pt")
        return tuple(map(Path, self.teacher_checkpoint)) or (own,)

    @property
    def teacher_normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """The explicit mean and std of a network of another program, on the scale 0 to 1."""
        return (self.teacher_mean, self.teacher_std) if self.teacher_mean is not None else None

    @property
    def named_network(self) -> str | None:
        """The one network that --teacher or --student names: with --checkpoint, the one in the file."""
        named = {getattr(self, name) for name in ("teacher", "student") if name in self.explicit}
        return named.pop() if len(named) == 1 else None

    def as_role(self, role: str) -> "Config":
        """The same experiment in another role, with that role's recipe under the flags that were explicit."""
        explicit = {name: getattr(self, name) for name in RECIPE_FLAGS if name in self.explicit}
        network = self.teacher if role == "teacher" else self.student
        recipe = recipe_for(self.dataset, role, network, self.recipe, explicit)
        return replace(self, role=role, swept=False, method=None, **recipe)

    def runs(self, resolve: Callable[..., Any]) -> list["Config"]:
        """A Config for each network that this command trains: seed by seed, and for each the teacher first.

        `resolve(spec, temperature=, alpha=)` returns a method with `name`, `spec` (canonical), `settings`,
        `folder` and `slug(*always)`; it ignores overrides that the method does not have.
        Raises ValueError for a --temp or --alpha without effect, and whatever `resolve` raises.
        """
        rows = [self] if self.role in ("teacher", "student") else []
        rows += [self.as_role("teacher"), self.as_role("student")] if self.role == "all" else []
        rows += self._distilled(resolve) if self.role in ("kd", "all", "sweep") else []
        return [replace(row, seed=seed, seeds=(seed,)) for seed in self.seeds for row in rows]

    def _distilled(self, resolve: Callable[..., Any]) -> list["Config"]:
        student = replace(self.as_role("kd"), swept=self.role == "sweep")
        rows = {}  # by the method's canonical spec: what comes out the same is one run
        for spec, temp, alpha in itertools.product(self.methods, self.temps or (None,), self.alphas or (None,)):
            overrides = {"temperature": temp, "alpha": alpha}
            method = resolve(spec, **{name: value for name, value in overrides.items() if value is not None})
            temps, alphas = (  # those that took effect
                (value,) if value is not None and method.settings.get(name) == value else ()
                for name, value in overrides.items()
            )
            row = replace(student, method=method, methods=(spec,), temps=temps, alphas=alphas)
            rows.setdefault(method.spec, row)
        methods = [row.method for row in rows.values()]
        fixed = next((m.name for m in methods if not {"temperature", "alpha"} & {*m.settings}), None)
        if self.role == "sweep" and fixed:
            raise ValueError(f"--sweep varies temperature and alpha, and {fixed} has neither")
        for flag, setting, effect in (("temp", "temperature", "temps"), ("alpha", "alpha", "alphas")):
            if flag in self.explicit and not any(getattr(row, effect) for row in rows.values()):
                is_set = any(setting in method.settings for method in methods)
                names = " and ".join(dict.fromkeys(method.name for method in methods))
                raise ValueError(f"--{flag}: {'--method sets it' if is_set else f'{names} has no {setting}'}")
        return list(rows.values())

    def identity(self) -> dict[str, Any]:
        """The settings of the command line that decide a run's result."""
        names = ("role", "dataset", "image_size", "limit", "val_size", "drop_duplicates", "network", "seed")
        identity = {name: getattr(self, name) for name in (*names, *RECIPE_FLAGS, "padding", "flip")}
        method = {"method": self.method.name, "settings": dict(self.method.settings)} if self.role == "kd" else {}
        return identity | method

    def recipe_text(self) -> str:
        """The recipe in one line."""
        optimizer = f"SGD with Nesterov momentum {self.momentum:g}" if self.optimizer == "sgd" else "AdamW"
        parts = [
            f"{self.epochs} epoch{'s' * (self.epochs > 1)} of batches of {self.batch_size}",
            f"{optimizer}, weight decay {self.weight_decay:g}",
            f"lr {self.lr:g}, {self.warmup:.0%} warm-up, {self.schedule} decay",
        ]
        parts += [f"weight averaging {self.ema:g}"] if self.ema else []
        parts += [f"cutout {self.cutout}"] if self.cutout else []
        return "; ".join(parts)

    def command(self, role: str) -> str:
        """The shortest train.py command for `role` in this experiment, ready to paste."""
        words = {"teacher": ["--tto", "True"], "kd": ["--kd", "True"], "all": ["--all"]}.get(role, [])
        if role == "kd":
            words += ["--method", self.methods[0]] if self.methods[0] != "kd" else []
            words += ["--temp", number(self.temps[0])] if self.temps else []
            words += ["--alpha", number(self.alphas[0])] if self.alphas else []
        if "seeds" in self.explicit:  # a single number after --seeds is how many
            words += ["--seeds" if len(self.seeds) > 1 else "--seed", *map(str, self.seeds)]
        for name in EXPERIMENT:
            if name in self.explicit and (role, name) not in (("teacher", "student"), ("student", "teacher")):
                value = str(getattr(self, name))
                words += [f"{flag_of(name)}={value}"] if value.startswith("-") else [flag_of(name), value]
        return shlex.join(["python", "train.py", *words])


def default_of(name: str) -> str:
    """For the help of a network or a value of the recipe; where datasets or roles differ, all of them."""

    def text(defaults: DatasetDefaults) -> str:
        if name in ("teacher", "student"):
            return getattr(defaults, name)
        teacher, student = getattr(defaults.teacher_recipe, name), getattr(defaults.student_recipe, name)
        return f"{teacher}" if teacher == student else f"{teacher} for teachers, {student} for students"

    usual = text(DatasetDefaults())
    own = [f"{dataset}: {text(defaults)}" for dataset, defaults in DEFAULTS.items() if text(defaults) != usual]
    return f"(default: {'; '.join([usual, *own])})"


def networks_text(models: Mapping[str, str]) -> str:
    """A line for each family."""
    families = itertools.groupby(models, models.__getitem__)
    return "\n".join(f"  {' '.join(names)}" for _family, names in families)


def build_parser(
    program: str, models: Mapping[str, str], datasets: Collection[str], methods: Collection[str]
) -> argparse.ArgumentParser:
    """The parser of `train.py` or `test.py`. The recipe's values have no default here: see `Config.as_role`."""
    train = program == "train.py"
    parser = Parser(
        prog=f"python {program}",
        usage="%(prog)s [--flag [value]] ...",
        description="Train a teacher, a student alone, or a student with knowledge distillation (KD)."
        if train
        else "Measure a trained network on the test images. The last line of the output is one JSON object.",
        epilog=f"{EPILOGS[program]}\nnetworks:\n{networks_text(models)}\n",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=32, width=110),
        allow_abbrev=False,
    )
    path = matching(r"[^\0]+", "a path")
    count, size, share = bounded(int, 1), bounded(int, 0), bounded(float, 0, 1, below=True)
    positive = bounded(float, 0, above=True)

    # fmt: off
    group = parser.add_argument_group("which network (default: the student alone)")
    add_boolean(group, "--tto", "the teacher (tto: train teacher only)")
    add_boolean(group, "--kd", "the student with KD")
    add_boolean(group, "--all", "teacher, student alone, and with KD for each --method and --temp; then the table")
    if train:
        add_boolean(group, "--sweep", "the student with KD for each --method, --temp and --alpha, ranked by "
                    "validation; the test images are not read")
    else:
        group.add_argument("--checkpoint", type=path, metavar="FILE",
                           help="the network in this file; of another program, with --teacher or --student")
    group.add_argument("--teacher", type=known(models), metavar="NAME",
                       help=f"one of the networks below {default_of('teacher')}")
    group.add_argument("--student", type=known(models), metavar="NAME", help=f"likewise {default_of('student')}")
    group.add_argument("--pair", type=pair(models), metavar="TEACHER-STUDENT", help="both, such as vgg13-vgg8")

    group = parser.add_argument_group("data")
    group.add_argument("--dataset", type=known(datasets), metavar="NAME", default="cifar10",
                       help=f"one of {', '.join(datasets)} (default: %(default)s)")
    group.add_argument("--data-dir", type=path, metavar="DIR", default="data",
                       help="where the images are, or are downloaded to (default: %(default)s)")
    group.add_argument("--image-size", type=bounded(int, 32), metavar="N", default=32,
                       help="side in pixels that images of --dataset folder are resized to (default: %(default)s)")
    group.add_argument("--limit", type=bounded(int, 2), metavar="N",
                       help="only the first N training and N test images, equally of all classes (default: all)")
    add_boolean(group, "--skip-bad-images", "leave out unreadable images of --dataset folder")
    if train:
        add_boolean(group, "--drop-duplicates", "train without images that are in validation or test, too, and "
                    "validate without those in test")
    group.add_argument("--val-size", type=size, metavar="N",
                       help="training images held out for validation (default: 5000 of CIFAR, else 10 %%)")

    group = parser.add_argument_group("distillation")
    group.add_argument("--method", type=known(methods, settings=True), metavar="SPEC", nargs="+", default=["kd"],
                       help=f"{', '.join(methods)}, with settings as NAME:key=value,...; --all and --sweep take "
                       "several (default: kd)")
    if train:
        add_boolean(group, "--list-methods", "show the methods and their settings, and end")
    group.add_argument("--temp", type=bounded(float, 0.01, 10_000), metavar="T", nargs="+",
                       help="temperature; --all and --sweep take several (default: the method's own, 5 of kd; "
                       "--all: 5 20; --sweep: 1 2 5 10 20)")
    group.add_argument("--alpha", type=bounded(float, 0, 1), metavar="A", nargs="+",
                       help="weight of the distillation term; --sweep takes several (default: the method's own, "
                       "0.9 of kd; --sweep: 0.5 0.9 1)")
    if train:
        group.add_argument("--teacher-checkpoint", type=path, metavar="FILE", nargs="+", default=(),
                           help="the teacher (default: what --tto trained with the same --seed)")
    of = "--teacher-checkpoint" if train else "--checkpoint"
    group.add_argument("--teacher-mean", type=per_channel(bounded(float, 0, 1)), metavar="R,G,B",
                       help=f"of the pixels, 0 to 1, that a {of} of another program was trained with "
                       "(default: what it says, else that of the images)")
    group.add_argument("--teacher-std", type=per_channel(bounded(float, 0, 1, above=True)), metavar="R,G,B",
                       help="likewise, the standard deviation")
    if train:
        group.add_argument("--teacher-mix", choices=("mean", "confidence"), default="mean",
                           help="how the probabilities of several --teacher-checkpoint are averaged; confidence: "
                           "with more weight where a teacher is sure (default: %(default)s)")
        group.add_argument("--views", type=size, metavar="V",
                           help="augmentations of each image that a student sees in turn; 0: a new one in each "
                           "epoch, and no cache (default: as many as epochs on CUDA, 8 on a CPU)")
        group.add_argument("--teacher-cache", type=path, metavar="DIR", default="auto",
                           help="folder of the teacher's cached outputs; auto: beside the runs; off: none "
                           "(default: %(default)s)")
        group.add_argument("--teacher-cache-limit", type=positive, metavar="GB", default=2.0,
                           help="what that folder may take (default: %(default)s)")

        group = parser.add_argument_group("optimisation and augmentation")
        group.add_argument("--recipe", choices=("default", "long", *PROTOCOLS), default="default",
                           help=f"long: {LONGER} times the epochs; crd-cifar100: the protocol of the published "
                           "tables of CIFAR-100 (default: %(default)s)")
        group.add_argument("--epochs", type=count, metavar="N",
                           help=f"passes over the training images {default_of('epochs')}")
        group.add_argument("--batch-size", type=count, metavar="N",
                           help=f"images in a step {default_of('batch_size')}")
        group.add_argument("--optimizer", choices=("sgd", "adamw"),
                           help=f"SGD with Nesterov momentum, or AdamW {default_of('optimizer')}")
        group.add_argument("--lr", type=positive, metavar="LR",
                           help=f"peak learning rate; {ADAMW['lr']:g} with adamw {default_of('lr')}")
        group.add_argument("--momentum", type=share, metavar="M", help=f"of SGD {default_of('momentum')}")
        group.add_argument("--weight-decay", type=bounded(float, 0), metavar="W",
                           help="of the weights, not of batch norm and biases; "
                           f"{ADAMW['weight_decay']:g} with adamw {default_of('weight_decay')}")
        group.add_argument("--warmup", type=share, metavar="F",
                           help=f"share of the steps in which the learning rate rises {default_of('warmup')}")
        group.add_argument("--schedule", choices=("linear", "cosine", "step"),
                           help="how it falls to 0 after these; step: to a tenth after 5/8, 3/4 and 7/8 of all "
                           f"{default_of('schedule')}")
        group.add_argument("--label-smoothing", type=share, metavar="S",
                           help="of the CE term; a smoothed teacher distils badly "
                           f"{default_of('label_smoothing')}")
        group.add_argument("--ema", type=share, metavar="D",
                           help=f"decay per step of an average of the weights; 0: none {default_of('ema')}")
        group.add_argument("--cutout", type=size, metavar="N",
                           help=f"side in pixels of a square erased in each image; 0: none {default_of('cutout')}")
        group.add_argument("--padding", type=size, metavar="N",
                           help="pixels of reflected border before a random crop (default: an eighth of the side)")
        add_boolean(group, "--flip", "mirror images at random (default: what suits the dataset)", default=None)
        group.add_argument("--eval-every", type=count, metavar="N", default=1,
                           help="epochs from one validation to the next (default: %(default)s)")

    group = parser.add_argument_group("machine and results")
    group.add_argument("--seed", type=size, metavar="N", default=0,
                       help="decides weights, order and augmentation (default: %(default)s)")
    if train:
        group.add_argument("--seeds", type=size, metavar="N", nargs="+", help="how many, from 0 on; or which ones")
    group.add_argument("--device", type=matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N"),
                       metavar="NAME", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    group.add_argument("--gpu", type=lambda text: f"cuda:{size(text)}" if text else "cuda", nargs="?", const="",
                       dest="device", help=argparse.SUPPRESS)
    group.add_argument("--workers", type=size, help=argparse.SUPPRESS)
    group.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto",
                       help="auto: bf16 on CUDA, else fp32 (default: %(default)s)")
    if train:
        group.add_argument("--cuda-graph", choices=("auto", "off"), default="auto",
                           help="auto: on CUDA, a step is captured once and replayed (default: %(default)s)")
        add_boolean(group, "--compile", "torch.compile the network: pays in long trainings alone")
    group.add_argument("--results-dir", type=path, metavar="DIR", default="results",
                       help="where runs and tables are written (default: %(default)s)")
    if train:
        add_boolean(group, "--tensorboard", "scalars and augmented images for TensorBoard, too")
        add_boolean(group, "--resume", "go on from the last finished epoch")
        add_boolean(group, "--overwrite", "start again, and lose what the run's folder holds")
    else:
        group.add_argument("--predict", type=path, metavar="PATH", nargs="+",
                           help="print class and confidence of these image files and of those in these folders, "
                           "instead of measuring")
        group.add_argument("--csv", type=matching(r"[^\0]+\.csv", "a path that ends in .csv"), metavar="FILE",
                           help="table of --predict, with a plot of the least certain images beside it (default: "
                           "predictions.csv in the folder of the run; with --checkpoint, in the current one)")
        group.add_argument("--export", type=path, metavar="DIR",
                           help="write the network for other programs: safetensors, ONNX, torch.export")
    add_boolean(group, "--debug", "show the traceback of an error")
    # fmt: on
    return parser


def parse(
    program: str, argv: list[str], models: Mapping[str, str], datasets: Collection[str], methods: Collection[str]
) -> Config:
    """Resolve a command line of `train.py` or `test.py`; the collections are the names to choose from.

    `models` tells the family of each network.

    Ends the program with exit code 2 and `error: ...` on stderr where the command line is wrong.
    """
    parser = build_parser(program, models, datasets, methods)
    other = "test.py" if program == "train.py" else "train.py"
    elsewhere = vars(build_parser(other, models, datasets, methods).parse_args([]))

    argv = [re.sub(r"^--[^=]+", lambda flag: canonical(flag[0]), word) for word in argv]
    args, unknown_args = parser.parse_known_args(argv)
    if unknown_args:
        parser.error(unknown_text(unknown_args, vars(args), other, elsewhere))
    # Once more on top of None, which no flag gives: what is another value then was explicit.
    given = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(args))))
    explicit = tuple(name for name, value in vars(given).items() if value is not None)
    explicit += ("teacher", "student") * ("pair" in explicit)
    args = argparse.Namespace(**elsewhere | vars(args))
    check(parser, args, explicit, train=program == "train.py")
    if args.workers is not None:
        print("note: no --workers are needed: all images are one tensor", file=sys.stderr)

    roles = {"tto": "teacher", "kd": "kd", "all": "all", "sweep": "sweep"}
    role = next((role for flag, role in roles.items() if getattr(args, flag)), "student")
    temps, alphas = (SWEEP_TEMPS, SWEEP_ALPHAS) if role == "sweep" else ((), ())
    if role == "all" and "method" not in explicit:
        temps = ALL_TEMPS
    seeds = args.seeds or [args.seed]
    seeds = tuple(range(seeds[0]) if args.seeds and len(seeds) == 1 else seeds)
    values = vars(args) | {
        "role": role,
        "collection": collection_of(args.dataset, args.data_dir, datasets),
        "teacher": args.pair[0] if args.pair else args.teacher or defaults_for(args.dataset).teacher,
        "student": args.pair[1] if args.pair else args.student or defaults_for(args.dataset).student,
        "methods": tuple(dict.fromkeys(args.method)),
        "method": None,
        "predict": tuple(args.predict or ()),
        "temps": tuple(dict.fromkeys(args.temp or temps)),
        "alphas": tuple(dict.fromkeys(args.alpha or alphas)),
        "teacher_checkpoint": tuple(args.teacher_checkpoint),
        "seed": seeds[0],
        "seeds": seeds,
        "explicit": explicit,
        "command_line": shlex.join(["python", program, *argv]),
    }
    names = {field.name for field in fields(Config)}
    return Config(**{name: value for name, value in values.items() if name in names}).as_role(role)


def canonical(flag: str) -> str:
    """Hyphens for underscores, and our flag for one that people type from habit."""
    flag = flag.replace("_", "-")
    return ALIASES.get(flag, flag)


def collection_of(dataset: str, data_dir: str, datasets: Collection[str]) -> str:
    """The name of a dataset's folder of results: of one's own images that of their folder, never a dataset's."""
    name = os.path.basename(os.path.realpath(data_dir)) if dataset == "folder" else dataset
    return f"folder-{name}" if dataset == "folder" and name in ("", *datasets) else name


def unknown_text(unknown_args: list[str], own: Collection[str], other: str, elsewhere: Collection[str]) -> str:
    """What to say of words that belong to no flag; flags are named as in a Namespace."""
    flag = next((word.partition("=")[0] for word in unknown_args if word.startswith("-")), None)
    if flag is None:
        return f"unexpected {unknown_args[0]!r}: every value belongs to a flag"
    name = flag.lstrip("-")
    if name.removeprefix("no-").replace("-", "_") in {*elsewhere} - {*own}:
        return f"unknown flag {flag}: only {other} has it"
    flags = {*map(flag_of, own), *ALIASES, "--gpu", "--help"} - {"--overwrite"}  # never suggest what destroys
    return f"unknown flag {flag}{nearest(name, sorted(each[2:] for each in flags), prefix='--')}"


def check(parser: Parser, args: argparse.Namespace, explicit: Collection[str], train: bool) -> None:
    """End the program where flags contradict each other."""
    roles = [f"--{name}" for name in ("tto", "kd", "all", "sweep", "checkpoint") if getattr(args, name)]
    if len(roles) > 1:
        parser.error(f"{' and '.join(roles)} exclude each other")
    for name in ("method", "temp", "alpha", "teacher_checkpoint", "teacher_cache", "teacher_cache_limit"):
        if name in explicit and not {"kd", *("all", "sweep") * train} & {*explicit}:
            parser.error(f"{flag_of(name)} needs --kd True{', --all or --sweep' * train}")
    for name, where in (("method", "--all or --sweep"), ("temp", "--all or --sweep"), ("alpha", "--sweep")):
        allowed = train and (args.sweep or (args.all and "--all" in where))
        if len(getattr(args, name) or ()) > 1 and not allowed:
            parser.error(f"several {flag_of(name)} values need train.py {where}")
    if "teacher_mix" in explicit and len(args.teacher_checkpoint) < 2:
        parser.error("--teacher-mix needs several --teacher-checkpoint")
    if len({*args.teacher_checkpoint}) < len(args.teacher_checkpoint):
        parser.error("--teacher-checkpoint names a file twice")
    for name in {"teacher", "student"} & {*explicit} if args.pair else ():
        if getattr(args, name):
            parser.error(f"--pair and --{name} exclude each other")
    for name in ("export", "seed", "limit", "image_size"):
        if not train and args.all and name in explicit:
            parser.error(f"{flag_of(name)} and --all exclude each other: --all is every finished run as it is")
    for name in ("all", "export", "limit"):
        if args.predict and name in explicit:
            parser.error(f"{flag_of(name)} and --predict exclude each other: --predict has its own images")
    if args.csv and not args.predict:
        parser.error("--csv needs --predict")
    seeds = args.seeds or ()
    if seeds and "seed" in explicit:
        parser.error("--seed and --seeds exclude each other")
    if len(seeds) == 1 and not 0 < seeds[0] <= MOST_SEEDS:
        parser.error(f"--seeds N is how many, from 1 to {MOST_SEEDS}; --seed names a single one")
    if len({*seeds}) < len(seeds):
        parser.error("--seeds names a seed twice")
    if args.sweep and args.val_size == 0:
        parser.error("--sweep ranks by validation, and --val-size 0 leaves no images for it")
    if (args.teacher_mean is None) != (args.teacher_std is None):
        parser.error("--teacher-mean and --teacher-std belong together")
    file = "teacher_checkpoint" if train else "checkpoint"
    if args.teacher_mean and not getattr(args, file):
        parser.error(f"--teacher-mean needs a {flag_of(file)} of another program")
    if args.all and args.teacher_checkpoint:
        parser.error("--teacher-checkpoint and --all exclude each other: --all trains a teacher")
    if args.tto and args.views is not None:
        parser.error("--views is for students: a teacher sees every image anew in each epoch")
    if args.optimizer == "adamw" and args.momentum is not None:
        parser.error("--momentum is of SGD, and --optimizer adamw has none")
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    if args.dataset != "folder" and "image_size" in explicit:
        parser.error("--image-size needs --dataset folder: the other datasets have a size of their own")
