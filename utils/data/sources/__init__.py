"""Where images come from, and the registry that `--dataset` chooses from."""

from importlib import import_module
from pathlib import Path

# name -> the module of this package whose `load(name, data_dir, image_size)` returns the training and the
# test ImageSet. Modules are imported when they are used: the names alone cost no import of torch.
SOURCES = {
    "cifar10": "cifar",
    "cifar100": "cifar",
    "folder": "folder",
    "shapes": "shapes",
}


def load_images(name: str, data_dir: str | Path, image_size: int = 32):
    """Return the (training, test) ImageSet of dataset `name`.

    Raises KeyError for a name that is not in `SOURCES`, UserError for images that are not there or are broken.
    """
    module = import_module(f"utils.data.sources.{SOURCES[name]}")
    return module.load(name, Path(data_dir), image_size)
