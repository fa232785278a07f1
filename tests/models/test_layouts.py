"""The networks of the published tables against the weights' layout and the logits of the projects behind them."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import CPU, NORMALISE, batches

from models import build_model
from utils.data.dataset import Dataset
from utils.distillation.taps import find_head, find_stages
from utils.distillation.teacher import load_teacher
from utils.runtime.checkpoint import load_checkpoint
from utils.runtime.errors import UserError
from utils.runtime.weights import fit_weights

# Of RepDistiller's networks for 100 classes, whose names mdistiller shares: the number of parameters, the shape of
# each layer's weight, and of the weights that `fill` makes the first logits of `IMAGES` and the L2 norm of all.
REFERENCE = json.loads(Path(__file__).with_name("reference_layouts.json").read_text())
IMAGES = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 32, 32)))  # float64
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def layout(name: str) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a state_dict, in order."""
    shapes = {}
    for layer, weight in REFERENCE[name]["layers"].items():
        has_bias = REFERENCE[name]["conv_bias"] or len(weight) == 2
        for leaf in NORM if len(weight) == 1 else NORM[: 1 + has_bias]:
            shape = weight if leaf == "weight" else weight[:1]
            shapes[f"{layer}.{leaf}"] = () if leaf == NORM[-1] else tuple(shape)
    return shapes


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith(("running_mean", "bias")):
        return torch.from_numpy(random.normal(0, 0.1, shape))
    if len(shape) == 1:
        return torch.from_numpy(random.uniform(0.5, 1.5, shape))
    return torch.from_numpy(random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape))


def filled(shapes) -> dict[str, Tensor]:
    return {name: fill(name, tuple(shape)) for name, shape in shapes.items()}


def logits_of(path: Path, name: str, classes: int) -> tuple[Tensor, list[str]]:
    """In float64, of the network with the weights in a file, and the notes on reading it."""
    with torch.device("meta"):  # which saves the time of initial weights
        network = build_model(name, classes).double().eval()
    weights = fit_weights(path, load_checkpoint(path, plain=True)["model"], network.state_dict(), f"a {name}")
    network.load_state_dict(weights.tensors, assign=True)
    with torch.no_grad():
        return network(IMAGES), weights.notes


@pytest.mark.parametrize("name", REFERENCE)
def test_a_file_of_repdistiller_or_mdistiller_fits_by_name_and_gives_the_reference_logits(name, tmp_path):
    reference = REFERENCE[name]
    with torch.device("meta"):
        own = build_model(name, 100)
    assert sum(parameter.numel() for parameter in own.parameters()) == reference["parameters"]
    assert {key: tuple(tensor.shape) for key, tensor in own.state_dict().items()} == layout(name)
    torch.save({"model": filled(layout(name)), "epoch": 240, "accuracy": np.float64(75)}, tmp_path / "last.pth")
    logits, notes = logits_of(tmp_path / "last.pth", name, 100)
    assert notes == []
    expected = torch.tensor(reference["logits_first5"], dtype=torch.float64)
    torch.testing.assert_close(logits[:, :5], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(logits.norm().item(), reference["logits_l2"], rtol=1e-6, atol=0)


def zero_padded(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Logits of the ResNet of akamaster/pytorch_resnet_cifar10: shortcuts take every other pixel and add zeros."""

    def convolve(x: Tensor, number: int, prefix: str = "", stride: int = 1) -> Tensor:
        x = F.conv2d(x, weights[f"{prefix}conv{number}.weight"], stride=stride, padding=1)
        norm = [
            weights[f"{prefix}bn{number}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
        ]
        return F.batch_norm(x, *norm)

    x = convolve(images, 1).relu()
    for prefix in dict.fromkeys(name.split("conv")[0] for name in weights if name.startswith("layer")):
        if ".bn" in prefix:
            continue
        is_narrow = prefix in ("layer2.0.", "layer3.0.")
        out = convolve(convolve(x, 1, prefix, 2 if is_narrow else 1).relu(), 2, prefix)
        channels = x.shape[1] // 2
        x = (out + (F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, channels, channels)) if is_narrow else x)).relu()
    return x.mean((2, 3)) @ weights["linear.weight"].T + weights["linear.bias"]


def zero_padded_weights(depth: int, classes: int) -> dict[str, Tensor]:
    shapes = {name: shape for name, shape in layout(f"resnet{depth}").items() if not name.startswith("fc.")}
    shapes = {name: shape for name, shape in shapes.items() if "downsample" not in name}
    return filled(shapes | {"linear.weight": (classes, 64), "linear.bias": (classes,)})


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_a_resnet_whose_shortcuts_have_no_weights_gives_its_own_logits(depth, tmp_path):
    weights = zero_padded_weights(depth, 10)
    content = {f"module.{name}": tensor for name, tensor in weights.items()}
    torch.save({"state_dict": content, "best_prec1": 92.6}, tmp_path / "resnet.th")
    logits, notes = logits_of(tmp_path / "resnet.th", f"resnet{depth}", 10)
    assert notes == [
        "2 shortcuts have no weights: they are read as copies between zeros in equal number on both sides"
    ]
    torch.testing.assert_close(logits, zero_padded(weights, IMAGES), rtol=1e-6, atol=0)


def test_a_resnet_whose_shortcuts_have_no_weights_and_of_other_classes_is_refused_for_these():
    own = build_model("resnet20", 100).state_dict()
    with pytest.raises(UserError, match=r"it has 10 classes \(hint: name a teacher of the classes of the data\)"):
        fit_weights("a.pt", zero_padded_weights(20, 10), own, "a resnet20 of 100 classes")


def test_a_file_that_lacks_one_of_several_shortcuts_is_a_misfit():
    own = build_model("resnet8", 100).state_dict()
    for part in ("layer2.0.downsample", "layer3.0.downsample.1", "layer3.0.conv2"):
        weights = {name: tensor for name, tensor in filled(layout("resnet8")).items() if not name.startswith(part)}
        with pytest.raises(UserError, match=rf"does not fit it: {part}\S*\.weight is missing instead of"):
            fit_weights("a.pt", weights, own, "it")


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_the_resnets_of_imagenet_are_those_of_torchvision_with_another_stem(name, tmp_path):
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(num_classes=10).eval()
        theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    theirs.load_state_dict(filled(shapes), assign=True)
    torch.save(theirs.state_dict(), tmp_path / "a.pt")
    logits, notes = logits_of(tmp_path / "a.pt", name, 10)
    assert notes == ["the layers have other names, and are matched by their order and shapes"]
    with torch.no_grad():
        torch.testing.assert_close(logits, theirs(IMAGES), rtol=1e-6, atol=0)


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_of_two_vggs_whose_poolings_differ_neither_takes_the_weights_of_the_other(depth):
    with torch.device("meta"):
        table, usual = (build_model(f"vgg{depth}{end}", 10).state_dict() for end in ("", "_bn"))
    biases = {name.replace("weight", "bias"): t[:, 0, 0, 0] for name, t in usual.items() if t.ndim == 4}
    with pytest.raises(UserError, match=rf"which has three poolings.*\(hint: --teacher vgg{depth}\)"):
        fit_weights("a.pt", table, usual, f"a vgg{depth}_bn of 10 classes")
    with pytest.raises(UserError, match=rf"where its poolings are they do not tell.*--teacher vgg{depth}_bn"):
        fit_weights("a.pt", usual | biases, table, f"a vgg{depth} of 10 classes")


@pytest.mark.parametrize("needs", ["logits", "embedding", "features"])
@pytest.mark.parametrize("project", ["RepDistiller", "akamaster"])
def test_such_a_file_is_a_teacher(project, needs, tmp_path, capsys):
    images = batches(40, classes=100).image_set
    data = Dataset(images, None, images, NORMALISE, {"data": images.fingerprint()})
    if project == "akamaster":
        weights = zero_padded_weights(20, 100)
        torch.save({"state_dict": {f"module.{name}": weights[name].float() for name in weights}}, tmp_path / "a")
    else:
        weights = filled(layout("resnet20"))
        torch.save({"model": {name: weights[name].float() for name in weights}}, tmp_path / "a")
    teacher = load_teacher(tmp_path / "a", "resnet20", needs, data, CPU, build_model)
    batch = next(batches(8, 8).epoch(0))._replace(images=IMAGES.float())
    outputs = teacher(batch)
    if project == "akamaster":
        assert "note: " in capsys.readouterr().err
        expected = zero_padded(weights, IMAGES)[:, :5].float()
    else:
        expected = torch.tensor(REFERENCE["resnet20"]["logits_first5"])
    torch.testing.assert_close(outputs.logits[:, :5], expected, rtol=1e-4, atol=1e-2)
    assert outputs.embedding is None or outputs.embedding.shape == (2, 64)
    assert outputs.features is None or [f.shape[1] for f in outputs.features] == [16, 32, 64]


# The width of what each stage gives at 32 (or fewer) pixels and half of the last each, and of the embedding.
STAGES = {
    **{f"vgg{depth}": ((64, 128, 256, 512), 512) for depth in (8, 11, 13, 16, 19)},
    **{f"vgg{depth}_bn": ((64, 128, 256, 512, 512), 512) for depth in (11, 13, 16, 19)},
    **{f"resnet{depth}": ((16, 32, 64), 64) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": ((64, 128, 256), 256) for depth in (8, 32)},
    **{f"resnet{depth}": ((64, 128, 256, 512), 512) for depth in (18, 34)},
    **{f"wrn_{depth}_{width}": ((16 * width, 32 * width, 64 * width), 64 * width)
       for depth in (16, 40) for width in (1, 2)},
    "resnet50": ((256, 512, 1024, 2048), 2048),
    "mobilenetv2": ((12, 16, 48, 1280), 1280),
    "shufflenetv1": ((24, 240, 480, 960), 960),
    "shufflenetv2": ((24, 116, 232, 1024), 1024),
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_the_stages_of_a_network_are_what_its_paper_calls_so_and_its_head_takes_the_embedding(name):
    widths, embedding = STAGES[name]
    network, images = build_model(name, 7), torch.zeros(2, 3, 32, 32)
    maps = {}
    stages = find_stages(network, images)
    for tap in stages:
        network.get_submodule(tap.module).register_forward_hook(
            lambda _module, _taken, given, tap=tap: maps.setdefault(tap, []).append(tuple(given.shape[1:]))
        )
    network.eval()(images)
    first = 16 if name == "mobilenetv2" else 32
    assert [maps[tap][tap.call] for tap in stages] == [
        (width, first >> index, first >> index) for index, width in enumerate(widths)
    ]
    head = network.get_submodule(find_head(network, images).module)
    assert (head.in_features, head.out_features) == (embedding, 7)
