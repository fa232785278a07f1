"""VGG with batch norm for small images (Simonyan and Zisserman, 2015, table 1).

Against the ImageNet form: one linear head instead of three layers, and no bias in front of batch norm.
"""

from torch import Tensor, nn

# Channels of the 3x3 convolutions; "M" is a 2x2 max pooling.
LAYERS = {
    11: (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    13: (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    16: (64, 64, "M", 128, 128, "M", *(256,) * 3, "M", *(512,) * 3, "M", *(512,) * 3, "M"),
    19: (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4, "M"),
}


class VGG(nn.Module):
    """3x3 convolutions with batch norm and ReLU, max pooling, global average, one linear layer."""

    def __init__(self, depth: int, num_classes: int):
        super().__init__()
        layers, channels = [], 3
        for width in LAYERS[depth]:
            if width == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))


def vgg11_bn(num_classes: int) -> VGG:
    return VGG(11, num_classes)


def vgg13_bn(num_classes: int) -> VGG:
    return VGG(13, num_classes)


def vgg16_bn(num_classes: int) -> VGG:
    return VGG(16, num_classes)


def vgg19_bn(num_classes: int) -> VGG:
    return VGG(19, num_classes)
