"""ShuffleNet (Zhang et al., 2018) with three groups, in the form of distillation's tables.

Against the paper: a 1x1 stem without stride or pooling, and a ReLU after the 3x3 convolution, too. Modules have
the names of RepDistiller and mdistiller, so that their checkpoints are read as they are.
"""

import torch
from torch import Tensor, nn

GROUPS, STEM = 3, 24
STAGES = ((240, 4), (480, 8), (960, 4))  # channels and blocks, of which the first halves the resolution


class Block(nn.Module):
    """A 1x1 convolution in groups, a shuffle of channels, one 3x3 convolution a channel, 1x1 in groups again.

    With a stride the input's average is set beside the result, without one the input is added to it.
    """

    def __init__(self, channels: int, width: int, stride: int, groups: int):
        super().__init__()
        out = width - channels if stride > 1 else width
        inner = out // 4
        self.conv1 = nn.Conv2d(channels, inner, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.shuffle = nn.ChannelShuffle(groups)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.shortcut = nn.AvgPool2d(3, stride, 1) if stride > 1 else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.shuffle(self.relu(self.bn1(self.conv1(x))))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + x if self.shortcut is None else torch.cat((out, self.shortcut(x)), 1))


class ShuffleNetV1(nn.Module):
    """A 1x1 stem, three stages at half the resolution each, global average, one linear layer."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU(inplace=True)
        channels = STEM
        for number, (width, count) in enumerate(STAGES, 1):
            # The stem has too few channels for groups.
            first = Block(channels, width, 2, groups=1 if channels == STEM else GROUPS)
            more = (Block(width, width, 1, GROUPS) for _ in range(count - 1))
            self.add_module(f"layer{number}", nn.Sequential(first, *more))
            channels = width
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


shufflenetv1 = ShuffleNetV1
