"""Matching embeddings."""

import torch.nn.functional as F
from torch import Tensor, nn

from utils.losses.functional import at_least_float32
from utils.losses.method import Method, at_least
from utils.losses.outputs import Outputs


class Embed(Method):
    """The teacher's embedding from the student's, by a trained linear layer r.

    L = ce * CE + weight * (1 - cosine(r(e_s), e_t)), or with `cosine` false the mean squared error. Its own term
    needs no labels.
    """

    needs = "embedding"

    def __init__(self, weight: float = 1.0, ce: float = 1.0, cosine: bool = True):
        super().__init__()
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)
        self.cosine = cosine

    def adapt(self, student: Outputs, teacher: Outputs) -> None:
        self.project = nn.Linear(student.embedding.shape[1], teacher.embedding.shape[1])

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        ours, theirs = self.project(at_least_float32(student.embedding)), at_least_float32(teacher.embedding)
        similarity = F.cosine_similarity(ours, theirs, dim=1).mean()
        distance = 1 - similarity if self.cosine else F.mse_loss(ours, theirs)
        return {"CE": self.ce * self.cross_entropy(student, labels), "embedding": self.weight * distance}
