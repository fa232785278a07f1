"""test.py with files of other programs, with test images alone, and where nothing may be written."""

import errno
import json

import pytest
import torch
from image_files import make_tree, save
from toys import CPU, finished_run

import test as test_program
import utils.evaluation.networks
import utils.test_run
from models import build_model
from utils.data.batches import Normalise
from utils.data.sources import load_images, shapes
from utils.evaluation.networks import Foreign, Networks
from utils.runtime.checkpoint import load_checkpoint, save_checkpoint
from utils.runtime.errors import UserError
from utils.runtime.program import run
from utils.test_run import Evaluator

UNIT = ((0.3, 0.4, 0.5), (0.2, 0.25, 0.3))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few images, and no measurement of speed."""
    monkeypatch.setattr(shapes, "TEST", 60)
    cost = {"multiply_adds": 1, "file_bytes": 1, "throughput": 1, "throughput_batch": 1, "busy": ""}
    cost |= {f"latency_{name}ms": 1.0 for name in ("", "q1_", "q3_")}

    def measure(networks, _compute):
        return [cost | {"parameters": count(model)} for model, _size in networks]

    monkeypatch.setattr(utils.test_run, "measure_costs", measure)


def count(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build_model("cnn_tiny", 10)
    model(torch.randn(64, 3, 32, 32))
    return model.eval()


def logits(model, normalise: Normalise) -> torch.Tensor:
    with torch.no_grad():
        return model(normalise(shapes.draw(60, seed=2).images))


def networks(network: str | None = "cnn_tiny", normalisation=None) -> Networks:
    images = {"dataset": "shapes", "data_dir": "nowhere", "image_size": 32, "limit": None}
    return Networks({}, CPU, build_model, Foreign(network, normalisation, images))


def plain(path, model):
    torch.save(model.state_dict(), path)


def wrapped(path, model):
    torch.save({"epoch": 3, "net": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)


def safetensors(path, model):
    pytest.importorskip("safetensors.torch").save_file(model.state_dict(), path)


@pytest.mark.parametrize("make", [plain, wrapped, safetensors])
def test_a_file_of_another_program_is_measured_with_the_normalisation_of_the_flags(tmp_path, model, make):
    make(tmp_path / "weights", model)
    network = networks(normalisation=UNIT).network(tmp_path / "weights")
    expected = logits(model, Normalise(*([255 * value for value in values] for values in UNIT)))
    torch.testing.assert_close(network.logits, expected, rtol=1e-4, atol=1e-4)


def test_without_flags_the_normalisation_is_that_of_the_test_images(tmp_path, model, capsys):
    plain(tmp_path / "weights.pt", model)
    network = networks().network(tmp_path / "weights.pt")
    pixels = shapes.draw(60, seed=2).images.double()
    normalise = Normalise(pixels.mean((0, 1, 2)).tolist(), pixels.flatten(0, 2).std(0, correction=0).tolist())
    torch.testing.assert_close(network.logits, logits(model, normalise), rtol=1e-4, atol=1e-4)
    assert "assumed is that of the images here" in capsys.readouterr().err


def test_a_file_that_does_not_tell_its_network_needs_a_name_before_any_image_is_read(tmp_path, model, monkeypatch):
    plain(tmp_path / "weights.pt", model)
    monkeypatch.setattr(utils.evaluation.networks, "load_parts", None)
    with pytest.raises(UserError, match=r"weights\.pt is of another program.*--teacher NAME or --student NAME"):
        networks(network=None).network(tmp_path / "weights.pt")


def test_a_file_of_another_network_names_both(tmp_path, model):
    plain(tmp_path / "weights.pt", model)
    with pytest.raises(UserError, match="does not fit a cnn of 10 classes"):
        networks("cnn").network(tmp_path / "weights.pt")


def test_a_checkpoint_of_this_program_is_measured_as_ever_and_takes_no_normalisation(tmp_path, model):
    path = own_checkpoint(tmp_path, model, shapes.draw(60, seed=2).class_names)
    expected = logits(model, Normalise([127.0] * 3, [64.0] * 3))
    torch.testing.assert_close(networks(None).network(path).logits, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="tells its normalisation"):
        networks(None, UNIT).network(path)


def own_checkpoint(folder, model, class_names, **identity):
    identity = {"dataset": "shapes", "image_size": 32, "limit": None, "epochs": 3} | identity
    content = {"model_name": "cnn_tiny", "num_classes": len(class_names), "class_names": list(class_names)}
    content |= {"image_size": 32, "mean": [127.0] * 3, "std": [64.0] * 3, "epoch": 3, "metrics": {}}
    content |= {"config": {"identity": identity, "data_dir": "nowhere"}}
    save_checkpoint(folder / "last.pt", model.state_dict(), content)
    return folder / "last.pt"


def figures(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_program_prints_the_figures_and_leaves_a_folder_of_somebody_else_as_it_is(tmp_path, model, capsys):
    path = tmp_path / "weights.pt"
    plain(path, model)
    (tmp_path / "config.json").write_text('{"architectures": ["VGG"]}')
    line = ["--checkpoint", str(path), "--student", "cnn_tiny", "--dataset", "shapes", "--device", "cpu"]
    line += ["--teacher-mean", "0.3,0.4,0.5", "--teacher-std", "0.2,0.25,0.3"]
    assert run(test_program.main, line) == 0
    output = capsys.readouterr().out
    expected = logits(model, Normalise(*([255 * value for value in values] for values in UNIT)))
    right = (expected.argmax(1) == shapes.draw(60, seed=2).labels).double().mean().item()
    result = json.loads(output.splitlines()[-1])
    assert result["top1"] == pytest.approx(100 * right, abs=1e-3)
    assert (result["epoch"], result["model"]) == (None, "cnn_tiny")
    assert f"not saved: {tmp_path} is no run directory" in output
    assert {each.name for each in tmp_path.iterdir()} == {"weights.pt", "config.json"}


def test_beside_a_checkpoint_in_a_run_directory_the_figures_are_saved(tmp_path, model):
    folder = finished_run(tmp_path / "student-cnn_tiny" / "seed0").path
    path = own_checkpoint(folder, model, shapes.draw(60, seed=2).class_names)
    Evaluator(Networks({}, CPU, build_model)).evaluate(path, None)
    assert json.loads((folder / "last.test.json").read_text())["images"] == 60
    assert (folder / "last.confusion.png").exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_in_a_folder_that_cannot_be_written_to_the_figures_are_printed(
    tmp_path, model, capsys, monkeypatch, number
):
    folder = finished_run(tmp_path / "student-cnn_tiny" / "seed0").path
    path = own_checkpoint(folder, model, shapes.draw(60, seed=2).class_names)
    before = {each.name for each in folder.iterdir()}

    def refuse(path, _content):
        raise OSError(number, "not allowed", str(path))

    monkeypatch.setattr(utils.test_run, "write_json", refuse)
    assert Evaluator(Networks({}, CPU, build_model)).evaluate(path, None)["images"] == 60
    output = capsys.readouterr().out
    assert "test: top-1" in output
    assert f"not saved: {folder}: not allowed" in output
    assert {each.name for each in folder.iterdir()} == before


def test_a_full_disk_still_is_an_error_after_the_figures(tmp_path, model, capsys, monkeypatch):
    folder = finished_run(tmp_path / "student-cnn_tiny" / "seed0").path
    path = own_checkpoint(folder, model, shapes.draw(60, seed=2).class_names)

    def fill(path, _content):
        raise OSError(errno.ENOSPC, "no space", str(path))

    monkeypatch.setattr(utils.test_run, "write_json", fill)
    with pytest.raises(OSError, match="no space"):
        Evaluator(Networks({}, CPU, build_model)).evaluate(path, None)
    assert "test: top-1" in capsys.readouterr().out


@pytest.fixture
def folder_checkpoint(tmp_path):
    """A checkpoint of the classes of a folder of images, which holds test/ alone, with one unreadable image."""
    tree = make_tree(tmp_path / "my_images")
    names = load_images("folder", tree).train.class_names
    for path in sorted((tree / "train").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tree / "train").rmdir()
    (tree / "test" / names[0] / "broken.png").write_bytes(b"no image")
    torch.manual_seed(0)
    model = build_model("cnn_tiny", len(names)).eval()
    return own_checkpoint(tmp_path, model, names, dataset="folder"), tree


def test_a_checkpoint_needs_the_test_images_alone_and_bad_ones_are_skipped_on_demand(folder_checkpoint, capsys):
    path, tree = folder_checkpoint
    line = ["--checkpoint", str(path), "--data-dir", str(tree), "--device", "cpu"]
    assert run(test_program.main, line) == 1
    assert "--skip-bad-images True" in capsys.readouterr().err
    assert run(test_program.main, [*line, "--skip-bad-images", "True"]) == 0
    assert figures(capsys)["images"] == len(load_images("folder", tree, test_only=True, skip_bad_images=True).test)


def test_classes_are_numbered_as_the_network_has_them(folder_checkpoint, capsys):
    path, tree = folder_checkpoint
    content = load_checkpoint(path)
    reverse = list(reversed(content["class_names"]))
    torch.manual_seed(0)
    own_checkpoint(path.parent, build_model("cnn_tiny", 2), reverse, dataset="folder")
    (tree / "test" / content["class_names"][0] / "broken.png").unlink()
    network = Networks({"data_dir": str(tree)}, CPU, build_model).network(path)
    listed = load_images("folder", tree, test_only=True).test
    assert torch.equal(network.labels, 1 - listed.labels)


def test_a_test_part_that_lacks_a_class_of_the_network_is_measured_with_a_note(folder_checkpoint, capsys):
    path, tree = folder_checkpoint
    names = load_checkpoint(path)["class_names"]
    for file in (tree / "test" / names[0]).iterdir():
        file.unlink()
    (tree / "test" / names[0]).rmdir()
    network = Networks({"data_dir": str(tree)}, CPU, build_model).network(path)
    assert set(network.labels.tolist()) == {1}
    assert f"test/ has no images of: {names[0]}" in capsys.readouterr().out


def test_a_foreign_file_has_the_classes_of_the_folders_in_test(tmp_path, capsys):
    tree = make_tree(tmp_path / "my_images")
    for name in ("owl", "emu"):
        save(tree / "test" / name / "0.png", torch.zeros(40, 40, 3, dtype=torch.uint8).numpy())
    torch.manual_seed(0)
    plain(tmp_path / "w.pt", build_model("cnn_tiny", 4))
    line = ["--checkpoint", str(tmp_path / "w.pt"), "--teacher", "cnn_tiny", "--dataset", "folder"]
    assert run(test_program.main, [*line, "--data-dir", str(tree), "--device", "cpu"]) == 0
    assert figures(capsys)["images"] == len(list((tree / "test").rglob("*.png")))
