"""ResNets for small images (He et al., 2016, section 4.2), and the wider ones of distillation's tables.

Against the paper: where a block changes its shape, the shortcut is a 1x1 convolution with batch norm. Modules have
the names of RepDistiller and mdistiller, so that their checkpoints are read as they are.
"""

from functools import partial

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.downsample(x))


def shortcut(channels: int, width: int, stride: int) -> nn.Module:
    if stride == 1 and channels == width:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))


class ResNet(nn.Module):
    """A stem, three stages of blocks, each but the first at half the resolution, global average, a linear layer.

    `widths` are the channels of the stem and of the stages; `depth` counts the layers with weights (6n + 2).
    """

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        blocks = (depth - 2) // 6
        self.layer1 = stage(BasicBlock, widths[0], widths[1], blocks, stride=1)
        self.layer2 = stage(BasicBlock, widths[1], widths[2], blocks, stride=2)
        self.layer3 = stage(BasicBlock, widths[2], widths[3], blocks, stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def stage(block: type[nn.Module], channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = block(channels, width, stride)
    return nn.Sequential(first, *(block(width, width, 1) for _ in range(blocks - 1)))


WIDTHS, WIDTHS_X4 = (16, 16, 32, 64), (32, 64, 128, 256)

resnet8 = partial(ResNet, 8, WIDTHS)
resnet14 = partial(ResNet, 14, WIDTHS)
resnet20 = partial(ResNet, 20, WIDTHS)
resnet32 = partial(ResNet, 32, WIDTHS)
resnet44 = partial(ResNet, 44, WIDTHS)
resnet56 = partial(ResNet, 56, WIDTHS)
resnet110 = partial(ResNet, 110, WIDTHS)
resnet8x4 = partial(ResNet, 8, WIDTHS_X4)
resnet32x4 = partial(ResNet, 32, WIDTHS_X4)
