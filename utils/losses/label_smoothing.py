"""Label smoothing: the baseline that distillation without a teacher should be compared with."""

import torch.nn.functional as F
from torch import Tensor

from utils.losses.functional import at_least_float32
from utils.losses.method import Method, within
from utils.losses.outputs import Outputs


class LabelSmoothing(Method):
    """Label smoothing (Szegedy et al., 2016, section 7).

    L = CE with (1 - smoothing) of the label's probability and `smoothing` in equal parts for all classes.
    """

    needs = "labels"
    adds_up = False

    def __init__(self, smoothing: float = 0.1):
        super().__init__()
        self.smoothing = within(0, 1, "smoothing", smoothing)

    def forward(self, student: Outputs, teacher: None, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        return {"CE": F.cross_entropy(at_least_float32(student.logits), labels, label_smoothing=self.smoothing)}
