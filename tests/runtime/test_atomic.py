"""Files that appear whole or not at all, never through a link, and what killed processes leave of them."""

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kills import killed_before

from utils.runtime import atomic
from utils.runtime.atomic import atomic_folder, atomic_write, remove_abandoned, try_lock
from utils.runtime.files import write_tensors, write_text

ROOT = Path(__file__).parent.parent.parent


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def leave_temporary(path: Path, make=atomic_write) -> Path:
    """Have a process killed while it writes `path`; returns what it leaves."""
    child = os.fork()
    if child == 0:
        with make(path):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = (each for each in path.parent.iterdir() if each.name.startswith(f".{path.name}."))
    return left


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half of the new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_file_and_folder_are_synced_before_a_write_counts_as_done(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            atomic.os, name, lambda *args, real=real, name=name: (calls.append(name), real(*args))[1]
        )
    write_text(tmp_path / "file", "text")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_file_has_the_permissions_that_the_user_gives_new_ones(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "text")
        with atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "folder")] == [0o640, 0o750]


def test_a_name_as_long_as_names_can_be_is_written(tmp_path):
    for name in ("x" * 255, "数" * 85):
        write_text(tmp_path / name, "text")
    assert len(names(tmp_path)) == 2


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "file").symlink_to("mine")
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "file").is_symlink()


def test_temporary_names_cannot_be_guessed_and_a_link_that_has_one_is_not_followed(tmp_path, monkeypatch):
    seen = set()
    for _ in range(3):
        with atomic_write(tmp_path / "file"):
            seen |= {*names(tmp_path)} - {"file"}
    assert len({re.fullmatch(r"\.file\.\d+\.([0-9a-f]{16})\.tmp", name)[1] for name in seen}) == 3
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda _: "0" * 16)
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f".file.{os.getpid()}.{'0' * 16}.tmp").symlink_to("mine")
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "file", "text")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("make", [atomic_write, atomic_folder])
def test_what_a_killed_process_left_goes_at_the_next_write_in_its_folder(tmp_path, make):
    left = leave_temporary(tmp_path / "plot.png", make)
    write_text(tmp_path / "other", "text")
    assert not left.exists()
    assert names(tmp_path) == ["other"]


@pytest.mark.parametrize("make", ["atomic_write", "atomic_folder"])
def test_what_a_living_process_is_writing_stays_however_old_it_is(tmp_path, make):
    code = f"""if True:
        import sys, pathlib
        from utils.runtime.atomic import {make}
        with {make}(pathlib.Path(sys.argv[1])):
            print(flush=True)
            sys.stdin.read()
        """
    line = [sys.executable, "-c", code, str(tmp_path / "plot.png")]
    process = subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    (temporary,) = tmp_path.iterdir()
    os.utime(temporary, (0, 0))
    write_text(tmp_path / "other", "text")
    remove_abandoned(tmp_path)
    assert temporary.exists()
    process.communicate()
    assert process.returncode == 0
    assert names(tmp_path) == ["other", "plot.png"]


def test_a_temporary_that_another_process_takes_for_abandoned_is_made_again(tmp_path, monkeypatch):
    real, calls = atomic.fcntl.flock, []

    def late(descriptor, operation):
        if not calls:  # between its creation and its lock
            calls.append(descriptor)
            remove_abandoned(tmp_path)
            assert names(tmp_path) == []
        real(descriptor, operation)

    monkeypatch.setattr(atomic.fcntl, "flock", late)
    write_text(tmp_path / "file", "text")
    assert names(tmp_path) == ["file"]


def test_files_of_others_are_never_taken_for_temporaries(tmp_path):
    mine = [".file.1.tmp", "file.tmp", ".notes.0123456789abcdef.tmp", ".a.12.0123456789abcdeg.tmp"]
    for name in mine:
        (tmp_path / name).touch()
    (tmp_path / ".link.7.0123456789abcdef.tmp").symlink_to(tmp_path / mine[0])
    os.mkfifo(tmp_path / ".pipe.7.0123456789abcdef.tmp")
    before = names(tmp_path)
    remove_abandoned(tmp_path)
    assert names(tmp_path) == before


def test_a_folder_appears_with_all_its_files_or_not_at_all_whenever_it_is_killed(tmp_path):
    target, files = tmp_path / "here" / "new", ["a", "b", "card"]
    target.parent.mkdir()

    def make():
        with atomic_folder(target) as folder:
            for name in files:
                (folder / name).write_text(name)

    for present in (False, True):
        step = 0
        while killed_before(step, make):
            assert not target.exists() or names(target) in ([], files), step
            if target.exists() and names(target):
                for name in files:
                    (target / name).unlink()
            if present:
                target.mkdir(exist_ok=True)
            elif target.exists():
                target.rmdir()
            step += 1
        assert step >= 6
        assert names(target.parent) == ["new"]
        assert names(target) == files
        for name in files:
            (target / name).unlink()


def test_a_folder_that_holds_something_is_not_replaced(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes").write_text("mine")
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "new") as folder:
        (folder / "file").touch()
    assert [names(tmp_path), names(tmp_path / "new")] == [["new"], ["notes"]]


def full(_descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("write", [lambda p: write_text(p, "a"), lambda p: write_tensors(p, {"a": 1})])
def test_an_error_of_the_disk_names_the_file(tmp_path, monkeypatch, write):
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left") as caught:
        patch.setattr(os, "fsync", full)
        write(tmp_path / "last.pt")
    assert caught.value.filename == str(tmp_path / "last.pt")
    assert names(tmp_path) == []
    with pytest.raises(OSError) as caught:
        write(tmp_path / "none" / "last.pt")
    assert caught.value.filename == str(tmp_path / "none" / "last.pt")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_at_the_first_byte_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_new_file", lambda _: os.open("/dev/full", os.O_WRONLY))
    monkeypatch.setattr(Path, "exists", lambda _: True)
    for write in (lambda path: write_text(path, "a"), lambda path: write_tensors(path, {"a": 1})):
        with pytest.raises(OSError) as caught:
            write(tmp_path / "last.pt")
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "last.pt"))


def test_a_lock_file_keeps_its_content(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    with try_lock(tmp_path / ".lock"), pytest.raises(BlockingIOError), try_lock(tmp_path / ".lock"):
        pass
    assert (tmp_path / ".lock").read_text() == "mine"


def test_a_lock_that_is_a_link_a_pipe_or_a_folder_is_refused_and_nothing_is_touched(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "dangling").symlink_to("none")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    for name in ("link", "dangling", "folder", "pipe"):
        with pytest.raises(OSError) as caught, try_lock(tmp_path / name):
            pass
        assert caught.value.filename == str(tmp_path / name)
    assert time.monotonic() - began < 1
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "none").exists()
