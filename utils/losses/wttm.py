"""Transformed teacher matching, with more weight where the teacher is unsure."""

from torch import Tensor

from utils.losses.functional import log_probabilities
from utils.losses.outputs import Outputs
from utils.losses.ttm import TTM, transformed


class WTTM(TTM):
    """Weighted transformed teacher matching (Zheng and Yang, 2024).

    As TTM, each sample's divergence multiplied by the sum of p_t^gamma over the classes, which is large where the
    teacher is unsure: from 1 to C^(1 - gamma).
    """

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        power = (self.gamma * log_probabilities(teacher.logits)).logsumexp(1).exp()  # [B]
        term = power * transformed(student.logits, teacher.logits, self.gamma)
        return {"CE": self.ce * self.cross_entropy(student, labels), "KL": self.weight * term.mean()}
