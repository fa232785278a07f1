"""Small networks and images that train in moments, and finished runs that nobody trained."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from utils.data.batches import Batch, Batches, Normalise
from utils.data.image_set import ImageSet
from utils.distillation.taps import TappedNetwork
from utils.distillation.teacher import LiveTeacher
from utils.losses import Outputs, build_method
from utils.losses.method import Method
from utils.runtime.device import Compute
from utils.runtime.history import EpochRecord, write_history
from utils.runtime.json_file import write_json
from utils.runtime.run_dir import RunDir
from utils.training.state import Schedule, TrainState

CPU = Compute(torch.device("cpu"), "fp32")
NORMALISE = Normalise([127.0] * 3, [64.0] * 3)


def images(count: int = 100, classes: int = 4, seed: int = 0, size: int = 32) -> ImageSet:
    """Noise whose brightness gives away the class."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 80, (count, size, size, 3), generator=random) + 40 * labels[:, None, None, None]
    return ImageSet(pixels.to(torch.uint8), labels, tuple(f"class {number}" for number in range(classes)))


def batches(count: int = 100, batch_size: int = 32, seed: int | None = 0, classes: int = 4) -> Batches:
    return Batches(images(count, classes), NORMALISE, batch_size, seed)


def network(classes: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, stride=4, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, classes))


def training(
    epochs: int = 3,
    steps: int = 4,
    seed: int = 0,
    method: str | Method = "",
    teacher: LiveTeacher | None = None,
    compute: Compute = CPU,
    **settings,
) -> TrainState:
    """A training of `network` with this method, or its spec; without one, with cross-entropy.

    A method with trainable parts needs its `teacher`, to whose outputs they are made to fit.
    """
    model = compute.place(network(seed=seed))
    if isinstance(method, str):
        method = build_method(method) if method else None
    if teacher is not None:
        images = torch.zeros(2, 3, 32, 32, device=compute.device)
        student = TappedNetwork(model, method.needs, images).example(images)
        method.adapt(student, teacher.network.example(images))
        method.to(compute.device)
    return TrainState(model, Schedule(epochs, steps, **{"lr": 0.05} | settings), method)


def frozen(model: nn.Module, needs: str = "logits", compute: Compute = CPU, **more) -> LiveTeacher:
    """`model` as a teacher."""
    model = compute.place(model).eval().requires_grad_(False)
    tapped = TappedNetwork(model, needs, torch.zeros(2, 3, 32, 32, device=compute.device))
    settings = {"name": "toy", "sha256": "a" * 64, "path": Path("toy.pt"), "rescale": None}
    return LiveTeacher(tapped, compute, **settings | more)


class Oracle:
    """A teacher whose logits are a function of the batch."""

    def __init__(self, logits: Callable[[Batch], torch.Tensor]):
        self.logits = logits

    def set_view(self, view: int) -> None:
        """Nothing to prepare."""

    def __call__(self, batch: Batch) -> Outputs:
        return Outputs(self.logits(batch))


class Probe(Method):
    """A method whose loss is a function of what every method is given."""

    def __init__(self, loss: Callable[[Outputs, Outputs | None, torch.Tensor, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.loss = loss

    def forward(self, *given) -> dict[str, torch.Tensor]:
        return {"loss": self.loss(*given)}


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_weights(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def epoch_records(epochs: int = 3, val: bool = True) -> list[EpochRecord]:
    measured = (1.5, 50.0, 90.0) if val else (None, None, None)
    return [EpochRecord(e + 1, 0.1, 2.0 - e / 10, 40.0 + e, 80.0, *measured, 12.345) for e in range(epochs)]


def change_json(path: Path, **changes) -> None:
    """Change entries of a JSON file."""
    write_json(path, json.loads(path.read_text(encoding="utf-8", errors="surrogateescape")) | changes)


IDENTITY = {"role": "student", "network": "cnn", "epochs": 3, "seed": 0}


def finished_run(path: Path, top1: float = 80.0, **identity) -> RunDir:
    """A run directory with the settings, curves and results of a run of `IDENTITY`, changed by `identity`."""
    run = RunDir(path)
    path.mkdir(parents=True)
    config = {"identity": IDENTITY | identity, "data": {"train": 90, "val": 10, "test": 50}}
    write_json(run.config, config | {"objective": "CE", "device": "cpu", "command": "python train.py --all"})
    write_history(run.history, epoch_records())
    result = {"top1": top1, "top5": 99.0, "loss": 0.5, "images": 50, "parameters": 288_746, "epoch": 3}
    write_json(run.results, result)
    return run
