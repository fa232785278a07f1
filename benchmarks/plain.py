"""The loop that most projects have, to compare with: DataLoader, Pillow transforms, NCHW, float32, `.item()`.

With `tips`, what such projects are usually told to add: workers, pinned memory, channels_last, and autocast to
bfloat16 on CUDA (most CPUs are slower with it).
"""

import os

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from utils.data.image_set import ImageSet


class PillowDataset(Dataset):
    """Images as torchvision's CIFAR classes serve them: an array in memory, a Pillow image for each item."""

    def __init__(self, image_set: ImageSet, transform):
        self.images, self.labels, self.transform = image_set.images.numpy(), image_set.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def plain_loader(image_set: ImageSet, batch_size: int, tips: bool = False, train: bool = True) -> DataLoader:
    """Random crop from 4 pixels of reflected padding, random flip, normalisation: what our batches do."""
    mean, std = image_set.mean_and_std()
    augmentation = [
        transforms.RandomCrop(image_set.image_size, padding=4, padding_mode="reflect"),
        transforms.RandomHorizontalFlip(),
    ]
    steps = [
        *(augmentation if train else []),
        transforms.ToTensor(),
        transforms.Normalize([value / 255 for value in mean], [value / 255 for value in std]),
    ]
    more = {}
    if tips:
        workers = min(8, os.cpu_count() or 1)
        more = {"num_workers": workers, "persistent_workers": True, "pin_memory": torch.cuda.is_available()}
    return DataLoader(PillowDataset(image_set, transforms.Compose(steps)), batch_size, shuffle=train, **more)


def plain_network(model: nn.Module, device: torch.device, tips: bool) -> nn.Module:
    return model.to(device, memory_format=torch.channels_last if tips else torch.contiguous_format)


def plain_epoch(
    model: nn.Module,
    loader: DataLoader,
    device: torch.device,
    teacher: nn.Module | None = None,
    tips: bool = False,
) -> float:
    """Train one epoch, with KD at T = 5 and alpha = 0.9 where there is a teacher; returns the mean loss."""
    with usual_kernels(tips):
        return _epoch(model, loader, device, teacher, tips)


def usual_kernels(tips: bool):
    """cuDNN as such loops leave it; ours is set for the whole process (see `utils.runtime.device`)."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=tips, deterministic=False, allow_tf32=True)


def _epoch(
    model: nn.Module, loader: DataLoader, device: torch.device, teacher: nn.Module | None, tips: bool
) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)
    autocast = torch.autocast("cuda", torch.bfloat16, enabled=tips and device.type == "cuda")
    layout = torch.channels_last if tips else torch.contiguous_format
    model.train()
    total = 0.0
    for images, labels in loader:
        images, labels = images.to(device, non_blocking=tips), labels.to(device, non_blocking=tips)
        images = images.contiguous(memory_format=layout)
        with autocast:
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
            if teacher is not None:
                with torch.no_grad():
                    soft = F.softmax(teacher(images) / 5, dim=1)
                divergence = F.kl_div(F.log_softmax(logits / 5, dim=1), soft, reduction="batchmean")
                loss = 0.1 * loss + 0.9 * 25 * divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
    return total / len(loader.dataset)


@torch.no_grad()
def plain_evaluation(model: nn.Module, loader: DataLoader, device: torch.device) -> float:
    """Accuracy of `model` in percent."""
    model.eval()
    hits = 0
    with usual_kernels(False):
        for images, labels in loader:
            hits += (model(images.to(device)).argmax(1) == labels.to(device)).sum().item()
    return 100 * hits / len(loader.dataset)
