"""Wide ResNets (Zagoruyko and Komodakis, 2016, table 1): batch norm and ReLU come before each convolution.

Modules have the names of RepDistiller and mdistiller, so that their checkpoints are read as they are.
"""

from functools import partial

from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions of normalised inputs, beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.convShortcut = None
        if channels != width:
            self.convShortcut = nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.relu(self.bn1(x))
        out = self.conv2(self.relu(self.bn2(self.conv1(normal))))
        # A shortcut with weights takes the normalised input, one without takes the input itself.
        return out + (x if self.convShortcut is None else self.convShortcut(normal))


class Stage(nn.Module):
    def __init__(self, channels: int, width: int, blocks: int, stride: int):
        super().__init__()
        first = Block(channels, width, stride)
        self.layer = nn.Sequential(first, *(Block(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """A stem, three stages of blocks, each but the first at half the resolution, global average, a linear layer.

    `depth` counts the convolutions, also of shortcuts (6n + 4); stages have `width` times 16, 32 and 64 channels.
    """

    def __init__(self, depth: int, width: int, num_classes: int):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = Stage(16, 16 * width, blocks, stride=1)
        self.block2 = Stage(16 * width, 32 * width, blocks, stride=2)
        self.block3 = Stage(32 * width, 64 * width, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(64 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        return self.fc(self.relu(self.bn1(x)).mean((2, 3)))


wrn_16_1 = partial(WideResNet, 16, 1)
wrn_16_2 = partial(WideResNet, 16, 2)
wrn_40_1 = partial(WideResNet, 40, 1)
wrn_40_2 = partial(WideResNet, 40, 2)
