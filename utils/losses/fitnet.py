"""Hints from a stage in the middle of the teacher."""

import torch.nn.functional as F
from torch import Tensor, nn

from utils.losses.functional import at_least_float32, pair_stages
from utils.losses.method import Method, at_least
from utils.losses.outputs import Outputs


class FitNet(Method):
    """FitNets: hints for thin deep nets (Romero et al., 2015), trained together with the cross-entropy.

    L = ce * CE + weight * MSE(r(f_s), f_t) for the feature maps of one stage, with a trained 1x1 convolution r.
    `stage` counts the stages whose resolution both networks have: 0 is the first, -1 the last. The paper trains in
    two phases and has no weight; 10 did best in validation of 1, 10 and 100 on shapes, where 100 learns nothing.
    """

    needs = "features"

    def __init__(self, weight: float = 10.0, ce: float = 1.0, stage: int = -2):
        super().__init__()
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)
        self.stage = stage

    def adapt(self, student: Outputs, teacher: Outputs) -> None:
        hint, target = self._pair(student, teacher)
        self.regressor = nn.Conv2d(hint.shape[1], target.shape[1], 1)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        hint, target = self._pair(student, teacher)
        distance = F.mse_loss(self.regressor(at_least_float32(hint)), at_least_float32(target))
        return {"CE": self.ce * self.cross_entropy(student, labels), "hint": self.weight * distance}

    def _pair(self, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
        pairs = pair_stages(student, teacher)
        if not -len(pairs) <= self.stage < len(pairs):
            raise ValueError(f"stage {self.stage} is not one of the {len(pairs)} that both networks have")
        return pairs[self.stage]
