"""A teacher whose outputs for the views of the training images are cached on disk."""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from utils.data.augment import VERSION
from utils.data.batches import Batch, Batches
from utils.distillation.output_cache import OVERHEAD, OutputCache, make_room
from utils.distillation.teacher import LiveTeacher
from utils.losses import Outputs
from utils.runtime.atomic import try_lock

OUTPUT_BATCH = {"cpu": 128, "cuda": 2000}  # images of 32x32 pixels; VGG19-BN's fastest on two cores is 64 to 128
LARGEST = torch.finfo(torch.float16).max
REPORTED_AFTER = 5.0  # seconds
SAMPLES = 16  # images of a cached view that are compared with the live teacher
# By which these may differ, as a share of their norm. Float16 is responsible for 0.0003; a network in bfloat16
# differs from itself in float32 by 0.004 (trained) to 0.011; another crop of each image gives 0.08 to 0.3.
TOLERANCE = {"fp32": 0.005, "bf16": 0.04}


class CachedTeacher:
    """Outputs for all training images of a view: read, or else made in large batches and written.

    Stands in for the `LiveTeacher` that makes them, and agrees with it to the precision of float16.
    """

    def __init__(
        self,
        live: LiveTeacher,
        batches: Batches,
        cache: OutputCache,
        check_interrupt: Callable[[], None] = lambda: None,
    ):
        self.live, self.batches, self.cache, self.check_interrupt = live, batches, cache, check_interrupt
        self.current: Outputs | None = None  # of all images of the current view, on the device
        self.unwritten: dict[int, Outputs] = {}
        self.verified: set[int] = set()  # the views whose cached outputs are the teacher's
        self.contradicted = False

    def set_view(self, view: int) -> None:
        """Have the outputs for view number `view` ready, in the same memory, so that a CUDA graph finds them."""
        outputs = self.outputs(view)
        if self.current is None:
            self.current = _each(outputs, lambda t: t.to(self.batches.device, copy=True))
        else:
            for static, new in zip(self.current[:2], outputs[:2], strict=True):
                if new is not None:
                    static.copy_(new)

    def __call__(self, batch: Batch) -> Outputs:
        """Outputs for the batch, in float16."""
        outputs = _each(self.current, lambda tensor: tensor.index_select(0, batch.indices))
        return outputs._replace(head=self.live.network.head_weights)

    def outputs(self, view: int) -> Outputs:
        """Outputs for all images of a view on the CPU: logits float16 [N, C], embedding [N, D] if asked for."""
        outputs = self.unwritten.get(view) or self._read(view)
        if outputs is None:
            with self._alone():
                outputs = self._read(view)  # perhaps another process has made them meanwhile
                if outputs is None:
                    outputs = self.make(view)
                    self.verified.add(view)
                    self._write(view, outputs)
        return outputs

    def _read(self, view: int) -> Outputs | None:
        """The cached outputs for a view; None where there are none, or the live teacher gives others."""
        outputs = self.cache.read(view)
        if outputs is not None and view not in self.verified:
            if not self._agrees(view, outputs):
                if not self.contradicted:
                    what = "cached outputs are not those of the teacher now, and are made again"
                    print(f"note: {self.cache.folder}: {what}", flush=True)
                self.contradicted = True
                return None
            self.verified.add(view)
        return outputs

    def _agrees(self, view: int, outputs: Outputs) -> bool:
        """Whether the outputs for a few images of a view are what the teacher gives now."""
        count = len(self.batches.image_set)
        indices = torch.linspace(0, count - 1, min(SAMPLES, count)).long()
        live = self.live(self.batches.serve(indices.to(self.batches.device), self.batches.view(view)))
        for ours, theirs in zip(outputs[:2], live[:2], strict=True):
            if ours is None:
                continue
            expected = theirs.float().cpu().clamp(-LARGEST, LARGEST).nan_to_num()
            cached = ours[indices].float().nan_to_num()
            if cached.shape != expected.shape:
                return False
            if (cached - expected).norm() > TOLERANCE[self.live.compute.precision] * expected.norm():
                return False
        return True

    def make(self, view: int) -> Outputs:
        """Compute the teacher's outputs for all images of a view."""
        started, images = time.perf_counter(), self.batches.image_set
        size = max(1, OUTPUT_BATCH[self.batches.device.type] * 32**2 // images.image_size**2)
        drawn, outputs, rows = self.batches.view(view), [], []
        parts = torch.arange(len(images), device=self.batches.device).split(size)
        label, quiet = f"teacher's outputs for view {view + 1}", not sys.stdout.isatty()
        for indices in tqdm(parts, label, leave=False, disable=quiet, file=sys.stdout, unit=" batches"):
            batch = self.batches.serve(indices, drawn)
            rows.append(batch.indices)
            given = self.live(batch)
            outputs.append(_each(given, lambda tensor: tensor.clamp(-LARGEST, LARGEST).half()))
            self.check_interrupt()
        order = torch.cat(rows).argsort()
        joined = [None if part[0] is None else torch.cat(part)[order].cpu() for part in zip(*outputs, strict=True)]
        seconds = time.perf_counter() - started
        if seconds > REPORTED_AFTER:
            tqdm.write(f"{label}: {len(images):,} images in {seconds:.1f} s", file=sys.stdout)
        return Outputs(*joined)

    def _write(self, view: int, outputs: Outputs) -> None:
        try:
            self.cache.write(view, outputs)
        except OSError as error:
            if not self.unwritten:
                print(f"warning: the teacher's outputs are not cached: {error}", file=sys.stderr)
            self.unwritten[view] = outputs

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process makes outputs for this cache."""
        with ExitStack() as stack:
            waiting = False
            while True:
                try:
                    stack.enter_context(try_lock(self.cache.folder / ".lock"))
                    break
                except BlockingIOError:
                    if not waiting:
                        print("waiting for another process that makes the same teacher's outputs", flush=True)
                    waiting = True
                    self.check_interrupt()
                    time.sleep(0.2)
                except OSError:
                    break  # no lock where nothing can be written
            yield


def _each(outputs: Outputs, function: Callable[[Tensor], Tensor]) -> Outputs:
    """`function` of the logits and of the embedding; feature maps are too large to be cached."""
    return Outputs(*(None if tensor is None else function(tensor) for tensor in outputs[:2]))


def cached(
    live: LiveTeacher, batches: Batches, data: str, epochs: int, folder: Path, limit: float, check_interrupt
) -> tuple[CachedTeacher | LiveTeacher, str]:
    """The teacher with its outputs cached in `folder`, and a text of where they are and how much they take.

    `data` is the fingerprint of the training images, `limit` what all files in `folder` may take, in GB. It stays
    live where a method needs feature maps, and where these outputs alone would take more.
    """
    if live.network.stages or live.network.before:
        return live, "live: feature maps are too large to be cached"
    images, views = batches.image_set, min(batches.views, epochs)
    rescale = [tensor.flatten().tolist() for tensor in live.rescale or ()]
    parts = [live.sha256, rescale, live.compute.precision, data, batches.normalise, VERSION, live.network.needs]
    key = hashlib.sha256(repr([*parts, batches.augmentation, batches.seed]).encode()).hexdigest()
    width = images.num_classes
    if live.network.needs == "embedding":
        width += live.network.example(next(batches.epoch(0)).images).embedding.shape[1]
    space = views * (OVERHEAD + batches.rows * width * 2)
    if space > limit * 1e9:
        return live, f"live: {views} views take {space / 1e9:.2f} GB, more than --teacher-cache-limit {limit:g}"
    cache = OutputCache(
        folder / f"{live.name}-seed{batches.seed}-{key[:12]}", key, batches.rows, live.network.needs
    )
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        make_room(folder, cache.folder, space, limit * 1e9)
    except OSError as error:
        print(f"warning: {folder}: {error.strerror}", file=sys.stderr)
    there = sum(cache.path(view).exists() for view in range(views))  # each is checked when it is read
    text = f"cached in {cache.folder}, {views} views in {space / 1e6:.1f} MB, {there} there already"
    return CachedTeacher(live, batches, cache, check_interrupt), text
