import os
from contextlib import nullcontext

import pytest
from kills import killed_before
from toys import IDENTITY, epoch_records, finished_run

from utils.runtime.atomic import atomic_write
from utils.runtime.errors import UserError
from utils.runtime.files import write_text
from utils.runtime.history import write_history
from utils.runtime.identity import Identity
from utils.runtime.json_file import write_json
from utils.runtime.program import describe
from utils.runtime.run_dir import RunDir


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
    run = RunDir(tmp_path / "run")
    run.require_free()
    assert not run.path.exists()
    with run.locked():
        for enter in (run.locked, lambda: run.require_free() or nullcontext()):
            with pytest.raises(UserError, match=r"another process is training .*run"), enter():
                pass
    run.require_free()
    with run.locked():
        pass


def test_a_lock_that_is_a_link_is_named_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".lock").symlink_to("mine")
    for enter in (RunDir(tmp_path).require_free, RunDir(tmp_path).locked().__enter__):
        with pytest.raises(OSError) as caught:
            enter()
        assert describe(caught.value)[0].startswith(f"{tmp_path / '.lock'}: ")
        assert "remove it" in describe(caught.value)[1]
    assert (tmp_path / "mine").read_text() == "mine"


def test_temporaries_of_killed_processes_are_removed_and_those_of_living_ones_stay(tmp_path):
    run, abandoned = RunDir(tmp_path), tmp_path / ".last.pt.123.0123456789abcdef.tmp"
    with atomic_write(tmp_path / "analysis.json"):  # as test.py writes beside a training
        abandoned.touch()
        with run.locked():
            assert not abandoned.exists()
            assert len(list(tmp_path.glob(".analysis.json.*.tmp"))) == 1


@pytest.mark.parametrize("left", [["config.json"], ["config.json", "best.pt"], [".replaced.json", "last.pt"], []])
def test_a_run_without_a_finished_epoch_is_simply_replaced(tmp_path, left):
    """By one of any settings, whether or not --resume is given."""
    run = finished_run(tmp_path / "run")
    for path in (run.best, run.replaced, run.last):
        path.touch()
    for path in [path for path in run.path.iterdir() if path.name not in left]:
        path.unlink()
    assert {prepare(run, resume, epochs=epochs) for resume in (False, True) for epochs in (3, 5)} == {"start"}


@pytest.mark.parametrize("name", ["last.pt", "best.pt", "history.csv", "test.json", "accuracy.png"])
def test_files_without_the_config_of_a_run_are_not_replaced(tmp_path, name):
    (tmp_path / name).touch()
    for resume in (False, True):
        with pytest.raises(UserError, match=r"config\.json is missing"):
            prepare(RunDir(tmp_path), resume)


def test_what_overwrite_was_to_replace_stays_until_resume_comes_with_the_same_settings(tmp_path):
    run, new = trained_run(tmp_path / "run"), Identity(IDENTITY | {"epochs": 5}, partial=True)
    assert not RunDir(tmp_path / "none").mark_overwrite(new)
    assert not (tmp_path / "none").exists()
    run.mark_overwrite(new)
    assert prepare(run, resume=True, epochs=5) == prepare(run, resume=True, epochs=5, data="abc") == "start"
    assert prepare(run, skip_finished=True) == "skip"
    for words in ({"epochs": 5}, {"resume": True, "epochs": 6}, {"resume": True, "epochs": 5, "lr": 0.1}):
        with pytest.raises(UserError, match="other settings"):
            identity = Identity(IDENTITY | {k: v for k, v in words.items() if k != "resume"}, partial=True)
            run.prepare(identity, words.get("resume", False), False, False)
    run.unmark_overwrite()
    with pytest.raises(UserError, match="other settings"):
        prepare(run, resume=True, epochs=5)


def test_the_same_run_again_is_begun_anew_by_resume_where_overwrite_was_to(tmp_path):
    run = trained_run(tmp_path / "run")
    run.mark_overwrite(Identity(IDENTITY, partial=True))
    assert prepare(run, resume=True) == "start"
    run.clear()
    trained_run(tmp_path / "run")
    assert prepare(run, resume=True) == "skip"


@pytest.mark.parametrize("damage", ["", "[]", '{"identity": 3}', "{"])
def test_a_damaged_mark_of_overwrite_replaces_nothing(tmp_path, damage):
    run = trained_run(tmp_path / "run")
    run.overwrite.write_text(damage)
    assert prepare(run, resume=True) == "skip"


def trained_run(path, **identity) -> RunDir:
    """A finished run with checkpoints, which nobody trained; and a file of the user's own."""
    run = RunDir(path)
    path.mkdir(parents=True, exist_ok=True)
    config = {"identity": IDENTITY | identity, "data": {"train": 90, "val": 10, "test": 50}}
    write_json(run.config, config | {"objective": "CE", "device": "cpu", "command": "python train.py --all"})
    for epoch in (1, 2, 3):
        for file in (run.best, run.last):
            write_text(file, f"{identity} {file.name} {epoch}")
        write_history(run.history, epoch_records(epoch))
    write_json(run.results, {"top1": 1.0, "top5": 9.0, "loss": 0.5, "parameters": 3, "epoch": 3})
    (path / "notes.txt").write_text("mine")
    return run


def content(path) -> dict[str, bytes]:
    names = ("config.json", "history.csv", "last.pt", "best.pt", "test.json")
    return {name: (path / name).read_bytes() for name in names if (path / name).exists()}


def overwrite(path) -> None:
    """All that a program does in a run directory with --overwrite, as far as it is on disk."""
    run, new = RunDir(path), Identity(IDENTITY | {"epochs": 5}, partial=True)
    run.mark_overwrite(new)
    with run.locked():
        assert run.prepare(new, False, True, False) == "start"
        run.clear()
        trained_run(path, epochs=5)


def resumed(run: RunDir, **changes) -> str:
    """What --resume does with the run of these settings, or why it refuses."""
    try:
        return prepare(run, resume=True, **changes)
    except UserError as error:
        return "refused" if "other settings" in str(error) else str(error)


@pytest.mark.slow
def test_an_overwritten_run_is_whole_or_gone_and_can_be_finished_whenever_it_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a hundred kills are no power cuts
    old, new = (content(trained_run(tmp_path / f"epochs{n}", epochs=n).path) for n in (3, 5))
    actions, step, killed = [], 0, True
    while killed:
        run = trained_run(tmp_path / f"run{step}", epochs=3)
        killed = killed_before(step, lambda path=run.path: overwrite(path))
        now, actions = content(run.path), [*actions, (resumed(run, epochs=3), resumed(run, epochs=5))]
        of_old, of_new = actions[-1]
        if of_new == "refused":
            assert now == old, "something was changed before --resume could finish it"
        if of_old in ("resume", "skip"):
            assert now | {"test.json": old["test.json"]} == old, "whole, but for what --resume makes again"
        elif of_old == "refused":
            assert now["config.json"] == new["config.json"]
        else:
            assert of_old == of_new == "start", "it is gone for both"
        assert of_new in ("start", "refused") or "best.pt" in now
        if of_new == "start":
            with run.locked():
                run.clear()
                trained_run(run.path, epochs=5)
            assert content(run.path) == new
            assert {*os.listdir(run.path)} == {*new, "notes.txt", ".lock"}
        step += 1
    assert now == new
    assert {*actions} == {
        *(("skip", "refused"), ("skip", "start"), ("resume", "start"), ("start", "start")),
        *(("refused", "resume"), ("refused", "skip")),
    }


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
