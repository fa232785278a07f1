import csv
from pathlib import Path

import pytest
from toys import IDENTITY, epoch_records, finished_run

from utils.runtime.errors import UserError
from utils.runtime.identity import Identity
from utils.runtime.ranges import COUNT, PERCENT, optional, require_ranges
from utils.runtime.run_dir import COLUMNS, RunDir, read_json


def prepare(
    run: RunDir, resume: bool = False, overwrite: bool = False, skip_finished: bool = False, **changes
) -> str:
    """What is to be done with the run that `finished_run` makes, under these settings."""
    identity = Identity(IDENTITY | changes)
    return run.prepare(identity, resume, overwrite, skip_finished)


def test_a_new_run_directory_starts(tmp_path):
    assert prepare(RunDir(tmp_path / "new")) == prepare(RunDir(tmp_path / "new"), resume=True) == "start"


def test_a_finished_run_is_skipped_refused_or_overwritten_as_asked(tmp_path):
    run = finished_run(tmp_path / "run")
    assert prepare(run, resume=True) == prepare(run, skip_finished=True) == "skip"
    assert prepare(run, overwrite=True) == prepare(run, overwrite=True, epochs=5) == "start"
    with pytest.raises(UserError, match=r"finished.*--overwrite"):
        prepare(run)


def test_an_unfinished_run_is_resumed_only_when_asked(tmp_path):
    run = finished_run(tmp_path / "run")
    run.results.unlink()
    run.last.touch()
    assert prepare(run, resume=True) == "resume"
    for skip in (False, True):
        with pytest.raises(UserError, match=r"unfinished.*--resume"):
            prepare(run, skip_finished=skip)


@pytest.mark.parametrize("asked", [{}, {"resume": True}, {"skip_finished": True}])
def test_a_run_of_other_settings_is_refused_with_what_differs(tmp_path, asked):
    run = finished_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"other settings: epochs 3 instead of 5 .*--overwrite.*--results-dir"):
        prepare(run, epochs=5, **asked)


@pytest.mark.parametrize(
    "damage",
    [{"role": "admin"}, {"network": "../../cnn"}, {"network": None}, {"role": "kd", "method": "<b>"}],
)
def test_a_config_that_names_no_role_network_or_method_is_damaged(tmp_path, damage):
    run = finished_run(tmp_path / "run", **damage)
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        run.read_config()


def test_a_lost_checkpoint_is_not_silently_started_again(tmp_path):
    run = finished_run(tmp_path / "run")
    run.results.unlink()
    with pytest.raises(UserError, match=r"last\.pt is missing"):
        prepare(run, resume=True)


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
    run.write_history([*epoch_records(1), *epoch_records(1, val=False)])
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


def test_an_overwritten_run_loses_its_results_before_its_settings(tmp_path, monkeypatch):
    run, removed = finished_run(tmp_path / "run"), []
    monkeypatch.setattr(type(run.results), "unlink", lambda path, **_: removed.append(path.name))
    run.clear()
    assert removed.index("test.json") < removed.index("config.json")


RECORD = {"identity": {"role": "kd", "method": "dkd", "network": "cnn", "seed": 1, "method.beta": 2.0}}


@pytest.mark.parametrize(
    ("folder", "record", "hint"),
    [
        ("dkd-cnn/seed2", {}, "seed2 holds the run dkd-cnn/seed1 .*give it the name seed1 back"),
        ("dkd-cnn2/seed1", {}, "dkd-cnn2 holds the run dkd-cnn .*give it the name dkd-cnn back"),
        ("student-cnn/seed1", {}, "student-cnn holds the run dkd-cnn "),
        ("dkd-cnn-beta3/seed1", {"run": "dkd-cnn-beta2"}, "dkd-cnn-beta3 holds the run dkd-cnn-beta2 "),
        ("dkd-cnn/seed01", {}, "seed01 holds the run dkd-cnn/seed1 "),
    ],
)
def test_a_record_of_another_run_than_the_folder_names_is_refused_with_what_to_do(tmp_path, folder, record, hint):
    with pytest.raises(UserError, match=hint):
        RunDir(tmp_path / folder).require_own(RECORD | record)
    path = tmp_path / folder / "last.pt"
    with pytest.raises(UserError, match=r"last\.pt is of the run .*put the checkpoint of this run back"):
        RunDir(tmp_path / folder).require_own(RECORD | record, path)


def test_a_record_of_the_run_that_its_folder_names_passes_also_without_a_recorded_name(tmp_path):
    for name, record in (("dkd-cnn-beta2", {"run": "dkd-cnn-beta2"}), ("dkd-cnn-beta2", {}), ("dkd-cnn", {})):
        RunDir(tmp_path / name / "seed1").require_own(RECORD | record)


def test_a_number_is_within_its_range_only_as_a_finite_number_of_its_kind():
    for value in (0, 0.0, 100, 99.5):
        assert PERCENT(value)
    for value in (-1e-9, 100.1, float("nan"), float("inf"), True, "5", None, [5], 10**400):
        assert not PERCENT(value)
        assert optional(PERCENT)(value) == (value is None)
    assert [COUNT(value) for value in (3, 3.0, 3.5)] == [True, True, False]
    with pytest.raises(
        UserError, match=r"x\.json cannot be right: top1 is \\x1b, not a number from 0 to 100 \(hint: h"
    ):
        require_ranges(Path("x.json"), {"top1": "\x1b"}, {"top1": PERCENT}, "h")
