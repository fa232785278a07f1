"""What the tests of command lines parse them with."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from config import Config, number, parse
from models import MODELS
from utils.data.sources import SOURCES

ROOT = Path(__file__).parents[1]


METHODS = {  # the settings of each and their defaults
    "kd": {"temperature": 5.0, "alpha": 0.9},
    "dkd": {"temperature": 4.0, "alpha": 1.0, "beta": 8.0},
    "fitnet": {"weight": 100.0},
}


FLAGS = {
    "train.py": """help tto kd all sweep teacher student pair dataset data-dir image-size limit skip-bad-images
        drop-duplicates val-size method list-methods temp alpha teacher-checkpoint teacher-mean teacher-std
        teacher-mix views teacher-cache teacher-cache-limit recipe epochs batch-size optimizer lr momentum
        weight-decay warmup schedule label-smoothing ema cutout padding flip eval-every seed seeds device precision
        cuda-graph compile results-dir tensorboard resume overwrite debug""",
    "test.py": """help tto kd all checkpoint teacher student pair dataset data-dir image-size limit skip-bad-images
        val-size method temp alpha teacher-mean teacher-std seed device precision results-dir
        predict csv export debug""",
}


def parsed(line: str) -> Config:
    """Of a line such as `train.py --kd` or, for short, `--kd`."""
    program, argv = "train.py", shlex.split(line.removeprefix("python "))
    if argv and argv[0] in FLAGS:
        program, *argv = argv
    return parse(program, argv, MODELS, SOURCES, METHODS)


def rows(text: str) -> list[list[str]]:
    """The rows of a table whose columns are set apart by `=>`."""
    return [[cell.strip() for cell in line.split("=>")] for line in text.strip().splitlines()]


@dataclass(frozen=True)
class FakeMethod:
    """What `runs` asks of a method."""

    name: str
    settings: dict

    def texts(self, *always: str) -> list[str]:
        default = METHODS[self.name]
        return [f"{k}={number(v)}" for k, v in self.settings.items() if k in always or v != default[k]]

    @property
    def folder(self) -> str:
        return self.name

    @property
    def spec(self) -> str:
        return ":".join(filter(None, (self.name, ",".join(self.texts()))))

    def slug(self, *always: str) -> str:
        texts = self.texts(*always, *["temperature"] * (self.name == "kd"))
        return "-".join(t.replace("temperature=", "t").replace("alpha=", "a").replace("=", "") for t in texts)


def resolve(spec: str, **overrides: float) -> FakeMethod:
    name, _, rest = spec.partition(":")
    own = {key: float(value) for key, value in (word.split("=") for word in rest.split(",") if word)}
    defaults = METHODS[name]
    return FakeMethod(name, defaults | {k: v for k, v in overrides.items() if k in defaults} | own)


def runs(line: str) -> list[Config]:
    return parsed(line).runs(resolve)


def folders(line: str) -> list[str]:
    return [str(run.run_dir).removeprefix("results/cifar10/").removesuffix("/seed0") for run in runs(line)]
