"""Softmax regression representation learning."""

import torch.nn.functional as F
from torch import Tensor, nn

from utils.losses.functional import at_least_float32
from utils.losses.method import Method, at_least
from utils.losses.outputs import Outputs


class SRRL(Method):
    """Knowledge distillation via softmax regression representation learning (Yang et al., 2021).

    L = ce * CE + alpha * MSE(r(e_s), e_t) + beta * MSE(h_t(r(e_s)), z_t): the student's embedding, after a trained
    linear layer r with batch norm, should be the teacher's, and should give the teacher's logits in the teacher's
    own head h_t. The authors' r is for maps before they are pooled, and ends with a ReLU.
    """

    needs = "embedding"
    compares_samples = True  # in batch norm

    def __init__(self, alpha: float = 1.0, beta: float = 1.0, ce: float = 1.0):
        super().__init__()
        self.alpha, self.beta, self.ce = at_least(0, alpha=alpha, beta=beta, ce=ce)

    def adapt(self, student: Outputs, teacher: Outputs) -> None:
        sizes = student.embedding.shape[1], teacher.embedding.shape[1]
        self.connect = nn.Sequential(nn.Linear(*sizes, bias=False), nn.BatchNorm1d(sizes[1]))

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        ours, theirs = self.connect(at_least_float32(student.embedding)), at_least_float32(teacher.embedding)
        weight, bias = (None if each is None else each.detach().to(ours.dtype) for each in teacher.head)
        logits = F.linear(ours, weight, bias)
        return {
            "CE": self.ce * self.cross_entropy(student, labels),
            "embedding": self.alpha * F.mse_loss(ours, theirs),
            "logits": self.beta * F.mse_loss(logits, at_least_float32(teacher.logits)),
        }
