import json
import re

import pytest
import torch
from PIL import Image
from toys import change_json, finished_run

from utils.reporting.sweep import VALIDATION, write_sweep
from utils.runtime.errors import UserError
from utils.runtime.run_dir import RunDir

WORDS = "--dataset shapes --limit 300 --teacher cnn --student cnn_tiny --epochs 2".split()
GRID = ["--sweep", "--temp", 2, 20, "--alpha", 0.5, 1]


@pytest.fixture(scope="module")
def swept(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    words = [*WORDS, "--results-dir", folder]
    missing = command("train.py", *words, *GRID, check=2)
    command("train.py", *words, "--tto")
    return folder, missing.stderr, command("train.py", *words, *GRID).stdout


@pytest.mark.slow
def test_a_sweep_needs_a_teacher_and_names_the_command_for_it(swept):
    assert swept[1].startswith("error: --sweep needs a trained teacher")
    assert "python train.py --tto True" in swept[1]


@pytest.mark.slow
def test_every_point_is_ranked_by_the_validation_accuracy_of_its_last_epoch(swept):
    folder, _, output = swept
    page = (folder / "shapes/sweep/README.md").read_text()
    rows = re.findall(r"\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", page)
    assert {(temp, alpha) for temp, alpha, _ in rows} == {("2", "0.5"), ("2", "1"), ("20", "0.5"), ("20", "1")}
    accuracies = [float(top1) for _, _, top1 in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    for temp, alpha, top1 in rows:
        run = folder / f"shapes/sweep/kd-cnn_tiny-t{temp}-a{alpha}/seed0"
        last = (run / "history.csv").read_text().splitlines()[-1].split(",")
        assert float(last[6]) == pytest.approx(float(top1), abs=0.01)
        assert json.loads((run / "val.json").read_text())["images"] == 30
    temp, alpha, _ = rows[0]
    assert f"best in validation: kd --temp {temp} --alpha {alpha}" in output
    assert (folder / "shapes/sweep/heatmap.png").stat().st_size > 5000


@pytest.mark.slow
def test_no_run_of_a_sweep_has_results_on_test_images_or_gets_into_the_table(swept, command):
    folder, _, output = swept
    assert not list(folder.glob("shapes/sweep/**/test.json"))
    assert "test: top-1" not in output
    assert "kd-cnn" not in (folder / "shapes/README.md").read_text()


@pytest.mark.slow
def test_all_points_share_the_teachers_outputs(swept):
    _, _, output = swept
    there = re.findall(r"outputs .*, (\d) there already", output)
    assert there == ["0", "2", "2", "2"]


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_stopped(swept, command):
    folder, _, _ = swept
    words = [*WORDS, *GRID, "--results-dir", folder, "--resume"]
    run = folder / "shapes/sweep/kd-cnn_tiny-t20-a0.5/seed0"
    before = torch.load(run / "last.pt", weights_only=True)["sha256"]
    for name in ("val.json", "last.pt", "best.pt", "history.csv"):
        (run / name).unlink()
    done = command("train.py", *words)
    assert done.stdout.count("finished already") == 3
    assert torch.load(run / "last.pt", weights_only=True)["sha256"] == before


@pytest.mark.slow
def test_so_few_images_that_none_are_held_out_are_refused(swept, command, tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (32, 32), (40 * number, 0, 0)).save(tmp_path / part / name / f"{number}.png")
    words = ["--dataset", "folder", "--data-dir", tmp_path, "--results-dir", tmp_path / "results", "--sweep"]
    teacher = swept[0] / "shapes/teacher-cnn/seed0/last.pt"
    done = command("train.py", *words, "--teacher-checkpoint", teacher, check=2)
    assert done.stderr.startswith("error: --sweep needs validation images")


def test_each_method_of_a_sweep_has_a_table_and_a_best_command_of_its_own(tmp_path, capsys):
    folder, runs = tmp_path / "shapes/sweep", []
    for name, top1, settings in (
        ("kd-cnn-t5", 80.0, {"temperature": 5.0, "alpha": 0.9}),
        ("kd-cnn-t20", 82.0, {"temperature": 20.0, "alpha": 0.9}),
        ("dkd-cnn-t4", 81.0, {"temperature": 4.0, "alpha": 1.0, "beta": 8.0}),
    ):
        values = {f"method.{setting}": value for setting, value in settings.items()}
        run = finished_run(folder / name / "seed0", top1, role="kd", method=name.split("-")[0], **values)
        change_json(run.results, images=10)
        run.results.rename(run.path / VALIDATION)
        runs.append(RunDir(run.path, VALIDATION))
    page = write_sweep(folder, runs).read_text()
    tables = re.findall(
        r"# Temperature and alpha of (\w+) for cnn on shapes\n(.*?)\nBest: `(.*?)`", page, re.DOTALL
    )
    assert [(label, best) for label, _, best in tables] == [
        ("KD", "--kd True --temp 20 --alpha 0.9"),
        ("DKD", "--kd True --method dkd --temp 4 --alpha 1"),
    ]
    assert "±" not in page  # of single seeds
    assert re.findall(r"\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", tables[0][1]) == [
        ("20", "0.9", "82.00"),
        ("5", "0.9", "80.00"),
    ]
    assert "best in validation: dkd --temp 4 --alpha 1 with 81.00 %" in capsys.readouterr().out


def point(
    folder, temperature: float, seed: int = 0, taught_by: str = "a" * 16, top1: float = 80.0, **record
) -> RunDir:
    """A finished run of a sweep that nobody trained."""
    settings = {"method.temperature": temperature, "method.alpha": 0.9}
    identity = {
        "role": "kd",
        "method": "kd",
        "teacher": "vgg",
        "teacher_sha256": taught_by,
        "seed": seed,
    } | settings
    name = f"kd-cnn-t{temperature:g}-a0.9"
    run = finished_run(folder / name / f"seed{seed}", top1, **identity)
    change_json(run.config, run=name, **record)
    change_json(run.results, images=10)
    run.results.rename(run.path / VALIDATION)
    return RunDir(run.path, VALIDATION)


def test_the_table_of_a_sweep_names_the_teachers_of_each_point(tmp_path):
    runs = [point(tmp_path / "sweep", t, seed, f"{seed}" * 16) for t in (2.0, 5.0) for seed in range(2)]
    page = write_sweep(tmp_path / "sweep", runs).read_text()
    assert page.count("| vgg (000000, 111111) |") == 2
    assert "Of these runs" not in page


def test_a_sweep_whose_points_had_different_teachers_says_so(tmp_path):
    runs = [point(tmp_path / "sweep", 2.0), point(tmp_path / "sweep", 5.0, taught_by="b" * 16)]
    assert "**Of these runs: not all had the same teacher, so" in write_sweep(tmp_path / "sweep", runs).read_text()


def test_a_sweep_over_seeds_whose_teachers_had_other_recipes_says_so(tmp_path):
    for number, epochs in enumerate(((3, 3), (3, 7))):
        folder = tmp_path / str(number)
        runs = [
            point(folder, 5.0, seed, f"{seed}" * 16, teacher_run={"identity": {"epochs": each, "seed": seed}})
            for seed, each in enumerate(epochs)
        ]
        assert ("not all had the same teacher" in write_sweep(folder, runs).read_text()) == bool(number)


def test_an_unfinished_teacher_of_a_sweep_is_marked(tmp_path):
    note = "unfinished: epoch 1 of 3"
    runs = [point(tmp_path, 5.0, teacher={"note": note, "val_top1": 50.0})]
    page = write_sweep(tmp_path, runs).read_text()
    assert f"**Of these runs: teacher {note}.**" in page
    assert "| vgg 50.00 % (aaaaaa) |" in page


def test_a_point_that_cannot_be_is_left_out_and_named(tmp_path, capsys):
    runs = [point(tmp_path, 2.0, top1=70.0), point(tmp_path, 5.0, top1=999.0)]
    page = write_sweep(tmp_path, runs).read_text()
    assert "70.00" in page
    assert "999" not in page
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: left out of the table: {runs[1].results} cannot be right: top1 is 999")
    change_json(runs[0].results, top1=-1)
    with pytest.raises(UserError, match="no finished run"):
        write_sweep(tmp_path, runs)


def test_points_on_other_images_are_not_ranked_with_the_others(tmp_path):
    runs = [point(tmp_path, 2.0, top1=70.0), point(tmp_path, 5.0, top1=60.0)]
    change_json(runs[1].config, data={"train": 90, "val": 5, "test": 50})
    change_json(runs[1].results, images=5)
    page = write_sweep(tmp_path, runs).read_text()
    one, other = page.split("# Temperature and alpha")[1:]
    assert ("70.00" in one, "60.00" in one, "60.00" in other) == (True, False, True)
    assert ("on 10 images" in one, "on 5 images" in other) == (True, True)
