"""test.py --predict: class and confidence of image files of one's own."""

import csv
import json
import math
import os

import numpy as np
import pytest
import torch
from image_files import save, solid
from PIL import Image
from torch import nn
from toys import CPU

import test as test_program
import utils.predict_run
from models import build_model
from utils.data.sources import load_images
from utils.predict_run import choose_table, predict_files
from utils.runtime.checkpoint import save_checkpoint
from utils.runtime.errors import UserError
from utils.runtime.program import run

MEAN, STD = [10.0, 20.0, 30.0], [50.0, 100.0, 200.0]
CHECKPOINT = {"mean": MEAN, "std": STD, "image_size": 32, "class_names": ["red", "green", "blue"]}


class MeanColour(nn.Module):
    """Its logits are the means of the normalised channels."""

    def forward(self, images):
        return images.mean((2, 3))


def confidence_of(colour: tuple[int, int, int]) -> tuple[str, float]:
    """What `MeanColour` predicts of an image of one colour, in plain arithmetic."""
    powers = [math.exp((value - mean) / std) for value, mean, std in zip(colour, MEAN, STD, strict=True)]
    best = max(range(3), key=powers.__getitem__)
    return CHECKPOINT["class_names"][best], 100 * powers[best] / sum(powers)


COLOURS = {
    "a.png": (200, 10, 10),
    "b.png": (20, 180, 60),
    "deep/c.png": (60, 120, 40),
    "deep/er/d.png": (0, 0, 250),
}


@pytest.fixture
def photos(tmp_path):
    for name, colour in COLOURS.items():
        save(tmp_path / "photos" / name, solid(*colour))
    return tmp_path / "photos"


def test_each_image_has_the_class_and_confidence_of_plain_arithmetic(photos, capsys):
    predictions = predict_files([str(photos)], CHECKPOINT, MeanColour(), CPU)
    lines = capsys.readouterr().out.splitlines()
    assert [str(each.path.relative_to(photos)) for each in predictions.all] == list(COLOURS)
    for each, line, colour in zip(predictions.all, lines, COLOURS.values(), strict=True):
        name, confidence = confidence_of(colour)
        assert each.class_name == name
        assert each.confidence == pytest.approx(confidence, abs=1e-3)
        assert line == f"{each.path}: {name} {confidence:.1f} %"


class Linear(nn.Module):
    """Its logits depend on each pixel by itself."""

    def forward(self, images):
        weights = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) / 30
        return torch.einsum("bchw,kchw->bk", images, weights)


def test_images_are_decoded_as_those_of_a_training(tmp_path):
    """Sideways, transparent, of 16 bits, not square, much larger: the training's own source is the reference."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 70, 4), dtype=np.uint8)
    sideways, folder = Image.Exif(), tmp_path / "test" / "red"
    sideways[0x112] = 6
    save(folder / "a.jpg", noise[..., :3], exif=sideways)
    save(folder / "b.png", Image.fromarray(noise))
    save(folder / "c.png", Image.fromarray(noise[..., 0].astype(np.uint16) * 200))
    save(folder / "d.jpg", Image.fromarray(noise[..., :3]).resize((900, 700)))
    for name in ("red", "green"):
        save(tmp_path / "train" / name / "0.png", solid(0, 0, 0))
    test = load_images("folder", tmp_path).test
    pixels = (test.images.double() - torch.tensor(MEAN)) / torch.tensor(STD)
    expected = Linear()(pixels.permute(0, 3, 1, 2).float()).double().softmax(1)
    predictions = predict_files([str(folder)], CHECKPOINT, Linear(), CPU).all
    assert [each.path.name for each in predictions] == ["a.jpg", "b.png", "c.png", "d.jpg"]
    for each, probabilities in zip(predictions, expected, strict=True):
        assert each.class_name == CHECKPOINT["class_names"][probabilities.argmax()]
        assert each.confidence == pytest.approx(100 * probabilities.max().item(), abs=1e-3)


def test_files_are_read_once_in_parts_and_whatever_their_ending(photos, monkeypatch):
    monkeypatch.setitem(utils.predict_run.EVAL_BATCH, "cpu", 2)
    (photos / "b.png").rename(photos / "b.dat")
    paths = [str(photos / "b.dat"), str(photos), str(photos / "a.png")]
    predictions = predict_files(paths, CHECKPOINT, MeanColour(), CPU).all
    assert [each.path.name for each in predictions] == ["b.dat", "a.png", "c.png", "d.png"]
    assert predictions[0].class_name == "green"


def test_unreadable_files_are_named_in_a_line_each_and_the_others_are_predicted(photos, capsys):
    (photos / "e.png").write_bytes(b"\x89PNG broken")
    (photos / "f\n\x1b[31m.png").write_bytes(b"")
    (photos / "notes.txt").write_text("")
    predictions = predict_files([str(photos), "gone.png"], CHECKPOINT, MeanColour(), CPU)
    out, err = capsys.readouterr()
    assert (len(predictions.all), predictions.unreadable, out.count("\n")) == (4, 3, 4)
    assert err.splitlines() == [
        "note: passed over: 1 .txt",
        f"warning: {photos}/e.png could not be read: cannot identify image file",
        f"warning: {photos}/f\\n\\x1b[31m.png could not be read: is empty",
        "warning: gone.png could not be read: No such file or directory",
    ]


def test_where_nothing_can_be_predicted_the_command_fails(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no images in .*empty"):
        predict_files([str(tmp_path / "empty")], CHECKPOINT, MeanColour(), CPU)
    with pytest.raises(UserError, match="none of 2 images could be read"):
        predict_files(["gone.png", "lost.png"], CHECKPOINT, MeanColour(), CPU)
    with pytest.raises(UserError, match="not finite"):
        predict_files([str(photos)], CHECKPOINT | {"mean": [math.nan] * 3}, MeanColour(), CPU)


def test_the_least_certain_images_are_plotted_the_least_certain_first(photos, tmp_path, monkeypatch):
    plotted = {}

    def plot(images, analysis, path, title):
        plotted.update(images=images, captions=analysis["mistakes"], path=path, title=title)

    monkeypatch.setattr(utils.predict_run, "plot_mistakes", plot)
    monkeypatch.setattr(utils.predict_run, "MOST_PLOTTED", 3)
    monkeypatch.setitem(utils.predict_run.EVAL_BATCH, "cpu", 1)
    predict_files([str(photos)], CHECKPOINT, MeanColour(), CPU).save(tmp_path / "out.csv", "toy")
    order = sorted(COLOURS, key=lambda name: confidence_of(COLOURS[name])[1])[:3]
    files = ["/".join((photos / name).parts[-2:]) for name in order]
    assert [caption["true"] for caption in plotted["captions"]] == files
    assert [tuple(pixels[0, 0]) for pixels in plotted["images"]] == [COLOURS[name] for name in order]
    assert plotted["path"] == tmp_path / "out.png"
    assert plotted["title"] == "toy: least certain images (3 of 4)"


def test_the_table_holds_any_name(tmp_path):
    names = ['a, "b".png', "ü 猫.png", "latin\udce9.png"]
    for name in names:
        save(tmp_path / "in" / name, solid(200, 0, 0))
    predict_files([str(tmp_path / "in")], CHECKPOINT, MeanColour(), CPU).save(tmp_path / "out.csv", "toy")
    with open(tmp_path / "out.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        head, *rows = csv.reader(file)
    assert head == ["file", "class", "confidence"]
    assert {os.path.basename(path) for path, *_ in rows} == {*names}
    assert {float(confidence) for *_, confidence in rows} == {round(confidence_of((200, 0, 0))[1], 4)}
    with Image.open(tmp_path / "out.png") as plot:
        assert plot.width > 300


def test_a_table_never_takes_the_place_of_a_file(tmp_path, monkeypatch):
    assert choose_table(None, tmp_path) == tmp_path / "predictions.csv"
    (tmp_path / "predictions.csv").touch()
    (tmp_path / "predictions-2.png").symlink_to("nowhere")
    assert choose_table(None, tmp_path) == tmp_path / "predictions-3.csv"
    assert choose_table(str(tmp_path / "own.csv"), tmp_path) == tmp_path / "own.csv"
    for taken in ("predictions.csv", "predictions-2.csv"):
        with pytest.raises(UserError, match=r"is there already \(hint: name another file: --csv"):
            choose_table(str(tmp_path / taken), tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        choose_table(str(tmp_path / "none/own.csv"), tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="cannot be written to"):
        choose_table(None, tmp_path)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    content = CHECKPOINT | {"model_name": "cnn_tiny", "num_classes": 3, "epoch": 1, "metrics": {}}
    content["config"] = {"identity": {"epochs": 1}}
    path = tmp_path / "run" / "best.pt"
    path.parent.mkdir()
    save_checkpoint(path, build_model("cnn_tiny", 3).state_dict(), content)
    return path


def test_a_checkpoint_needs_no_data_and_its_folder_stays_as_it_is(
    checkpoint, photos, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    words = ["--checkpoint", str(checkpoint), "--predict", str(photos)]
    assert run(test_program.main, words) == 0
    assert run(test_program.main, [*words, "--csv", "own.csv"]) == 0
    results = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    assert [each["table"] for each in results] == ["predictions.csv", "own.csv"]
    assert results[0] | {"table": "", "plot": ""} == {"images": 4, "unreadable": 0, "table": "", "plot": ""}
    assert (tmp_path / "predictions.csv").read_text() == (tmp_path / "own.csv").read_text()
    assert os.listdir(checkpoint.parent) == ["best.pt"]
    assert run(test_program.main, [*words, "--csv", "own.csv"]) == 1
    assert run(test_program.main, [*words[:3], "gone.png"]) == 1


def test_weights_of_another_program_are_loaded_as_for_a_measurement(photos, tmp_path, monkeypatch, capfd):
    from utils.data.sources import shapes

    monkeypatch.setattr(shapes, "TEST", 60)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(build_model("cnn_tiny", 10).state_dict(), "weights.pth")
    words = ["--checkpoint", "weights.pth", "--student", "cnn_tiny", "--dataset", "shapes", "--predict"]
    assert run(test_program.main, [*words, str(photos)]) == 0
    out, err = capfd.readouterr()
    assert "weights.pth" in err
    with open("predictions.csv", encoding="utf-8") as file:
        assert {row["class"] for row in csv.DictReader(file)} <= {*shapes.CLASSES}
    assert out.count(" %\n") == 4
