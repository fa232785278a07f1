import statistics
from pathlib import Path

import pytest
from toys import finished_run

import utils.reporting.table
from utils.reporting.table import write_report
from utils.runtime.errors import UserError
from utils.runtime.json_file import write_json


def distilled(temperature: float, method: str = "kd", **more) -> dict:
    settings = {"method.temperature": temperature, "method.alpha": 0.9}
    return {"role": "kd", "method": method, "teacher": "vgg19_bn", **settings, **more}


def rows_of(page: str) -> list[str]:
    """The rows of the first table, which is that of all runs."""
    table = page.split("| model |", 1)[1].split("\n\n")[0]
    return table.splitlines()[2:]


def title(row: str) -> str:
    return row.split("|")[1].strip()


def test_the_table_shows_mean_deviation_and_paired_gain_over_seeds(tmp_path):
    baseline, with_kd = (80.0, 81.0, 82.5), (81.5, 82.0, 84.0)
    for seed in range(3):
        finished_run(tmp_path / "student-cnn" / f"seed{seed}", baseline[seed], seed=seed)
        finished_run(tmp_path / "kd-cnn-t5" / f"seed{seed}", with_kd[seed], **distilled(5.0, seed=seed))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    gains = [b - a for a, b in zip(baseline, with_kd, strict=True)]
    expected = f"+{statistics.mean(gains):.2f} ± {statistics.stdev(gains):.2f}"
    # Differences 1.5, 1.0, 1.5; the quantile of t with 2 degrees of freedom is 4.302653: 0.6162 to 2.0504.
    assert "- KD at T = 5 gains 1.3 ± 0.3 points (3 seeds, 95 % interval 0.6 to 2.1)." in text.splitlines()
    row = next(line for line in text.splitlines() if "KD at T = 5 (3" in line)
    assert row.endswith(f"| 3 | 37 | {expected} |")
    assert f"**{statistics.mean(with_kd):.2f} ± {statistics.stdev(with_kd):.2f}**" in row
    assert "(3 seeds)" in row
    assert "288,746" in row


def test_the_gain_is_only_of_seeds_that_both_have_and_none_without_the_student(tmp_path):
    finished_run(tmp_path / "kd-cnn-t5" / "seed1", 90.0, **distilled(5.0, seed=1))
    assert rows_of(write_report(tmp_path).read_text())[0].endswith("|  |")
    finished_run(tmp_path / "student-cnn" / "seed0", 80.0)
    assert rows_of(write_report(tmp_path).read_text())[1].endswith("|  |")
    finished_run(tmp_path / "student-cnn" / "seed1", 85.0, seed=1)
    assert rows_of(write_report(tmp_path).read_text())[1].endswith("| +5.00 |")


def test_rows_stand_in_order_with_the_gain_of_each_method_and_unfinished_runs_are_left_out(tmp_path):
    finished_run(tmp_path / "kd-cnn-t20" / "seed0", 81.0, **distilled(20.0))
    finished_run(tmp_path / "kd-cnn-t5" / "seed0", 82.0, **distilled(5.0))
    finished_run(tmp_path / "dkd-cnn" / "seed0", 83.0, **distilled(4.0, "dkd"))
    finished_run(tmp_path / "student-cnn" / "seed0", 80.0)
    finished_run(tmp_path / "teacher-vgg11_bn" / "seed0", role="teacher", network="vgg11_bn")
    finished_run(tmp_path / "kd-cnn-t9" / "seed0", **distilled(9.0)).results.unlink()
    page = write_report(tmp_path).read_text()
    rows = rows_of(page)
    students = ["student cnn, alone", "student cnn, DKD at T = 4"]
    students += ["student cnn, KD at T = 5", "student cnn, KD at T = 20"]
    assert [title(row) for row in rows] == ["teacher vgg11_bn", *students]
    assert [row.split("|")[-2].strip() for row in rows] == ["", "", "+3.00", "+2.00", "+1.00"]
    for name in ("teacher-vgg11_bn", "student-cnn", "dkd-cnn", "kd-cnn-t5", "kd-cnn-t20"):
        assert f"{name}/seed0/accuracy.png" in page
        assert f"{name}/seed0/loss.png" in page
    assert (tmp_path / "comparison.png").exists()


def test_a_run_of_before_there_were_methods_stands_in_the_row_of_its_other_seeds(tmp_path):
    finished_run(tmp_path / "kd-cnn-t5" / "seed0", role="kd", temp=5.0, alpha=0.9, teacher="vgg19_bn")
    finished_run(tmp_path / "kd-cnn-t5" / "seed1", **distilled(5.0, seed=1))
    assert [title(row) for row in rows_of(write_report(tmp_path).read_text())] == [
        "student cnn, KD at T = 5 (2 seeds)"
    ]


def test_a_folder_without_finished_runs_has_no_report(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        write_report(tmp_path)


def test_runs_of_other_settings_are_rows_of_their_own_and_no_gain_is_taken_from_them(tmp_path):
    finished_run(tmp_path / "student-cnn" / "seed0", 80.0)
    finished_run(tmp_path / "student-cnn" / "seed1", 50.0, seed=1, epochs=1)
    finished_run(tmp_path / "kd-cnn-t5" / "seed0", 90.0, **distilled(5.0, epochs=99))
    finished_run(tmp_path / "student-cnn" / "seed0.bak", 10.0)
    rows = rows_of(write_report(tmp_path).read_text())
    assert [title(row) for row in rows] == [
        "student cnn, alone",
        "student cnn, alone (epochs 1 instead of 3)",
        "student cnn, KD at T = 5",
    ]
    assert rows[2].endswith("|  |")


def test_a_disk_that_fills_up_at_the_plot_of_all_runs_only_warns(tmp_path, monkeypatch, capsys):
    finished_run(tmp_path / "student-cnn" / "seed0")

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(utils.reporting.table, "plot_comparison", full)
    assert "comparison.png" not in write_report(tmp_path).read_text()
    assert f"warning: no {tmp_path / 'comparison.png'}: " in capsys.readouterr().err


def leaking_run(path: Path, duplicates: object, **identity) -> None:
    run = finished_run(path, **identity)
    write_json(run.config, run.read_config() | {"duplicates": duplicates})


def test_equal_images_in_several_parts_are_a_note_below_the_table(tmp_path):
    counts = {"test_in_train": 12, "test_in_val": 1, "relabelled": 3}
    leaking_run(tmp_path / "student-cnn" / "seed0", counts)
    leaking_run(tmp_path / "student-cnn" / "seed1", counts, seed=1)
    text = "12 of 50 test images are in train, too; 1 of 50 test images is in val, too; "
    text += "of 90 train images, 3 are equal to one of another class"
    assert f"\n\nNote: {text}.\n\n" in write_report(tmp_path).read_text()
    leaking_run(tmp_path / "kd-cnn-t5" / "seed0", {"dropped": 2}, **distilled(5.0))
    page = write_report(tmp_path).read_text()
    assert f"Note: {text} (student cnn, alone).\n" in page
    other = "2 images are left out of train and val: they are in val or test, too"
    assert f"Note: {other} (student cnn, KD at T = 5).\n" in page


@pytest.mark.parametrize("duplicates", [{}, None, [1], "x", {"test_in_train": "<b>"}, {"relabelled": True}])
def test_what_is_no_count_of_equal_images_is_no_note(tmp_path, duplicates):
    leaking_run(tmp_path / "student-cnn" / "seed0", duplicates)
    assert "Note" not in write_report(tmp_path).read_text()
