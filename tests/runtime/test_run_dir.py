import csv
import io
import statistics
import sys

import pytest
from PIL import Image

import config
import utils.reporting.table
import utils.training.progress
from utils.evaluation.metrics import Metrics
from utils.reporting.curves import plot_comparison, plot_run
from utils.reporting.table import write_report
from utils.runtime.errors import UserError
from utils.runtime.run_dir import COLUMNS, EpochRecord, RunDir, read_json, write_json
from utils.training.progress import TrainingDisplay, duration

IDENTITY = {"role": "student", "network": "cnn", "epochs": 3, "seed": 0}


def history(epochs: int = 3, val: bool = True, start: float = 50.0) -> list[EpochRecord]:
    measured = (1.5, start, 90.0) if val else (None, None, None)
    return [EpochRecord(e + 1, 0.1, 2.0 - e / 10, 40.0 + e, 80.0, *measured, 12.345) for e in range(epochs)]


def finished(path, top1: float = 80.0, **identity) -> RunDir:
    run = RunDir(path)
    path.mkdir(parents=True)
    config = {"identity": IDENTITY | identity, "data": {"train": 90, "val": 10, "test": 50}}
    write_json(run.config, config | {"objective": "CE", "device": "cpu", "command": "python train.py --all"})
    run.write_history(history())
    result = {"top1": top1, "top5": 99.0, "loss": 0.5, "images": 50, "parameters": 288_746, "epoch": 3}
    write_json(run.results, result)
    return run


def test_a_title_is_silent_of_the_same_alpha_as_the_name_of_a_run():
    assert utils.reporting.table.USUAL_ALPHA == config.ALPHA


def test_a_new_run_directory_starts(tmp_path):
    assert (
        RunDir(tmp_path / "new").prepare(IDENTITY, resume=False, overwrite=False, skip_finished=False) == "start"
    )
    assert RunDir(tmp_path / "new").prepare(IDENTITY, resume=True, overwrite=False, skip_finished=False) == "start"


def test_a_finished_run_is_skipped_refused_or_overwritten_as_asked(tmp_path):
    run = finished(tmp_path / "run")
    assert run.prepare(IDENTITY, resume=True, overwrite=False, skip_finished=False) == "skip"
    assert run.prepare(IDENTITY, resume=False, overwrite=False, skip_finished=True) == "skip"
    assert run.prepare(IDENTITY, resume=False, overwrite=True, skip_finished=False) == "start"
    with pytest.raises(UserError, match=r"finished.*--overwrite"):
        run.prepare(IDENTITY, resume=False, overwrite=False, skip_finished=False)


def test_an_unfinished_run_is_resumed_only_when_asked(tmp_path):
    run = finished(tmp_path / "run")
    run.results.unlink()
    run.last.touch()
    assert run.prepare(IDENTITY, resume=True, overwrite=False, skip_finished=False) == "resume"
    for skip in (False, True):
        with pytest.raises(UserError, match=r"unfinished.*--resume"):
            run.prepare(IDENTITY, resume=False, overwrite=False, skip_finished=skip)


@pytest.mark.parametrize(("resume", "skip"), [(False, False), (True, False), (False, True)])
def test_a_run_of_other_settings_is_refused_with_what_differs(tmp_path, resume, skip):
    run = finished(tmp_path / "run")
    with pytest.raises(UserError, match=r"epochs 3 -> 5"):
        run.prepare(IDENTITY | {"epochs": 5}, resume=resume, overwrite=False, skip_finished=skip)


def test_a_lost_checkpoint_is_not_silently_started_again(tmp_path):
    run = finished(tmp_path / "run")
    run.results.unlink()
    with pytest.raises(UserError, match=r"last\.pt is missing"):
        run.prepare(IDENTITY, resume=True, overwrite=False, skip_finished=False)


def test_a_second_process_is_kept_out_of_a_run_directory(tmp_path):
    with RunDir(tmp_path / "run").locked():
        with pytest.raises(UserError, match="another run"), RunDir(tmp_path / "run").locked():
            pass
    with RunDir(tmp_path / "run").locked():
        pass


def test_left_over_temporary_files_are_removed(tmp_path):
    run = RunDir(tmp_path)
    (tmp_path / ".last.pt.123.tmp").touch()
    with run.locked():
        assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))


def test_history_csv_has_the_promised_columns_and_reads_back(tmp_path):
    run = RunDir(tmp_path)
    run.write_history([*history(1), *history(1, val=False)])
    with open(run.history, newline="", encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    promised = "epoch,lr,train_loss,train_top1,train_top5,val_loss,val_top1,val_top5,seconds"
    assert ",".join(first) == promised == ",".join(COLUMNS)
    rows = run.read_history()
    assert rows[0]["seconds"] == pytest.approx(12.345, abs=1e-3)
    assert rows[1]["val_top1"] is None


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"b\.json is missing"):
        read_json(tmp_path / "b.json")
    (tmp_path / "a.json").write_text('{"epoch": "3"}')
    with pytest.raises(UserError, match=r"no 'epoch'"):
        read_json(tmp_path / "a.json", epoch=int)


def test_the_table_shows_mean_deviation_and_paired_gain_over_seeds(tmp_path):
    alone, taught = (80.0, 81.0, 82.5), (81.5, 82.0, 84.0)
    for seed in range(3):
        finished(tmp_path / "student-cnn" / f"seed{seed}", alone[seed], seed=seed)
        taught_run = {"role": "kd", "temp": 5.0, "teacher": "vgg19_bn", "seed": seed}
        finished(tmp_path / "kd-cnn-t5" / f"seed{seed}", taught[seed], **taught_run)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    gains = [b - a for a, b in zip(alone, taught, strict=True)]
    expected = f"+{statistics.mean(gains):.2f} ± {statistics.stdev(gains):.2f}"
    # Differences 1.5, 1.0, 1.5; the quantile of t with 2 degrees of freedom is 4.302653: 0.6162 to 2.0504.
    assert "- KD at T = 5 gains 1.3 ± 0.3 points (3 seeds, 95 % interval 0.6 to 2.1)." in text.splitlines()
    row = next(line for line in text.splitlines() if "KD at T = 5 (3" in line)
    assert row.endswith(f"| 3 | 37 | {expected} |")
    assert f"**{statistics.mean(taught):.2f} ± {statistics.stdev(taught):.2f}**" in row
    assert "(3 seeds)" in row
    assert "288,746" in row


def test_the_gain_is_only_of_seeds_that_both_have_and_none_without_the_student(tmp_path):
    finished(tmp_path / "kd-cnn-t5" / "seed1", 90.0, role="kd", temp=5.0, seed=1)
    row = next(
        line
        for line in write_report(tmp_path).read_text().splitlines()
        if line.startswith("| student") and "KD at T = 5" in line
    )
    assert row.endswith("|  |")
    finished(tmp_path / "student-cnn" / "seed0", 80.0)
    row = next(
        line
        for line in write_report(tmp_path).read_text().splitlines()
        if line.startswith("| student") and "KD at T = 5" in line
    )
    assert row.endswith("|  |")


def test_rows_stand_in_order_and_unfinished_runs_are_left_out(tmp_path):
    finished(tmp_path / "kd-cnn-t20" / "seed0", role="kd", temp=20.0)
    finished(tmp_path / "kd-cnn-t5" / "seed0", role="kd", temp=5.0)
    finished(tmp_path / "student-cnn" / "seed0")
    finished(tmp_path / "teacher-vgg11_bn" / "seed0", role="teacher", network="vgg11_bn")
    finished(tmp_path / "kd-cnn-t9" / "seed0", role="kd", temp=9.0).results.unlink()
    page = write_report(tmp_path).read_text()
    names = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")][2:]
    students = ["student cnn, alone", "student cnn, KD at T = 5", "student cnn, KD at T = 20"]
    assert names == ["teacher vgg11_bn", *students]
    for name in ("teacher-vgg11_bn", "student-cnn", "kd-cnn-t5", "kd-cnn-t20"):
        assert f"{name}/seed0/accuracy.png" in page
        assert f"{name}/seed0/loss.png" in page
    assert (tmp_path / "comparison.png").exists()


def test_a_folder_without_finished_runs_has_no_report(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        write_report(tmp_path)


def test_plots_are_pictures_with_and_without_validation(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "no-such-backend")
    for val in (True, False):
        run = RunDir(tmp_path)
        run.write_history(history(val=val))
        rows = run.read_history()
        plot_run("student-cnn", rows, run.accuracy, run.loss, {"top1": 80.0, "loss": 0.5})
        for path in (run.accuracy, run.loss):
            with Image.open(path) as picture:
                assert picture.size == (960, 600)
                assert len(picture.convert("RGB").getcolors(1 << 20)) > 10
        assert plot_comparison("shapes", {"student": [rows, rows]}, tmp_path / "comparison.png") is val


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (18480, "5 h 08 min")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_runs_of_other_settings_are_rows_of_their_own_and_no_gain_is_taken_from_them(tmp_path):
    finished(tmp_path / "student-cnn" / "seed0", 80.0)
    finished(tmp_path / "student-cnn" / "seed1", 50.0, seed=1, epochs=1)
    finished(tmp_path / "kd-cnn-t5" / "seed0", 90.0, role="kd", temp=5.0, epochs=99)
    finished(tmp_path / "student-cnn" / "seed0.bak", 10.0)
    rows = [line for line in write_report(tmp_path).read_text().splitlines() if line.startswith("| student")]
    assert [row.split("|")[1].strip() for row in rows] == [
        "student cnn, alone",
        "student cnn, alone (epochs 1)",
        "student cnn, KD at T = 5",
    ]
    assert rows[2].endswith("|  |")


def test_a_disk_that_fills_up_at_the_plot_of_all_runs_only_warns(tmp_path, monkeypatch, capsys):
    finished(tmp_path / "student-cnn" / "seed0")

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(utils.reporting.table, "plot_comparison", full)
    assert "comparison.png" not in write_report(tmp_path).read_text()
    assert "warning: no plot of all runs" in capsys.readouterr().err


def test_an_overwritten_run_loses_its_figures_before_its_settings(tmp_path, monkeypatch):
    run, removed = finished(tmp_path / "run"), []
    monkeypatch.setattr(type(run.results), "unlink", lambda path, **_: removed.append(path.name))
    run.clear()
    assert removed.index("test.json") < removed.index("config.json")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar_an_estimate_and_advice(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    clock = iter(range(0, 10_000, 6))
    monkeypatch.setattr(utils.training.progress.time, "perf_counter", lambda: next(clock))
    with TrainingDisplay(40, 1000, "a GPU would be faster") as display:
        for step in (1, 2, 3):
            display.progress(0, step, Metrics(1.25, 50.0, 90.0))
        display.epoch_done(history(1)[0])
    text = sys.stdout.getvalue()
    # 6 seconds a step, 39,998 steps to go
    assert text.count("to go for this network") == 1
    assert "about 66 h 39 min to go for this network; a GPU would be faster" in text
    assert "top-1 50.0 %" in text
    assert "epoch  1/40   train loss 2.0000 top-1 40.00 %   val loss 1.5000 top-1 50.00 %" in text
