"""Trained layers between the student's features and the teacher's, from the shapes of one batch."""

from torch import Tensor, nn


def connector(student: Tensor, teacher: Tensor) -> nn.Module:
    """A 1x1 convolution and batch norm, from the channels of one map [B, c, h, w] to those of another."""
    channels = student.shape[1], teacher.shape[1]
    return nn.Sequential(nn.Conv2d(*channels, 1, bias=False), nn.BatchNorm2d(channels[1]))
