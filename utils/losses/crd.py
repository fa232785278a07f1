"""Contrastive representation distillation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.losses.functional import at_least_float32
from utils.losses.method import Method, at_least, within
from utils.losses.outputs import Outputs

EMPTY = -1  # the label of an entry of the memory that is not filled yet


class CRD(Method):
    """Contrastive representation distillation (Tian, Krishnan and Isola, 2020).

    L = ce * CE + weight * the contrastive loss with each network as the anchor. Trained linear layers take both
    embeddings to `dim` numbers of norm 1; the networks' views of one image should agree, those of images of other
    classes should not. Those are the last `memory` images that were seen; the paper keeps all and draws 16,384.
    """

    needs = "embedding"

    def __init__(
        self,
        weight: float = 0.8,
        ce: float = 1.0,
        tau: float = 0.07,
        dim: int = 128,
        memory: int = 4096,
    ):
        super().__init__()
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)
        (self.tau,) = at_least(0.001, tau=tau)
        self.dim, self.memory = int(within(1, 4096, "dim", dim)), int(within(1, 1_000_000, "memory", memory))

    def adapt(self, student: Outputs, teacher: Outputs) -> None:
        self.project_s = nn.Linear(student.embedding.shape[1], self.dim)
        self.project_t = nn.Linear(teacher.embedding.shape[1], self.dim)
        self.register_buffer("seen_s", torch.zeros(self.memory, self.dim))
        self.register_buffer("seen_t", torch.zeros(self.memory, self.dim))
        self.register_buffer("seen_labels", torch.full((self.memory,), EMPTY))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        ours = F.normalize(self.project_s(at_least_float32(student.embedding)))
        theirs = F.normalize(self.project_t(at_least_float32(teacher.embedding)))
        other = (self.seen_labels != labels[:, None]) & (self.seen_labels != EMPTY)  # [B, memory]
        loss = contrastive(ours, theirs, self.seen_t.clone(), other, self.tau)
        loss = loss + contrastive(theirs, ours, self.seen_s.clone(), other, self.tau)
        self._remember(ours.detach(), theirs.detach(), labels)
        return {"CE": self.ce * self.cross_entropy(student, labels), "contrast": self.weight * loss}

    @torch.no_grad()
    def _remember(self, ours: Tensor, theirs: Tensor, labels: Tensor) -> None:
        ours, theirs, labels = (each[: self.memory] for each in (ours, theirs, labels))
        rows = (self.next + torch.arange(len(labels), device=labels.device)) % self.memory
        for buffer, values in ((self.seen_s, ours), (self.seen_t, theirs), (self.seen_labels, labels)):
            buffer.index_copy_(0, rows, values.to(buffer.dtype))
        self.next.add_(len(labels)).remainder_(self.memory)


def contrastive(anchor: Tensor, positive: Tensor, seen: Tensor, other: Tensor, tau: float) -> Tensor:
    """The noise-contrastive loss of vectors [B, d] of norm 1 against `seen` [M, d]; a scalar.

    `other` (bool [B, M]) are the entries of other classes. h = e / (e + n * c), with e = exp(a b / tau), n other
    entries and c the mean of their e; for that, c is not differentiated.
    """
    near = (anchor * positive).sum(1) / tau  # [B], the logarithm of e
    far = (anchor @ seen.T / tau).masked_fill(~other, -torch.inf)  # [B, M]
    with torch.no_grad():
        some = other.any(1)
        level = far.logsumexp(1).where(some, 0.0)  # log(n * c)
    loss = F.softplus(level - near) + F.softplus(far - level[:, None]).sum(1)
    return loss.where(some, 0.0).mean()
