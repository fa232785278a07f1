"""The small custom students: pairs of 3x3 convolutions, each pair at half the resolution of the last."""

from torch import Tensor, nn


class CNN(nn.Module):
    """Two conv-BN-ReLU layers and a max pooling for each width, global average, one linear layer."""

    def __init__(self, widths: tuple[int, ...], num_classes: int):
        super().__init__()
        layers, channels = [], 3
        for width in widths:
            for _ in range(2):
                conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))


def cnn(num_classes: int) -> CNN:
    return CNN((32, 64, 128), num_classes)


def cnn_tiny(num_classes: int) -> CNN:
    return CNN((16, 32, 64), num_classes)
