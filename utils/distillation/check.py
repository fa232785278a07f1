"""What a teacher's outputs for images that it should know say of it, measured before a student sees any."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from utils.data.dataset import Dataset, evaluation_batches
from utils.distillation.teacher import LiveTeacher
from utils.runtime.errors import printable

MOST_IMAGES = 2000  # VGG19-BN takes 20 s for them on two cores, and the standard error is below 1.2 points
MOST_CLASSES = 500  # whose order is checked: beyond, there are too few of these images for each
SIGMAS = 4  # of the difference between two orders of the classes
LISTED = 20  # classes whose order is written out


@dataclass(frozen=True)
class ClassOrder:
    """An assignment of a teacher's outputs to the classes under which it is right far more often."""

    outputs: list[int]  # the output that stands for each class
    top1: float  # percent
    pair: tuple[int, int]  # the class, and the class whose output it has, that the most images speak for


@dataclass(frozen=True)
class TeacherCheck:
    """The accuracy of a teacher as it was measured, and on which images."""

    part: str  # "val", or "train" where no images are held out
    images: int
    top1: float  # percent
    order: ClassOrder | None  # where the data's order of classes is not the teacher's

    def record(self) -> dict[str, Any]:
        return {f"{self.part}_top1": round(self.top1, 4), "images": self.images}

    def __str__(self) -> str:
        part = {"val": "validation", "train": "training"}[self.part]
        return f"{part} top-1 {self.top1:.2f} % of {self.images:,} images"


@torch.no_grad()
def check_teacher(
    teacher: LiveTeacher, dataset: Dataset, check_interrupt: Callable[[], None] = lambda: None
) -> TeacherCheck:
    """Measure a teacher on up to 2,000 validation images, or training images where there are none.

    Its outputs are those that the student will see. Warns on stderr of a teacher that guesses, and of one whose
    outputs fit the classes far better in another order.
    """
    part = "val" if dataset.val is not None else "train"
    images = getattr(dataset, part)
    count = min(MOST_IMAGES, len(images))
    spread = torch.arange(count, device=images.labels.device) * len(images) // count  # over all classes
    batches = evaluation_batches(images.select(spread), dataset.normalise)
    predicted, quiet = [], not sys.stdout.isatty()
    for batch in tqdm(batches.epoch(0), "teacher", len(batches), leave=False, disable=quiet, file=sys.stdout):
        predicted.append(teacher(batch).logits.argmax(1).cpu())
        check_interrupt()
    outputs, labels, classes = torch.cat(predicted), images.labels[spread].cpu(), images.num_classes
    top1 = 100 * (outputs == labels).double().mean().item()
    check = TeacherCheck(part, count, top1, find_order(outputs, labels, classes))
    chance = 100 / classes
    if check.order is not None:
        print(f"warning: {_explain(teacher.path, check, dataset.train.class_names)}", file=sys.stderr)
    elif top1 < chance + 0.05 * (100 - chance):
        print(f"warning: THE TEACHER GUESSES: {check} ({teacher.path})", file=sys.stderr)
    return check


def find_order(predicted: Tensor, labels: Tensor, classes: int) -> ClassOrder | None:
    """The order of the classes in a teacher's outputs, where they are right far more often in it than as they are.

    Takes the output that is highest and the label for each image, int64 [N]. An order is chosen on one half of the
    images and counted on the other: on the same ones, chance alone would find a better order.
    """
    if classes > MOST_CLASSES:
        return None
    half = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)) % 2
    right = predicted == labels
    right_in_order = torch.zeros_like(right)
    for choosing in (half == 0, half == 1):
        outputs = _best_order(_confusion(predicted[choosing], labels[choosing], classes))
        right_in_order[~choosing] = (predicted == outputs[labels])[~choosing]
    gained, lost = int((right_in_order & ~right).sum()), int((right & ~right_in_order).sum())
    if gained - lost <= SIGMAS * (gained + lost) ** 0.5:
        return None
    counts = _confusion(predicted, labels, classes)
    outputs = _best_order(counts)
    moved = counts[torch.arange(classes), outputs] * (outputs != torch.arange(classes))
    worst = int(moved.argmax())
    top1 = 100 * right_in_order.double().mean().item()
    return ClassOrder(outputs.tolist(), top1, (worst, int(outputs[worst])))


def _confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Images by class and output, int64 [C, C]."""
    return (labels * classes + predicted).bincount(minlength=classes**2).view(classes, classes)


def _best_order(counts: Tensor) -> Tensor:
    """The output that stands for each class, int64 [C]: two are exchanged as long as more images are right."""
    outputs = torch.arange(len(counts))
    while True:
        assigned = counts[:, outputs]  # [C, C]: a class with the output that another one has
        own = assigned.diagonal()
        gain = assigned + assigned.T - own - own[:, None]
        best = int(gain.argmax())
        first, second = divmod(best, len(counts))
        if gain[first, second] <= 0:
            return outputs
        outputs[[first, second]] = outputs[[second, first]]


def _explain(path: Path, check: TeacherCheck, class_names: tuple[str, ...]) -> str:
    """One line on a teacher whose classes are in another order, with what to do."""
    order = check.order
    true, output = (printable(class_names[index], 40) for index in order.pair)
    what = f"THE TEACHER HAS ITS CLASSES IN ANOTHER ORDER: {check}, and {order.top1:.2f} % in the order that fits "
    what += f"best, where the output for {output!r} stands for {true!r} ({path})"
    rows = f" weight[{order.outputs}] and bias[{order.outputs}]" if len(class_names) <= LISTED else ""
    fix = f"put the rows of its last layer into the order of the data's classes{':' * bool(rows)}{rows}"
    return f"{what} (hint: {fix})"
