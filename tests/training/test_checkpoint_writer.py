import math

import pytest
from toys import CPU, assert_same_weights, batches, training

from utils.runtime.checkpoint import load_checkpoint
from utils.runtime.files import checksum
from utils.runtime.run_dir import RunDir
from utils.training.checkpoint_writer import CheckpointWriter
from utils.training.loop import LoopOptions, fit

CONTENT = {"model_name": "toy", "num_classes": 4, "class_names": list("abcd"), "image_size": 32}
CONTENT |= {"mean": [0.0] * 3, "std": [1.0] * 3}
CONTENT |= {"config": {"identity": {"role": "student", "network": "toy", "epochs": 6}}}


def train(folder, every: float, stop_after: int | None = None, ema: float = 0.0) -> RunDir:
    """Train 6 epochs, or be stopped in the one after `stop_after`."""
    run_dir, images, val = RunDir(folder), batches(100, 32), batches(60, 32, seed=None)
    folder.mkdir()
    state, steps = training(epochs=6, steps=len(images), ema=ema), []

    def stop():
        steps.append(1)
        if stop_after is not None and len(steps) == stop_after * len(images) + 2:
            raise KeyboardInterrupt

    with CheckpointWriter(run_dir, state, CONTENT, every) as writer:
        for record in fit(state, None, images, val, CPU, LoopOptions(check_interrupt=stop)):
            writer.epoch_done(record)
    return run_dir


def assert_same_files(one: RunDir, other: RunDir) -> None:
    for first, second in ((one.last, other.last), (one.best, other.best)):
        checkpoint, expected = load_checkpoint(first), load_checkpoint(second)
        assert checkpoint["epoch"] == expected["epoch"]
        assert_same_weights(checkpoint["model"], expected["model"])
        assert checksum(checkpoint.get("optimizer")) == checksum(expected.get("optimizer"))
    # all but the last column, the seconds
    rows = [[line.split(",")[:-1] for line in run.history.read_text().splitlines()] for run in (one, other)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("stop_after", [None, 1, 3, 5])
def test_however_seldom_it_writes_the_files_are_the_same_in_the_end(tmp_path, stop_after, ema):
    runs = []
    for every in (0.0, math.inf):
        folder = tmp_path / str(every)
        if stop_after is None:
            train(folder, every, ema=ema)
        else:
            with pytest.raises(KeyboardInterrupt):
                train(folder, every, stop_after, ema)
        runs.append(RunDir(folder))
    assert load_checkpoint(runs[1].last)["epoch"] == (stop_after or 6)
    assert_same_files(*runs)


def test_it_writes_no_more_often_than_it_is_told(tmp_path, monkeypatch):
    written = []
    real = CheckpointWriter.write
    monkeypatch.setattr(CheckpointWriter, "write", lambda self: (written.append(len(self.unwritten)), real(self)))
    train(tmp_path / "always", 0.0)
    assert len(written) == 7  # and once more, of nothing, at the end
    written.clear()
    train(tmp_path / "seldom", 1000.0)
    assert [count for count in written if count] == [2]


def test_a_training_stopped_in_its_first_epoch_leaves_no_checkpoint(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", 0.0, stop_after=0)
    assert not list((tmp_path / "run").iterdir())
