"""Relational knowledge distillation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.losses.functional import at_least_float32, unit
from utils.losses.method import Method, at_least
from utils.losses.outputs import Outputs


class RKD(Method):
    """Relational knowledge distillation (Park et al., 2019).

    L = ce * CE + distance * H(distances) + angle * H(angles): the Huber loss between the networks of the distances
    of all pairs of embeddings, over their mean, and of the cosines of all triplets. It takes tensors [B, B, B].
    """

    needs = "embedding"
    compares_samples = True

    def __init__(self, distance: float = 25.0, angle: float = 50.0, ce: float = 1.0):
        super().__init__()
        self.distance, self.angle, self.ce = at_least(0, distance=distance, angle=angle, ce=ce)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        ours, theirs = (at_least_float32(each.embedding) for each in (student, teacher))
        distance = F.smooth_l1_loss(relative_distances(ours), relative_distances(theirs))
        return {
            "CE": self.ce * self.cross_entropy(student, labels),
            "distances": self.distance * distance,
            "angles": self.angle * F.smooth_l1_loss(angles(ours), angles(theirs)),
        }


def relative_distances(embedding: Tensor) -> Tensor:
    """Distances of all pairs of [B, D] over the mean of those above 0; [B, B]."""
    # Not by products of the embeddings: of equal ones their rounding would be all that is left.
    distances = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / mean.clamp(min=1e-12)


def angles(embedding: Tensor) -> Tensor:
    """Cosines of the angles at each of [B, D] between all others; [B, B, B]."""
    difference = unit(embedding - embedding[:, None], dim=2)
    return difference @ difference.transpose(1, 2)
