"""Distillation by knowledge review."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.losses.functional import at_least_float32, pair_stages
from utils.losses.method import Method, at_least, within
from utils.losses.outputs import Outputs

LEVELS = (4, 2, 1)  # pixels a side to which maps are pooled


class ReviewKD(Method):
    """Distilling knowledge via knowledge review (Chen et al., 2021).

    L = ce * CE + w * weight * the sum over the stages of the hierarchical context loss. From the last stage back,
    the student's maps are joined with what came of the stage behind, by trained attention, and compared with the
    teacher's of that stage. w rises from 0 to 1 in the first `warmup` of the training (20 of 240 epochs).
    """

    needs = "features"

    def __init__(self, weight: float = 1.0, ce: float = 1.0, warmup: float = 0.083):
        super().__init__()
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)
        self.warmup = within(0, 1, "warmup", warmup)

    def adapt(self, student: Outputs, teacher: Outputs) -> None:
        pairs = pair_stages(student, teacher)
        middle = max(theirs.shape[1] for _ours, theirs in pairs)
        self.fusions = nn.ModuleList(
            Fusion(ours.shape[1], middle, theirs.shape[1], last=index == 0)
            for index, (ours, theirs) in enumerate(reversed(pairs))
        )

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        loss, behind = 0.0, None
        pairs = reversed(pair_stages(student, teacher))
        for fuse, (ours, theirs) in zip(self.fusions, pairs, strict=True):
            result, behind = fuse(at_least_float32(ours), behind)
            loss = loss + context_loss(result, theirs)
        return {
            "CE": self.ce * self.cross_entropy(student, labels),
            "review": self.risen(progress) * self.weight * loss,
        }


class Fusion(nn.Module):
    """A stage's maps with what came of the stage behind: for the teacher, and for the next stage."""

    def __init__(self, channels: int, middle: int, teacher: int, last: bool):
        super().__init__()
        self.take = nn.Sequential(nn.Conv2d(channels, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.attention = None if last else nn.Conv2d(2 * middle, 2, 1)
        self.give = nn.Sequential(nn.Conv2d(middle, teacher, 3, padding=1, bias=False), nn.BatchNorm2d(teacher))

    def forward(self, maps: Tensor, behind: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = self.take(maps)
        if self.attention is not None:
            behind = F.interpolate(behind, maps.shape[2:], mode="nearest")
            shares = self.attention(torch.cat([maps, behind], 1)).sigmoid()  # [B, 2, h, w]
            maps = maps * shares[:, :1] + behind * shares[:, 1:]
        return self.give(maps), maps


def context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The hierarchical context loss of maps [B, c, h, w]: mean squared errors at several sizes; a scalar."""
    teacher = at_least_float32(teacher)
    loss, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for size in LEVELS:
        if size < student.shape[2]:
            weight /= 2
            pooled = (F.adaptive_avg_pool2d(each, size) for each in (student, teacher))
            loss, total = loss + weight * F.mse_loss(*pooled), total + weight
    return loss / total
