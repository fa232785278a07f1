"""Every flag, its check, its default, and the name of a run. Standard library only: `--help` is instant."""

import argparse
import difflib
import math
import re
import shlex
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

OBJECTIVE = "L = (1 - alpha) * CE(student, label) + alpha * T^2 * KL(teacher/T || student/T)"

EXAMPLES = {
    "train.py": f"""\
examples:
  python train.py --tto True                 the teacher
  python train.py                            the student alone
  python train.py --kd True --temp 5         the student, taught by the teacher
  python train.py --all --temp 5 20          all of them, then the table
  python train.py --all --seeds 3            the same three times: mean, deviation, summarise_gain
  python train.py --sweep --temp 2 5 20 --alpha 0.5 0.9    which T and alpha, by validation alone
  python train.py --all --dataset shapes     the same in minutes, with nothing to download
  python train.py --all --dataset folder --data-dir my_images --image-size 64

objective with --kd:
  {OBJECTIVE}
""",
    "test.py": """\
examples:
  python test.py --tto True                  the teacher
  python test.py                             the student alone
  python test.py --kd True --temp 5          the student, taught by the teacher
  python test.py --all                       every finished run, then the page report.html
  python test.py --kd True --export my_student             files for other programs
  python test.py --checkpoint results/cifar10/student-cnn/seed0/best.pt
""",
}


# --- recipes: how a dataset and a role train unless a flag says otherwise ---------------------------


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The student has the same recipe with and without a teacher."""

    epochs: int = 40
    batch_size: int = 128
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
LONGER = 4  # times the epochs with --recipe long, of which distillation gains more than plain training
ALPHA = 0.9  # of which a run's name does not tell
TEMPS = {"all": (5.0, 20.0), "sweep": (1.0, 2.0, 5.0, 10.0, 20.0)}  # by role, where none are explicit
MOST_SEEDS = 1000
ALPHAS_OF_A_SWEEP = (0.5, 0.9, 1.0)
RECIPE_FLAGS = tuple(field.name for field in fields(Recipe))


def number(value: float) -> str:
    """The shortest text that reads back as `value`: 5, 2.5, 1e-07."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def defaults_for(dataset: str) -> DatasetDefaults:
    return DEFAULTS.get(dataset, DatasetDefaults())


def recipe_for(dataset: str, role: str, name: str) -> dict[str, Any]:
    """The values of the recipe `name` ("default" or "long") for a role."""
    defaults = defaults_for(dataset)
    recipe = defaults.teacher_recipe if role == "teacher" else defaults.student_recipe
    return asdict(replace(recipe, epochs=recipe.epochs * LONGER) if name == "long" else recipe)


# --- one command line, resolved ---------------------------------------------------------------------

# What a command for another role of the same experiment has to repeat.
PLACE_FLAGS = (
    "dataset",
    "data_dir",
    "image_size",
    "limit",
    "skip_bad_images",
    "val_size",
    "teacher",
    "student",
    "seed",
)
PLACE_FLAGS += ("recipe", "device", "precision", "results_dir")


@dataclass(frozen=True)
class Config:
    """One command line with every default filled in; `runs()` gives a Config for each network to train."""

    role: str  # "teacher", "student", "kd", "all" or "sweep"
    swept: bool  # whether this is one point of a sweep
    dataset: str
    data_dir: str
    image_size: int
    limit: int | None
    skip_bad_images: bool
    val_size: int | None
    teacher: str
    student: str
    teacher_checkpoint: str | None
    temps: tuple[float, ...]
    alphas: tuple[float, ...]
    views: int | None
    teacher_cache: str
    teacher_cache_limit: float
    recipe: str
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    warmup: float
    schedule: str
    label_smoothing: float
    ema: float
    cutout: int
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
    explicit: tuple[str, ...]  # the names of the flags that were explicit
    command_line: str  # all of it, as it was explicit

    @property
    def temp(self) -> float:
        return self.temps[0]

    @property
    def alpha(self) -> float:
        return self.alphas[0]

    @property
    def network(self) -> str:
        """The name of the network that is trained."""
        return self.teacher if self.role == "teacher" else self.student

    @property
    def dataset_dir(self) -> Path:
        return Path(self.results_dir, self.dataset)

    @property
    def run_dir(self) -> Path:
        """For instance `results/cifar10/kd-cnn-t5/seed0`, and `.../sweep/kd-cnn-t5-a0.9/seed0` within a sweep."""
        name = f"{self.role}-{self.network}" + (f"-t{number(self.temp)}" if self.role == "kd" else "")
        if self.role == "kd" and (self.swept or self.alpha != ALPHA):
            name += f"-a{number(self.alpha)}"
        return (self.sweep_dir if self.swept else self.dataset_dir) / name / f"seed{self.seed}"

    @property
    def sweep_dir(self) -> Path:
        return self.dataset_dir / "sweep"

    @property
    def teacher_path(self) -> Path:
        """The checkpoint that the student is taught from."""
        return Path(self.teacher_checkpoint or self.as_role("teacher").run_dir / "last.pt")

    def as_role(self, role: str, temp: float | None = None) -> "Config":
        """The same experiment in another role, with that role's recipe under the flags that were explicit."""
        recipe = recipe_for(self.dataset, role, self.recipe)
        changes = {name: value for name, value in recipe.items() if name not in self.explicit}
        temps = self.temps if temp is None else (temp,)
        return replace(self, role=role, swept=False, temps=temps, **changes)

    def runs(self) -> list["Config"]:
        """A Config for each network that this command trains: seed by seed, and for each the teacher first."""
        return [run for seed in self.seeds for run in replace(self, seed=seed, seeds=(seed,))._rows()]

    def _rows(self) -> list["Config"]:
        if self.role == "sweep":
            points = [(temp, alpha) for temp in self.temps for alpha in self.alphas]
            return [replace(self.as_role("kd", temp), alphas=(alpha,), swept=True) for temp, alpha in points]
        if self.role != "all":
            return [self]
        return [self.as_role("teacher"), self.as_role("student"), *(self.as_role("kd", t) for t in self.temps)]

    def identity(self) -> dict[str, Any]:
        """The settings that decide a run's result: runs that agree in all of them are the same run."""
        names = ["role", "dataset", "image_size", "limit", "val_size", "network", "seed", *RECIPE_FLAGS]
        names += ["temp", "alpha"] if self.role == "kd" else []
        return {name: getattr(self, name) for name in names}

    def recipe_text(self) -> str:
        """The recipe in one line."""
        parts = [
            f"{self.epochs} epoch{'s' * (self.epochs > 1)} of batches of {self.batch_size}",
            f"SGD with Nesterov momentum {self.momentum:g}, weight decay {self.weight_decay:g}",
            f"lr {self.lr:g}, {self.warmup:.0%} warm-up, {self.schedule} decay",
        ]
        parts += [f"weight averaging {self.ema:g}"] if self.ema else []
        parts += [f"cutout {self.cutout}"] if self.cutout else []
        return "; ".join(parts)

    def command(self, role: str) -> str:
        """The shortest train.py command for `role` in this experiment, ready to paste."""
        roles = {
            "teacher": ["--tto", "True"],
            "kd": ["--kd", "True", "--temp", number(self.temp)],
            "all": ["--all"],
        }
        words = list(roles.get(role, []))
        if role == "kd" and self.alpha != ALPHA:
            words += ["--alpha", number(self.alpha)]
        if "seeds" in self.explicit:  # a single number after --seeds is how many
            words += ["--seeds" if len(self.seeds) > 1 else "--seed", *map(str, self.seeds)]
        for name in PLACE_FLAGS:
            if name in self.explicit and (role, name) not in (("teacher", "student"), ("student", "teacher")):
                flag, value = f"--{name.replace('_', '-')}", str(getattr(self, name))
                words += [f"{flag}={value}"] if value.startswith("-") else [flag, value]
        return shlex.join(["python", "train.py", *words])


# --- checks of single values ------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Stands in for a value that could not be read, so that all problems are reported together."""

    text: str


def checked(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make an argparse type of `check` that answers with a Problem where `check` raises ValueError."""

    def convert(text: str) -> Any:
        try:
            return check(text)
        except ValueError as error:
            return Problem(f"{text!r} {error}")

    return convert


def boolean(text: str) -> bool:
    known = {
        "true": True,
        "1": True,
        "yes": True,
        "on": True,
        "false": False,
        "0": False,
        "no": False,
        "off": False,
    }
    if text.lower() not in known:
        raise ValueError("is neither True nor False")
    return known[text.lower()]


def integer(low: int) -> Callable[[str], int]:
    def check(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,18}", text) or int(text) < low:
            raise ValueError(f"is not a whole number of at least {low}")
        return int(text)

    return check


def real(accepts: Callable[[float], bool], what: str) -> Callable[[str], float]:
    def check(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not accepts(value):
            raise ValueError(f"is not a number {what}")
        return value

    return check


def one_of(names: Collection[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in names:
            raise ValueError(f"is unknown{nearest(text, names)}; known: {', '.join(names)}")
        return text

    return check


def device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise ValueError("is not auto, cpu, cuda or cuda:N")
    return text


def path(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("is not a path")
    return text


def nearest(text: str, names: Collection[str]) -> str:
    match = difflib.get_close_matches(text.lower(), names, n=1, cutoff=0.5)
    return f", did you mean {match[0]}?" if match else ""


# --- the flags --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flag:
    name: str  # of the value in Config; the flag has hyphens
    check: Callable[[str], Any]
    metavar: str
    help: str
    default: Any = None
    many: bool = False


def flag_groups(models: Collection[str], datasets: Collection[str]) -> dict[str, list[Flag]]:
    """Every flag, once. A group or a flag that test.py lacks is named in `TRAIN_ONLY`."""
    positive = real(lambda value: value > 0, "above 0")
    temperature = real(lambda value: 0.01 <= value <= 10_000, "from 0.01 to 10000")
    portion = real(lambda value: 0 <= value <= 1, "from 0 to 1")
    below_one = real(lambda value: 0 <= value < 1, "from 0 to below 1")
    not_negative = real(lambda value: value >= 0, "of at least 0")
    return {
        "which network": [
            Flag("tto", boolean, "BOOL", "the teacher (tto: train teacher only)", False),
            Flag("kd", boolean, "BOOL", "the student taught by the teacher", False),
            Flag(
                "all",
                boolean,
                "BOOL",
                "teacher, student and a taught student for each --temp; then the table",
                False,
            ),
            Flag(
                "sweep",
                boolean,
                "BOOL",
                "a taught student for each --temp and --alpha, ranked by validation; the test images are not read",
                False,
            ),
            Flag("checkpoint", path, "FILE", "the network in this file, whatever it is"),
            Flag("teacher", one_of(models), "NAME", f"one of {', '.join(models)}"),
            Flag("student", one_of(models), "NAME", "likewise"),
        ],
        "data": [
            Flag("dataset", one_of(datasets), "NAME", f"one of {', '.join(datasets)}", "cifar10"),
            Flag("data_dir", path, "DIR", "where the images are, or are downloaded to", "data"),
            Flag(
                "image_size", integer(32), "N", "side in pixels that images of --dataset folder are resized to", 32
            ),
            Flag(
                "limit",
                integer(2),
                "N",
                "only the first N training and N test images, equally of all classes (default: all)",
            ),
            Flag("skip_bad_images", boolean, "BOOL", "leave out unreadable images of --dataset folder", False),
            Flag(
                "val_size",
                integer(0),
                "N",
                "training images held out for validation (default: 5000 of CIFAR, else 10 %%)",
            ),
        ],
        "distillation": [
            Flag(
                "temp",
                temperature,
                "T",
                "temperature; --all and --sweep take several (default: 5; --all: 5 20; --sweep: 1 2 5 10 20)",
                (5.0,),
                many=True,
            ),
            Flag(
                "alpha",
                portion,
                "A",
                "weight of the distillation term; --sweep takes several (default: 0.9; --sweep: 0.5 0.9 1)",
                (ALPHA,),
                many=True,
            ),
            Flag(
                "teacher_checkpoint",
                path,
                "FILE",
                "the teacher (default: what --tto trained with the same --seed)",
            ),
            Flag(
                "views",
                integer(0),
                "V",
                "augmentations of each image that a student sees in turn; 0: a new one in each epoch, and no "
                "cache "
                "(default: as many as epochs on CUDA, 8 on a CPU)",
            ),
            Flag(
                "teacher_cache",
                path,
                "WHERE",
                "the teacher's answers to the views are kept in this folder (auto: beside the runs) or not (off)",
                "auto",
            ),
            Flag("teacher_cache_limit", positive, "GB", "what that folder may take", 2.0),
        ],
        "optimisation": [
            Flag(
                "recipe",
                one_of(("default", "long")),
                "NAME",
                f"default, or long: {LONGER} times the epochs",
                "default",
            ),
            Flag("epochs", integer(1), "N", "passes over the training images"),
            Flag("batch_size", integer(1), "N", "images in a step"),
            Flag("lr", positive, "LR", "peak learning rate of SGD with Nesterov momentum"),
            Flag("momentum", below_one, "M", "its momentum"),
            Flag("weight_decay", not_negative, "W", "of the weights; batch norm and biases have none"),
            Flag(
                "warmup", below_one, "F", "share of all steps in which the learning rate rises from 0 to its peak"
            ),
            Flag(
                "schedule", one_of(("linear", "cosine")), "NAME", "how it falls to 0 after that: linear or cosine"
            ),
            Flag("label_smoothing", below_one, "S", "of the CE term; a smoothed teacher distils badly"),
            Flag("ema", below_one, "D", "decay per step of an average of the weights that replaces them; 0: none"),
            Flag("cutout", integer(0), "N", "side in pixels of a square erased from each training image; 0: none"),
            Flag("eval_every", integer(1), "N", "epochs from one validation to the next", 1),
        ],
        "machine and results": [
            Flag("seed", integer(0), "N", "decides weights, order and augmentation", 0),
            Flag("seeds", integer(0), "N", "how many seeds, from 0 on; or which ones", many=True),
            Flag("device", device, "NAME", "auto, cpu, cuda or cuda:N", "auto"),
            Flag(
                "precision",
                one_of(("auto", "bf16", "fp32")),
                "NAME",
                "bf16, fp32 or auto: bf16 on CUDA, else fp32",
                "auto",
            ),
            Flag(
                "cuda_graph",
                one_of(("auto", "off")),
                "NAME",
                "auto: on CUDA, a step is captured once and replayed; or off",
                "auto",
            ),
            Flag("compile", boolean, "BOOL", "torch.compile the network: pays in long trainings alone", False),
            Flag("results_dir", path, "DIR", "where runs and tables are kept", "results"),
            Flag("tensorboard", boolean, "BOOL", "scalars and augmented images for TensorBoard, too", False),
            Flag("export", path, "DIR", "write the network for other programs: safetensors, ONNX, torch.export"),
            Flag("resume", boolean, "BOOL", "go on from the last finished epoch", False),
            Flag("overwrite", boolean, "BOOL", "start again, and lose what the run's folder holds", False),
            Flag("debug", boolean, "BOOL", "show the traceback of an error", False),
        ],
    }


TRAIN_ONLY = {
    "sweep",
    "seeds",
    "tensorboard",
    "teacher_checkpoint",
    "views",
    "teacher_cache",
    "teacher_cache_limit",
    "recipe",
}
TRAIN_ONLY |= {"eval_every", "cuda_graph", "compile", "resume", "overwrite", *RECIPE_FLAGS}
TEST_ONLY = {"checkpoint", "export"}


def default_text(flag: Flag) -> str:
    """The default of a flag for its help line; where datasets or roles differ, all of them."""
    if flag.name not in (*RECIPE_FLAGS, "teacher", "student"):
        return "" if flag.default is None or flag.default is False or flag.many else f" (default: {flag.default})"

    def values(defaults: DatasetDefaults) -> tuple[Any, Any]:
        if flag.name in ("teacher", "student"):
            return (getattr(defaults, flag.name),) * 2
        return getattr(defaults.teacher_recipe, flag.name), getattr(defaults.student_recipe, flag.name)

    def text(teacher: Any, student: Any) -> str:
        return f"{teacher}" if teacher == student else f"{teacher} for teachers, {student} for students"

    usual = values(DatasetDefaults())
    own = {name: values(defaults) for name, defaults in DEFAULTS.items() if values(defaults) != usual}
    return f" (default: {'; '.join([text(*usual), *(f'{name}: {text(*pair)}' for name, pair in own.items())])})"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows `--epochs N` although argparse is told that N may be missing."""

    def __init__(self, prog: str, **more: Any):
        super().__init__(prog, max_help_position=29, width=110)

    def _format_args(self, action: argparse.Action, _default: str) -> str:
        return {"BOOL": "[BOOL]", "T": "T ...", "A": "A ..."}.get(action.metavar, action.metavar)


def build_parser(program: str, models: Collection[str], datasets: Collection[str]) -> argparse.ArgumentParser:
    """The parser of `train.py` or `test.py`."""
    train = program == "train.py"
    parser = argparse.ArgumentParser(
        prog=f"python {program}",
        description="Train a teacher, a student, or a student taught by the teacher (default: the student alone)."
        if train
        else "Measure a trained network on the test images. The last line of the output is one JSON object.",
        epilog=EXAMPLES[program],
        formatter_class=HelpFormatter,
        usage="%(prog)s [--flag [value]] ...",
        allow_abbrev=False,
    )
    for title, flags in flag_groups(models, datasets).items():
        flags = [flag for flag in flags if flag.name not in (TEST_ONLY if train else TRAIN_ONLY)]
        section = parser.add_argument_group(title) if flags else None
        for flag in flags:
            name = flag.name.replace("_", "-")
            # No flag may fail inside argparse, which stops at the first problem: see Problem.
            missing = {"nargs": "*"} if flag.many else {"nargs": "?", "const": Problem("needs a value")}
            missing |= {"const": True} if flag.check is boolean else {}
            section.add_argument(
                f"--{name}",
                type=checked(flag.check),
                metavar=flag.metavar,
                default=flag.default,
                help=flag.help + default_text(flag),
                **missing,
            )
            if flag.check is boolean:
                section.add_argument(f"--no-{name}", dest=flag.name, action="store_false", help=argparse.SUPPRESS)
    return parser


def parse(program: str, argv: list[str], models: Collection[str], datasets: Collection[str]) -> Config:
    """Resolve a command line. Prints every problem that it has to stderr and exits with 2 if there is one."""
    parser = build_parser(program, models, datasets)
    argv = [
        re.sub(r"^--[^=]*", lambda m: m[0].replace("_", "-"), word) if word[:2] == "--" else word for word in argv
    ]
    args, unknown_args = parser.parse_known_args(argv)
    values = vars(args)
    explicit = tuple(
        name for name in values if any(re.fullmatch(f"--(no-)?{name}(=.*)?".replace("_", "-"), w) for w in argv)
    )

    known = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    problems = [
        f"unknown flag {word.split('=')[0]}{elsewhere(program, word) or nearest(word.split('=')[0], known)}"
        for word in unknown_args
        if word.startswith("-")
    ] or [f"unexpected {word!r}: every value belongs to a flag" for word in unknown_args]
    for name, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Problem):
                problems.append(f"--{name.replace('_', '-')} {item.text}")
    problems += contradictions(program, values, explicit)
    if problems:
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        print(f"hint: python {program} --help", file=sys.stderr)
        raise SystemExit(2)
    return resolve(values | {"command_line": shlex.join(["python", program, *argv])}, explicit)


def elsewhere(program: str, word: str) -> str:
    """Says so where a flag is one of the other program's."""
    name = word.split("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
    other, only = ("test.py", TEST_ONLY) if program == "train.py" else ("train.py", TRAIN_ONLY)
    return f": only {other} has it" if name in only else ""


def contradictions(program: str, values: dict[str, Any], explicit: Collection[str]) -> list[str]:
    """What is wrong with flags together rather than alone."""
    values = {name: False if isinstance(value, Problem) else value for name, value in values.items()}
    roles = [f"--{name}" for name in ("tto", "kd", "all", "sweep", "checkpoint") if values.get(name)]
    kd, several = values["kd"], values["all"] or values.get("sweep")
    train = program == "train.py"
    problems = []
    if len(roles) > 1:
        problems.append(f"{' and '.join(roles)} exclude each other")
    for name in ("temp", "alpha", "seeds"):
        if name in explicit and values.get(name) == []:
            problems.append(f"--{name} needs a value")
    if len(values["temp"]) > 1 and not (train and several):
        problems.append("several --temp values need train.py --all or --sweep")
    for name in ("temp", "alpha", "teacher_checkpoint"):
        if name in explicit and not {"kd", *(("all", "sweep") if train else ())} & {*explicit}:
            problems.append(
                f"--{name.replace('_', '-')} needs --kd True" + (", --all or --sweep" if train else "")
            )
    if not train and values["all"]:
        for name in ("export", "teacher", "student", "seed", "limit", "image_size"):
            if name not in explicit:
                continue
            problems.append(
                f"--{name.replace('_', '-')} and --all exclude each other: --all is every finished run as it is"
            )
    if len(values["alpha"]) > 1 and not (train and values["sweep"]):
        problems.append("several --alpha values need train.py --sweep")
    if train:
        if {"seed", "seeds"} <= {*explicit}:
            problems.append("--seed and --seeds exclude each other")
        seeds = values["seeds"] or []
        if len(seeds) == 1 and not 0 < seeds[0] <= MOST_SEEDS:
            problems.append(f"--seeds N is how many, from 1 to {MOST_SEEDS}; --seed names a single one")
        if len(set(seeds)) < len(seeds):
            problems.append("--seeds names a seed twice")
        if values["sweep"] and values["val_size"] == 0 and "val_size" in explicit:
            problems.append("--sweep ranks by validation, and --val-size 0 leaves no images for it")
        if values["teacher_checkpoint"] and values["all"]:
            problems.append("--teacher-checkpoint and --all exclude each other: --all trains its own teacher")
        if "views" in explicit and values["tto"]:
            problems.append("--views is for students: a teacher sees every image anew in each epoch")
        for name in ("teacher_cache", "teacher_cache_limit"):
            if name in explicit and not kd and not several:
                problems.append(f"--{name.replace('_', '-')} needs --kd True, --all or --sweep")
        if values["resume"] and values["overwrite"]:
            problems.append("--resume and --overwrite exclude each other")
    if "image_size" in explicit and values["dataset"] != "folder":
        problems.append("--image-size needs --dataset folder: the other datasets have a size of their own")
    return problems


def resolve(values: dict[str, Any], explicit: tuple[str, ...]) -> Config:
    """Fill in what was left open with the defaults of the dataset and the recipe of the role."""
    role = next(
        (
            role
            for flag, role in (("tto", "teacher"), *((r, r) for r in ("kd", "all", "sweep")))
            if values.get(flag)
        ),
        "student",
    )
    defaults = defaults_for(values["dataset"])
    temps = values["temp"] if "temp" in explicit else TEMPS.get(role, values["temp"])
    filled = dict.fromkeys((field.name for field in fields(Config)), None)
    filled |= recipe_for(values["dataset"], role, "default") | {"recipe": "default", "swept": False}
    filled |= {name: value for name, value in values.items() if value is not None and name in filled}
    filled |= {"teacher": values["teacher"] or defaults.teacher, "student": values["student"] or defaults.student}
    seeds = values.get("seeds") or [values["seed"]]
    if len(seeds) == 1 and values.get("seeds"):
        seeds = range(seeds[0])
    alphas = ALPHAS_OF_A_SWEEP if role == "sweep" and "alpha" not in explicit else values.get("alpha", (ALPHA,))
    lists = {"temps": temps, "alphas": alphas, "seeds": seeds}
    filled |= {name: tuple(dict.fromkeys(items)) for name, items in lists.items()}
    config = Config(**filled | {"seed": filled["seeds"][0], "role": role, "explicit": explicit})
    return config.as_role(role)
