"""Loss and accuracy, weighted by samples, added up on the device and read when somebody wants to know."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.batches import Batches
from utils.runtime.device import Compute


class Metrics(NamedTuple):
    loss: float  # mean over samples
    top1: float  # percent
    top5: float  # percent


class Meter:
    """Running sums over samples. `update` never waits for the device, `read` does."""

    def __init__(self, device: torch.device):
        # Loss, hits of top-1, hits of top-5, samples: on the device, so that a replayed CUDA graph adds them up.
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)

    def reset(self) -> None:
        self.sums.zero_()

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss (scalar), logits [B, C] and labels int64 [B]."""
        with torch.no_grad():
            predicted = logits.topk(min(5, logits.shape[1])).indices
            hits = predicted == labels[:, None]
            self.sums[:3] += torch.stack((loss.double() * len(labels), hits[:, 0].sum(), hits.sum()))
            self.sums[3] += len(labels)

    def read(self) -> Metrics:
        """The means so far."""
        loss, top1, top5 = (self.sums[:3] / self.sums[3]).tolist()
        return Metrics(loss, 100 * top1, 100 * top5)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, compute: Compute) -> Metrics:
    """Cross-entropy and accuracy of `model` in eval mode over all batches; leaves the mode as it was."""
    was_training = model.training
    model.eval()
    meter = Meter(compute.device)
    for batch in batches.epoch(0):
        with compute.autocast():
            logits = model(batch.images)
        loss = F.cross_entropy(logits.float(), batch.labels)
        meter.update(loss, logits, batch.labels)
    model.train(was_training)
    return meter.read()


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def format_metrics(metrics: dict[str, Any], part: str = "test") -> str:
    """The final metrics of a network in one line; one of another program has no epoch."""
    epoch = f", epoch {metrics['epoch']}" if metrics["epoch"] is not None else ""
    top5 = f"top-5 {metrics['top5']:.2f} %, " if metrics["top5"] < 100 else ""  # always 100 of up to five classes
    return (
        f"{part}: top-1 {metrics['top1']:.2f} %, {top5}loss {metrics['loss']:.4f}, "
        f"ECE {metrics['ece']:.2f} % on {metrics['images']:,} images; {metrics['parameters']:,} parameters"
        f"{epoch}"
    )
