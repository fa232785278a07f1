"""ShuffleNetV2 (Ma et al., 2018) of width 1, in the form of distillation's tables.

Against the paper: a 1x1 stem without stride or pooling. Modules have the names of RepDistiller and mdistiller, so
that their checkpoints are read as they are.
"""

import torch
from torch import Tensor, nn

STEM, LAST = 24, 1024
STAGES = ((116, 4), (232, 8), (464, 4))  # channels and blocks, of which the first halves the resolution


def pointwise(channels: int, width: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)


def depthwise(channels: int, stride: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), nn.BatchNorm2d(channels)


class Block(nn.Module):
    """Half of the channels pass three convolutions, the other half does not; then both are shuffled."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1, self.bn1 = pointwise(half, half)
        self.conv2, self.bn2 = depthwise(half, stride=1)
        self.conv3, self.bn3 = pointwise(half, half)
        self.relu, self.shuffle = nn.ReLU(inplace=True), nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        right = self.relu(self.bn1(self.conv1(right)))
        right = self.bn2(self.conv2(right))
        right = self.relu(self.bn3(self.conv3(right)))
        return self.shuffle(torch.cat((left, right), 1))


class DownBlock(nn.Module):
    """Two branches of all channels, both at half the resolution."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        half = width // 2
        self.conv1, self.bn1 = depthwise(channels, stride=2)
        self.conv2, self.bn2 = pointwise(channels, half)
        self.conv3, self.bn3 = pointwise(channels, half)
        self.conv4, self.bn4 = depthwise(half, stride=2)
        self.conv5, self.bn5 = pointwise(half, half)
        self.relu, self.shuffle = nn.ReLU(inplace=True), nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn1(self.conv1(x))
        left = self.relu(self.bn2(self.conv2(left)))
        right = self.relu(self.bn3(self.conv3(x)))
        right = self.bn4(self.conv4(right))
        right = self.relu(self.bn5(self.conv5(right)))
        return self.shuffle(torch.cat((left, right), 1))


class ShuffleNetV2(nn.Module):
    """A 1x1 stem, three stages at half the resolution each, a 1x1 convolution, global average, a linear layer."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1, self.bn1 = pointwise(3, STEM)
        channels = STEM
        for number, (width, count) in enumerate(STAGES, 1):
            stage = nn.Sequential(DownBlock(channels, width), *(Block(width) for _ in range(count - 1)))
            self.add_module(f"layer{number}", stage)
            channels = width
        self.conv2, self.bn2 = pointwise(channels, LAST)
        self.linear = nn.Linear(LAST, num_classes)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.linear(x.mean((2, 3)))


shufflenetv2 = ShuffleNetV2
