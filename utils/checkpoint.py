"""Networks in files: one dict of tensors and plain values, checked when it is read (design section 8)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from utils.storage import DamagedFile, read_tensors, sha256_of, write_tensors

FORMAT = 1
REQUIRED = {
    "model": dict,
    "model_name": str,
    "num_classes": int,
    "class_names": list,
    "image_size": int,
    "mean": list,
    "std": list,
    "config": dict,
    "epoch": int,
    "metrics": dict,
    "sha256": str,
}


def weights_sha256(weights: dict[str, Tensor]) -> str:
    """SHA-256 (hex) of the names and the bytes of a network's weights: what identifies a teacher."""
    return sha256_of({name: weights[name] for name in sorted(weights)})


def save_checkpoint(path: Path, network: nn.Module, content: dict[str, Any]) -> None:
    """Write `network` and `content` (the other keys of `REQUIRED`, and what resuming needs) atomically."""
    weights = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    write_tensors(path, {"format": FORMAT, "model": weights, "sha256": weights_sha256(weights)} | content)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read and check a checkpoint. Raises OSError where there is none, DamagedFile for anything else."""
    content = read_tensors(path)
    version = content.get("format")
    if version != FORMAT:
        hint = "update this program" if isinstance(version, int) and version > FORMAT else "train it again"
        raise DamagedFile(f"{path} has checkpoint format {version!r}, this program reads {FORMAT}", hint)
    for key, kind in REQUIRED.items():
        if not isinstance(content.get(key), kind):
            raise DamagedFile(f"{path} is no whole checkpoint: {key!r} is missing or not a {kind.__name__}")
    if weights_sha256(content["model"]) != content["sha256"]:
        raise DamagedFile(f"{path} is damaged: its weights do not match their checksum", "use another copy")
    return content


def restore_network(
    path: Path, content: dict[str, Any], build_model: Callable[[str, int], nn.Module]
) -> nn.Module:
    """Build the network that a checkpoint describes and give it the checkpoint's weights."""
    try:
        network = build_model(content["model_name"], content["num_classes"])
        network.load_state_dict(content["model"])
    except (KeyError, RuntimeError) as error:
        raise DamagedFile(
            f"{path} does not fit a {content['model_name']!r}: {' '.join(str(error).split())[:200]}"
        ) from error
    return network
