"""Networks restored from checkpoints, with the test images that they were made for and their outputs for these."""

import sys
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from utils.data.batches import Normalise
from utils.data.dataset import describe_images, evaluation_batches, load_parts
from utils.data.image_set import ImageSet
from utils.data.sources import SOURCES
from utils.evaluation.analysis import predict
from utils.runtime.checkpoint import (
    BuildModel,
    complete_checkpoint,
    load_checkpoint,
    restore_network,
    weights_sha256,
)
from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.identity import Identity
from utils.runtime.normalisation import Explicit
from utils.runtime.run_dir import WEIGHTS, RunDir


@dataclass
class Network:
    """A network restored from a checkpoint, with the test images that it was made for and its outputs for them."""

    path: Path
    checkpoint: dict[str, Any]
    model: nn.Module
    dataset: str
    test: ImageSet
    logits: Tensor  # float32 [N, C]
    labels: Tensor  # int64 [N]
    sha256: str  # of its weights

    @property
    def architecture(self) -> tuple[str, int, int]:
        """What decides its cost: networks that agree in it are measured once."""
        return tuple(self.checkpoint[name] for name in ("model_name", "num_classes", "image_size"))

    @property
    def identity(self) -> Identity:
        """That of the run which trained it; empty for a file of another program."""
        return Identity.from_record(self.checkpoint["config"])

    @property
    def is_finished(self) -> bool:
        """Whether its run trained it to the end."""
        return self.checkpoint["epoch"] == self.identity["epochs"]


@dataclass(frozen=True)
class Foreign:
    """What the command line says of a file of another program, which says little itself."""

    network: str | None
    normalisation: Explicit | None
    images: dict[str, Any]  # its test images: dataset, data_dir, image_size, limit, skip_bad_images


@dataclass
class Networks:
    """Restores networks and runs them on their test images; those that several are compared with, once.

    `explicit` may hold `dataset`, `data_dir`, `image_size`, `limit` and `skip_bad_images`: other test images than
    a network's own. Files of other programs are read where `foreign` is there.
    """

    explicit: dict[str, Any]
    compute: Compute
    build_model: BuildModel
    foreign: Foreign | None = None
    images: dict[tuple, ImageSet] = field(default_factory=dict)
    restored: dict[Path, Network] = field(default_factory=dict)

    def network(self, path: Path) -> Network:
        """Restore the network in a checkpoint and run it on its test images."""
        if path not in self.restored:
            checkpoint, model = self.restore(path)
            where, test = self._test_images(path, checkpoint)
            for name, value in (("class_names", list(test.class_names)), ("image_size", test.image_size)):
                if checkpoint[name] != value:
                    what = f"{path} has {name} {checkpoint[name]}, dataset {where['dataset']} has {value}"
                    raise UserError(what)
            batches = evaluation_batches(test, Normalise(checkpoint["mean"], checkpoint["std"]))
            outputs = predict(model, batches, self.compute)
            sha256 = weights_sha256(checkpoint["model"])
            self.restored[path] = Network(path, checkpoint, model, where["dataset"], test, *outputs, sha256)
        return self.restored[path]

    def restore(self, path: Path) -> tuple[dict[str, Any], nn.Module]:
        """The content of a checkpoint and its network in eval mode; reads test images only for what it lacks."""
        checkpoint = load_checkpoint(path, plain=self.foreign is not None)
        if (of := self.foreign) is not None:
            images = partial(self._describe_test_images, path, checkpoint)
            checkpoint = complete_checkpoint(
                path, checkpoint, of.network, images, of.normalisation, self.build_model
            )
        return checkpoint, self.compute.place(restore_network(path, checkpoint, self.build_model)).eval()

    def _test_images(self, path: Path, checkpoint: dict[str, Any]) -> tuple[dict[str, Any], ImageSet]:
        """The test images of a network, and the settings that name them."""
        if "format" in checkpoint:
            where = _choose_images(path, checkpoint, self.explicit)
            names = tuple(map(str, checkpoint["class_names"]))
        else:
            where, names = self.foreign.images, ()
        key = (*(where.get(name) for name in ("dataset", "data_dir", "image_size", "limit")), names)
        if key not in self.images:
            test = load_parts(SimpleNamespace(**where), test_only=True, class_names=names).test
            self.images[key] = test.to(self.compute.device)
        return where, self.images[key]

    def _describe_test_images(self, path: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
        _, test = self._test_images(path, checkpoint)
        return describe_images(test, Normalise(*test.mean_and_std()))


def _choose_images(path: Path, checkpoint: dict[str, Any], explicit: dict[str, Any]) -> dict[str, Any]:
    """The settings that name a network's test images. Where they are is never read from the file.

    Raises UserError for a dataset that is unknown here.
    """
    record = checkpoint["config"]
    of_run = {"dataset": record["identity"].get("dataset"), "limit": record["identity"].get("limit")}
    where = of_run | {"image_size": checkpoint["image_size"], "data_dir": "data"} | explicit
    if where["dataset"] not in SOURCES:
        raise UserError(f"{path} is of a dataset {where['dataset']!r}, unknown here", "name another --dataset")
    if record.get("data_dir") not in (None, where["data_dir"]):
        _note_data_dir(record["data_dir"], where["data_dir"])
    return where


@cache
def _note_data_dir(recorded: str, used: str) -> None:
    """Said once for each pair of folders."""
    text = f"trained on images in {recorded}; tested on those in {used} (--data-dir)"
    print(f"note: {text}", file=sys.stderr)


def require_own(network: Network, run: RunDir) -> None:
    """Raise UserError unless the network is that of which config.json and test.json of `run` tell."""
    path, record = network.path, network.checkpoint["config"]
    config = run.read_config() if run.config.exists() else None
    if config is not None:
        run.require_own(config)
    run.require_own(record, path)
    hint = "put the checkpoint of this run back, or --overwrite makes the run again"
    if config is not None:
        changed = Identity.from_record(config).explain(network.identity)
        if changed:
            raise UserError(f"{path} is of another run than {run.config}: {', '.join(changed)}", hint)
    weights = None
    if run.results.exists():
        with suppress(UserError):  # what is damaged is written again
            weights = run.read_results().get(WEIGHTS)
    if weights not in (None, network.sha256):
        raise UserError(f"{path} has other weights than {run.results} was measured on", hint)
