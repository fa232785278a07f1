"""The same weights in the files that people have, and files that hold no weights."""

import argparse
import copy
import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from models import build_model
from utils.runtime.checkpoint import load_checkpoint
from utils.runtime.errors import UserError, printable
from utils.runtime.file_kind import identify
from utils.runtime.weights import Weights, find_weights, fit_weights, read_content

WHAT = "a cnn_tiny of 10 classes"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A network with the statistics of a training."""
    torch.manual_seed(0)
    model = build_model("cnn_tiny", 10)
    for _ in range(3):
        model(torch.randn(16, 3, 32, 32) + 1)
    return model.eval()


def read_weights(path: Path) -> Weights:
    return find_weights(path, read_content(path))


def weights_in(path, model: nn.Module):
    weights = read_weights(path)
    fitted = fit_weights(path, weights.tensors, model.state_dict(), WHAT)
    return fitted.tensors, weights.notes + fitted.notes


def legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def safetensors(content, path):
    pytest.importorskip("safetensors.torch").save_file(content, path)


def renamed(change):
    return lambda model: {change(name): tensor for name, tensor in model.state_dict().items()}


def wrapped(**more):
    return lambda model: {key: model.state_dict() if value is ... else value for key, value in more.items()}


def classifier(name: str) -> str:
    return name.replace("head.", "classifier.")


def block(name: str) -> str:
    """features.7.weight -> stage1.0.weight: each pair of layers with its pooling in a container of its own."""
    part, index, *leaf = name.split(".")
    return f"fc.{index}" if part == "head" else f"stage{int(index) // 7}.{int(index) % 7}.{leaf[0]}"


def by_kind(model: nn.Module) -> dict[str, torch.Tensor]:
    """As a network has it that names all convolutions first, then all batch norms."""
    kinds: dict[str, dict[str, torch.Tensor]] = {"conv": {}, "bn": {}, "fc": {}}
    for module in model.modules():
        kind = {nn.Conv2d: "conv", nn.BatchNorm2d: "bn", nn.Linear: "fc"}.get(type(module))
        if kind:
            number = len({key.split(".")[0] for key in kinds[kind]}) + 1
            kinds[kind] |= {f"{kind}{number}.{leaf}": tensor for leaf, tensor in module.state_dict().items()}
    return kinds["conv"] | kinds["bn"] | kinds["fc"]


def with_counters(model: nn.Module) -> dict[str, torch.Tensor]:
    counted = copy.deepcopy(model)
    for module in counted.modules():  # as thop leaves them
        module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
        module.register_buffer("total_params", torch.zeros(1, dtype=torch.float64))
    return counted.state_dict()


def training_state(model: nn.Module) -> dict:
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(1, 3, 32, 32)).sum().backward()
    optimizer.step()
    model.zero_grad()
    return optimizer.state_dict()


CONTAINERS = {
    "a state_dict": (lambda model: model.state_dict(), torch.save),
    "net": (wrapped(net=..., acc=95.1, epoch=200), torch.save),
    "model": (wrapped(model=...), torch.save),
    "model_state_dict": (wrapped(model_state_dict=..., loss=torch.tensor(0.1)), torch.save),
    "an optimizer beside it": (
        lambda model: {"optimizer": training_state(copy.deepcopy(model)), "weights": model.state_dict()},
        torch.save,
    ),
    "a NumPy scalar": (wrapped(epoch=1, state_dict=..., best_acc=np.float64(9), top=np.float32(1)), torch.save),
    "a NumPy array": (wrapped(state_dict=..., curve=np.ones(3), steps=np.int64(3)), torch.save),
    "a command line": (wrapped(opt=argparse.Namespace(lr=0.1, path="x"), model=...), torch.save),
    "an entry of an entry": (lambda model: {"student": {"params": model.state_dict()}, "epoch": 3}, torch.save),
    "an average beside it": (
        lambda model: {"model_ema": build_model("cnn_tiny", 10).state_dict(), "model": model.state_dict()},
        torch.save,
    ),
    "parameters": (lambda model: {**dict(model.named_parameters()), **dict(model.named_buffers())}, torch.save),
    "DataParallel": (lambda model: nn.DataParallel(model).state_dict(), torch.save),
    "torch.compile": (renamed("_orig_mod.module.{}".format), torch.save),
    "a compiled part": (renamed(lambda name: name.replace("features.", "features._orig_mod.")), torch.save),
    "a backbone": (
        renamed(lambda name: f"model.backbone.{name}" if name[0] == "f" else f"model.{name}"),
        torch.save,
    ),
    "any other prefix": (renamed("my_classifier.{}".format), torch.save),
    "an averaged model": (lambda model: AveragedModel(model).state_dict(), torch.save),
    "no counters of batch norm": (
        lambda model: {name: t for name, t in model.state_dict().items() if "tracked" not in name},
        torch.save,
    ),
    "counters of a profiler": (with_counters, torch.save),
    "another name of the head": (renamed(classifier), torch.save),
    "other containers": (renamed(block), torch.save),
    "another order": (by_kind, torch.save),
    "the format before 1.6": (lambda model: model.state_dict(), legacy),
    "the format before 1.6, wrapped": (wrapped(net=..., best=np.float64(3)), legacy),
    "a format of its own": (wrapped(format=1, model=...), torch.save),
    "safetensors": (lambda model: model.state_dict(), safetensors),
    "safetensors, another head": (renamed(classifier), safetensors),
    "safetensors, other containers": (renamed(block), safetensors),
    "safetensors, another order": (by_kind, safetensors),
    "safetensors of two types, other containers": (
        lambda model: {block(n): t.double() if "running" in n else t for n, t in model.state_dict().items()},
        safetensors,
    ),
    "float64": (lambda model: copy.deepcopy(model).double().state_dict(), torch.save),
}


OTHER_NAMES = ("any other prefix", "other containers", "another order")


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_same_weights_come_out_of(kind, model, tmp_path):
    make, save = CONTAINERS[kind]
    save(make(model), tmp_path / "teacher.bin")
    weights, notes = weights_in(tmp_path / "teacher.bin", model)
    assert any("matched by their order" in note for note in notes) == kind.endswith(OTHER_NAMES)
    expected = model.state_dict()
    assert list(weights) == list(expected)
    for name, tensor in expected.items():
        assert weights[name].dtype == tensor.dtype, name
        if "tracked" not in name or kind != "no counters of batch norm":
            assert torch.equal(weights[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted_with_a_note(model, tmp_path, dtype):
    half = {name: t.to(dtype) if t.is_floating_point() else t for name, t in model.state_dict().items()}
    torch.save(half, tmp_path / "a.pt")
    weights, notes = weights_in(tmp_path / "a.pt", model)
    assert all(torch.equal(weights[name], half[name].to(weights[name].dtype)) for name in half)
    assert notes == [f"converted to float32 from {str(dtype).removeprefix('torch.')}"]


@pytest.mark.parametrize("name", ["cnn_tiny", "vgg11_bn"])
@pytest.mark.parametrize("change", [str, classifier])
def test_a_bias_before_batch_norm_changes_no_logit_where_the_network_has_none(name, change):
    """The usual VGG of other projects, written out here with biases."""
    torch.manual_seed(0)
    network = build_model(name, 10)
    theirs = copy.deepcopy(network)
    for index, layer in enumerate(theirs.features):
        if isinstance(layer, nn.Conv2d):
            theirs.features[index] = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1)
            nn.init.uniform_(theirs.features[index].bias, -1, 1)
    images = torch.randn(8, 3, 32, 32)
    theirs(images)  # statistics that have seen the biases
    theirs.eval()
    weights = {change(key): tensor for key, tensor in theirs.state_dict().items()}
    fitted = fit_weights("a.pt", weights, network.state_dict(), name)
    network.load_state_dict(fitted.tensors)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), theirs(images), rtol=1e-5, atol=1e-6)
    count = sum(isinstance(layer, nn.Conv2d) for layer in theirs.features)
    assert fitted.notes == [f"{count} biases before batch norm are taken off its running means"]


def test_a_bias_that_no_batch_norm_follows_is_a_misfit():
    own = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4)
    )
    theirs = own.state_dict() | {"0.bias": torch.ones(4)}
    with pytest.raises(UserError, match=r"does not fit it: 0\.bias is \(4,\) instead of missing"):
        fit_weights("a.pt", theirs, own.state_dict(), "it")
    apart = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False)), nn.Sequential(nn.BatchNorm2d(4)))
    with pytest.raises(UserError, match=r"0\.0\.bias"):  # what else follows the first container is not known
        fit_weights("a.pt", apart.state_dict() | {"0.0.bias": torch.ones(4)}, apart.state_dict(), "it")


def equal_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Conv2d(4, 4, 3) for _ in range(12)))


def test_equal_layers_are_matched_by_their_numbers_and_not_by_the_order_of_the_alphabet():
    own = equal_layers().state_dict()
    theirs = {f"block{name}": own[name] for name in sorted(own)}
    assert list(theirs)[2] == "block1.bias"
    assert list(theirs)[4] == "block10.bias"
    fitted = fit_weights("a.pt", theirs, own, "it").tensors
    assert all(torch.equal(fitted[name], own[name]) for name in own)


def test_equal_layers_whose_order_is_not_certain_are_refused():
    own = equal_layers().state_dict()
    two = {name: own[name] for name in ("0.weight", "1.weight")}
    theirs = {f"layer_{'bca'[int(name.split('.')[0]) % 3]}{name}": tensor for name, tensor in own.items()}
    fitted = fit_weights("a.pt", theirs, own, "it").tensors
    assert all(torch.equal(fitted[name], own[name]) for name in own)
    with pytest.raises(UserError, match="do not tell which is which"):
        fit_weights("a.pt", dict(sorted(theirs.items())), own, "it")
    with pytest.raises(UserError, match="do not tell which is which"):
        fit_weights("a.pt", {f"up{name}": own[name] for name in reversed(own)}, own, "it")
    with pytest.raises(UserError, match="do not tell which is which"):
        fit_weights("a.pt", {"early.weight": own["0.weight"], "late.weight": own["1.weight"]}, two, "it")


def test_what_is_no_weight_of_the_network_is_named_and_passed_over(model):
    extra = {"features.0.total_ops": torch.zeros(1), "normalize.mean": torch.tensor([0.5, 0.25, 0.125])}
    notes = fit_weights("a.pt", model.state_dict() | extra, model.state_dict(), WHAT).notes
    assert notes == [
        "passed over, since they are no weights of the network: features.0.total_ops [0.0],"
        " normalize.mean [0.5, 0.25, 0.125]"
    ]


def test_further_layers_are_a_misfit(model):
    extra = {"projection.weight": torch.zeros(8, 64)}
    with pytest.raises(UserError, match=r"projection\.weight is \(8, 64\) instead of missing \(1 differ\)"):
        fit_weights("a.pt", model.state_dict() | extra, model.state_dict(), WHAT)


def test_torchvisions_vgg_is_named_as_another_network():
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        theirs, own = torchvision.models.vgg19_bn().state_dict(), build_model("vgg19_bn", 10).state_dict()
    with pytest.raises(UserError, match="torchvision's vgg19_bn with its three-layer head, for 224-pixel images"):
        fit_weights("a.pt", theirs, own, "a vgg19_bn of 10 classes")
    small = {name: tensor for name, tensor in theirs.items() if "classifier" not in name}
    small |= {f"classifier.{index}.weight": torch.zeros(512, 512) for index in (0, 3)}
    with pytest.raises(UserError, match="a head of three linear layers"):
        fit_weights("a.pt", small | {"classifier.6.weight": torch.zeros(10, 512)}, own, "a vgg19_bn")


def test_a_misfit_says_what_differs(model):
    weights, own = model.state_dict(), model.state_dict()
    with pytest.raises(UserError, match="it has 7 classes"):
        fit_weights("a.pt", build_model("cnn_tiny", 7).state_dict(), own, WHAT)
    with pytest.raises(UserError, match=r"features\.0\.weight is \(32, 3, 3, 3\) instead of \(16, 3, 3, 3\)"):
        fit_weights("a.pt", build_model("cnn", 10).state_dict(), own, WHAT)
    with pytest.raises(UserError, match=r"no linear layer \(hint: save the whole network"):
        fit_weights("a.pt", {n: t for n, t in weights.items() if "head" not in n}, own, WHAT)
    with pytest.raises(UserError, match="no batch norm"):
        fit_weights("a.pt", {n: t for n, t in weights.items() if t.ndim != 1 or "head" in n}, own, WHAT)
    two = {f"{net}.{name}": t for net in ("student", "teacher") for name, t in weights.items()}
    with pytest.raises(
        UserError, match=r"more than one network: both student\.features\.0 and teacher\.features\.0"
    ):
        fit_weights("a.pt", two, own, WHAT)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("int8", lambda tensor: tensor.to(torch.int8)),
        ("bool", lambda tensor: tensor > 0),
        ("complex64", lambda tensor: tensor.to(torch.complex64)),
        ("qint8", lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)),
        ("float8_e4m3fn", lambda tensor: tensor.to(torch.float8_e4m3fn)),
    ],
)
@pytest.mark.parametrize("prefix", ["", "other."])
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_weights_of_a_type_that_is_no_plain_float_are_refused_as_such(model, tmp_path, name, change, prefix):
    weights = {prefix + key: tensor for key, tensor in model.state_dict().items()}
    torch.save(weights | {f"{prefix}head.weight": change(model.head.weight.detach())}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=f"weights of type {name}, in {prefix}head.weight"):
        weights_in(tmp_path / "a.pt", model)


def test_values_that_are_not_finite_are_refused(model):
    weights = model.state_dict() | {"head.bias": torch.full((10,), torch.inf, dtype=torch.float64)}
    with pytest.raises(UserError, match=r"not finite, in head\.bias"):
        fit_weights("a.pt", weights, model.state_dict(), WHAT)


def test_several_entries_of_unknown_names_are_listed(model, tmp_path):
    torch.save({"first": model.state_dict(), "second": model.state_dict(), "epoch": 1}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="several dicts of tensors: first, second"):
        read_weights(tmp_path / "a.pt")
    torch.save({"model_ema": model.state_dict(), "model": model.state_dict()}, tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt").notes == ["the entry model is read, and not model_ema"]
    torch.save({"epoch": 1, "history": [1.0]}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="no dict of tensors, but epoch, history"):
        read_weights(tmp_path / "a.pt")


def onnx(model, path):
    pytest.importorskip("onnx")
    torch.onnx.export(model, (torch.zeros(1, 3, 32, 32),), path, dynamo=False)


def exported(model, path):
    torch.export.save(torch.export.export(model, (torch.zeros(1, 3, 32, 32),)), path)


def arrays(save):
    def write(model, path):
        with open(path, "wb") as file:  # a path would get an ending
            save(file, **{name: tensor.numpy() for name, tensor in model.state_dict().items()})

    return write


def archive(model, path):
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("weights.pt"), io.BytesIO())


def content(data: bytes):
    return lambda model, path: path.write_bytes(data)


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran-by-pickle",)


REFUSED = {
    "TorchScript": (
        lambda model, path: torch.jit.script(model).save(path),
        "TorchScript archive, which holds code",
    ),
    "ONNX": (onnx, "is an ONNX network"),
    "torch.export": (exported, r"a program of torch\.export"),
    "a module": (
        lambda model, path: torch.save(model, path),
        r"Python objects \(models\.cnn\.CNN\), not only tensors",
    ),
    "a module, before 1.6": (legacy, r"Python objects \(models\.cnn\.CNN\), not only tensors"),
    "a module in a dict": (
        lambda model, path: torch.save({"model": model, "epoch": 1}, path),
        r"Python objects \(models\.cnn\.CNN\), not only tensors",
    ),
    "code": (lambda model, path: torch.save({"model": Evil()}, path), r"Python objects \(\w+\.system\)"),
    "code beside weights": (
        lambda model, path: torch.save({"model": model.state_dict(), "x": Evil()}, path),
        r"Python objects \(\w+\.system\)",
    ),
    "a pickle": (content(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94."), "a Python pickle"),
    "npz": (arrays(np.savez), "NumPy arrays"),
    "compressed npz": (arrays(np.savez_compressed), "NumPy arrays"),
    "npy": (lambda model, path: path.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'"), "NumPy arrays"),
    "HDF5": (content(b"\x89HDF\r\n\x1a\n" + bytes(100)), "HDF5 file, as Keras writes"),
    "a SavedModel": (content(b"\x08\x01\x12\xb5\x10\x0a\x05\x12\x05serve"), "TensorFlow"),
    "a frozen graph": (content(b"\x0a\x1f\x0a\x05input\x12\x0bPlaceholder*\x09"), "TensorFlow"),
    "TensorFlow Lite": (content(b"\x1c\x00\x00\x00TFL3" + bytes(50)), "TensorFlow Lite"),
    "a web page": (content(b"\xef\xbb\xbf\n <!DOCTYPE html><html>"), "an HTML page"),
    "an error message": (content(b"Not\x1b[2J Found"), r"a text that begins with 'Not\\x1b\[2J Found'"),
    "a git-lfs pointer": (content(b"version https://git-lfs.github.com/spec/v1\noid"), "a git-lfs pointer"),
    "gzip": (content(gzip.compress(b"weights")), "compressed by gzip"),
    "tar": (archive, "a tar archive"),
    "nothing": (content(b""), "is empty"),
    "damaged safetensors": (
        content((20).to_bytes(8, "little") + b'{"a":{"dtype":"F32\x1b'),
        "damaged safetensors",
    ),
    "noise": (content(bytes(range(250, 10, -1))), "it begins with the bytes fa f9"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*(legacy TorchScript|torch.jit)")
def test_what_a_file_is_that_is_refused(kind, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, reason = REFUSED[kind]
    path = tmp_path / "weights.pt"
    make(model, path)
    with pytest.raises(UserError, match=reason) as error:
        read_weights(path)
    assert str(error.value).startswith(f"{path} ")
    assert error.value.hint or kind == "damaged safetensors"
    assert printable(error.value) == str(error.value)
    assert not (tmp_path / "ran-by-pickle").exists()


def nested() -> list:
    loop: list = []
    loop.append(loop)
    return loop


CRAFTED = {
    "nested in itself": lambda weights: {"net": weights, "args": nested()},
    "many references": lambda weights: {"net": weights, "more": [weights["features.3.weight"]] * 20_000},
    "a claim": lambda weights: weights | {"head.weight": torch.zeros(1).expand(10**6, 10**6)},
    "a sparse tensor": lambda weights: weights | {"head.weight": weights["head.weight"].to_sparse()},
    "a tensor of nowhere": lambda weights: weights | {"head.weight": torch.zeros(10, 64, device="meta")},
    "numbers as names": lambda weights: dict(enumerate(weights.values())),
    "a list": lambda weights: list(weights.values()),
    "a tensor": lambda weights: weights["head.weight"],
    "nothing": lambda weights: {},
    "an empty entry": lambda weights: {"state_dict": {}},
    "no shape": lambda weights: {name: torch.tensor(1.0) for name in weights},
    "empty tensors": lambda weights: {name: torch.zeros(0) for name in weights},
    "a name without end": lambda weights: {"." * 10**6: torch.zeros(3, 3)},
}


@pytest.mark.parametrize("save", [torch.save, legacy])
@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_file_is_one_short_line(kind, save, model, tmp_path):
    path = tmp_path / "a.pt"
    save(CRAFTED[kind](dict(model.state_dict())), path)
    with pytest.raises(UserError) as error:
        content = load_checkpoint(path, plain=True)
        fit_weights(path, content["model"], model.state_dict(), WHAT)
    assert str(error.value).startswith(f"{path} ")
    assert printable(error.value) == str(error.value)
    assert len(str(error.value)) < 500


def test_a_flipped_bit_in_weights_without_a_checksum_is_noticed(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "a.pt")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[data.index(model.head.weight.detach().numpy().tobytes()) + 5] ^= 1
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(UserError, match="is damaged in a/data/"):
        read_weights(tmp_path / "a.pt")


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(UserError, match="a device or pipe"):
        read_weights(tmp_path / "a.pt")


def test_safetensors_without_the_package_is_one_line(model, tmp_path, monkeypatch):
    safetensors(model.state_dict(), tmp_path / "a.pt")
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(UserError, match=r"not installed \(hint: pip install safetensors\)"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("save", [torch.save, legacy, safetensors])
def test_a_file_that_is_cut_off_anywhere_is_one_clear_error(model, tmp_path, save):
    save(model.state_dict(), tmp_path / "whole.pt")
    whole, path = (tmp_path / "whole.pt").read_bytes(), tmp_path / "cut.pt"
    for size in (*range(0, 400, 7), *range(400, len(whole) - 1, 9973), len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError) as error:
            weights_in(path, model)
        assert printable(error.value) == str(error.value)


def test_names_in_files_cannot_steer_the_terminal(model, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(model.state_dict() | {"\x1b[2J\nerror.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(UserError, match=r"fit a cnn_tiny of 10 classes: \\x1b\[2J\\nerror\.weight is \(3, 3\)"):
        weights_in(path, model)
    legacy(model, path)
    path.write_bytes(path.read_bytes().replace(b"cmodels.cnn\nCNN", b"cmod\x1b[2J\xc2\x9b\nCNN"))
    with pytest.raises(UserError, match=r"Python objects \(mod\\x1b\[2J\\x9b\.CNN\)"):
        weights_in(path, model)
    assert printable("a\x1b[1m\r\n\x9b\u202e\udcffé 中\u3000") == "a\\x1b[1m\\r\\n\\x9b\\u202e\\udcffé 中\u3000"


def test_an_odd_counter_of_batch_norm_is_no_misfit(model):
    name = "features.1.num_batches_tracked"
    for counter in (torch.ones(3), torch.ones(1), torch.ones(3, dtype=torch.int64)):
        fitted = fit_weights("a.pt", model.state_dict() | {name: counter}, model.state_dict(), WHAT)
        assert torch.equal(fitted.tensors[name], torch.tensor(0))


def test_a_file_is_known_by_its_content_and_not_by_its_name(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "a.safetensors")
    assert weights_in(tmp_path / "a.safetensors", model)[1] == []
    assert identify(tmp_path / "a.safetensors").what == "a file of torch.save"
