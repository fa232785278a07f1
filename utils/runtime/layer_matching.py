"""Which layers of a file are which layers of a network: by their names, or else by their order and shapes."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from utils.runtime.errors import printable

Shape = tuple[int, ...]
COUNTER = "num_batches_tracked"  # of a batch norm's updates: no output depends on it

# Parts of a name that wrappers of a network leave in it.
WRAPPERS = frozenset(
    (
        *("module", "_orig_mod", "model", "net", "network", "backbone", "encoder", "teacher", "student", "ema"),
        *("base_model", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
    )
)
TORCHVISION_VGG = {8: "vgg11", 10: "vgg13", 13: "vgg16", 16: "vgg19"}  # by their convolutions
OTHER = "say with --teacher which network it is"
TABLE_VGG = {"block0.0", "block4.0", "classifier"}  # layers of the VGGs of RepDistiller and mdistiller
TORCHVISION_HEAD = (4096, 512 * 7 * 7)  # the first of its three linear layers


@dataclass(frozen=True)
class Layer:
    """The shapes of one module's weights by the last part of their names, without the counter of batch norm."""

    name: str
    shapes: dict[str, Shape]

    @property
    def weight(self) -> Shape:
        return self.shapes.get("weight", ())

    @property
    def is_convolution(self) -> bool:
        return len(self.weight) > 2

    @property
    def is_linear(self) -> bool:
        return len(self.weight) == 2

    def fits(self, own: "Layer") -> bool:
        """Whether these are the weights of the network's `own` layer, or these and the bias of a convolution."""
        return self.shapes == own.shapes or self.has_bias_beside(own)

    def has_bias_beside(self, own: "Layer") -> bool:
        return self.is_convolution and self.shapes == own.shapes | {"bias": self.weight[:1]} != own.shapes

    def precedes_norm(self, after: "Layer | None") -> bool:
        """Whether `after` is a batch norm of this layer's outputs: the next layer, and of the same container."""
        if after is None or after.name.rpartition(".")[0] != self.name.rpartition(".")[0]:
            return False
        return after.shapes.get("running_mean") == self.weight[:1]


def layers_of(shapes: Mapping[str, Shape]) -> list[Layer]:
    """The layers of a state_dict's shapes, in order."""
    layers: dict[str, dict[str, Shape]] = defaultdict(dict)
    for name, shape in shapes.items():
        layer, _, leaf = name.rpartition(".")
        if leaf != COUNTER:
            layers[layer][leaf] = shape
    return [Layer(name, leaves) for name, leaves in layers.items()]


def match_by_name(own: list[Layer], theirs: list[Layer]) -> dict[str, Layer] | None:
    """The file's layer for each name of the network's, or None. The head may have another name."""
    named, pairs = _by_bare_name(theirs), {}
    for layer in own:
        if bare(layer.name) in named:
            pairs[layer.name] = named[bare(layer.name)][0]  # a second one is left over, and a misfit
    used = {layer.name for layer in pairs.values()}
    unused = [layer for layer in theirs if layer.name not in used]
    missing = [layer for layer in own if layer.name not in pairs]
    if len(unused) == len(missing) == 1 and unused[0].is_linear:
        pairs[missing[0].name] = unused.pop()
    if unused or len(pairs) < len(own):
        return None
    return pairs if _can_take(own, pairs) else None


def match_by_order(own: list[Layer], theirs: list[Layer]) -> dict[str, Layer] | None:
    """The file's layer for each name of the network's where order and shapes leave no doubt, or else None.

    Sorted names (safetensors, converted files) say nothing of the order, but where layers of equal shapes are
    numbered, their numbers do. Poolings have no weights: two VGGs of the same layers may have other ones.
    """
    if _is_table_vgg(own) != _is_table_vgg(theirs):
        return None
    names, groups = [layer.name for layer in theirs], _alike(theirs)
    numbered = all(len({_pattern(layer) for layer in group}) == 1 for group in groups)
    ascending = all(_numbers_ascend(group) for group in groups)
    is_sorted = names == sorted(names)
    if len(own) != len(theirs) or (is_sorted and not numbered) or not (is_sorted or ascending):
        return None
    if ascending:
        pairs = {our.name: their for our, their in zip(own, theirs, strict=True)}
        if _can_take(own, pairs):
            return pairs
    return _match_by_numbers(own, theirs) if numbered else None


def _is_table_vgg(layers: list[Layer]) -> bool:
    return {bare(layer.name) for layer in layers} >= TABLE_VGG


def _match_by_numbers(own: list[Layer], theirs: list[Layer]) -> dict[str, Layer] | None:
    """Of the layers of equal shapes, that with the lowest number in the file is the network's first, and so on."""
    pairs = {}
    for group in _alike(own):
        matching = sorted((layer for layer in theirs if layer.fits(group[0])), key=_numbers)
        if len(matching) != len(group):
            return None
        pairs |= {our.name: their for our, their in zip(group, matching, strict=True)}
    return pairs if _can_take(own, pairs) else None


def _numbers_ascend(group: list[Layer]) -> bool:
    """Whether those of the same name but for the numbers are in the order of these: "features.2" before ".10"."""
    by_pattern = defaultdict(list)
    for layer in group:
        by_pattern[_pattern(layer)].append(_numbers(layer))
    return all(numbers == sorted(numbers) for numbers in by_pattern.values())


def _can_take(own: list[Layer], pairs: Mapping[str, Layer]) -> bool:
    """Whether all shapes fit, and each bias that the network lacks stands before a batch norm."""
    return all(
        pairs[layer.name].shapes == layer.shapes
        or (pairs[layer.name].has_bias_beside(layer) and layer.precedes_norm(after))
        for layer, after in zip(own, [*own[1:], None], strict=True)
    )


def _alike(layers: list[Layer]) -> list[list[Layer]]:
    """Layers of equal shapes together, in order."""
    groups: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        groups[repr(sorted(layer.shapes.items()))].append(layer)
    return list(groups.values())


def _pattern(layer: Layer) -> str:
    return re.sub(r"\d+", "#", layer.name)


def _numbers(layer: Layer) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d{1,9}", layer.name)]


def bare(name: str) -> str:
    """A name without the parts that wrappers leave."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _by_bare_name(layers: list[Layer]) -> dict[str, list[Layer]]:
    named = defaultdict(list)
    for layer in layers:
        named[bare(layer.name)].append(layer)
    return named


def describe_misfit(own: list[Layer], theirs: list[Layer], what: str) -> tuple[str, str]:
    """Why the file's layers are not those of the network `what`, completing "FILE ...", and a hint."""
    linear, heads = ([layer for layer in layers if layer.is_linear] for layers in (theirs, own))
    convolutions = [layer for layer in theirs if layer.is_convolution]
    has_norm, needs_norm = (any("running_mean" in layer.shapes for layer in layers) for layers in (theirs, own))
    vgg = TORCHVISION_VGG.get(len(convolutions))
    if len(linear) == 3 and len(heads) == 1:
        if vgg and linear[0].weight == TORCHVISION_HEAD:
            name = f"{vgg}_bn" if has_norm else vgg
            text = f"holds torchvision's {name} with its three-layer head, for 224-pixel images"
        else:
            text = "holds a network with a head of three linear layers"
        text = f"{text}; that is another network than {what}, whose head is one linear layer"
        return text, "train a teacher here: python train.py --tto True"
    if _is_table_vgg(theirs) and not _is_table_vgg(own):
        text = "holds a VGG of RepDistiller or mdistiller, which has three poolings"
        return f"{text}; that is another network than {what}", f"--teacher {vgg or 'vgg8'}"
    if _is_table_vgg(own) and vgg and len(own) == len(theirs):
        text = f"does not fit {what}: its layers have other names, and where its poolings are they do not tell"
        return text, f"--teacher {vgg}_bn has a pooling after each width"
    if heads and not linear:
        return f"does not fit {what}: it has no linear layer", "save the whole network, with its head"
    repeated = next((layers for layers in _by_bare_name(theirs).values() if len(layers) > 1), None)
    if repeated:
        first, second = (printable(layer.name, 80) for layer in repeated[:2])
        return f"holds more than one network: both {first} and {second}", "save the one that is meant alone"
    if needs_norm and not has_norm:
        return f"does not fit {what}: it has no batch norm", OTHER
    if len(linear) == len(heads) == 1 and linear[0].weight[1:] == heads[0].weight[1:]:
        others = [sorted(str(layer.shapes) for layer in each if not layer.is_linear) for each in (theirs, own)]
        classes = linear[0].weight[0]
        if classes != heads[0].weight[0] and others[0] == others[1]:
            return f"does not fit {what}: it has {classes} classes", "name a teacher of the classes of the data"
    return f"does not fit {what}: {_first_difference(own, theirs)}", OTHER


def _first_difference(own: list[Layer], theirs: list[Layer]) -> str:
    expected, actual = _shapes(own), _shapes(theirs)
    if not expected.keys() & actual.keys() and len(own) == len(theirs):
        return "its layers have other names, and their order and shapes do not tell which is which"
    wrong = [name for name in {**expected, **actual} if expected.get(name) != actual.get(name)]
    if not wrong:
        return "it has a bias where no batch norm follows"
    first, missing = wrong[0], "missing"
    text = f"{printable(first, 80)} is {actual.get(first, missing)} instead of {expected.get(first, missing)}"
    return f"{text} ({len(wrong)} differ)"


def _shapes(layers: list[Layer]) -> dict[str, Shape]:
    return {f"{bare(layer.name)}.{leaf}": shape for layer in layers for leaf, shape in layer.shapes.items()}
