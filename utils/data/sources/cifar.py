"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) through torchvision, which downloads them and checks their MD5."""

import http.client
import os
import socket

import torch

from utils.data.image_set import ImageSet
from utils.data.sources import Parts, Request
from utils.runtime.errors import UserError
from utils.runtime.regular_file import require_regular

LARGEST = 2**30  # bytes of an archive or of a file in it
TIMEOUT = 30  # seconds without a response, after which a server counts as gone


def load(request: Request) -> Parts:
    """Load the official archive from the data folder, after downloading it there if it is missing."""
    name, data_dir = request.name, request.data_dir
    datasets = _torchvision_datasets()
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        for path in (data_dir / kind.filename, *(data_dir / kind.base_folder).glob("*")):
            if path.exists():  # torchvision reads all of it for its MD5
                require_regular(path, LARGEST)
        # Both parts are in one archive, so the second finds what the first one fetched.
        test = kind(str(data_dir), train=False, download=True)
        train = None if request.test_only else kind(str(data_dir), train=True, download=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        # torchvision unpacks again where images are damaged, but not where the class names are.
        instead = f" in place of {kind.base_folder}/" if os.path.exists(data_dir / kind.base_folder) else ""
        raise UserError(
            f"{name} is not whole in {data_dir} and could not be fetched ({' '.join(str(error).split())})",
            f"try again, or put {kind.filename} (MD5 {kind.tgz_md5}) from {kind.url} into {data_dir}/{instead}, "
            "or use --dataset shapes, which needs no download",
        ) from error
    finally:
        socket.setdefaulttimeout(previous)
    return Parts(train and _image_set(train), _image_set(test))


def _image_set(dataset) -> ImageSet:
    images = torch.from_numpy(dataset.data).contiguous()  # torchvision's array is a transposed view
    return ImageSet(images, torch.tensor(dataset.targets), tuple(dataset.classes))


def _torchvision_datasets():
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError, AttributeError) as error:
        # torchvision's compiled operators fit one build of torch; with another one, the import fails with
        # "operator torchvision::nms does not exist".
        raise UserError(
            f"torchvision does not work with torch {torch.__version__} ({' '.join(str(error).split())})",
            "install a matching pair: pip install --force-reinstall torch torchvision, both from one index "
            "(for a CPU-only pair add --index-url https://download.pytorch.org/whl/cpu)",
        ) from error
    return datasets
