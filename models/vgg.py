"""VGG with batch norm for small images (Simonyan and Zisserman, 2015, table 1).

Against the ImageNet form: one linear head instead of three layers. Of each depth there are two networks:
`vgg13_bn` has five poolings and no bias in front of batch norm, `vgg13` of distillation's tables three and a bias.
"""

from functools import partial

from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512, 512)
# 3x3 convolutions of each width.
LAYERS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def block(channels: int, width: int, count: int, bias: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for _ in range(count):
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=bias)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
    return layers


class VGG(nn.Module):
    """3x3 convolutions with batch norm and ReLU, max pooling after each width, global average, a linear layer."""

    def __init__(self, depth: int, num_classes: int):
        super().__init__()
        layers, channels = [], 3
        for width, count in zip(WIDTHS, LAYERS[depth], strict=True):
            layers += [*block(channels, width, count, bias=False), nn.MaxPool2d(2)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))


class TableVGG(nn.Module):
    """The same without the last two poolings. Modules have the names of RepDistiller and mdistiller."""

    def __init__(self, depth: int, num_classes: int):
        super().__init__()
        channels = 3
        for number, (width, count) in enumerate(zip(WIDTHS, LAYERS[depth], strict=True)):
            self.add_module(f"block{number}", nn.Sequential(*block(channels, width, count, bias=True)))
            channels = width
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool(self.block0(images))
        x = self.pool(self.block1(x))
        x = self.pool(self.block2(x))
        return self.classifier(self.block4(self.block3(x)).mean((2, 3)))


vgg11_bn = partial(VGG, 11)
vgg13_bn = partial(VGG, 13)
vgg16_bn = partial(VGG, 16)
vgg19_bn = partial(VGG, 19)
vgg8 = partial(TableVGG, 8)
vgg11 = partial(TableVGG, 11)
vgg13 = partial(TableVGG, 13)
vgg16 = partial(TableVGG, 16)
vgg19 = partial(TableVGG, 19)
