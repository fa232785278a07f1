import copy
import hashlib
import json
import logging
import os
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from toys import CPU, NORMALISE, images, network

from models import build_model
from utils.data.batches import Normalise
from utils.evaluation import export as export_module
from utils.evaluation.export import CARD, compare, export, require_ready
from utils.evaluation.formats import FORMATS, Deployable
from utils.runtime.checkpoint import load_checkpoint, save_checkpoint
from utils.runtime.device import Compute
from utils.runtime.errors import UserError

for extra in ("safetensors", "onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(extra)
import onnxruntime
from safetensors import safe_open
from safetensors.torch import load, load_file

MEAN, STD = [125.3, 122.9, 113.9], [62.9, 62.1, 66.7]
IDENTITY = {"role": "kd", "epochs": 2, "data": "0123456789abcdef", "teacher_sha256": "fedcba9876543210"}
NAMES = tuple(f"student{ending}" for ending in FORMATS)
CONFIG = {"identity": IDENTITY, "data_dir": "/home/me"}


def experienced(model: nn.Module, test) -> nn.Module:
    """Batch norm statistics of these images instead of 0 and 1, and the layout that a GPU run gives weights."""
    with torch.no_grad():
        for _ in range(30):
            model.train()(NORMALISE(test.images))
    return CPU.place(model).eval()


def checkpoint(folder: Path, model: nn.Module, test, name: str) -> dict:
    content = {"model_name": name, "num_classes": test.num_classes, "class_names": list(test.class_names)}
    content |= {"image_size": test.image_size, "mean": MEAN, "std": STD, "config": CONFIG, "epoch": 2}
    save_checkpoint(folder / "last.pt", model.state_dict(), content | {"metrics": {}})
    return load_checkpoint(folder / "last.pt")


def made(folder: Path, name: str, classes: int, size: int, count: int) -> SimpleNamespace:
    torch.manual_seed(1)
    test = images(count, classes, seed=1, size=size)
    model = experienced(network(classes) if name == "toy" else build_model(name, classes), test)
    saved, target = checkpoint(folder, model, test, name), folder / "new" / "export"
    card = export(model, saved, test, CPU, target)
    return SimpleNamespace(network=model, test=test, checkpoint=saved, card=card, folder=target)


@pytest.fixture(scope="module", params=[("toy", 4, 32, 257), ("cnn_tiny", 100, 32, 200), ("toy", 2, 64, 90)])
def exported(request, tmp_path_factory):
    return made(tmp_path_factory.mktemp("export"), *request.param)


@pytest.fixture
def ready(tmp_path):
    """What `export` takes, with the folder last: a tiny network and few images."""
    test = images(40)
    model = experienced(network(), test)
    return [model, checkpoint(tmp_path, model, test, "toy"), test, CPU, tmp_path / "export"]


def run_onnx(folder: Path, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / "student.onnx", providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": pixels})[0]


def run_pt2(folder: Path, pixels: np.ndarray) -> np.ndarray:
    return torch.export.load(folder / "student.pt2").module()(torch.from_numpy(pixels)).detach().numpy()


@pytest.mark.parametrize("run", [run_onnx, run_pt2])
@pytest.mark.parametrize("count", [1, 2, 33])
def test_raw_pixels_give_the_logits_of_the_network_for_normalised_images(exported, run, count):
    pixels = exported.test.images[-count:]
    with torch.no_grad():
        expected = exported.network(Normalise(MEAN, STD)(pixels)).numpy()
    logits = run(exported.folder, pixels.numpy())
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=2e-5, rtol=1e-5)


def test_the_normalisation_within_is_the_one_of_float64_arithmetic(exported):
    deployable = Deployable(nn.Identity(), MEAN, STD)
    expected = (exported.test.images.numpy().astype(np.float64) - MEAN) / STD
    np.testing.assert_allclose(deployable(exported.test.images), expected.transpose(0, 3, 1, 2), atol=1e-6)


@pytest.mark.parametrize("run", [run_onnx, run_pt2])
def test_other_types_layouts_and_sizes_are_refused_when_the_file_is_used(exported, run):
    pixels = exported.test.images[:4].numpy()
    for wrong in (pixels.astype(np.float32), pixels.transpose(0, 3, 1, 2).copy(), pixels[:, 1:].copy(), pixels[0]):
        with pytest.raises(Exception, match=r"(?i)dtype|data type|dimension|rank|guard"):
            run(exported.folder, wrong)


def test_the_graph_names_its_input_and_output_and_leaves_the_batch_open(exported):
    session = onnxruntime.InferenceSession(exported.folder / "student.onnx", providers=["CPUExecutionProvider"])
    ((into,), (out,)), size = (session.get_inputs(), session.get_outputs()), exported.test.image_size
    assert (into.name, into.type, into.shape) == ("images", "tensor(uint8)", ["batch", size, size, 3])
    assert (out.name, out.type, out.shape) == ("logits", "tensor(float)", ["batch", exported.test.num_classes])


def test_the_weights_are_the_networks_bit_for_bit_and_say_whose_they_are(exported):
    path = exported.folder / "student.safetensors"
    expected, weights = exported.network.state_dict(), load_file(path)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    with safe_open(path, "pt") as file:
        sha256, name = exported.checkpoint["sha256"], exported.checkpoint["model_name"]
        assert file.metadata() == {"format": "pt", "model_name": name, "sha256": sha256}


def test_the_card_tells_what_was_measured_and_where_it_comes_from(exported):
    card = json.loads((exported.folder / CARD).read_text(encoding="utf-8"))
    assert card == exported.card
    assert sorted(os.listdir(exported.folder)) == sorted([CARD, *card["files"]])
    for name, file in card["files"].items():
        data = (exported.folder / name).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert file["check"]["images"] == len(exported.test)
        assert file["check"]["top1_differs"] == 0
        assert file["check"]["largest_logit_difference"] < 1e-4
        assert file["check"]["batch_sizes"][0] == 1
    guesses = run_onnx(exported.folder, exported.test.images.numpy()).argmax(1)
    top1 = 100 * np.mean(guesses == exported.test.labels.numpy())
    assert card["test"]["top1"] == pytest.approx(top1, abs=1e-3)
    assert card["test"]["fingerprint"] == exported.test.fingerprint()
    assert card["parameters"] == sum(parameter.numel() for parameter in exported.network.parameters())
    assert card["classes"] == list(exported.test.class_names)
    assert card["input"]["range"] == [0, 255]
    assert card["input"]["made_from_a_file"].keys() >= {"orientation", "transparency", "crop", "resize", "depth"}
    assert card["normalisation"] == {"formula": "(pixel - mean) / std", "mean": MEAN, "std": STD}
    provenance = card["provenance"]
    assert provenance["sha256"] == exported.checkpoint["sha256"]
    assert (provenance["data"], provenance["teacher_sha256"]) == (IDENTITY["data"], IDENTITY["teacher_sha256"])
    assert provenance["versions"]["torch"] == torch.__version__


def test_no_file_tells_of_the_machine_that_made_it(exported):
    for name in (*NAMES, CARD):
        data = (exported.folder / name).read_bytes()
        assert not [text for text in (os.getcwd(), "site-packages", "/home/me") if text.encode() in data], name


def test_one_line_is_printed_for_each_file_and_nothing_else(ready, capfd):
    before = {name: tensor.clone() for name, tensor in ready[0].state_dict().items()}
    export(*ready)
    out, err = capfd.readouterr()
    assert err == ""
    for line, name in zip(out.splitlines(), NAMES, strict=True):
        assert line.startswith(f"{ready[-1] / name}: ")
        assert "same top-1 as the live network on 40 of 40 images" in line
    assert not ready[0].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in ready[0].state_dict().items())
    assert ready[0][0].weight.is_contiguous(memory_format=torch.channels_last)


def test_warnings_and_logs_of_the_exporters_are_silenced_but_later_ones_are_not(
    ready, monkeypatch, recwarn, caplog
):
    make, read_back, content = FORMATS[".onnx"]

    def noisy(*args):
        warnings.warn("old operator", DeprecationWarning, stacklevel=1)
        logging.getLogger("onnxscript").warning("a step was left out")
        return make(*args)

    monkeypatch.setitem(FORMATS, ".onnx", (noisy, read_back, content))
    export(*ready)
    logging.getLogger("onnxscript").warning("later")
    warnings.warn("later", DeprecationWarning, stacklevel=1)
    assert [str(warning.message) for warning in recwarn] == ["later"]
    assert [record.message for record in caplog.records if record.levelno > logging.DEBUG] == ["later"]


@pytest.mark.parametrize(("role", "name"), [("teacher", "teacher"), ("student", "student"), (None, "network")])
def test_the_files_are_named_by_the_role_of_the_network(ready, monkeypatch, capsys, role, name):
    monkeypatch.setattr(export_module, "FORMATS", {".safetensors": FORMATS[".safetensors"]})
    ready[1]["config"] = {"identity": {"role": role} if role else {}}
    card = export(*ready)
    assert sorted(os.listdir(ready[-1])) == sorted([CARD, f"{name}.safetensors"])
    assert [*card["files"]] == [f"{name}.safetensors"]
    assert f"/{name}.safetensors: " in capsys.readouterr().out


def test_layers_that_share_their_weights_are_written_twice(ready):
    layer = nn.Linear(3, 3)
    data = FORMATS[".safetensors"][0](nn.Sequential(layer, layer), None, ready[1])
    assert torch.equal(load(data)["1.weight"], layer.weight)


def test_a_large_test_set_is_compared_on_images_from_all_of_it(ready, monkeypatch):
    seen = []
    monkeypatch.setattr(export_module, "MOST_IMAGES", 4)
    monkeypatch.setattr(
        export_module, "compare", lambda name, forward, parts, logits: seen.append((parts, logits)) or CHECK
    )
    card = export(*ready)
    (parts, logits), test = seen[0], ready[2]
    assert torch.equal(torch.cat(parts), test.images[[0, 10, 20, 30]])
    with torch.no_grad():
        expected = ready[0](Normalise(MEAN, STD)(test.images))
    torch.testing.assert_close(logits, expected[[0, 10, 20, 30]])
    assert card["test"]["images"] == 40
    assert card["test"]["top1"] == pytest.approx(100 * (expected.argmax(1) == test.labels).double().mean().item())


CHECK = {"images": 4, "top1_differs": 0, "near_ties": 0, "largest_logit_difference": 0.0}


# What is wrong is noticed, and leaves nothing behind.


@pytest.mark.parametrize("ending", FORMATS)
def test_a_corrupted_weight_is_noticed_and_no_file_is_left(ready, monkeypatch, ending):
    make, read_back, content = FORMATS[ending]
    needle = ready[0].state_dict()["5.weight"].numpy().tobytes()

    def broken(*args):
        data = bytearray(make(*args))
        start = data.index(needle)
        data[start + 3] ^= 2  # the exponent of the first weight
        return bytes(data)

    monkeypatch.setitem(FORMATS, ending, (broken, read_back, content))
    with pytest.raises(UserError, match=f"student{ending}"):
        export(*ready)
    assert os.listdir(ready[-1].parent) == ["last.pt"]


@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
def test_another_normalisation_in_a_file_is_noticed(ready, monkeypatch, ending):
    real = export_module.trace

    def other(deployable, size):
        changed = copy.deepcopy(deployable)
        changed.mean += 3
        return real(changed, size)

    monkeypatch.setattr(export_module, "trace", other)
    monkeypatch.setattr(export_module, "FORMATS", {ending: FORMATS[ending]})
    with pytest.raises(
        UserError, match=f"student{ending} predicts another class on .* logits up to .* not written"
    ):
        export(*ready)
    assert os.listdir(ready[-1].parent) == ["last.pt"]


def test_weights_other_than_the_checkpoints_are_not_exported(ready):
    ready[1] |= {"sha256": "0" * 64}
    with pytest.raises(UserError, match="does not hold the weights of the checkpoint"):
        export(*ready)


EXPECTED = torch.tensor([[1.0, 2.0, 9.0], [4.0, 4.00005, 0.0], [7.0, 1.0, 2.0]])
PIXELS = (torch.tensor([0, 1], dtype=torch.uint8), torch.tensor([2], dtype=torch.uint8))


def compared(logits: torch.Tensor, single: torch.Tensor | None = None):
    """Compare a file whose output for image i is `logits[i]`, and for the first image by itself `single`."""
    calls = []

    def forward(part):
        calls.append(part)
        return single if single is not None and len(calls) == 3 else logits[part.long()]

    return compare("file", forward, PIXELS, EXPECTED)


def test_an_exchange_of_two_near_best_logits_passes_and_is_counted():
    logits = EXPECTED.clone()
    logits[1, 0] = 4.0001
    check = compared(logits)
    assert (check["images"], check["top1_differs"], check["near_ties"]) == (3, 1, 1)
    assert check["largest_logit_difference"] == pytest.approx(1e-4, rel=0.01)
    assert compared(EXPECTED)["top1_differs"] == 0


@pytest.mark.parametrize(
    ("index", "value", "wrong"),
    [((2, 1), 7.5, 1), ((0, 2), 9.02, 0), ((0, 0), torch.nan, 1), ((0, 2), torch.nan, 0), ((0, 2), torch.inf, 0)],
)
def test_another_class_a_logit_that_is_off_and_one_that_is_no_number_are_refused(index, value, wrong):
    logits = EXPECTED.clone()
    logits[index] = value
    with pytest.raises(UserError, match=f"predicts another class on {wrong} of 3 images"):
        compared(logits)


def test_an_image_alone_needs_the_outputs_that_it_has_in_its_batch():
    with pytest.raises(UserError, match="another class on 1 of 3"):
        compared(EXPECTED, torch.tensor([[9.0, 2.0, 1.0]]))
    with pytest.raises(UserError, match=r"another class on 0 of 3 images, with logits up to 5\.0e-01 off"):
        compared(EXPECTED, torch.tensor([[1.0, 2.0, 9.5]]))


def test_a_top1_that_differs_without_a_near_tie_is_refused_however_close_the_logits_are():
    expected = torch.tensor([[100.0, 100.001]])
    with pytest.raises(UserError, match="another class on 1 of 1"):
        compare("file", lambda part: expected.flip(1), (torch.zeros(1),), expected)


def test_all_missing_packages_are_named_at_once_and_nothing_is_written(ready, monkeypatch):
    monkeypatch.setattr(export_module, "EXTRAS", ("safetensors", "no_such_package", "torch", "nor_this"))
    with pytest.raises(UserError) as caught:
        export(*ready)
    expected = "--export needs no_such_package and nor_this (hint: pip install no_such_package nor_this)"
    assert str(caught.value) == expected
    assert not ready[-1].exists()


@pytest.mark.parametrize("name", [*NAMES, CARD])
def test_a_file_that_is_there_already_is_neither_replaced_nor_joined(ready, name):
    ready[-1].mkdir()
    (ready[-1] / name).write_text("mine")
    with pytest.raises(UserError, match=f"it holds {name} already .*another --export folder, or remove it"):
        export(*ready)
    assert (ready[-1] / name).read_text() == "mine"
    assert os.listdir(ready[-1]) == [name]


def test_a_folder_that_is_a_file_or_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "in" / "it"):
        with pytest.raises(UserError, match=r"file is not a folder .*another --export folder"):
            require_ready(folder)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=rf"{tmp_path} cannot be written to .*permissions"):
        require_ready(tmp_path / "new")
    assert os.listdir(tmp_path) == ["file"]


def test_a_disk_that_fails_is_one_line_and_leaves_nothing(ready, monkeypatch):
    def fail(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        export(*ready)
    assert os.listdir(ready[-1].parent) == ["last.pt"]


def test_an_end_in_the_middle_leaves_no_file(ready, monkeypatch):
    def stop(name, *_more):
        if name == "student.pt2":
            raise KeyboardInterrupt
        return CHECK

    monkeypatch.setattr(export_module, "compare", stop)
    with pytest.raises(KeyboardInterrupt):
        export(*ready)
    assert os.listdir(ready[-1].parent) == ["last.pt"]


def test_all_files_appear_by_a_single_rename(ready, monkeypatch):
    seen, real, folder = [], os.rename, ready[-1]

    def rename(old, new):
        seen.append((sorted(os.listdir(old)), Path(new).exists()))
        real(old, new)

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "replace", None)
    export(*ready)
    assert seen == [(sorted([CARD, *NAMES]), False)]
    assert sorted(os.listdir(folder)) == seen[0][0]


def test_an_empty_folder_is_filled_and_a_link_to_one_stays_a_link(ready):
    (ready[-1].parent / "disk").mkdir()
    ready[-1].symlink_to("disk")
    export(*ready)
    assert ready[-1].is_symlink()
    assert sorted(os.listdir(ready[-1])) == sorted([CARD, *NAMES])


def test_a_folder_with_other_files_is_refused_at_once(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "more.txt").write_text("mine")
    with pytest.raises(UserError, match=r"it holds more\.txt and 1 more already"):
        require_ready(tmp_path)


def test_a_mount_point_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(UserError, match=r"mounted .*a new folder within it"):
        require_ready(tmp_path)
    require_ready(tmp_path / "new")


def test_exports_of_one_checkpoint_have_the_same_bytes(ready):
    sums = set()
    for number in range(4):  # the order of safetensors' metadata is drawn anew each time
        ready[-1] = ready[-1].with_name(f"export{number}")
        export(*ready)
        sums.add(tuple(hashlib.sha256((ready[-1] / name).read_bytes()).hexdigest() for name in (*NAMES, CARD)))
    assert len(sums) == 1


class Undecided(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, batch):
        means = self.head(batch.mean((2, 3)))
        return means if means.sum() > 0 else -means


def test_a_network_that_cannot_be_traced_is_named(ready, tmp_path):
    model = Undecided().eval()
    ready[:2] = model, checkpoint(tmp_path, model, ready[2], "undecided")
    with pytest.raises(UserError, match=r"undecided cannot be exported: .*--debug"):
        export(*ready)
    assert os.listdir(ready[-1].parent) == ["last.pt"]


@pytest.mark.gpu
def test_a_network_on_a_gpu_gives_files_with_its_outputs_anywhere(ready):
    compute = Compute(torch.device("cuda"), "bf16")
    card = export(compute.place(ready[0]), ready[1], ready[2], compute, ready[-1])
    assert {file["check"]["top1_differs"] for file in card["files"].values()} == {0}
    assert torch.export.load(ready[-1] / "student.pt2").module()(ready[2].images).device.type == "cpu"
