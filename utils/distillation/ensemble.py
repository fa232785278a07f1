"""Several teachers as one."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.data.batches import Batch
from utils.distillation.cached_teacher import CachedTeacher
from utils.distillation.teacher import LiveTeacher
from utils.losses import Outputs
from utils.losses.functional import log_probabilities


@dataclass(frozen=True)
class Ensemble:
    """Stands in for one teacher that matches logits; each of its `teachers` is live or cached."""

    teachers: tuple[LiveTeacher | CachedTeacher, ...]
    members: tuple[LiveTeacher, ...]  # the same, live
    mix: str  # "mean" or "confidence"

    @property
    def name(self) -> str:
        return "+".join(member.name for member in self.members)

    @property
    def sha256(self) -> str:
        return hashlib.sha256("".join(member.sha256 for member in self.members).encode()).hexdigest()

    @property
    def path(self) -> Path:
        return self.members[0].path

    @property
    def note(self) -> str:
        return "; ".join(dict.fromkeys(member.note for member in self.members if member.note))

    @property
    def settings(self) -> dict[str, Any]:
        """What is part of a run's identity beside the weights."""
        own = [member.settings for member in self.members]
        own = {f"{key} {number}": value for number, each in enumerate(own) for key, value in each.items()}
        return own | {"teacher_mix": self.mix}

    def set_view(self, view: int) -> None:
        for teacher in self.teachers:
            teacher.set_view(view)

    def __call__(self, batch: Batch) -> Outputs:
        return Outputs(mix_logits([teacher(batch).logits for teacher in self.teachers], self.mix))

    def example(self, images: Tensor) -> Outputs:
        return self.members[0].example(images)


def mix_logits(logits: list[Tensor], mix: str) -> Tensor:
    """Logits [B, C] of the mean of the teachers' probabilities: of several, each [B, C] of any float dtype.

    Probabilities are mixed, not logits: a teacher with large logits would else count for more. With "confidence",
    a teacher's weight for an image is its largest probability, over the sum of all teachers'. float32 or better.
    """
    log_p = torch.stack([log_probabilities(each) for each in logits])  # [K, B, C]
    if mix == "confidence":
        largest = log_p.amax(2, keepdim=True)  # [K, B, 1]
        return (log_p + largest - largest.logsumexp(0)).logsumexp(0)
    return log_p.logsumexp(0) - math.log(len(logits))
