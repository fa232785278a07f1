import copy
import shutil

import pytest
import torch
from torch import nn
from toys import network

from models import build_model
from utils.distillation.taps import TappedNetwork

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A small residual network, whose one ReLU module is used after every sum."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.down, self.third = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.relu, self.head = nn.ReLU(), nn.Linear(16, 4)
        self.aside = nn.Linear(3, 4)

    def stages(self, images):
        x = self.relu(self.stem(images))
        x = self.relu(x + self.first(x))
        high = self.relu(x + self.second(x))
        y = self.relu(self.down(high))
        return high, self.relu(y + self.third(y))

    def forward(self, images):
        return self.aside(images.mean((2, 3))) + self.head(self.stages(images)[1].mean((2, 3)))


def last_of_each_size(model, images):
    """Of the project's own networks, whose layers follow each other."""
    maps = {}
    for module in model.features:
        images = module(images)
        maps[images.shape[2]] = images
    return [maps[size] for size in maps if size > 1]


def build(name: str) -> nn.Module:
    torch.manual_seed(3)
    model = Residual() if name == "residual" else build_model(name, 4)
    model(torch.randn(16, 3, 32, 32))  # statistics of batch norm that are not the initial ones
    return model.eval()


def by_hand(model, images) -> tuple[list, torch.Tensor]:
    """The maps of each stage, and what the last linear layer takes."""
    if isinstance(model, Residual):
        maps = list(model.stages(images))
        return maps, maps[-1].mean((2, 3))
    return last_of_each_size(model, images), model.features(images).mean((2, 3))


@pytest.mark.parametrize(
    ("name", "sizes"), [("cnn", [32, 16, 8, 4]), ("vgg11_bn", [32, 16, 8, 4, 2]), ("residual", [32, 16])]
)
def test_stages_and_embedding_are_those_of_a_forward_pass_written_out(name, sizes):
    model = build(name)
    maps, embedding = by_hand(model, IMAGES)
    outputs = TappedNetwork(model, "features", IMAGES)(IMAGES)
    assert [feature.shape[2] for feature in outputs.features] == sizes
    assert outputs.embedding is None
    for feature, expected in zip(outputs.features, maps, strict=True):
        torch.testing.assert_close(feature, expected)
    torch.testing.assert_close(outputs.logits, model(IMAGES))
    outputs = TappedNetwork(model, "embedding", IMAGES)(IMAGES)
    assert outputs.features is None
    torch.testing.assert_close(outputs.embedding, embedding)
    assert outputs.head[0] is model.head.weight
    assert outputs.head[1] is model.head.bias


@pytest.mark.parametrize("inplace", [False, True])
def test_preactivations_are_what_the_last_relu_of_a_stage_takes(inplace):
    def block(before: int, after: int) -> nn.Module:
        layers = [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU(inplace)]
        return nn.Sequential(*layers)

    layers = nn.Sequential(block(3, 4), block(4, 5), nn.Conv2d(5, 6, 3, 2, 1))  # the last stage has no ReLU
    model = nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)).eval()
    outputs = TappedNetwork(model, "features+preactivations", IMAGES)(IMAGES)
    first, second, third = outputs.preactivations
    torch.testing.assert_close(first, layers[0][:2](IMAGES))
    assert (first < 0).any()
    for before, after in zip((first, second), outputs.features[:2], strict=True):
        torch.testing.assert_close(before.clamp(min=0), after)
    torch.testing.assert_close(third, outputs.features[2])


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize(("needs", "during"), [("logits", 0), ("embedding", 1), ("features", 4)])
def test_hooks_are_there_while_the_network_computes_and_only_where_they_are_needed(needs, during):
    model, counts = build("cnn"), []
    tapped = TappedNetwork(model, needs, IMAGES, lambda images: (counts.append(hooks(model)), model(images))[1])
    for _ in range(2):
        tapped(IMAGES)
    assert counts == [during] * 2
    assert hooks(model) == 0


@pytest.mark.parametrize("needs", ["embedding", "features"])
def test_a_forward_pass_that_fails_leaves_no_hook(needs):
    model = build("cnn")
    tapped = TappedNetwork(model, needs, IMAGES)
    with pytest.raises(RuntimeError):
        tapped(IMAGES[:, :2])
    with pytest.raises(RuntimeError):
        TappedNetwork(model.train(), needs, IMAGES[:, :2])
    assert hooks(model) == 0
    assert model.training


@pytest.mark.parametrize("needs", ["embedding", "features"])
def test_looking_for_stages_changes_neither_mode_nor_statistics_nor_copies(needs):
    model = build("cnn").train()
    before = copy.deepcopy(model.state_dict())
    tapped = TappedNetwork(model, needs, IMAGES)
    tapped.example(IMAGES)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    duplicate = copy.deepcopy(model).eval()
    model.eval()
    torch.testing.assert_close(duplicate(IMAGES), tapped(IMAGES).logits)
    assert hooks(duplicate) == 0


def test_taps_follow_the_mode_and_the_gradient_of_the_network():
    model = network()
    tapped = TappedNetwork(model, "features", IMAGES)
    in_training = tapped(IMAGES).features[0]
    model.eval()
    in_eval = tapped(IMAGES).features[0]
    assert not torch.allclose(in_training, in_eval)
    in_eval.sum().backward()
    assert model[0].weight.grad.abs().sum() > 0
    assert model[-1].weight.grad is None


class Flat(nn.Module):
    def forward(self, images):
        return images.mean((2, 3))


@pytest.mark.parametrize(
    ("needs", "what"), [("features", "no feature maps"), ("embedding", "no linear last layer")]
)
def test_a_network_without_maps_or_linear_layer_is_refused(needs, what):
    with pytest.raises(ValueError, match=f"Flat has {what}"):
        TappedNetwork(Flat(), needs, IMAGES)


@pytest.mark.parametrize("needs", ["embedding", "features"])
def test_a_compiled_forward_pass_has_the_same_taps(needs):
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("needs a C++ compiler")
    model = network().eval()
    outputs = TappedNetwork(model, needs, IMAGES, torch.compile(model, dynamic=False))(IMAGES)
    expected = TappedNetwork(model, needs, IMAGES)(IMAGES)
    torch.testing.assert_close(outputs.logits, expected.logits)
    torch.testing.assert_close(outputs.embedding, expected.embedding)
    torch.testing.assert_close(outputs.features, expected.features)
