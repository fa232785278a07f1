"""Weights in files of other programs: read what is data, refuse what is code, say what the file is."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.runtime.errors import UserError, printable
from utils.runtime.file_kind import SAFETENSORS, identify
from utils.runtime.files import SAVE, DamagedFile, dtype_name, read_tensors
from utils.runtime.layer_matching import COUNTER, Layer, describe_misfit, layers_of, match_by_name, match_by_order
from utils.runtime.regular_file import LARGEST_WEIGHTS, read_regular
from utils.runtime.shortcuts import copying_weights, shortcuts_without_weights

# What programs call the weights in a file that holds more; the first ones are taken first.
ENTRIES = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
PROFILERS = ("total_ops", "total_params")
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
NAMED = 5  # entries in a message


@dataclass(frozen=True)
class Weights:
    """Tensors by name on the CPU, and in `notes` what was passed over or changed on the way, a line each."""

    tensors: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)


def read_content(path: Path) -> dict[str, Any]:
    """All that a file of torch, old or new, or a safetensors file holds; objects in it are not read."""
    if identify(path) is not SAFETENSORS:
        return read_tensors(path, foreign=True)
    try:
        from safetensors.torch import load
    except ImportError as error:
        what = f"{path} is a safetensors file, and the package that reads it is not installed"
        raise UserError(what, "pip install safetensors") from error
    data = read_regular(path, LARGEST_WEIGHTS)
    try:
        return dict(sorted(load(data).items()))  # their order in the file is one of types
    except Exception as error:  # the package's own errors, and torch's for types that it does not know
        raise DamagedFile(f"{path} is a damaged safetensors file ({printable(error, 120)})") from error


def find_weights(path: Path, content: dict[str, Any]) -> Weights:
    """The one entry of a file's content that is a dict of tensors, or the content itself if it is one."""
    if _is_state_dict(content):
        return _tensors_of(content)
    for entries in (dict(_entries(content)), dict(_entries_of_entries(content))):
        name = next(iter(entries), None)
        if len(entries) > 1:
            name = next((known for known in ENTRIES if known in entries), None)
            if name is None:
                what = f"{path} holds several dicts of tensors: {_list(entries)}"
                raise UserError(what, "save the one that is meant: torch.save(content[NAME], 'weights.pt')")
        if name is not None:
            weights = _tensors_of(entries.pop(name))
            notes = [f"the entry {printable(name, 80)} is read, and not {_list(entries)}"] if entries else []
            return Weights(weights.tensors, notes + weights.notes)
    if any(isinstance(value, Tensor) for value in content.values()):
        return _tensors_of(content)
    raise UserError(f"{path} holds no dict of tensors, but {_list(content) or 'nothing'}", SAVE)


def _is_state_dict(value: Any) -> bool:
    """Quantised networks have values that are no tensors among their weights."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return False
    tensors = [item for item in value.values() if isinstance(item, Tensor)]
    return 2 * len(tensors) > len(value) and any(tensor.ndim for tensor in tensors)


def _entries(content: dict[Any, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in content.items():
        if _is_state_dict(value):
            yield str(name), value


def _entries_of_entries(content: dict[Any, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for outer, value in content.items():
        if isinstance(value, dict):
            for name, inner in _entries(value):
                yield f"{outer}.{name}", inner


def _tensors_of(content: dict[Any, Any]) -> Weights:
    tensors = {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    return Weights(tensors, [f"passed over, since they are no tensors: {_list(others)}"] if others else [])


def fit_weights(path: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Any], what: str) -> Weights:
    """Return `weights` as a network's state_dict, in float32, with notes on what was done to them.

    `expected` is the network's own state_dict, or the shapes in it; `what` names the network in messages. Layers
    are matched by their names, less the prefixes that wrappers leave, or else by their order and shapes. A bias
    before batch norm is taken off the running mean, which gives the same outputs, and so does a convolution that
    copies where a shortcut has no weights. Raises UserError for weights of another network or another type, and
    for values that are not finite.
    """
    shapes = {name: tuple(getattr(value, "shape", value)) for name, value in expected.items()}
    passed_over, notes = _no_weights(weights, shapes), []
    own = layers_of(shapes)
    theirs = layers_of({name: tuple(tensor.shape) for name, tensor in weights.items() if name not in passed_over})
    if passed_over:
        texts = (f"{name} {tensor.flatten().tolist()}" for name, tensor in passed_over.items())
        notes.append(f"passed over, since they are no weights of the network: {_list(texts)}")
    shortcuts = shortcuts_without_weights(own, theirs)
    if shortcuts:
        weights, theirs = {**weights, **copying_weights(shortcuts, expected)}, theirs + shortcuts
        text = "shortcuts have no weights: they are read as copies between zeros in equal number on both sides"
        notes.append(f"{len(shortcuts) // 2} {text}")
    pairs = match_by_name(own, theirs)
    if pairs is None:
        pairs = match_by_order(own, theirs)
        notes.append("the layers have other names, and are matched by their order and shapes")
    if pairs is None:
        for name, tensor in weights.items():
            if tensor.ndim > 1:
                require_type(path, name, tensor, torch.float32)  # quantised weights have other names, too
        text, hint = describe_misfit(own, theirs, what)
        raise DamagedFile(f"{path} {text}", hint)
    tensors, converted = {}, set()
    for name, value in expected.items():
        layer, _, leaf = name.rpartition(".")
        source = _join(pairs[layer].name, leaf)
        if leaf == COUNTER:
            tensors[name] = _counter(weights.get(source))
            continue
        dtype = value.dtype if isinstance(value, Tensor) else torch.float32
        require_type(path, source, weights[source], dtype)
        if weights[source].dtype != dtype:
            converted.add(dtype_name(weights[source]))
        tensors[name] = weights[source].to(dtype).contiguous()
    biases = _biases(own, pairs, weights)
    for mean, (name, bias) in biases.items():
        require_type(path, name, bias, torch.float32)
        tensors[mean] = (tensors[mean].double() - bias.double()).to(tensors[mean].dtype)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DamagedFile(f"{path} has values that are not finite, in {name}", "use an earlier checkpoint")
    if converted:
        notes.append(f"converted to float32 from {' and '.join(sorted(converted))}")
    if biases:
        notes.append(f"{len(biases)} biases before batch norm are taken off its running means")
    return Weights(tensors, notes)


def _join(layer: str, leaf: str) -> str:
    return f"{layer}.{leaf}" if layer else leaf


def _counter(tensor: Tensor | None) -> Tensor:
    """A batch norm's count of updates, or 0 where the file has none."""
    is_count = tensor is not None and tensor.dtype == torch.int64 and tensor.numel() == 1
    return tensor.reshape(()) if is_count else torch.tensor(0)


def require_type(path: Path, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Raise DamagedFile unless the tensor can stand for one of `dtype`: any usual float for a float."""
    if tensor.dtype not in (FLOATS if dtype.is_floating_point else (dtype,)):
        what = f"{path} has weights of type {dtype_name(tensor)}, in {printable(name, 80)}"
        raise DamagedFile(what, "save them in float32, before any quantisation")


def _biases(
    own: list[Layer], pairs: Mapping[str, Layer], weights: Mapping[str, Tensor]
) -> dict[str, tuple[str, Tensor]]:
    """The biases that stand before a batch norm in the file alone, by the name of its running mean."""
    biases = {}
    for layer, after in pairwise(own):
        if pairs[layer.name].has_bias_beside(layer):
            name = _join(pairs[layer.name].name, "bias")
            biases[_join(after.name, "running_mean")] = (name, weights[name])
    return biases


def _no_weights(weights: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """Counters of profilers, and the mean and standard deviation of a normalisation within the network."""
    leaves = {COUNTER, *(name.rpartition(".")[2] for name in expected)}
    return {
        name: tensor
        for name, tensor in weights.items()
        if (leaf := name.rpartition(".")[2]) not in leaves
        and (leaf in PROFILERS or tensor.ndim == 0 or (leaf in ("mean", "std") and tensor.numel() == 3))
    }


def _list(names: Any) -> str:
    names = [printable(name, 80) for name in names]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
