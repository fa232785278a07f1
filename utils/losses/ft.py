"""Factor transfer."""

import torch.nn.functional as F
from torch import Tensor, nn

from utils.losses.functional import at_least_float32, pair_stages
from utils.losses.method import Method, at_least, within
from utils.losses.outputs import Outputs


class FT(Method):
    """Paraphrasing complex network: network compression via factor transfer (Kim et al., 2018).

    L = ce * CE + weight * mean |u_t - u_s| + the mean squared error with which the teacher's maps in the last
    common stage are rebuilt from their factors. u are the factors with norm 1: `share` times as many channels as
    the teacher has, by the encoder of an autoencoder of its maps, and by a translator of the student's. The paper
    trains the autoencoder first; here it learns beside the rest, and only from rebuilding.
    """

    needs = "features"

    def __init__(self, weight: float = 200.0, ce: float = 1.0, share: float = 0.5):
        super().__init__()
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)
        self.share = within(0.01, 4, "share", share)

    def adapt(self, student: Outputs, teacher: Outputs) -> None:
        ours, theirs = pair_stages(student, teacher)[-1]
        factors = max(1, round(theirs.shape[1] * self.share))
        self.translator = _layers(ours.shape[1], factors)
        self.encoder, self.decoder = _layers(theirs.shape[1], factors), _layers(factors, theirs.shape[1])

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        ours, theirs = (at_least_float32(each) for each in pair_stages(student, teacher)[-1])
        factors = self.encoder(theirs)
        distance = factor_distance(self.translator(ours), factors.detach())
        return {
            "CE": self.ce * self.cross_entropy(student, labels),
            "factors": self.weight * distance,
            "rebuilding": F.mse_loss(self.decoder(factors), theirs),
        }


def factor_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Of factors [B, k, h, w]; a scalar."""
    return F.l1_loss(*(F.normalize(each.flatten(1)) for each in (student, teacher)))


def _layers(before: int, after: int) -> nn.Module:
    """Two 3x3 convolutions, each with batch norm and a leaky ReLU."""
    layers = []
    for channels in ((before, after), (after, after)):
        layers += [nn.Conv2d(*channels, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
