"""What the methods compute with: logits, classes and feature maps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.losses.outputs import Outputs


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)), summed over classes, averaged over the batch; a scalar.

    Logits are [B, C] of any float dtype; the result is in float32 or better.
    """
    student, teacher = (log_probabilities(logits, temperature) for logits in (student_logits, teacher_logits))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def pair_stages(student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
    """The feature maps of both networks that have the same height and width, from the input on.

    Raises ValueError where no resolution is common.
    """
    return pair_maps(student.features, teacher.features)


def pair_maps(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    """As `pair_stages`, of maps [B, c, h, w] of any kind."""
    by_size = {feature.shape[2:]: feature for feature in teacher}
    pairs = [(feature, by_size[feature.shape[2:]]) for feature in student if feature.shape[2:] in by_size]
    if not pairs:
        sizes = [sorted({"x".join(map(str, f.shape[2:])) for f in maps}) for maps in (student, teacher)]
        text = "stages of {} pixels in the student, {} in the teacher".format(*(", ".join(s) for s in sizes))
        raise ValueError(f"no stage of the same resolution in both networks ({text})")
    return pairs


def at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def log_probabilities(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """log softmax(logits / T) of [B, C], in float32 or better."""
    return F.log_softmax(at_least_float32(logits) / temperature, dim=1)


def kl_of_logs(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """KL(teacher || student) of log probabilities [B, C], for each row; [B]."""
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)


def standardise(logits: Tensor) -> Tensor:
    """Logits [B, C] with mean 0 and deviation 1 in each row (Sun et al., 2024), in float32 or better."""
    logits = at_least_float32(logits)
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (logits.std(1, keepdim=True) + 1e-7)


def unit(vectors: Tensor, dim: int = 1) -> Tensor:
    """Vectors along `dim` with norm 1. One of zeros stays as it is and has no gradient: in F.normalize's, any is
    multiplied by 1e12, and a ReLU does make rows of zeros."""
    norm = vectors.norm(dim=dim, keepdim=True)
    return (vectors / norm.clamp(min=1e-12)).where(norm > 0, 0.0)


def target_of(values: Tensor, labels: Tensor) -> Tensor:
    """The entry of its label in each row of [B, C]; [B]."""
    return values.gather(1, labels[:, None])[:, 0]


def without_target(values: Tensor, labels: Tensor) -> Tensor:
    """The rows of [B, C] without the entry of their label, [B, C - 1].

    A gather, so that no number has to stand in for minus infinity and no shape depends on the data.
    """
    others = torch.arange(values.shape[1] - 1, device=labels.device)[None]  # [1, C - 1]
    return values.gather(1, others + (others >= labels[:, None]))


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [B, c, h, w] in float32 or better, the larger ones pooled to the size of the smaller."""
    size = min(student.shape[2:], teacher.shape[2:])
    student, teacher = (at_least_float32(each) for each in (student, teacher))
    return tuple(
        each if each.shape[2:] == size else F.adaptive_avg_pool2d(each, size) for each in (student, teacher)
    )
