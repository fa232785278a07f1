"""Transformed teacher matching: a temperature for the teacher alone."""

from torch import Tensor

from utils.losses.functional import kl_of_logs, log_probabilities
from utils.losses.method import Method, at_least, within
from utils.losses.outputs import Outputs


class TTM(Method):
    """Transformed teacher matching (Zheng and Yang, 2024).

    L = ce * CE + weight * KL(p_t^gamma, with sum 1 || p_s). p_t^gamma is softmax(gamma * z_t): the teacher at
    T = 1 / gamma beside a student without temperature. The paper's weight differs by pair of networks.
    """

    def __init__(self, gamma: float = 0.1, weight: float = 1.0, ce: float = 1.0):
        super().__init__()
        self.gamma = within(0.0001, 100, "gamma", gamma)
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        term = transformed(student.logits, teacher.logits, self.gamma)
        return {"CE": self.ce * self.cross_entropy(student, labels), "KL": self.weight * term.mean()}


def transformed(student_logits: Tensor, teacher_logits: Tensor, gamma: float) -> Tensor:
    """KL(p_t^gamma, with sum 1 || p_s) of logits [B, C]; [B]."""
    return kl_of_logs(log_probabilities(student_logits), log_probabilities(teacher_logits, 1 / gamma))
