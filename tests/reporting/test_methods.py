import csv

import pytest
from toys import finished_run

from models import MODELS
from utils.losses import METHODS
from utils.reporting.methods import INTERVAL, PUBLISHED, method_tables, step_milliseconds
from utils.reporting.table import paired, read_rows, write_report

KD = {"role": "kd", "method": "kd", "method.temperature": 5.0, "teacher": "vgg13", "teacher_sha256": "a" * 16}
DIST = KD | {"method": "dist"}
PAIR = {"dataset": "cifar100", "network": "vgg8", "batch_size": 32}


@pytest.fixture
def folder(tmp_path):
    """Two seeds of a student alone, with KD and with DIST."""
    for seed in (0, 1):
        shared = PAIR | {"seed": seed}
        finished_run(
            tmp_path / f"teacher-vgg13/seed{seed}", 74.0, **shared | {"role": "teacher", "network": "vgg13"}
        )
        finished_run(tmp_path / f"student-vgg8/seed{seed}", 70.0 + seed, **shared)
        finished_run(tmp_path / f"kd-vgg8-t5/seed{seed}", 72.0 + seed, **shared | KD)
        finished_run(tmp_path / f"dist-vgg8/seed{seed}", 73.0 + 2 * seed, **shared | DIST)
    return tmp_path


def tables(folder):
    rows = read_rows(folder)
    return method_tables(rows, [paired(row, rows) for row in rows])


def test_methods_stand_side_by_side_from_the_largest_gain_down(folder):
    (table,) = tables(folder).values()
    assert [row.name for row, _ in table] == ["teacher-vgg13", "student-vgg8", "dist-vgg8", "kd-vgg8-t5"]
    teacher, student, dist, kd = (cells for _, cells in table)
    assert teacher["gain"] == student["gain"] == ""
    assert (kd["gain"], kd[INTERVAL]) == ("+2.00 ± 0.00", "+2.00 to +2.00")
    assert dist["gain"] == "+3.50 ± 0.71"
    low, high = map(float, dist[INTERVAL].split(" to "))
    assert (low + high) / 2 == pytest.approx(3.5)
    assert (high - low) / 2 == pytest.approx(12.706 * 0.5, abs=0.01)  # t of one degree of freedom, 0.707 / sqrt(2)


def test_the_last_epoch_counts_and_the_best_one_in_validation_stands_apart(folder):
    row, cells = tables(folder)["vgg8"][2]
    best = [max(record["val_top1"] for record in history) for history in row.histories.values()]
    assert cells["last epoch, test (%)"] == "74.00 ± 1.41"
    assert cells["best epoch, validation (%)"] == f"{sum(best) / 2:.2f} ± 0.00"


def test_published_figures_stand_beside_ours_with_the_epoch_that_they_are_of(folder):
    teacher, student, dist, kd = (cells for _, cells in tables(folder)["vgg8"])
    assert teacher["published (%)"] == "74.64, last epoch"
    assert student["published (%)"] == "70.36, last epoch"
    assert kd["published (%)"] == "72.98, last epoch"
    assert dist["published (%)"] == ""


def test_one_method_alone_or_other_images_are_no_comparison(tmp_path):
    finished_run(tmp_path / "student-cnn/seed0")
    finished_run(tmp_path / "kd-cnn-t5/seed0", **KD)
    assert tables(tmp_path) == {}
    finished_run(tmp_path / "dist-cnn/seed0", **DIST)
    assert [cells.keys() >= {"published (%)"} for _, cells in tables(tmp_path)["cnn"]] == [False] * 3


def test_a_step_is_timed_by_the_fastest_epoch(folder):
    row, _ = tables(folder)["vgg8"][0]
    for history in row.histories.values():
        history[0]["seconds"], history[1]["seconds"] = 5.0, 0.5
    batches = -(-90 // row.identity["batch_size"])
    assert step_milliseconds(row) == [500 / batches] * 2


def test_the_page_of_the_folder_has_the_comparison(folder):
    page = write_report(folder).read_text()
    assert "## Methods for vgg8" in page
    assert "| 72.98, last epoch |" in page
    assert "****" not in page


def test_published_figures_are_of_known_networks_and_methods_and_name_their_source():
    with open(PUBLISHED, newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) > 150
    for line in lines:
        assert {line["teacher"], line["student"]} - {""} <= MODELS.keys()
        assert line["method"] in {*METHODS, "teacher", "student"}
        assert 50 < float(line["top1"]) < 90
        assert line["epoch"] in ("last epoch", "best test epoch")
        assert "(README of " in line["source"]
