"""Losses on logits: pure functions from tensors to a scalar, in float32 or better even under autocast."""

import torch
import torch.nn.functional as F
from torch import Tensor


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), summed over classes, averaged over the batch.

    Logits are [B, C] of any float dtype; the result is a scalar in float32 (float64 for float64 logits). T^2
    keeps the size of the gradient independent of T (Hinton, Vinyals and Dean, 2015, section 2).
    """
    student = F.log_softmax(_at_least_float32(student_logits) / temperature, dim=1)
    teacher = F.log_softmax(_at_least_float32(teacher_logits) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits [B, C] and labels int64 [B], a scalar in float32 or better."""
    return F.cross_entropy(_at_least_float32(logits), labels, label_smoothing=label_smoothing)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
