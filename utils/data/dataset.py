"""A dataset as a run uses it: training, validation and test part, and what identifies them."""

from dataclasses import dataclass, field
from typing import Any

from utils.data.augment import Augmentation
from utils.data.batches import Batches, Normalise
from utils.data.duplicates import count_duplicates, drop_duplicates
from utils.data.image_set import ImageSet
from utils.data.sources import Parts, load_images
from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.identity import FINGERPRINTS

VAL_SHARE = 0.1  # of the training images, held out where the user names no number: 5,000 of CIFAR's
EVAL_BATCH = {"cpu": 250, "cuda": 2000}  # images of 32x32 pixels


@dataclass(frozen=True)
class Dataset:
    """The parts of a dataset on one device."""

    train: ImageSet
    val: ImageSet | None
    test: ImageSet
    normalise: Normalise  # with mean and standard deviation of `train`
    fingerprints: dict[str, str]  # what identifies the images of each part
    duplicates: dict[str, int] = field(default_factory=dict)  # of `count_duplicates`, and how many were "dropped"

    def describe(self) -> dict[str, Any]:
        """What a checkpoint holds of the images that its network was trained on."""
        return describe_images(self.train, self.normalise)

    def counts(self) -> dict[str, int]:
        """Images in each part."""
        val = len(self.val) if self.val is not None else 0
        return {"train": len(self.train), "val": val, "test": len(self.test)}

    def augmentation(self, padding: int | None, flip: bool | None, cutout: int) -> Augmentation:
        """The augmentation of the training images; None: an eighth of their side, what their source says."""
        padding = self.train.image_size // 8 if padding is None else padding
        return Augmentation(padding, self.train.flip if flip is None else flip, cutout)

    def training_batches(self, batch_size: int, seed: int, augmentation: Augmentation, views: int) -> Batches:
        return Batches(self.train, self.normalise, batch_size, seed, augmentation, views)

    def val_batches(self) -> Batches | None:
        return evaluation_batches(self.val, self.normalise) if self.val is not None else None

    def test_batches(self) -> Batches:
        return evaluation_batches(self.test, self.normalise)


def describe_images(images: ImageSet, normalise: Normalise) -> dict[str, Any]:
    """What a checkpoint holds of the images that its network is for."""
    return {
        "num_classes": images.num_classes,
        "class_names": list(images.class_names),
        "image_size": images.image_size,
        "mean": normalise.mean,
        "std": normalise.std,
    }


def evaluation_batches(image_set: ImageSet, normalise: Normalise) -> Batches:
    """Large batches of images in their order, the smaller the larger the images."""
    pixels = EVAL_BATCH[image_set.images.device.type] * 32**2
    return Batches(image_set, normalise, max(1, pixels // image_set.image_size**2))


def load_parts(config, **more) -> Parts:
    """The parts that `dataset`, `data_dir`, `image_size`, `limit`, `skip_bad_images` of `config` name.

    `more` are other fields of `Request`.
    """
    skip = getattr(config, "skip_bad_images", False)  # the settings of an earlier run may not have it
    more |= {"limit": config.limit, "skip_bad_images": skip}
    parts = load_images(config.dataset, config.data_dir, config.image_size, **more)
    if config.limit is None:
        return parts
    first = {name: getattr(parts, name) for name in ("train", "test", "val")}
    return parts._replace(**{name: part and part.first(config.limit) for name, part in first.items()})


def load_dataset(config, compute: Compute) -> Dataset:
    """Load the images, hold out `config.val_size` for validation, move all of them to the device.

    With `config.drop_duplicates`, images that are in a later part, too, are taken out of train and val after that.
    """
    parts = _split(load_parts(config), config.val_size)
    count = sum(map(len, parts.values()))
    parts = drop_duplicates(parts) if config.drop_duplicates else parts
    dropped = count - sum(map(len, parts.values()))
    duplicates = count_duplicates(parts) | ({"dropped": dropped} if dropped else {})
    normalise = Normalise(*parts["train"].mean_and_std())
    fingerprints = {FINGERPRINTS[name]: part.fingerprint() for name, part in parts.items()}
    on_device = {name: part.to(compute.device) for name, part in parts.items()}
    return Dataset(
        **{"val": None} | on_device, normalise=normalise, fingerprints=fingerprints, duplicates=duplicates
    )


def _split(source: Parts, val_size: int | None) -> dict[str, ImageSet]:
    """The parts train, val (where there is to be one) and test, in this order."""
    train, test, val, _ = source
    if val is not None and val_size:
        hint = "leave --val-size out, or --val-size 0 for no validation"
        raise UserError("the images have a validation part of their own: --val-size cannot hold out more", hint)
    if val_size is None:
        val_size = round(VAL_SHARE * len(train))
    if val is None or val_size == 0:
        train, val = train.split(val_size)
    return {"train": train} | ({"val": val} if val is not None else {}) | {"test": test}
