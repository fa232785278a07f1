"""A method, a network, a data set: each is one new file and one line in a registry, and nothing else.

Every test works in a copy of the repository, adds just that, and uses the programs.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow
SMALL = "import sys\nfrom utils.data.sources import shapes\nshapes.TRAIN, shapes.TEST = 300, 100\n"
RUN = "import train\nfrom utils.runtime.program import run\nsys.exit(run(train.main, sys.argv[1:]))\n"
# Ctrl-C after the first epoch of the run whose folder has this name.
STOP = """
from utils.training.checkpoint_writer import CheckpointWriter
real = CheckpointWriter.epoch_done
def epoch_done(writer, record):
    real(writer, record)
    if writer.run_dir.path.parent.name == {name!r}:
        raise KeyboardInterrupt
CheckpointWriter.epoch_done = epoch_done
"""

LOGIT_METHOD = '''
"""The square of the difference of logits."""

import torch.nn.functional as F
from utils.losses.method import Method


class Toy(Method):
    """A toy (nobody, 2026)."""

    def __init__(self, weight: float = 1.0, ce: float = 1.0):
        super().__init__()
        self.weight, self.ce = weight, ce

    def forward(self, student, teacher, labels, progress):
        distance = F.mse_loss(student.logits.float(), teacher.logits.float())
        return {"CE": self.ce * self.cross_entropy(student, labels), "MSE": self.weight * progress * distance}
'''
FEATURE_METHOD = '''
"""The mean of a feature map after a trained projection."""

import torch.nn.functional as F
from torch import nn
from utils.losses.method import Method


class Toy(Method):
    """A toy (nobody, 2026)."""

    needs = "features"

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def adapt(self, student, teacher):
        self.project = nn.Linear(student.features[-1].shape[1], teacher.features[-1].shape[1])

    def forward(self, student, teacher, labels, progress):
        ours, theirs = (each.features[-1].float().mean((2, 3)) for each in (student, teacher))
        distance = F.mse_loss(self.project(ours), theirs)
        return {"CE": self.cross_entropy(student, labels), "mean": self.weight * distance}
'''
NETWORK = """
from torch import nn


def toy(num_classes: int) -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, num_classes))
"""
DATA_SET = """
import torch

from utils.data.image_set import ImageSet
from utils.data.sources import Parts


def load(request) -> Parts:
    def part(count: int, seed: int) -> ImageSet:
        labels = torch.arange(count) % 3
        noise = torch.randint(0, 60, (count, 32, 32, 3), generator=torch.Generator().manual_seed(seed))
        images = (noise + 60 * labels[:, None, None, None]).to(torch.uint8)
        return ImageSet(images, labels, ("dark", "grey", "light"))

    return Parts(part(300, 1), part(90, 2))
"""


@pytest.fixture
def house(tmp_path) -> Path:
    """A copy of the repository without what git does not know."""
    copy = tmp_path / "house"
    listed = [
        "git",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.py",
        "*.css",
        "*.jinja",
        "utils/*.csv",
    ]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split():
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    return copy


def add(house: Path, file: str, content: str, registry: str, after: str, line: str) -> None:
    """The two additions: one new file, one line of a registry."""
    assert not (house / file).exists()
    (house / file).write_text(content)
    text = (house / registry).read_text()
    assert text.count(after) == 1
    (house / registry).write_text(text.replace(after, f"{after}    {line}\n"))


def train(house: Path, *flags: str, before: str = SMALL, check: int = 0) -> str:
    words = ["--epochs", "2", "--results-dir", "results", "--teacher", "cnn_tiny", *flags]
    done = subprocess.run(
        [sys.executable, "-c", before + RUN, *words],
        cwd=house, capture_output=True, text=True, timeout=240, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == check, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("content", "own"), [(LOGIT_METHOD, set()), (FEATURE_METHOD, {"project.weight", "project.bias"})]
)
def test_a_method_trains_resumes_and_has_a_row_with_its_gain_beside_kd(house, content, own):
    add(house, "utils/losses/toy.py", content, "utils/losses/__init__.py", '    "kd": "KD",\n', '"toy": "Toy",')
    flags = ["--all", "--dataset", "shapes", "--student", "cnn_tiny", "--method", "kd", "toy:weight=0.5"]
    train(house, *flags)
    page = (house / "results/shapes/README.md").read_text()
    rows = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in page.splitlines() if "|" in line}
    for title in ("student cnn_tiny, KD at T = 5", "student cnn_tiny, Toy, weight = 0.5"):
        assert float(rows[title]) is not None, f"{title} has no gain: {rows}"
    whole = torch.load(house / "results/shapes/toy-cnn_tiny-weight0.5/seed0/last.pt", weights_only=True)
    assert whole["method"].keys() == own
    assert not own & whole["model"].keys()

    (house / "results").rename(house / "whole")
    stop = SMALL + STOP.format(name="toy-cnn_tiny-weight0.5")
    train(house, *flags, before=stop, check=130)
    train(house, *flags, "--resume")
    resumed = torch.load(house / "results/shapes/toy-cnn_tiny-weight0.5/seed0/last.pt", weights_only=True)
    for part in ("model", "method"):
        assert whole[part].keys() == resumed[part].keys()
        assert all(torch.equal(tensor, resumed[part][name]) for name, tensor in whole[part].items())
    assert "toy" in train(house, "--list-methods")


def test_a_network_is_teacher_and_student(house):
    add(house, "models/toy.py", NETWORK, "models/__init__.py", '    "cnn": "cnn cnn_tiny",\n', '"toy": "toy",')
    train(house, "--all", "--dataset", "shapes", "--teacher", "toy", "--student", "toy")
    page = (house / "results/shapes/README.md").read_text()
    assert "| teacher toy |" in page
    assert "| student toy, alone |" in page
    assert "| student toy, KD at T = 5 |" in page


def test_a_data_set_has_its_own_table(house):
    registry = "utils/data/sources/__init__.py"
    add(house, "utils/data/sources/greys.py", DATA_SET, registry, '    "shapes": "shapes",\n', '"greys": "greys",')
    train(house, "--all", "--dataset", "greys", "--student", "cnn_tiny", "--temp", "5")
    result = json.loads((house / "results/greys/kd-cnn_tiny-t5/seed0/test.json").read_text())
    assert result["images"] == 90
    assert "| student cnn_tiny, KD at T = 5 |" in (house / "results/greys/README.md").read_text()


def test_the_line_in_the_registry_is_really_needed(house):
    """The tests above would pass in a house that finds files by itself; here a file alone is not known."""
    (house / "utils/losses/toy.py").write_text(LOGIT_METHOD)
    train(house, "--kd", "True", "--method", "toy", check=2)
