"""What goes wrong on real machines, and the one line or the quiet recovery that must follow."""

import csv
import errno
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader  # noqa: F401  (imported before memory is limited)

import train
import utils.train_run
from utils.runtime import files as storage
from utils.runtime.checkpoint import load_checkpoint
from utils.runtime.files import read_tensors, write_tensors
from utils.runtime.program import run
from utils.runtime.run_dir import RunDir
from utils.training.checkpoint_writer import CheckpointWriter

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
FLAGS = "--dataset shapes --limit 130 --teacher cnn_tiny --student cnn_tiny --epochs 3 --batch-size 43".split()
RUN = "shapes/student-cnn_tiny/seed0"


@pytest.fixture(scope="module", autouse=True)
def few_shapes():
    """Draw fewer images than the programs do; children that are started as programs draw all."""
    from utils.data.sources import shapes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "TRAIN", 200)
        patch.setattr(shapes, "TEST", 60)
        yield


@pytest.fixture(scope="module")
def stopped(few_shapes, tmp_path_factory) -> Path:
    """Results of a training that was stopped after two of three epochs."""
    results = tmp_path_factory.mktemp("stopped")
    real = CheckpointWriter.epoch_done

    def save_and_stop(writer, record):
        real(writer, record)
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointWriter, "epoch_done", save_and_stop)
        assert run(train.main, [*FLAGS, "--results-dir", str(results)]) == 130
    return results


@pytest.fixture
def results(stopped, tmp_path) -> Path:
    """A copy of `stopped` of one's own."""
    return shutil.copytree(stopped, tmp_path / "results")


@pytest.fixture
def resume(results, capsys):
    """Resume in this process: (exit code, stderr)."""

    def go(*words: str) -> tuple[int, str]:
        code = run(train.main, [*FLAGS, "--results-dir", str(results), "--resume", *words])
        return code, capsys.readouterr().err

    return go


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def rewrite(path: Path, change) -> None:
    """Change the content of a checkpoint and give it a right checksum again."""
    content = read_tensors(path)
    change(content)
    write_tensors(path, content)


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran-by-pickle",)


def truncate(keep):
    return lambda path: path.write_bytes(path.read_bytes()[: keep(path.stat().st_size)])


def flip_a_bit_of(key: str):
    def damage(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        momentum = (state["momentum_buffer"] for state in content["optimizer"]["state"].values())
        plain = next(tensor for tensor in momentum if tensor.ndim == 1)  # as it lies in memory
        tensor = content["model"]["head.weight"] if key == "model" else plain
        data, needle = bytearray(path.read_bytes()), tensor.contiguous().numpy().tobytes()
        data[data.index(needle) + 5] ^= 1
        path.write_bytes(data)

    return damage


def claim_a_trillion_elements(path: Path) -> None:
    rewrite(
        path, lambda content: content["model"].update({"head.weight": torch.zeros(1).expand(10**6, 10**6)[:2]})
    )
    content = torch.load(path, weights_only=True)
    content["model"]["head.weight"] = torch.zeros(1).as_strided((10**6, 10**6), (0, 0))
    torch.save(content, path)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def corrupt_optimizer(content) -> None:
    content["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(3)


def corrupt_weights(content) -> None:
    content["model"]["head.weight"][0, 0] = torch.nan


def rename_network(content) -> None:
    content["model"] = {f"other.{name}": tensor for name, tensor in content["model"].items()}


DAMAGE = {
    "empty": (truncate(lambda size: 0), "is empty"),
    "one byte": (truncate(lambda size: 1), "is damaged"),
    "half": (truncate(lambda size: size // 2), "is damaged"),
    "all but a byte": (truncate(lambda size: size - 1), "is damaged"),
    "text": (lambda path: path.write_text("weights"), "is a text that begins with 'weights'"),
    "a folder": (replace_by_folder, "Is a directory"),
    "missing": (lambda path: path.unlink(), "is missing"),
    "a flipped bit in a weight": (flip_a_bit_of("model"), "is damaged"),
    "a flipped bit in the optimizer": (flip_a_bit_of("optimizer"), "is damaged"),
    "a pickle that runs code": (
        lambda path: torch.save({"model": Evil()}, path),
        "holds Python objects (posix.system)",
    ),
    "a claim of 10^12 elements": (claim_a_trillion_elements, "claims more than the file holds"),
    "weights that are not numbers": (lambda path: rewrite(path, corrupt_weights), "not finite"),
    "an optimizer of other shapes": (lambda path: rewrite(path, corrupt_optimizer), "optimizer state"),
    "a newer format": (lambda path: rewrite(path, lambda content: content.update(format=9)), "format 9"),
    "weights of another network": (
        lambda path: rewrite(path, rename_network),
        "does not fit the cnn_tiny of",
    ),
    "a plain state_dict": (lambda path: torch.save(read_tensors(path)["model"], path), "no checkpoint of this"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_resume_from_a_checkpoint_that_is(kind, results, resume):
    damage, reason = DAMAGE[kind]
    damage(results / RUN / "last.pt")
    before = snapshot(results / RUN)
    code, error = resume()
    assert code == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert reason in error
    assert "last.pt" in error
    assert snapshot(results / RUN) == before
    assert not Path("ran-by-pickle").exists()


def test_a_resumed_run_repairs_a_torn_history_and_keeps_its_best(results, resume):
    folder = results / RUN
    whole = (folder / "history.csv").read_text()
    best = torch.load(folder / "best.pt", weights_only=True)["metrics"]["val_top1"]
    (folder / "history.csv").write_text(whole[:-7])
    assert resume() == (0, "")
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert (folder / "history.csv").read_text().startswith(whole)
    assert torch.load(folder / "best.pt", weights_only=True)["metrics"]["val_top1"] >= best


NO_NETWORK = (
    '{"identity": {"role": "student"}, "data": {"train": 1, "val": 1, "test": 1},'
    ' "objective": "CE", "device": "cpu", "command": "x"}'
)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"identity": 3}', '{"identity": {"role": "x"}}', NO_NETWORK])
def test_a_damaged_config_is_named(results, resume, content):
    (results / RUN / "config.json").write_text(content)
    code, error = resume()
    assert code == 1
    assert "config.json is damaged" in error


def test_other_images_than_at_the_start_are_refused(results, resume, monkeypatch):
    from utils.data.sources import shapes

    monkeypatch.setattr(shapes, "TRAIN", 190)
    code, error = resume()
    assert code == 1
    assert re.search(
        r"other settings: trained on other images: 180 instead of 171, tested|trained on other images", error
    )


def test_a_teacher_of_other_images_and_one_that_guesses_are_warned_of(results, capsys, monkeypatch):
    from utils.data.sources import shapes

    line = [*FLAGS, "--results-dir", str(results), "--epochs", "1"]
    assert run(train.main, [*line, "--tto", "True", "--lr", "1e-9"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(shapes, "TRAIN", 190)
    assert run(train.main, [*line, "--kd", "True"]) == 0
    error = capsys.readouterr().err
    assert "THE TEACHER GUESSES: validation top-1" in error
    assert "trained on other images" in error


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
def test_a_plain_state_dict_teaches(results, capsys, prefix):
    weights = torch.load(results / RUN / "last.pt", weights_only=True)["model"]
    path = results / "plain.pt"
    torch.save({prefix + name: tensor for name, tensor in weights.items()}, path)
    line = ["--kd", "--teacher-checkpoint", str(path), *FLAGS, "--epochs", "1", "--results-dir", str(results)]
    assert run(train.main, line) == 0
    output = capsys.readouterr().out
    assert "% of 13 images" in output
    assert "plain.pt (of another program)" in output


def test_the_normalisation_of_a_plain_teacher_is_part_of_a_runs_identity(results, capsys):
    path = results / "plain.pt"
    torch.save(torch.load(results / RUN / "last.pt", weights_only=True)["model"], path)
    line = ["--kd", "--teacher-checkpoint", str(path), *FLAGS, "--epochs", "1", "--results-dir", str(results)]
    assert run(train.main, line) == 0
    normalised = ["--teacher-mean", "0.1,0.2,0.3", "--teacher-std", "0.2,0.2,0.2"]
    assert run(train.main, [*line, *normalised, "--resume"]) == 1
    assert "other settings: teacher mean none instead of [0.1, 0.2, 0.3], teacher std" in capsys.readouterr().err
    assert run(train.main, [*line, *normalised, "--overwrite"]) == 0
    assert run(train.main, [*line, "--resume"]) == 1
    assert "teacher mean [0.1, 0.2, 0.3] instead of none" in capsys.readouterr().err


def test_a_teacher_of_another_architecture_names_both(results, capsys):
    path = results / "plain.pt"
    torch.save(torch.load(results / RUN / "last.pt", weights_only=True)["model"], path)
    line = ["--kd", "--teacher-checkpoint", str(path), *FLAGS, "--teacher", "cnn", "--results-dir", str(results)]
    assert run(train.main, line) == 1
    assert (
        "plain.pt does not fit a cnn of 10 classes: features.0.weight is (16, 3, 3, 3)" in capsys.readouterr().err
    )


def restore_signals() -> None:
    """Undo what a stopped program leaves, because this process goes on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_checkpoint_of_another_run_is_not_resumed(results, resume):
    rewrite(results / RUN / "last.pt", lambda content: content["config"]["identity"].update(lr=0.5))
    code, error = resume()
    assert code == 1
    assert "last.pt is of another run: lr 0.5 instead of 0.1" in error


def test_a_signal_during_a_save_ends_after_the_save(tmp_path, capsys, monkeypatch):
    real, signals = storage.torch.save, [signal.SIGINT]

    def save_and_signal(*arguments):
        if signals:  # a second one would end the process at once
            os.kill(os.getpid(), signals.pop())
        real(*arguments)

    monkeypatch.setattr(storage.torch, "save", save_and_signal)
    assert run(train.main, [*FLAGS, "--results-dir", str(tmp_path)]) == 130
    restore_signals()
    assert "go on with: python train.py" in capsys.readouterr().err
    assert load_checkpoint(tmp_path / RUN / "last.pt")["epoch"] == 1


def test_the_resume_command_is_a_command(tmp_path, capsys, monkeypatch):
    words = [*FLAGS, "--results-dir", str(tmp_path), "--overwrite=True"]
    monkeypatch.setattr(train, "shlex", type("Join", (), {"join": staticmethod("|".join)}))
    real = CheckpointWriter.epoch_done

    def save_and_signal(*arguments):
        real(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(CheckpointWriter, "epoch_done", save_and_signal)
    assert run(train.main, words) == 143
    restore_signals()
    again = capsys.readouterr().err.split("go on with: ")[1].strip().split("|")[2:]
    monkeypatch.setattr(CheckpointWriter, "epoch_done", real)
    assert run(train.main, again) == 0
    assert "resumed    after epoch 1 of 3" in capsys.readouterr().out


def test_closed_output_streams_are_no_error(tmp_path):
    line = f"{sys.executable} train.py {' '.join(FLAGS)} --epochs 1 --results-dir {tmp_path} >&- 2>&-"
    assert subprocess.run(line, shell=True, cwd=ROOT, timeout=240).returncode == 0


def test_a_teacher_of_another_image_size_names_both(results, capsys):
    path = results / RUN / "last.pt"
    rewrite(path, lambda content: content.update(image_size=64))
    line = ["--kd", "--teacher-checkpoint", str(path), *FLAGS, "--results-dir", str(results)]
    assert run(train.main, line) == 1
    assert "has image_size 64, the dataset has 32" in capsys.readouterr().err


def test_auto_says_that_there_is_no_cuda_device(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert run(train.main, [*FLAGS, "--epochs", "1", "--results-dir", str(tmp_path)]) == 0
    assert re.search(r"device +cpu \(\d+ threads?, no CUDA device\), fp32", capsys.readouterr().out)


def test_a_learning_rate_that_explodes_keeps_the_last_good_checkpoint(tmp_path, capsys):
    code = run(train.main, [*FLAGS, "--lr", "1e30", "--warmup", "0", "--results-dir", str(tmp_path)])
    assert code == 1
    assert "no longer finite in epoch 1 (hint: try a --lr below 1e+30)" in capsys.readouterr().err
    assert not (tmp_path / RUN / "last.pt").exists()
    assert run(train.main, [*FLAGS, "--lr", "0.1", "--results-dir", str(tmp_path)]) == 0  # as advised


def test_after_ctrl_c_in_the_first_epoch_the_same_command_and_the_printed_one_work(tmp_path, capsys, monkeypatch):
    words, real = [*FLAGS, "--results-dir", str(tmp_path)], utils.train_run.fit

    def stop(*_arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return real(*_arguments)

    for again in (words, [*words, "--resume"], [*words, "--epochs", "2"]):
        monkeypatch.setattr(utils.train_run, "fit", stop)
        assert run(train.main, [*words, "--overwrite"]) == 130
        restore_signals()
        assert not (tmp_path / RUN / "last.pt").exists()
        monkeypatch.setattr(utils.train_run, "fit", real)
        assert run(train.main, again) == 0


def test_resuming_with_another_number_of_threads_says_so_in_one_line(results, resume):
    rewrite(results / RUN / "last.pt", lambda content: content.update(threads=97))
    code, error = resume()
    assert code == 0
    assert error.startswith("note: the run began with 97 CPU threads and goes on with ")
    assert error.count("\n") == 1


def test_what_overwrite_was_to_replace_is_replaced_by_the_printed_command(results, capsys, monkeypatch):
    """Also the runs of a table that had not begun when it was stopped, here with more epochs."""
    table = ["--all", "--temp", "4", *FLAGS, "--results-dir", str(results), "--epochs"]
    assert run(train.main, [*table, "1", "--overwrite"]) == 0
    real = utils.train_run.train_run

    def stop(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(utils.train_run, "train_run", stop)
    capsys.readouterr()
    assert run(train.main, [*table, "2", "--overwrite"]) == 143
    restore_signals()
    again = shlex.split(capsys.readouterr().err.split("go on with: ")[1])[2:]
    monkeypatch.setattr(utils.train_run, "train_run", real)
    assert run(train.main, again) == 0
    for name in ("teacher-cnn_tiny", "student-cnn_tiny", "kd-cnn_tiny-t4"):
        folder = results / "shapes" / name / "seed0"
        assert json.loads((folder / "config.json").read_text())["identity"]["epochs"] == 2
        assert json.loads((folder / "test.json").read_text())["epoch"] == 2
        assert not list(folder.glob(".*.json"))


def test_a_disk_that_fills_up_at_a_checkpoint_leaves_the_old_one(results):
    before = (results / RUN / "last.pt").read_bytes()
    limit = len(before) // 2
    line = [sys.executable, "-c", PROGRAM, *FLAGS, "--results-dir", str(results), "--resume"]
    done = subprocess.run(
        line, cwd=ROOT, capture_output=True, text=True, timeout=240,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert re.search(r"/(best|last)\.pt: File too large", done.stderr)
    assert (results / RUN / "last.pt").read_bytes() == before
    assert not list((results / RUN).glob(".*.tmp"))


# train.py with as few shapes as this process draws
PROGRAM = (
    "import sys; from train import main; from utils.runtime.program import run;"
    "from utils.data.sources import shapes;"
    "shapes.TRAIN, shapes.TEST = 200, 60; sys.exit(run(main, sys.argv[1:]))"
)


def full_disk(*_arguments, **_more):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "history.csv")


def test_a_disk_that_fills_up_at_history_csv_ends_the_run(results):
    code = PROGRAM.replace(
        "sys.exit", "import utils.runtime.history as h, errno\n"
        "def full(*a): raise OSError(errno.ENOSPC, 'x', str(a[0]))\n"
        "h.write_text = full\nsys.exit"
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *FLAGS, "--results-dir", str(results), "--resume"],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 1
    assert "history.csv: No space left on device (hint: free some space" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_disk_that_fills_up_at_a_plot_only_warns(results, resume, monkeypatch):
    monkeypatch.setattr(utils.train_run, "plot_run", full_disk)
    code, error = resume()
    assert code == 0
    assert error.startswith("warning: no plots in ")
    assert (results / RUN / "test.json").exists()


def test_results_that_are_a_file_are_an_error_before_training(tmp_path, command):
    (tmp_path / "results").write_text("mine")
    done = command("-c", PROGRAM, *FLAGS, "--results-dir", tmp_path / "results", check=1)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "results").read_text() == "mine"


def test_a_read_only_file_system_is_an_error_before_training(tmp_path, capsys, monkeypatch):
    def refuse(path, *_arguments, **_more):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert run(train.main, [*FLAGS, "--results-dir", str(tmp_path / "new")]) == 1
    output = capsys.readouterr()
    assert "Read-only file system (hint: choose a --results-dir that can be written)" in output.err
    assert "epoch" not in output.out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_results_that_cannot_be_written_are_an_error_before_training(tmp_path, command):
    (tmp_path / "results").mkdir(mode=0o500)
    done = command("-c", PROGRAM, *FLAGS, "--results-dir", tmp_path / "results", check=1)
    assert "Permission denied (hint: check the permissions" in done.stderr


def test_a_second_run_in_one_directory_is_refused_and_a_dead_ones_lock_is_gone(tmp_path, command):
    holder = "import sys, time; from pathlib import Path; from utils.runtime.run_dir import RunDir;\n"
    holder += "with RunDir(Path(sys.argv[1])).locked():\n print('locked', flush=True); time.sleep(60)"
    line = [sys.executable, "-c", holder, str(tmp_path / RUN)]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    (tmp_path / RUN / "config.json").write_text("{}")
    (tmp_path / RUN / "last.pt").touch()
    done = command("-c", PROGRAM, *FLAGS, "--results-dir", tmp_path, check=1)
    assert done.stderr.startswith(f"error: another process is training {tmp_path / RUN} (hint: ")
    assert "--resume" not in done.stderr
    process.kill()
    process.wait()
    with RunDir(tmp_path / RUN).locked():
        pass


def test_memory_that_does_not_suffice_suggests_a_smaller_batch(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))

    words = [*FLAGS, "--limit", "20000", "--student", "vgg19_bn", "--batch-size", "5000"]
    code = PROGRAM.replace("200, 60", "6000, 60")
    line = [sys.executable, "-c", code, *words, "--results-dir", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=240, preexec_fn=limit)
    assert done.returncode == 1
    assert done.stderr == "error: out of memory (hint: a smaller --batch-size, a smaller network, or --limit)\n"


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["--batch-size", "58"], "would be a single image"),  # 117 images for training: 58, 58 and 1
        (["--batch-size", "1000"], "epochs of batches of 1000"),
        (["--batch-size", "1", "--limit", "12", "--epochs", "1"], "batches of 1;"),
        (["--val-size", "0"], "0 val"),
    ],
)
def test_odd_sizes_work(tmp_path, capsys, words, note):
    assert run(train.main, [*FLAGS, *words, "--results-dir", str(tmp_path)]) == 0
    assert note in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--val-size", "130"], "--val-size 130 leaves nothing of 130 training images"),
        (["--limit", "7"], "--limit 7 is less than one image for each of 10 classes"),
    ],
)
def test_impossible_sizes_are_one_line(tmp_path, capsys, words, reason):
    assert run(train.main, [*FLAGS, *words, "--results-dir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


def test_odd_paths_and_an_ascii_terminal_work(tmp_path, command):
    deep = tmp_path / "mit Leerzeichen" / "ünïcode 数据" / ("x" * 200) / ("y" * 200)
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONIOENCODING": "ascii",
        "PYTHONUTF8": "0",
        "MPLBACKEND": "none",
    }
    command("-c", PROGRAM, *FLAGS, "--epochs", 1, "--results-dir", deep, env=environment)
    assert (deep / RUN / "accuracy.png").exists()
    assert "student cnn_tiny" in (deep / "shapes/README.md").read_text(encoding="utf-8")


def test_a_clock_that_is_set_back_changes_nothing(results, resume, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1.0)
    assert resume()[0] == 0
    assert json.loads((results / RUN / "test.json").read_text())["epoch"] == 3


def test_a_compressed_archive_cannot_unfold_in_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10**7))
    with pytest.raises(storage.DamagedFile, match="compressed"):
        read_tensors(tmp_path / "bomb.pt")


def test_a_file_that_is_nested_in_itself_is_refused(tmp_path):
    loop: list = []
    loop.append(loop)
    torch.save({"config": loop}, tmp_path / "loop.pt")
    with pytest.raises(storage.DamagedFile):
        read_tensors(tmp_path / "loop.pt")


def test_randomly_damaged_files_are_refused_or_unharmed(command):
    """A sample; the whole count is run by hand: python tests/fuzz_files.py"""
    done = command("tests/fuzz_files.py", "--count", 200, "--seed", 10**6)
    assert "200 damaged files" in done.stdout


def test_a_table_that_is_overwritten_can_be_finished_after_a_kill_at_any_moment(tmp_path, command):
    done = command("tests/kill_driver.py", tmp_path, "--overwrite", 23, timeout=500)
    assert re.fullmatch(r"killed: (\d+) times\n", done.stdout), done.stdout
    assert int(done.stdout.split()[1]) > 5


def test_a_kill_at_any_moment_loses_nothing_but_the_current_epoch(tmp_path, command):
    """Random moments and each stage of several saves, each resumed and compared to the last bit."""
    done = command("tests/kill_driver.py", tmp_path, 8, timeout=500)
    assert done.stdout.count("\n") == 1, done.stdout
    random_kills, kills_in_saves = (int(word) for word in done.stdout.split() if word.isdigit())
    assert (random_kills, kills_in_saves) == (8, 16)
