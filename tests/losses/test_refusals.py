"""What cannot be trained with a method is refused by the program in one line, before anything is trained."""

from pathlib import Path

import pytest
import torch
from examples import NEEDS, tiny
from torch import nn

import train
from utils.data.sources import shapes
from utils.losses import METHODS, build_method
from utils.runtime.program import run

FLAGS = "--dataset shapes --teacher cnn_tiny --student cnn_tiny --epochs 1".split()
WITH_MAPS = [name for name, needs in NEEDS.items() if needs in ("features", "preactivations")]


def flat(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU(), nn.Linear(8, classes))


def without_linear(classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, classes, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def thirds(classes: int) -> nn.Module:
    """Maps of 10 pixels a side, which no other network has."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=3), nn.ReLU(), nn.AvgPool2d(10), nn.Flatten(), nn.Linear(8, classes)
    )


NETWORKS = {"flat": flat, "without_linear": without_linear, "thirds": thirds, "tiny": lambda n: tiny(classes=n)}


@pytest.fixture(scope="module", autouse=True)
def few_shapes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "TRAIN", 40)
        patch.setattr(shapes, "TEST", 20)
        yield


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run train.py with a `teacher` and a `student` of `NETWORKS`, and return the one error that ends it."""

    def refusal(*words: str, student: str = "tiny", teacher: str = "tiny") -> str:
        path = tmp_path / f"{teacher}.pt"
        torch.manual_seed(0)
        torch.save(NETWORKS[teacher](10).state_dict(), path)
        built = {"cnn": NETWORKS[teacher], "cnn_tiny": NETWORKS[student]}
        monkeypatch.setattr(train, "build_model", lambda name, classes: built[name](classes))
        line = [*FLAGS, "--kd", "--teacher", "cnn", "--teacher-checkpoint", str(path)]
        try:
            code = run(train.main, [*line, "--results-dir", str(tmp_path / "results"), *words])
        except SystemExit as stop:  # of the parser
            code = stop.code
        error = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
        assert code in (1, 2)
        assert len(error) == 1
        assert not [*Path(tmp_path / "results").rglob("*.pt"), *Path(tmp_path / "results").rglob("*.json")]
        return error[0]

    return refusal


@pytest.mark.parametrize("name", [name for name in METHODS if build_method(name).compares_samples])
def test_a_method_that_compares_images_refuses_batches_of_one(refused, name):
    error = refused("--method", name, "--batch-size", "1")
    assert error.startswith(f"error: --method {name} compares the images of a batch, and --batch-size is 1")
    assert "--batch-size 2" in error


@pytest.mark.parametrize("name", WITH_MAPS)
def test_a_student_without_feature_maps_is_refused(refused, name):
    assert "Sequential has no feature maps" in refused("--method", name, student="flat")


@pytest.mark.parametrize("name", ["kd+at", *WITH_MAPS[:2]])
def test_a_teacher_without_feature_maps_is_refused_with_its_file(refused, name):
    error = refused("--method", name, teacher="flat")
    assert "flat.pt: Sequential has no feature maps" in error
    assert "choose a --method that matches logits" in error


@pytest.mark.parametrize("name", [name for name, needs in NEEDS.items() if needs == "embedding"])
def test_a_network_without_a_linear_last_layer_is_refused(refused, name):
    assert "has no linear last layer" in refused("--method", name, student="without_linear")
    assert "has no linear last layer" in refused("--method", name, teacher="without_linear")


@pytest.mark.parametrize("name", [name for name in WITH_MAPS if name != "sp"])
def test_stages_of_other_resolutions_are_refused_with_both(refused, name):
    error = refused("--method", name, student="thirds")
    assert f"--method {name}: no stage of the same resolution in both networks" in error
    assert "10x10 pixels in the student, 16x16, 4x4, 8x8 in the teacher" in error


def test_a_stage_that_is_not_there_is_refused(refused):
    error = refused("--method", "fitnet:stage=7")
    assert "stage 7 is not one of the 3 that both networks have" in error


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rkdd", "'rkdd' is unknown, did you mean rkd?"),
        ("kd+rkdd", "'rkdd' is unknown, did you mean rkd?"),
        ("crd:memry=5", "crd has no setting 'memry', did you mean memory"),
        ("crd:memory=0", "crd: memory 0 is not from 1 to"),
        ("kd+rkd:angle=-1", "rkd: angle -1 is not a number of at least 0"),
    ],
)
def test_an_unknown_method_or_setting_and_a_value_out_of_range_are_refused_with_the_nearest(
    refused, spec, message
):
    assert message in refused("--method", spec)
