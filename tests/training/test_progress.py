import io
import sys
from dataclasses import replace

import pytest
from toys import epoch_records

import utils.training.progress
from utils.evaluation.metrics import Metrics
from utils.training.progress import TrainingDisplay, duration, in_turn


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (18480, "5 h 08 min")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


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
        display.epoch_done(epoch_records(1)[0])
    text = sys.stdout.getvalue()
    # 6 seconds a step, 39,998 steps to go
    assert text.count("to go for this network") == 1
    assert "about 66 h 39 min to go for this network; a GPU would be faster" in text
    assert "top-1 50.0 %" in text
    assert "epoch  1/40   train loss 2.0000 top-1 40.00 %   val loss 1.5000 top-1 50.00 %" in text


def test_of_few_classes_an_epoch_has_no_top5(capsys):
    few = replace(epoch_records(1)[0], train_top5=100.0, val_top5=100.0)
    with TrainingDisplay(2, 10) as display:
        display.epoch_done(epoch_records(1)[0])
        display.epoch_done(few)
    many, few = capsys.readouterr().out.splitlines()
    assert "top-5 90.00 %" in many
    assert "top-5" not in few
    assert "top-1 50.00 %   12.3 s" in few


def lines_of(runs: list[str], took: list[float], monkeypatch, capsys, actions: list[str] | None = None):
    """The lines that are said before each run; the kinds of `b1` are `b1` and `b`."""
    now = [0.0]
    monkeypatch.setattr(utils.training.progress.time, "perf_counter", lambda: now[0])
    turns = in_turn(runs, actions or ["start"] * len(runs), lambda run: (run, run[0]))
    for run, expected, seconds in zip(turns, runs, took, strict=True):
        assert run == expected
        now[0] += seconds
    return [line for line in capsys.readouterr().out.splitlines() if line]


def test_the_time_of_all_runs_is_said_once_each_kind_of_them_has_been_measured(monkeypatch, capsys):
    runs, took = ["t1", "s1", "k1", "k2"] * 2, [100, 10, 40, 20, 200, 10, 30, 20]
    assert lines_of(runs, took, monkeypatch, capsys) == [
        "run 1 of 8",
        "run 2 of 8",
        "run 3 of 8",
        "run 4 of 8; about 3 min 50 s to go for all of them",  # 40 like k1, then t1 100, s1 10, k1 40, k2 as k1 40
        "run 5 of 8; about 2 min 50 s to go for all of them",  # 100 + 10 + 40 + 20
        "run 6 of 8; about 1 min 10 s to go for all of them",
        "run 7 of 8; about 1 min 00 s to go for all of them",
        "run 8 of 8; about 20 s to go for all of them",
    ]


def test_finished_runs_and_resumed_ones_tell_nothing_of_the_time_and_finished_ones_take_none(monkeypatch, capsys):
    runs, took = ["k1", "k2", "k3", "k4", "k5"], [0.1, 3, 50, 0.1, 50]
    actions = ["skip", "resume", "start", "skip", "start"]
    assert lines_of(runs, took, monkeypatch, capsys, actions) == [
        "run 1 of 5", "run 2 of 5", "run 3 of 5", "run 4 of 5", "run 5 of 5; about 50 s to go for all of them"
    ]  # fmt: skip


def test_a_run_alone_is_not_counted(monkeypatch, capsys):
    assert lines_of(["t1"], [100], monkeypatch, capsys) == []
