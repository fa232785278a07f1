"""A teacher's answers to augmented images, kept on disk (design section 3)."""

import hashlib
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from utils.data.augment import VERSION
from utils.data.batches import Batches
from utils.distillation.teacher import Teacher
from utils.runtime.files import atomic_write, try_lock

SUFFIX = ".answers"
HEADER = 4096  # bytes: what the file is, in JSON
MARK = 16  # bytes before each view: DONE and the CRC-32 of the view, written after the view itself
DONE = b"complete"
ANSWER_BATCH = {"cpu": 128, "cuda": 2000}  # images of 32x32 pixels; VGG19-BN's fastest on two cores is 64 to 128
LARGEST = torch.finfo(torch.float16).max
SHOWN_AFTER = 5.0  # seconds


class Answers:
    """The teacher's logits for all training images, view by view: read, or else made in large batches and kept."""

    def __init__(
        self,
        teacher: Teacher,
        batches: Batches,
        file: "AnswerFile",
        check_interrupt: Callable[[], None] = lambda: None,
    ):
        self.teacher, self.batches, self.file, self.check_interrupt = teacher, batches, file, check_interrupt
        self.unkept: dict[int, Tensor] = {}  # what could not be written

    def __call__(self, view: int) -> Tensor:
        """The answers to view number `view`, float16 [N, C] on the device."""
        answers = self.unkept.get(view)
        if answers is None:
            answers = self.file.read(view)
            with suppress(OSError):
                os.utime(self.file.path)  # used just now: not the one to make room
        if answers is None:
            with self._alone():
                answers = self.file.read(view)  # perhaps another process has made them meanwhile
                if answers is None:
                    answers = self.make(view)
                    self._keep(view, answers)
        return answers.to(self.batches.device)

    def make(self, view: int) -> Tensor:
        """Ask the teacher about all images of a view: float16 [N, C] on the CPU."""
        started, images = time.perf_counter(), self.batches.image_set
        size = max(1, ANSWER_BATCH[self.batches.device.type] * 32**2 // images.image_size**2)
        shown, answers = self.batches.view(view), []
        parts = torch.arange(len(images), device=self.batches.device).split(size)
        label, quiet = f"teacher's answers to view {view + 1}", not sys.stdout.isatty()
        for indices in tqdm(parts, label, leave=False, disable=quiet, file=sys.stdout, unit=" batches"):
            logits = self.teacher(self.batches.serve(indices, shown))
            answers.append(logits.clamp(-LARGEST, LARGEST).half())
            self.check_interrupt()
        kept = torch.cat(answers).cpu()
        seconds = time.perf_counter() - started
        if seconds > SHOWN_AFTER:
            tqdm.write(f"{label}: {len(images):,} images in {seconds:.1f} s", file=sys.stdout)
        return kept

    def _keep(self, view: int, answers: Tensor) -> None:
        try:
            self.file.write(view, answers)
        except OSError as error:
            if not self.unkept:
                print(f"warning: the teacher's answers are not kept: {error}", file=sys.stderr)
            self.unkept[view] = answers

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process makes answers for this file."""
        with ExitStack() as stack:
            waiting = False
            while True:
                try:
                    stack.enter_context(try_lock(self.file.path.with_suffix(".lock")))
                    break
                except BlockingIOError:
                    if not waiting:
                        print("waiting for another process that makes the same teacher's answers", flush=True)
                    waiting = True
                    self.check_interrupt()
                    time.sleep(0.2)
                except OSError:
                    break  # no lock where nothing can be written
            yield


def open_answers(
    teacher: Teacher, batches: Batches, data: str, epochs: int, folder: Path, limit: float, check_interrupt
) -> tuple[Answers | None, str]:
    """The kept answers for a training, and a text of where they are and how much they take.

    `data` is the fingerprint of the training images, `limit` what all files in `folder` may take, in GB. None
    where these answers alone would take more.
    """
    images, views = batches.image_set, min(batches.views, epochs)
    rescale = [tensor.flatten().tolist() for tensor in teacher.rescale or ()]
    parts = [teacher.sha256, rescale, teacher.compute.precision, data, batches.normalise, VERSION]
    key = hashlib.sha256(repr([*parts, batches.augmentation, batches.seed]).encode()).hexdigest()
    file = AnswerFile(folder, f"{teacher.name}-seed{batches.seed}", key, len(images), images.num_classes)
    space = HEADER + views * file.record
    if space > limit * 1e9:
        return None, f"live: {views} views take {space / 1e9:.2f} GB, more than --teacher-cache-limit {limit:g}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _make_room(folder, file.path, space, limit * 1e9)
    except OSError as error:
        print(f"warning: {folder}: {error.strerror}", file=sys.stderr)
    there = sum(file.marked(view) is not None for view in range(views))  # each is checked when it is read
    text = f"{file.path}, {views} views in {space / 1e6:.1f} MB, {there} there already"
    return Answers(teacher, batches, file, check_interrupt), text


def _make_room(folder: Path, keep: Path, need: float, limit: float) -> None:
    """Remove the answers used longest ago until `keep`, which may grow to `need` bytes, and the others fit."""
    found = {}
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(FileNotFoundError):  # another process has just removed it
            found[path] = path.stat()
    taken = {path: state.st_blocks * 512 for path, state in found.items()}  # on disk: the files have holes
    taken[keep] = max(need, taken.get(keep, 0))
    for path in sorted(found, key=lambda path: found[path].st_mtime):
        if path != keep and sum(taken.values()) > limit:
            print(f"note: {path} is removed to stay within --teacher-cache-limit")
            path.unlink(missing_ok=True)
            del taken[path]


class AnswerFile:
    """One file for each key: float16 [N, C] for each view, in the order of their numbers, filled in any order.

    Views are marked only when all of them is on disk, so that a kill at any moment leaves a valid file. Views
    that are not needed take no space (the file is sparse).
    """

    def __init__(self, folder: Path, name: str, key: str, images: int, classes: int):
        self.path = folder / f"{name}-{key[:12]}{SUFFIX}"
        self.shape = (images, classes)
        self.record = MARK + images * classes * 2
        self.head = json.dumps({"answers": 1, "key": key, "images": images, "classes": classes}).encode()

    def marked(self, view: int) -> bytes | None:
        """The mark of a view that was written whole, or None."""
        try:
            with open(self.path, "rb") as file:
                if file.read(HEADER).rstrip(b"\0") != self.head:
                    return None
                file.seek(HEADER + view * self.record)
                mark = file.read(MARK)
        except OSError:
            return None
        return mark if mark.startswith(DONE) else None

    def read(self, view: int) -> Tensor | None:
        """The answers to a view, float16 [N, C], memory-mapped; None if they are not there, or not whole."""
        mark = self.marked(view)
        if mark is None:
            return None
        place = HEADER + view * self.record + MARK
        try:
            # "c", copy on write: torch warns of memory that is read-only.
            answers = np.memmap(self.path, np.float16, "c", place, self.shape)
        except (OSError, ValueError):  # ValueError: shorter than a whole view
            return None
        return torch.from_numpy(answers) if mark == _mark(answers) else None

    def write(self, view: int, answers: Tensor) -> None:
        """Keep the answers to a view, float16 [N, C] on the CPU."""
        if not self._is_ours():
            with atomic_write(self.path) as file:
                file.write(self.head.ljust(HEADER, b"\0"))
        values = answers.contiguous().numpy()
        with open(self.path, "r+b") as file:
            # Not through the memory map: on a full disk that would end the process instead of raising.
            file.seek(HEADER + view * self.record + MARK)
            file.write(values.data)
            file.flush()
            os.fsync(file.fileno())
            file.seek(HEADER + view * self.record)
            file.write(_mark(values))
            file.flush()
            os.fsync(file.fileno())

    def _is_ours(self) -> bool:
        try:
            with open(self.path, "rb") as file:
                return file.read(HEADER).rstrip(b"\0") == self.head
        except FileNotFoundError:
            return False


def _mark(answers: np.ndarray) -> bytes:
    return DONE + zlib.crc32(answers.data).to_bytes(MARK - len(DONE), "little")
