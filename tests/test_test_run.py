"""test.py as a report, over the runs of one small experiment."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import CPU, change_json

from models import build_model
from utils.data.batches import Normalise
from utils.data.sources.shapes import draw
from utils.evaluation.networks import Networks
from utils.reporting.table import finished_runs
from utils.runtime.checkpoint import load_checkpoint, restore_network
from utils.runtime.errors import UserError
from utils.runtime.run_dir import RunDir
from utils.test_run import Evaluator

pytestmark = pytest.mark.slow

WORDS = "--dataset shapes --limit 300 --teacher cnn --student cnn_tiny --epochs 2".split()


@pytest.fixture(scope="module")
def results(command, tmp_path_factory):
    """Two seeds of teacher, student and student with KD, and what `test.py --all` says of them."""
    folder = tmp_path_factory.mktemp("evaluated")
    command("train.py", "--all", "--temp", 5, "--seeds", 2, *WORDS, "--results-dir", folder)
    done = command("test.py", "--all", "--results-dir", folder)  # the only results that there are
    return folder / "shapes", done.stdout


@pytest.fixture
def copy(results, tmp_path):
    return shutil.copytree(results[0], tmp_path / "shapes")


def predictions(checkpoint) -> np.ndarray:
    """Straight from the checkpoint: what the analysis is checked against."""
    content = load_checkpoint(checkpoint)
    model = restore_network(checkpoint, content, build_model).eval()
    images = draw(4000, seed=2).first(300)
    with torch.no_grad():
        return model(Normalise(content["mean"], content["std"])(images.images)).argmax(1).numpy()


def test_all_measures_every_finished_run_and_writes_the_page(results):
    folder, output = results
    measured = json.loads(output.splitlines()[-1])
    assert len(measured) == 6
    for run in folder.glob("*/seed*"):
        names = {path.name for path in run.iterdir()}
        assert {"analysis.json", "reliability.png", "confusion.png", "mistakes.png"} <= names
        metrics = json.loads((run / "test.json").read_text())
        assert measured[str(run)]["top1"] == metrics["top1"]
    assert (folder / "report.html").stat().st_size > 100_000
    *_, head, teacher, _, distilled, empty, verdict, page, _ = output.splitlines()
    assert re.match(r"model .* alone$", head)
    assert re.match(r"teacher cnn \(2 seeds\) ", teacher)
    assert re.match(r"student cnn_tiny, KD at T = 5 \(2 seeds\) .* ± \d", distilled)
    assert re.match(r"KD at T = 5.* 2 seeds", verdict)
    assert (empty, page) == ("", f"page: {folder}/report.html")


def test_a_teacher_and_a_student_choose_rows(results, command):
    words = ["test.py", "--all", "--results-dir", results[0].parent, "--teacher", "cnn", "--student", "cnn"]
    done = command(*words, check=1)
    assert "no finished run has the student cnn (hint: there are teacher-cnn, student-cnn_tiny, " in done.stderr
    assert done.stdout == ""


def test_the_metrics_of_training_and_of_test_py_are_the_same(results, command, tmp_path):
    command("train.py", *WORDS, "--results-dir", tmp_path)
    trained = json.loads((tmp_path / "shapes/student-cnn_tiny/seed0/test.json").read_text())
    assert trained == json.loads((results[0] / "student-cnn_tiny/seed0/test.json").read_text())


def test_equal_networks_have_one_and_the_same_cost(results):
    folder, output = results
    costs: dict[str, set] = {}
    for path in folder.glob("*/seed*/analysis.json"):
        analysis = json.loads(path.read_text())
        names = ("latency_ms", "latency_q1_ms", "latency_q3_ms", "throughput")
        costs.setdefault(analysis["model"], set()).add(tuple(analysis[name] for name in names))
    assert {name: len(each) for name, each in costs.items()} == {"cnn": 1, "cnn_tiny": 1}
    assert "ms for one image (quartiles " in output


def test_a_student_with_kd_is_compared_with_its_teacher_and_the_student_alone(results):
    labels = draw(4000, seed=2).first(300).labels.numpy()
    for seed in ("seed0", "seed1"):
        distilled, teacher, baseline = (
            predictions(results[0] / run / seed / "last.pt")
            for run in ("kd-cnn_tiny-t5", "teacher-cnn", "student-cnn_tiny")
        )
        analysis = json.loads((results[0] / "kd-cnn_tiny-t5" / seed / "analysis.json").read_text())
        mistakes = teacher != labels
        assert analysis["teacher"]["run"] == "teacher-cnn"
        assert analysis["teacher"]["agreement"] == pytest.approx(100 * (distilled == teacher).mean(), abs=1e-3)
        assert analysis["teacher"]["teacher_mistakes"] == mistakes.sum()
        assert analysis["teacher"]["inherited"] == pytest.approx(
            100 * (distilled == teacher)[mistakes].mean(), abs=1e-3
        )
        assert analysis["baseline"]["run"] == "student-cnn_tiny"
        gain = 100 * ((distilled == labels).mean() - (baseline == labels).mean())
        assert analysis["baseline"]["gain"] == pytest.approx(gain, abs=1e-3)
        gains = [
            100 * ((distilled == labels)[labels == c].mean() - (baseline == labels)[labels == c].mean())
            for c in range(10)
        ]
        assert analysis["baseline"]["per_class_gain"] == pytest.approx(gains, abs=1e-3)


def change(path, **record) -> None:
    """Change what a checkpoint records of its run: a path, or else a setting."""
    checkpoint = torch.load(path, weights_only=True)
    for name, value in record.items():
        part = checkpoint["config"] if name in checkpoint["config"] else checkpoint["config"]["identity"]
        part[name] = value
    checkpoint.pop("checksum")
    torch.save(checkpoint, path)


def test_a_teacher_that_was_trained_again_or_a_student_of_another_recipe_is_not_compared(copy):
    distilled, baseline = copy / "kd-cnn_tiny-t5/seed0", copy / "student-cnn_tiny/seed0/last.pt"
    shutil.copy(copy / "teacher-cnn/seed1/last.pt", copy / "teacher-cnn/seed0/last.pt")
    change(baseline, lr=7.0)
    change(distilled / "last.pt", teacher_path="gone/last.pt")
    analysis = Evaluator(Networks({}, CPU, build_model)).evaluate(distilled / "last.pt", RunDir(distilled))
    assert analysis["teacher"] is None
    assert analysis["baseline"] is None


def test_a_run_without_its_neighbours_is_measured_alone(copy):
    distilled = copy / "kd-cnn_tiny-t5/seed0"
    shutil.rmtree(copy / "teacher-cnn")
    shutil.rmtree(copy / "student-cnn_tiny")
    change(distilled / "last.pt", teacher_path="gone/last.pt")
    analysis = Evaluator(Networks({}, CPU, build_model)).evaluate(distilled / "last.pt", RunDir(distilled))
    assert (analysis["teacher"], analysis["baseline"]) == (None, None)


@pytest.mark.parametrize("name", ["last.pt", "config.json"])
def test_a_neighbour_that_cannot_be_read_is_not_compared_with(copy, name):
    distilled, path = copy / "kd-cnn_tiny-t5/seed0", copy / "student-cnn_tiny/seed0" / name
    path.unlink()
    path.mkdir()
    analysis = Evaluator(Networks({}, CPU, build_model)).evaluate(distilled / "last.pt", RunDir(distilled))
    assert analysis["teacher"] is not None
    assert analysis["baseline"] is None


def test_other_test_images_than_those_of_the_run_leave_its_metrics_as_they_are(copy):
    run = copy / "student-cnn_tiny/seed0"
    before = (run / "test.json").read_bytes(), (run / "analysis.json").read_bytes()
    analysis = Evaluator(Networks({"limit": 100}, CPU, build_model)).evaluate(run / "last.pt", RunDir(run))
    assert analysis["images"] == 100
    assert before == ((run / "test.json").read_bytes(), (run / "analysis.json").read_bytes())
    assert json.loads((run / "last.analysis.json").read_text())["images"] == 100


def test_another_checkpoint_of_a_run_is_measured_beside_itself(copy):
    run = copy / "kd-cnn_tiny-t5/seed0"
    Evaluator(Networks({}, CPU, build_model)).evaluate(run / "best.pt", None)
    assert {path.name for path in run.glob("best.*")} == {
        "best.pt", "best.test.json", "best.analysis.json",
        "best.reliability.png", "best.confusion.png", "best.mistakes.png",
    }  # fmt: skip


def test_a_run_records_its_teachers_hash_and_measured_accuracy(results):
    run = results[0] / "kd-cnn_tiny-t5/seed0"
    recorded = json.loads((run / "config.json").read_text())["teacher"]
    assert load_checkpoint(run / "last.pt")["config"]["teacher"] == recorded
    teacher = load_checkpoint(results[0] / "teacher-cnn/seed0/last.pt")
    assert (recorded["sha256"], recorded["note"], recorded["images"]) == (teacher["sha256"], "", 30)
    assert recorded["val_top1"] == pytest.approx(teacher["metrics"]["val_top1"], abs=1e-3)


def test_a_checkpoint_of_other_classes_than_the_images_is_refused(copy):
    path = copy / "student-cnn_tiny/seed0/last.pt"
    content = torch.load(path, weights_only=True)
    content["class_names"][0] = "blob"
    content.pop("checksum")
    torch.save(content, path)
    with pytest.raises(UserError, match="class_names"):
        Networks({}, CPU, build_model).network(path)


def test_an_overwritten_run_keeps_no_analysis_of_the_one_before(copy):
    run = RunDir(copy / "student-cnn_tiny/seed0")
    (run.path / "notes.txt").write_text("mine")
    run.clear()
    assert {path.name for path in run.path.iterdir()} == {"notes.txt", ".lock"}


def test_export_goes_with_one_network_and_is_checked_before_anything_is_measured(results, command, tmp_path):
    pytest.importorskip("onnxruntime")
    words = ["test.py", "--kd", "--dataset", "shapes", "--teacher", "cnn", "--student", "cnn_tiny"]
    words += ["--results-dir", results[0].parent, "--export", tmp_path / "out"]
    done = command(*words)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "student.safetensors", "student.onnx", "student.pt2", "card.json",
    }  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1])["images"] == 300
    again = command(*words, check=1)
    assert again.stderr.startswith("error: --export")
    assert len(again.stderr.splitlines()) == 1
    assert "top-1" not in again.stdout


def test_a_run_that_cannot_be_measured_is_named_and_the_others_are_measured(copy, command):
    (copy / "student-cnn_tiny/seed0/last.pt").unlink()
    (copy / "teacher-cnn/seed1/last.pt").write_bytes(b"PK")
    (copy / "report.html").unlink()
    done = command("test.py", "--all", "--dataset", "shapes", "--results-dir", copy.parent, check=1)
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert "student-cnn_tiny/seed0 is not measured" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: 2 of 6 runs could not be measured")
    assert (copy / "report.html").exists()


def test_a_teacher_elsewhere_is_found_and_what_is_not_compared_is_said(copy, command, tmp_path, capsys):
    command("train.py", "--kd", *WORDS, "--results-dir", tmp_path / "r", "--teacher-checkpoint",
            copy / "teacher-cnn/seed0/last.pt")  # fmt: skip
    run = RunDir(tmp_path / "r/shapes/kd-cnn_tiny-t5/seed0")
    analysis = Evaluator(Networks({}, CPU, build_model)).evaluate(run.last, run)
    assert analysis["teacher"]["run"] == "teacher-cnn"
    assert analysis["baseline"] is None
    assert "not compared with the student alone" in capsys.readouterr().out


def test_an_analysis_that_compares_with_an_overwritten_run_goes_with_it(copy):
    RunDir(copy / "student-cnn_tiny/seed0").clear()
    assert not (copy / "kd-cnn_tiny-t5/seed0/analysis.json").exists()
    assert (copy / "kd-cnn_tiny-t5/seed1/analysis.json").exists()


def test_a_run_records_the_hash_of_the_weights_that_it_was_measured_on(results):
    for run in results[0].glob("*/seed*"):
        weights = load_checkpoint(run / "last.pt")["sha256"]
        assert json.loads((run / "test.json").read_text())["weights_sha256"] == weights
        assert json.loads((run / "analysis.json").read_text())["weights_sha256"] == weights


@pytest.mark.parametrize("other", ["student-cnn_tiny/seed1/last.pt", "teacher-cnn/seed0/last.pt"])
def test_a_checkpoint_put_in_the_place_of_another_runs_is_not_measured_as_that_run(copy, other):
    run = RunDir(copy / "student-cnn_tiny/seed0")
    before = run.results.read_bytes()
    shutil.copy(copy / other, run.last)
    evaluator = Evaluator(Networks({}, CPU, build_model))
    with pytest.raises(
        UserError, match=rf"seed0/last\.pt is of the run {other[:-8]} .*put the checkpoint of this run"
    ):
        evaluator.evaluate(run.last, run)
    assert run.results.read_bytes() == before
    distilled = RunDir(copy / "kd-cnn_tiny-t5/seed0")
    assert evaluator.evaluate(distilled.last, distilled)["baseline"] is None


def test_other_weights_than_those_of_the_metrics_are_not_measured_as_that_run(copy):
    run = RunDir(copy / "student-cnn_tiny/seed0")
    content = torch.load(run.last, weights_only=True)
    content.pop("checksum")
    next(iter(content["model"].values())).add_(0.01)
    torch.save(content, run.last)
    with pytest.raises(UserError, match=r"last\.pt has other weights than .*test\.json was measured on"):
        Evaluator(Networks({}, CPU, build_model)).evaluate(run.last, run)
    run.results.unlink()  # of an unfinished run, nothing is known
    assert Evaluator(Networks({}, CPU, build_model)).evaluate(run.last, run)["images"] == 300


def test_metrics_that_cannot_be_are_measured_again(copy):
    run = RunDir(copy / "student-cnn_tiny/seed0")
    before = run.results.read_text()
    change_json(run.results, top1=999)
    Evaluator(Networks({}, CPU, build_model)).evaluate(run.last, run)
    assert run.results.read_text() == before


def test_a_copy_under_another_seed_is_an_error_and_all_other_runs_are_measured(copy, capsys):
    first, second = (RunDir(copy / f"student-cnn_tiny/seed{seed}") for seed in range(2))
    for name in ("config.json", "test.json", "history.csv", "last.pt"):
        shutil.copy(first.path / name, second.path / name)
    config = json.loads(second.config.read_text())
    change_json(second.config, identity=config["identity"] | {"seed": 1})
    change(second.last, seed=1)
    measured, failed = Evaluator(Networks({}, CPU, build_model)).evaluate_all(finished_runs(copy, ""))
    assert sorted(run.path for run in failed) == [first.path, second.path]
    assert len(measured) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{first.path} and {second.path} have equal weights" in line


def test_images_of_other_content_are_not_compared_even_if_their_labels_are_the_same(copy):
    run, evaluator = RunDir(copy / "kd-cnn_tiny-t5/seed0"), Evaluator(Networks({}, CPU, build_model))
    baseline = evaluator.networks.network(copy / "student-cnn_tiny/seed0/last.pt")
    baseline.test = replace(baseline.test, images=255 - baseline.test.images)
    assert evaluator.evaluate(run.last, run)["baseline"] is None


def test_a_run_records_its_folder_and_what_its_teacher_was_trained_with(results):
    config = json.loads((results[0] / "kd-cnn_tiny-t5/seed1/config.json").read_text())
    of_teacher = json.loads((results[0] / "teacher-cnn/seed1/config.json").read_text())
    assert (config["run"], of_teacher["run"]) == ("kd-cnn_tiny-t5", "teacher-cnn")
    assert config["teacher_run"]["identity"] == of_teacher["identity"]
    weights = json.loads((results[0] / "teacher-cnn/seed1/test.json").read_text())["weights_sha256"]
    assert config["identity"]["teacher_sha256"] == weights[:16]
