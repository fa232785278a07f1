"""What a network gets right and wrong on the test images, and how that compares with its teacher and without one.

Percentages have four decimals, as in test.json. Of equal logits the class that comes first counts as the higher.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from utils.data.batches import Batches
from utils.runtime.device import Compute
from utils.runtime.errors import UserError

BINS = 15  # of confidence, as in Guo et al.
MOST_CLASSES = 200  # of a confusion matrix that is saved: 40,000 counts
MOST_CONFUSED = 10
MOST_MISTAKES = 24


@torch.no_grad()
def predict(model: nn.Module, batches: Batches, compute: Compute) -> tuple[Tensor, Tensor]:
    """Outputs of `model` in eval mode, in the order of the images: logits float32 [N, C] and labels int64 [N].

    Both are on the CPU; the mode of the model is left as it was.
    """
    was_training = model.training
    model.eval()
    logits, labels = [], []
    for batch in batches.epoch(0):
        with compute.autocast():
            logits.append(model(batch.images))
        labels.append(batch.labels)
    model.train(was_training)
    return torch.cat(logits).float().cpu(), torch.cat(labels).cpu()


def analyse(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """The part of analysis.json that a network's outputs decide, from `images` to `mistakes`.

    Takes logits [N, C], labels int64 [N] and C names. Accuracies, confidences and `ece` are percent, `loss` is in
    nats; what an empty bin or a class without images would have is None. Raises UserError where there is no image,
    where shapes do not fit, and for logits that are not finite.
    """
    _require_outputs(logits, labels, len(class_names))
    classes = len(class_names)
    logits = logits.double()
    predicted = logits.argmax(1)
    ranks = _ranks(logits, labels)
    log_total = logits.logsumexp(1)
    confidence = (logits.amax(1) - log_total).exp()  # [N], of the predicted class
    right = predicted == labels
    ece, calibration = _calibration(confidence, right)
    pairs = labels * classes + predicted
    confusion = None
    if classes <= MOST_CLASSES:
        confusion = pairs.bincount(minlength=classes**2).view(classes, classes).tolist()
    return {
        "images": len(labels),
        "top1": _share(right),
        "top5": _share(ranks < 5),
        "loss": round((log_total - logits.gather(1, labels[:, None])[:, 0]).mean().item(), 6),
        "ece": ece,
        "calibration": calibration,
        "class_names": list(class_names),
        "per_class": _per_class(right, labels, classes),
        "confusion": confusion,
        "confused": _confused(pairs[~right], labels, class_names),
        "mistakes": _mistakes(confidence, predicted, labels, class_names),
    }


def compare_with_teacher(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """The `teacher` of analysis.json without its `run`: its `top1` and the student's agreement with it.

    Takes logits [N, C] of both for the same images and labels int64 [N]. `inherited` and `corrected` are None for
    a teacher without mistakes, `regressed` for one that is never right. Raises UserError as `analyse` does.
    """
    for logits in (student_logits, teacher_logits):
        _require_outputs(logits, labels, student_logits.shape[-1])
    student, teacher = student_logits.argmax(1), teacher_logits.argmax(1)
    mistaken = teacher != labels
    return {
        "top1": _share(~mistaken),
        "agreement": _share(student == teacher),
        "teacher_mistakes": int(mistaken.sum()),
        "inherited": _share((student == teacher)[mistaken]),
        "corrected": _share((student == labels)[mistaken]),
        "regressed": _share((student != labels)[~mistaken]),
    }


def compare_with_baseline(
    logits: Tensor, baseline_logits: Tensor, labels: Tensor, num_classes: int
) -> dict[str, Any]:
    """The `baseline` of analysis.json without its `run`: `top1` of the same student without a teacher, and gain.

    Takes logits [N, C] of both for the same images and labels int64 [N]. `gain` and `per_class_gain` are points of
    percent, positive where the distilled student is better. Raises UserError as `analyse` does.
    """
    for outputs in (logits, baseline_logits):
        _require_outputs(outputs, labels, num_classes)
    distilled, baseline = logits.argmax(1) == labels, baseline_logits.argmax(1) == labels
    count = labels.bincount(minlength=num_classes)
    gained = labels[distilled].bincount(minlength=num_classes) - labels[baseline].bincount(minlength=num_classes)
    return {
        "top1": _share(baseline),
        "gain": round(100 * gained.sum().item() / len(labels), 4),
        "per_class_gain": _percent(gained, count),
    }


def _require_outputs(logits: Tensor, labels: Tensor, classes: int) -> None:
    if len(labels) == 0:
        raise UserError("there are no test images to measure", "name a dataset that has some")
    if logits.shape != (len(labels), classes):
        what = f"outputs of shape {tuple(logits.shape)} for {len(labels)} images of {classes} classes"
        raise UserError(what, "compare networks of the same classes on the same test images")
    if not logits.isfinite().all():
        raise UserError("the network's outputs are not finite", "use an earlier checkpoint, or --precision fp32")


def _ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes stand above the label's, int64 [N]; unlike topk, the same for ties on every machine."""
    own = logits.gather(1, labels[:, None])
    first = torch.arange(logits.shape[1]) < labels[:, None]
    return ((logits > own) | ((logits == own) & first)).sum(1)


def _calibration(confidence: Tensor, right: Tensor) -> tuple[float, dict[str, list]]:
    """Expected calibration error in percent, and the bins (lo, hi] that it is the mean of.

    Guo, Pleiss, Sun and Weinberger, *On Calibration of Modern Neural Networks*, 2017, equation 3.
    """
    inner_edges = torch.arange(1, BINS, dtype=torch.float64) / BINS
    bins = torch.bucketize(confidence, inner_edges)
    count = bins.bincount(minlength=BINS)
    confidences = bins.bincount(confidence, minlength=BINS)
    hits = bins.bincount(right.double(), minlength=BINS)
    ece = (hits - confidences).abs().sum().item() / len(bins)
    means = {"confidence": _percent(confidences, count), "accuracy": _percent(hits, count)}
    return round(100 * ece, 4), {"count": count.tolist(), **means}


def _per_class(right: Tensor, labels: Tensor, classes: int) -> list[float | None]:
    return _percent(labels[right].bincount(minlength=classes), labels.bincount(minlength=classes))


def _confused(pairs: Tensor, labels: Tensor, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The commonest mistakes; `pairs` (int64 [M]) are true class * C + predicted class of each mistake."""
    size = labels.bincount(minlength=len(class_names)).tolist()
    kinds, counts = pairs.unique(return_counts=True)  # sorted, so that equal counts stand in the order of classes
    order = counts.argsort(descending=True, stable=True)[:MOST_CONFUSED]
    confused = []
    for pair, count in zip(kinds[order].tolist(), counts[order].tolist(), strict=True):
        true, predicted = divmod(pair, len(class_names))
        share = round(100 * count / size[true], 4)
        confused.append(
            {"true": class_names[true], "predicted": class_names[predicted], "count": count, "share": share}
        )
    return confused


def _mistakes(
    confidence: Tensor, predicted: Tensor, labels: Tensor, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """The most confident mistakes, the first image first among equals."""
    wrong = (predicted != labels).nonzero()[:, 0]
    wrong = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MOST_MISTAKES]
    return [
        {
            "index": index,
            "true": class_names[labels[index]],
            "predicted": class_names[predicted[index]],
            "confidence": round(100 * confidence[index].item(), 4),
        }
        for index in wrong.tolist()
    ]


def _share(chosen: Tensor) -> float | None:
    """Percent of a bool [N] that is true; None of nothing."""
    return round(100 * chosen.double().mean().item(), 4) if len(chosen) else None


def _percent(part: Tensor, whole: Tensor) -> list[float | None]:
    pairs = zip(part.tolist(), whole.tolist(), strict=True)
    return [round(100 * value / count, 4) if count else None for value, count in pairs]
