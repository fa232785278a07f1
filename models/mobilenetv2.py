"""MobileNetV2 (Sandler et al., 2018) at half width, in the form of distillation's tables.

Against the paper: the first block has its 1x1 convolution although it does not widen, ReLU stands for ReLU6, the
strides are those for 32 pixels, and the last convolution keeps its 1280 channels. Modules have the names of
RepDistiller and mdistiller, so that their checkpoints are read as they are.
"""

from torch import Tensor, nn

# Expansion, channels, blocks and the stride of the first of them, in each stage.
STAGES = (
    *((1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2)),
    *((6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1)),
)
STEM, LAST = 16, 1280


def convolution(channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(width)]


class InvertedResidual(nn.Module):
    """A 1x1 convolution that widens, one 3x3 convolution a channel, and a 1x1 convolution that narrows."""

    def __init__(self, channels: int, width: int, stride: int, expansion: int):
        super().__init__()
        inner = channels * expansion
        self.conv = nn.Sequential(
            *(*convolution(channels, inner, 1), nn.ReLU(inplace=True)),
            *(*convolution(inner, inner, 3, stride, groups=inner), nn.ReLU(inplace=True)),
            *convolution(inner, width, 1),
        )
        self.has_shortcut = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """A stem at half the resolution, stages of inverted residuals, global average, one linear layer."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1 = nn.Sequential(*convolution(3, STEM, 3, stride=2), nn.ReLU(inplace=True))
        self.blocks, channels = nn.Sequential(), STEM
        for expansion, width, count, stride in STAGES:
            stage = nn.Sequential()
            for index in range(count):
                stage.append(InvertedResidual(channels, width, 1 if index else stride, expansion))
                channels = width
            self.blocks.append(stage)
        self.conv2 = nn.Sequential(*convolution(channels, LAST, 1), nn.ReLU(inplace=True))
        self.classifier = nn.Sequential(nn.Linear(LAST, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv2(self.blocks(self.conv1(images)))
        return self.classifier(x.mean((2, 3)))


mobilenetv2 = MobileNetV2
