"""The programs as a user runs them, each in a process of its own."""

import csv
import json
import os
import re
import shutil

import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.slow

SMALL = "--dataset shapes --limit 300 --teacher cnn --student cnn_tiny --epochs 2".split()


@pytest.fixture(scope="module")
def table(command, tmp_path_factory):
    """Everything that `train.py --all` leaves behind: (results directory, its output)."""
    results = tmp_path_factory.mktemp("results")
    done = command("train.py", "--all", "--temp", 5, 20, *SMALL, "--results-dir", results)
    return results, done.stdout


def test_all_trains_every_row_and_writes_the_promised_files(table):
    results, output = table
    for run in ("teacher-cnn", "student-cnn_tiny", "kd-cnn_tiny-t5", "kd-cnn_tiny-t20"):
        folder = results / "shapes" / run / "seed0"
        names = {path.name for path in folder.iterdir()} - {".lock"}
        assert names == {
            "config.json",
            "history.csv",
            "last.pt",
            "best.pt",
            "accuracy.png",
            "loss.png",
            "test.json",
        }
        with open(folder / "history.csv", encoding="utf-8") as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
        result = json.loads((folder / "test.json").read_text())
        assert result["images"] == 300
        assert result["epoch"] == 2
        assert f"top-1 {result['top1']:.2f} %" in output
    page = (results / "shapes" / "README.md").read_text(encoding="utf-8")
    plots = re.findall(r'(?:\(|src=")([^")]+\.png)', page)
    assert len(plots) == 9
    assert all((results / "shapes" / plot).exists() for plot in plots)


def test_several_runs_are_counted_and_end_with_the_table_and_the_gains_for_people(table):
    results, output = table
    counted = re.findall(r"^run .*", output, re.MULTILINE)
    assert counted[:3] == ["run 1 of 4", "run 2 of 4", "run 3 of 4"]
    assert re.fullmatch(r"run 4 of 4; about \d+ s to go for all of them", counted[3])
    *_, distilled, empty, first, second, last = output.splitlines()
    gain = re.search(r"KD at T = 20 .* ([-+]\d+\.\d\d)$", distilled)[1]
    page = (results / "shapes" / "README.md").read_text(encoding="utf-8")
    assert f"| {gain} |" in page
    assert empty == ""
    assert f"- {first}." in page
    assert f"- {second}." in page
    assert last == f"table and plots: {results}/shapes/README.md"


def test_output_that_is_piped_has_a_line_per_epoch_and_no_bars(table):
    _, output = table
    assert len(re.findall(r"^epoch [12]/2 ", output, re.MULTILINE)) == 8
    assert "\r" not in output
    assert "it/s" not in output


def test_header_states_data_network_objective_recipe_and_device(table):
    _, output = table
    for text in ("270 train, 30 val, 300 test", "288,746 parameters", "0.1 * CE + 0.9 * 5^2 * KL at T = 5",
                 "2 epochs of batches of 64", "cpu (", "teacher    cnn, validation top-1"):  # fmt: skip
        assert text in output


def test_finished_rows_are_skipped_and_only_the_missing_one_is_trained(table, command):
    results, _ = table
    before = (results / "shapes/teacher-cnn/seed0/last.pt").stat().st_mtime_ns
    done = command("train.py", "--all", "--temp", 5, 20, 8, *SMALL, "--results-dir", results)
    assert done.stdout.count("finished already") == 4
    assert (results / "shapes/teacher-cnn/seed0/last.pt").stat().st_mtime_ns == before
    assert "KD at T = 8" in (results / "shapes/README.md").read_text(encoding="utf-8")


def test_nothing_is_overwritten_unasked(table, command):
    results, _ = table
    done = command("train.py", *SMALL, "--results-dir", results, check=1)
    assert re.fullmatch(
        r"error: .*student-cnn_tiny/seed0 holds this run, finished \(hint: .*--overwrite.*\)\n", done.stderr
    )
    done = command("train.py", "--all", *SMALL, "--lr", "0.2", "--results-dir", results, check=1)
    assert "lr 0.1 instead of 0.2" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("role", [["--tto", "True"], [], ["--kd", "True", "--temp", "5"], ["--kd"]])
def test_test_py_repeats_the_metrics_of_the_training(table, command, role):
    results, _ = table
    names = {"--tto": "teacher-cnn", "--kd": "kd-cnn_tiny-t5"}
    run = results / "shapes" / names.get(role[0] if role else "", "student-cnn_tiny") / "seed0"
    before = json.loads((run / "test.json").read_text())
    nets = ["--teacher", "cnn", "--student", "cnn_tiny"]
    done = command("test.py", *role, "--dataset", "shapes", *nets, "--results-dir", results)
    results_by_run = json.loads(done.stdout.splitlines()[-1])
    assert before == json.loads((run / "test.json").read_text()) == {name: results_by_run[name] for name in before}


def test_test_py_needs_nothing_but_the_checkpoint_and_leaves_run_and_folder_alone(table, command, tmp_path):
    results, _ = table
    best = results / "shapes/student-cnn_tiny/seed0/best.pt"
    test_json = best.with_name("test.json")
    before = test_json.read_bytes()
    lonely = tmp_path / "mit Leerzeichen ä.pt"
    lonely.write_bytes(best.read_bytes())
    done = command("test.py", "--checkpoint", lonely)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["images"] == 300
    assert f"not saved: {tmp_path} is no run directory" in done.stdout
    assert [*tmp_path.iterdir()] == [lonely]
    done = command("test.py", "--checkpoint", best, "--limit", 100)
    assert json.loads(done.stdout.splitlines()[-1])["images"] == 100
    assert test_json.read_bytes() == before


def test_two_runs_of_the_same_seed_are_the_same_to_the_last_bit(table, command, tmp_path):
    results, _ = table
    command("train.py", *SMALL, "--results-dir", tmp_path)
    first, second = (
        torch.load(root / "shapes/student-cnn_tiny/seed0/last.pt", weights_only=True)
        for root in (results, tmp_path)
    )
    assert first["sha256"] == second["sha256"]


def test_a_student_without_a_teacher_names_the_command_that_trains_one(command, tmp_path):
    line = ["train.py", "--kd", "True", "--temp", 5, *SMALL, "--results-dir", tmp_path / "a b"]
    done = command(*line, check=2)
    hint = f"python train.py --tto True --dataset shapes --limit 300 --teacher cnn --results-dir '{tmp_path}/a b'"
    assert done.stderr.count("\n") == 1
    assert hint in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "a b").exists()


def test_test_py_without_a_checkpoint_names_the_command_that_makes_it(command, tmp_path):
    done = command("test.py", "--kd", "True", "--temp", 20, "--results-dir", tmp_path, check=1)
    assert f"python train.py --kd True --temp 20 --results-dir {tmp_path}" in done.stderr
    done = command("test.py", "--checkpoint", tmp_path / "none.pt", check=1)
    assert done.stderr == f"error: there is no checkpoint {tmp_path}/none.pt (hint: check the path)\n"


def test_a_teacher_and_a_student_at_once_is_a_usage_error(command):
    done = command("train.py", "--tto", "True", "--kd", "True", check=2)
    assert "--tto and --kd exclude each other" in done.stderr


def test_a_student_may_be_distilled_from_a_checkpoint_from_elsewhere(table, command, tmp_path):
    results, _ = table
    teacher = results / "shapes/teacher-cnn/seed0/best.pt"
    line = ["--kd", "--temp", "2.5", "--alpha", 1, "--teacher-checkpoint", teacher, *SMALL]
    command("train.py", *line, "--results-dir", tmp_path)
    assert (tmp_path / "shapes/kd-cnn_tiny-t2.5-a1/seed0/test.json").exists()


def test_every_optimisation_flag_works_together(command, tmp_path):
    flags = (
        "--val-size 0 --ema 0.9 --cutout 8 --label-smoothing 0.1 --schedule cosine --warmup 0 --momentum 0".split()
    )
    flags += ["--batch-size", 299, "--precision", "bf16"]
    done = command("train.py", *SMALL, *flags, "--results-dir", tmp_path)
    assert "the last batch of an epoch would be a single image" in done.stdout
    folder = tmp_path / "shapes/student-cnn_tiny/seed0"
    assert not (folder / "best.pt").exists()
    assert "val loss" not in done.stdout
    assert not (tmp_path / "shapes/comparison.png").exists()


def test_missing_cifar_offline_is_one_line_with_a_way_out(command, tmp_path):
    code = (
        "import sys, torchvision.datasets as d; d.CIFAR10.url = 'http://127.0.0.1:9/cifar.tar.gz';"
        "from train import main; from utils.runtime.program import run; sys.exit(run(main, sys.argv[1:]))"
    )
    done = command("-c", code, "--data-dir", tmp_path, "--results-dir", tmp_path, check=1)
    error = done.stderr.splitlines()[-1]
    for text in ("error: ", "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "--dataset shapes"):
        assert text in error


def test_cuda_that_is_not_there_is_one_line(command, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = command("train.py", *SMALL, "--device", "cuda", "--results-dir", tmp_path, check=1)
    assert done.stderr.startswith("error: --device cuda: torch")
    assert done.stderr.count("\n") == 1


def test_compile_without_a_compiler_is_one_line(command, tmp_path):
    environment = os.environ | {"CXX": "/nonexistent", "PATH": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "c")}
    words = [*SMALL, "--results-dir", tmp_path, "--compile"]
    done = command("train.py", *words, check=1, env=environment)
    assert done.stderr.splitlines()[-1].startswith("error: --compile failed")
    assert "hint: leave --compile out" in done.stderr
    assert "Traceback" not in done.stderr


def test_cached_outputs_lie_where_asked_and_a_second_temperature_finds_them(command, tmp_path):
    words = [*SMALL, "--all", "--results-dir", tmp_path / "results", "--epochs", "3"]
    done = command("train.py", *words, "--temp", 5, 20, "--views", 2, "--teacher-cache", tmp_path / "cache")
    outputs = [line for line in done.stdout.splitlines() if line.strip().startswith("outputs")]
    assert [line.rsplit(", ", 1)[1] for line in outputs] == ["0 there already", "2 there already"]
    assert len(list((tmp_path / "cache").glob("*/view*.pt"))) == 2
    assert "2 augmentations of each image in turn" in done.stdout
    done = command("train.py", *words, "--temp", 4, "--views", 2, "--teacher-cache", "off", "--resume", "True")
    assert re.search(r"outputs +live", done.stdout)
    assert not (tmp_path / "results/shapes/teacher-outputs").exists()


def test_a_feature_method_stays_live_and_dkd_is_a_row_of_its_own(command, tmp_path):
    words = [*SMALL, "--all", "--results-dir", tmp_path, "--teacher", "cnn_tiny"]
    done = command("train.py", *words, "--method", "dkd:beta=2", "fitnet")
    assert "live: feature maps are too large to be cached" in done.stdout
    page = (tmp_path / "shapes/README.md").read_text()
    for title in ("| student cnn_tiny, DKD at T = 4, beta = 2 |", "| student cnn_tiny, FitNet |"):
        assert title in page
    done = command("test.py", *SMALL[:2], "--kd", "--method", "dkd:beta=2", "--results-dir", tmp_path)
    assert json.loads(done.stdout.splitlines()[-1])["baseline"]["run"] == "student-cnn_tiny"


def test_results_of_ones_own_images_lie_under_their_folders_name_and_the_earlier_folder_is_found(
    command, tmp_path
):
    results = tmp_path / "results"
    for part in ("train", "test"):
        for label, shade in (("dark", 30), ("light", 200)):
            (tmp_path / "cats" / part / label).mkdir(parents=True)
            for number in range(8):
                image = Image.new("RGB", (32, 32), (shade + number, shade, shade))
                image.save(tmp_path / "cats" / part / label / f"{number}.png")
    words = ["--dataset", "folder", "--data-dir", tmp_path / "cats", "--student", "cnn_tiny"]
    words += ["--results-dir", results]
    command("train.py", *words, "--epochs", "1", "--val-size", "0")
    assert (results / "cats/student-cnn_tiny/seed0/test.json").exists()
    (results / "folder").mkdir()
    shutil.move(results / "cats/student-cnn_tiny", results / "folder")
    done = command("test.py", *words)
    assert f"{results}/folder/student-cnn_tiny/seed0" in done.stdout


def test_images_in_two_parts_are_in_header_record_and_table_and_one_flag_trains_without_them(command, tmp_path):
    for part, count in (("train", 10), ("test", 4)):
        for label, shade in (("dark", 30), ("light", 200)):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (32, 32), (shade + number, shade, shade))
                image.save(tmp_path / "data" / part / label / f"{number}.png")
    words = ["--dataset", "folder", "--data-dir", tmp_path / "data", "--student", "cnn_tiny", "--epochs", "1"]
    words += ["--val-size", "0", "--results-dir", tmp_path]
    run, text = tmp_path / "data/student-cnn_tiny/seed0", "8 of 8 test images are in train, too"
    done = command("train.py", *words)
    assert f"  duplicates {text} (--drop-duplicates True trains without them)\n" in done.stdout
    assert json.loads((run / "config.json").read_text())["duplicates"] == {"test_in_train": 8}
    assert f"\nNote: {text}.\n" in (run.parents[1] / "README.md").read_text()
    done = command("train.py", *words, "--drop-duplicates", "True", "--resume", check=1)
    assert "drop duplicates False instead of True" in done.stderr
    done = command("train.py", *words, "--drop-duplicates", "True", "--overwrite")
    assert "12 train, 0 val, 8 test" in done.stdout
    assert "  duplicates 8 images are left out of train and val: they are in val or test, too\n" in done.stdout
    assert json.loads((run / "config.json").read_text())["identity"]["drop_duplicates"] is True
