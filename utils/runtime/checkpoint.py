"""Networks in files: one dict of tensors and plain values, checked when it is read."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.runtime.errors import UserError, printable, reading
from utils.runtime.files import DamagedFile, Unread, leaves, read_tensors, sha256_of, write_tensors
from utils.runtime.history import RANGES
from utils.runtime.identity import Identity
from utils.runtime.normalisation import FLAGS, Explicit, choose_normalisation
from utils.runtime.schema import NUMBER, fits, is_name
from utils.runtime.weights import find_weights, fit_weights, read_content, require_type

BuildModel = Callable[[str, int], nn.Module]  # (name, number of classes) -> network
FORMAT = 2  # 1: the settings of a run and the paths of its data in one dict
PATHS = ("data_dir", "teacher_path")  # of a run's data, beside its identity
REQUIRED = {  # as `fits` takes it
    "model": dict,
    "model_name": str,
    "num_classes": int,
    "class_names": [str],
    "image_size": int,
    "mean": [NUMBER],
    "std": [NUMBER],
    "config": dict,
    "epoch": int,
    "metrics": dict,
    "sha256": str,
}
OURS = {"model", "model_name", "config"}  # what has these beside a number as "format" is of this program
LARGEST_IMAGE_SIZE = 2**15  # pixels a side


def weights_sha256(weights: dict[str, Tensor]) -> str:
    """SHA-256 (hex) of the names and the bytes of a network's weights: what identifies a teacher."""
    return sha256_of({name: weights[name] for name in sorted(weights)})


def save_checkpoint(path: Path, weights: dict[str, Tensor], content: dict[str, Any]) -> None:
    """Write `weights` and `content` (the other keys of `REQUIRED`, and what resuming needs) atomically.

    Tensors may be on any device; in the file they are on the CPU.
    """
    weights, content = map_tensors((weights, content), lambda tensor: tensor.detach().cpu())
    write_tensors(path, {"format": FORMAT, "model": weights, "sha256": weights_sha256(weights)} | content)


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Nested dicts, lists and tuples with `function` applied to every tensor in them."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(item, function) for item in value)
    return value


def load_checkpoint(path: Path, plain: bool = False) -> dict[str, Any]:
    """Read and check a checkpoint. Raises OSError where there is none, DamagedFile for anything else.

    With `plain`, a file of another program passes too, without a "format": it is for `complete_checkpoint`.
    """
    content = read_content(path) if plain else read_tensors(path)
    with reading(path):
        version = content.get("format")
        is_ours = fits(version, int) and content.keys() >= OURS
        if plain and not is_ours:
            weights = find_weights(path, content)
            return {"model": weights.tensors, "notes": weights.notes, "content": content}
        if is_ours and version > FORMAT:
            raise DamagedFile(f"{path} has format {version}, this program reads {FORMAT}", "update this program")
        if not is_ours or version not in (1, FORMAT):
            raise DamagedFile(f"{path} is no checkpoint of this program", "name a last.pt or best.pt")
        _check(path, content)
        if version == 1:
            paths = {name: content["config"].pop(name) for name in PATHS if name in content["config"]}
            content["config"] = {"identity": content["config"]} | paths
        _check_record(path, content["config"])
        _check_leaves(path, content)
    return content


def _check(path: Path, content: dict[str, Any]) -> None:
    """Raise DamagedFile for a missing key and for a value that cannot be."""
    for key, kind in REQUIRED.items():
        if not fits(content.get(key), kind):
            name = f"list of {_kind(kind[0])}" if isinstance(kind, list) else kind.__name__
            raise DamagedFile(f"{path} is no whole checkpoint: {key!r} is missing or not a {name}")
    wrong = [
        key
        for key, is_right in (
            ("model_name", is_name(content["model_name"])),
            ("image_size", 0 < content["image_size"] < LARGEST_IMAGE_SIZE),
            ("epoch", content["epoch"] >= 0),
            ("mean", len(content["mean"]) == 3),
            ("std", len(content["std"]) == 3 and min(content["std"]) > 0),
            ("metrics", fits(list(content["metrics"].values()), [(*NUMBER, type(None))])),
            ("history", fits(content.get("history", []), [RANGES])),
        )
        if not is_right
    ]
    if wrong:
        raise DamagedFile(f"{path} is damaged: {wrong[0]!r} cannot be {content[wrong[0]]!r:.80}")
    if not _is_plain(content["model"]):
        raise DamagedFile(f"{path} is no whole checkpoint: 'model' does not hold named tensors")


def _kind(kind: Any) -> str:
    return "numbers" if kind is NUMBER else "texts"


def _check_record(path: Path, record: dict[str, Any]) -> None:
    """Raise DamagedFile unless this is what a run records of itself."""
    if not isinstance(record.get("identity"), dict):
        raise DamagedFile(f"{path} is no whole checkpoint: it does not tell the settings of its run")
    wrong = [name for name in PATHS if not fits(record.get(name, ""), str)]
    if "epochs" not in Identity.from_record(record).values:
        wrong.append("epochs")
    if wrong:
        raise DamagedFile(f"{path} is no whole checkpoint: {wrong[0]!r} of its run is missing or of another kind")


def _check_leaves(path: Path, content: dict[str, Any]) -> None:
    """Raise DamagedFile for what is no plain value and for numbers that are not finite."""
    for name, leaf in leaves(content):
        if isinstance(leaf, Unread):
            raise DamagedFile(f"{path} holds Python objects, in {printable(name, 80)}", "use another copy")
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and not leaf.isfinite().all():
            what = f"{path} has values that are not finite, in {printable(name, 80)}"
            raise DamagedFile(what, "use an earlier checkpoint")


def complete_checkpoint(
    path: Path,
    content: dict[str, Any],
    name: str | None,
    images: Callable[[], dict[str, Any]],
    normalisation: Explicit | None,
    build_model: BuildModel,
) -> dict[str, Any]:
    """Add what a file of another program lacks to what `load_checkpoint` read of it, all but "format".

    It becomes a network `name` for what `images` returns: num_classes, class_names, image_size, mean and std of
    some images. `normalisation` is the explicit one. Prints a line for each thing that is assumed or was done to
    the weights. A checkpoint of this program stays as it is. Raises UserError for weights of another network.
    """
    if "format" in content:
        if normalisation is not None:
            hint = f"leave out {FLAGS}"
            raise UserError(f"{path} is a checkpoint of this program, and tells its normalisation", hint)
        return content
    if name is None:
        what = f"{path} is of another program, and does not tell which network it holds"
        raise UserError(what, "name it: either --teacher NAME or --student NAME")
    of_images = images()
    classes = of_images["num_classes"]
    expected = build_model(name, classes).state_dict()
    weights = fit_weights(path, content["model"], expected, f"a {name} of {classes} classes")
    assumed = {part: of_images[part] for part in ("mean", "std")}
    own, note = choose_normalisation(content["content"], normalisation, assumed)
    for line in (*content["notes"], *weights.notes, note):
        print(f"note: {path}: {line}", file=sys.stderr)
    of_run = {"config": {"identity": {}}, "epoch": None, "metrics": {}}
    sha256 = weights_sha256(weights.tensors)
    return of_images | own | of_run | {"model_name": name, "model": weights.tensors, "sha256": sha256}


def _is_plain(weights: Any) -> bool:
    named = isinstance(weights, dict) and all(isinstance(name, str) for name in weights)
    return named and len(weights) > 0 and all(isinstance(tensor, Tensor) for tensor in weights.values())


def restore_network(path: Path, content: dict[str, Any], build_model: BuildModel) -> nn.Module:
    """Build the network that a checkpoint describes and give it the checkpoint's weights.

    Raises DamagedFile for weights that do not fit it.
    """
    name, classes, weights = content["model_name"], content["num_classes"], content["model"]
    what = f"a {name} of {classes} classes"
    if not 0 < classes <= max((len(tensor) for tensor in weights.values() if tensor.ndim), default=0):
        raise DamagedFile(f"{path} does not fit {what}: no weight has so many rows")  # before any memory is taken
    if len(content.get("class_names", range(classes))) != classes:
        raise DamagedFile(f"{path} does not fit {what}: it names {len(content['class_names'])}")
    try:
        network = build_model(name, classes)
    except KeyError as error:
        raise DamagedFile(f"{path} holds a network {name!r}, unknown here") from error
    require_fit(path, weights, network.state_dict(), what)
    with reading(path):
        network.load_state_dict(weights)
    return network


def require_fit(path: Path, weights: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    """Raise DamagedFile unless `weights` have the names, shapes and types of the network's own, `expected`."""
    shapes, own = ({key: tensor.shape for key, tensor in each.items()} for each in (weights, expected))
    if shapes != own:
        wrong = sorted(key for key in shapes.keys() | own.keys() if shapes.get(key) != own.get(key))
        first = f"{printable(wrong[0], 80)} is {_shape(shapes, wrong[0])} instead of {_shape(own, wrong[0])}"
        raise DamagedFile(f"{path} does not fit {what}: {first} ({len(wrong)} differ)")
    for key, tensor in weights.items():
        require_type(path, key, tensor, expected[key].dtype)


def _shape(shapes: dict[str, torch.Size], key: str) -> str:
    return str(tuple(shapes[key])) if key in shapes else "missing"
