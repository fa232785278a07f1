"""Probabilistic knowledge transfer."""

from torch import Tensor

from utils.losses.functional import at_least_float32, unit
from utils.losses.method import Method, at_least
from utils.losses.outputs import Outputs

EPSILON = 1e-7


class PKT(Method):
    """Probabilistic knowledge transfer (Passalis and Tefas, 2018, with cosine similarity).

    L = ce * CE + weight * the mean of p_t * log(p_t / p_s), where p holds the similarities of the embeddings of
    each image to those of the batch, with sum 1.
    """

    needs = "embedding"
    compares_samples = True

    def __init__(self, weight: float = 30000.0, ce: float = 1.0):
        super().__init__()
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        divergence = neighbour_divergence(student.embedding, teacher.embedding)
        return {"CE": self.ce * self.cross_entropy(student, labels), "neighbours": self.weight * divergence}


def neighbour_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Of embeddings [B, D] and [B, E]; a scalar."""
    ours, theirs = _similarities(student), _similarities(teacher)
    return (theirs * ((theirs + EPSILON) / (ours + EPSILON)).log()).mean()


def _similarities(embedding: Tensor) -> Tensor:
    directions = unit(at_least_float32(embedding))
    similarity = (directions @ directions.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)
