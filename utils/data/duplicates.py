"""Equal images in several parts of a dataset: how many there are, and the parts without them."""

import hashlib
import zlib
from collections import Counter
from itertools import chain

import torch

from utils.data.image_set import ImageSet
from utils.runtime.errors import UserError, printable


def hash_candidates(parts: dict[str, ImageSet]) -> dict[str, dict[int, bytes]]:
    """The images (CPU tensors) that may have an equal one in any part: for each part, their SHA-256 by index.

    All others have none: their CRC-32, which takes a third of the time, is that of no other image.
    """
    pixels = {name: part.images.numpy() for name, part in parts.items()}
    checksums = {name: [*map(zlib.crc32, images)] for name, images in pixels.items()}
    count = Counter(chain(*checksums.values()))
    return {
        name: {i: hashlib.sha256(images[i]).digest() for i, crc in enumerate(checksums[name]) if count[crc] > 1}
        for name, images in pixels.items()
    }


def count_duplicates(parts: dict[str, ImageSet]) -> dict[str, int]:
    """How many images are in another part, too, and in another class; without counts of 0.

    For instance "test_in_train": of the test images, those that are training images as well. "relabelled":
    training images that are in another class, too.
    """
    hashes, counts = hash_candidates(parts), {}
    for part, other in (("test", "train"), ("test", "val"), ("val", "train")):
        members = {*hashes.get(other, {}).values()}
        counts[f"{part}_in_{other}"] = sum(key in members for key in hashes.get(part, {}).values())
    labels, classes = parts["train"].labels.tolist(), {}
    for index, key in hashes["train"].items():
        classes.setdefault(key, set()).add(labels[index])
    counts["relabelled"] = sum(len(classes[key]) > 1 for key in hashes["train"].values())
    return {name: count for name, count in counts.items() if count}


def drop_duplicates(parts: dict[str, ImageSet]) -> dict[str, ImageSet]:
    """The parts, in the order train, val, test, each without the images that are in a later one, too.

    Raises UserError where all training images of a class, or all validation images would be lost.
    """
    hashes, later, distinct = hash_candidates(parts), set(), dict(parts)
    for name, part in reversed(parts.items()):
        indices = [index for index in range(len(part)) if hashes[name].get(index) not in later]
        if len(indices) < len(part):
            distinct[name] = part.select(torch.tensor(indices, dtype=torch.int64))
        later |= {*hashes[name].values()}
    before, after = (
        each["train"].labels.bincount(minlength=each["train"].num_classes) for each in (parts, distinct)
    )
    lost = ((before > 0) & (after == 0)).nonzero()[:, 0].tolist()
    if lost:
        names = printable(", ".join(parts["train"].class_names[label] for label in lost), 200)
        hint = "all of them are in val or test, too: add others, or train without --drop-duplicates"
        raise UserError(f"--drop-duplicates leaves no training images of {names}", hint)
    if not all(map(len, distinct.values())):
        raise UserError("--drop-duplicates leaves no validation images", "--val-size 0 does without them")
    return distinct
