import io
import sys
from dataclasses import replace

import pytest
from toys import epoch_records

import utils.training.progress
from utils.evaluation.metrics import Metrics
from utils.training.progress import TrainingDisplay, duration


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
