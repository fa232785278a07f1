"""Where images come from, and the registry that `--dataset` chooses from."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from utils.data.image_set import ImageSet

# name -> the module of this package whose `load(request)` returns the Parts. Modules are imported when they are
# used: the names alone cost no import of torch.
SOURCES = {
    "cifar10": "cifar",
    "cifar100": "cifar",
    "folder": "folder",
    "shapes": "shapes",
}


@dataclass(frozen=True)
class Request:
    """What is asked of a source; it may pass over what does not concern it, and may return more than `limit`."""

    name: str
    data_dir: Path
    image_size: int = 32
    limit: int | None = None  # images of each part, equally of all classes
    skip_bad_images: bool = False
    test_only: bool = False
    class_names: tuple[str, ...] = ()  # with `test_only`: those of the network, in its order, where it has them


class Parts(NamedTuple):
    """What a source returns: its validation part where it has one of its own, and remarks on the images."""

    train: "ImageSet | None"  # None only where the test part alone was asked for
    test: "ImageSet"
    val: "ImageSet | None" = None
    notes: tuple[str, ...] = ()


def load_images(name: str, data_dir: str | Path, image_size: int = 32, **more) -> Parts:
    """Return the images of dataset `name`; `more` are the other fields of `Request`.

    Prints each note in a line. Raises KeyError for a name that is not in `SOURCES`, UserError for images that are
    not there or are broken.
    """
    module = import_module(f"utils.data.sources.{SOURCES[name]}")
    parts = module.load(Request(name, Path(data_dir), image_size, **more))
    for note in parts.notes:
        print(f"note: {note}", flush=True)
    return parts
