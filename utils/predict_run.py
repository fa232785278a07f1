"""What test.py --predict does: class and confidence of image files, as lines, as a table and as a plot."""

import csv
import io
import itertools
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from utils.data.batches import Normalise
from utils.data.dataset import EVAL_BATCH
from utils.data.sources.decode import DECODER_ERRORS, decode_image, is_flattened, quiet_decoders, reason_of
from utils.data.sources.scan import find_images
from utils.reporting.diagnostics import plot_mistakes
from utils.runtime.device import Compute
from utils.runtime.errors import UserError, printable
from utils.runtime.files import write_text

COLUMNS = ("file", "class", "confidence")  # of the table; the last one in percent
MOST_PLOTTED = 24


class Prediction(NamedTuple):
    path: Path
    class_name: str
    confidence: float  # percent, of that class


class Decoded(NamedTuple):
    path: Path
    pixels: np.ndarray | None  # uint8 [S, S, 3]; None for a file that could not be read
    problem: str  # why that is, or else what is odd about the pixels


@dataclass
class Predictions:
    """The predictions of one command, and the pixels of the least certain ones, the least certain first."""

    all: list[Prediction] = field(default_factory=list)
    least_certain: list[tuple[Prediction, np.ndarray]] = field(default_factory=list)
    unreadable: int = 0  # files

    def add(self, predictions: Sequence[Prediction], pixels: np.ndarray) -> None:
        """`pixels` are uint8 [B, S, S, 3]."""
        self.all += predictions
        pairs = [*self.least_certain, *zip(predictions, pixels, strict=True)]
        self.least_certain = sorted(pairs, key=lambda pair: pair[0].confidence)[:MOST_PLOTTED]

    def save(self, table: Path, title: str) -> dict[str, str]:
        """Write the table, and the plot of the least certain beside it; returns their paths."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows((COLUMNS, *self.all))
        write_text(table, text.getvalue())
        sheet = [
            {"true": "/".join(each.path.parts[-2:]), "predicted": each.class_name, "confidence": each.confidence}
            for each, _ in self.least_certain
        ]
        pixels = np.stack([pixels for _, pixels in self.least_certain])
        title = f"{title}: least certain images ({len(sheet)} of {len(self.all):,})"
        plot_mistakes(pixels, {"mistakes": sheet, "images": len(self.all)}, plot_of(table), title)
        return {"table": str(table), "plot": str(plot_of(table))}


def predict_files(
    paths: Sequence[str], checkpoint: dict[str, Any], model: nn.Module, compute: Compute
) -> Predictions:
    """Predict the class of each image among `paths` and in the folders among them; print a line for each.

    `model` is in eval mode on the device of `compute`, and `checkpoint` what it was restored from. A line on
    stderr names each file that could not be read. Raises UserError where there is no image or none could be read.
    """
    files, passed_over = find_images(map(Path, paths))
    if passed_over.counts:
        print(f"note: passed over: {passed_over}", file=sys.stderr)
    if not files:
        raise UserError(f"no images in {', '.join(paths)}", "name image files, or folders that hold some")
    normalise, size = Normalise(checkpoint["mean"], checkpoint["std"]), checkpoint["image_size"]
    step, predictions = max(1, EVAL_BATCH[compute.device.type] * 32**2 // size**2), Predictions()
    for start in range(0, len(files), step):
        decoded = _decode(files[start : start + step], size)
        readable = [each for each in decoded if each.pixels is not None]
        predictions.unreadable += len(decoded) - len(readable)
        for each in decoded:
            if each.problem:
                print(printable(f"warning: {each.path} {each.problem}"), file=sys.stderr)
        if readable:
            pixels = np.stack([each.pixels for each in readable])  # [B, S, S, 3]
            confidences, classes = _most_likely(
                model, normalise(torch.from_numpy(pixels).to(compute.device)), compute
            )
            names = [str(checkpoint["class_names"][number]) for number in classes]
            new = list(map(Prediction, (each.path for each in readable), names, confidences))
            for path, name, confidence in new:
                print(printable(f"{path}: {name} {confidence:.1f} %"), flush=True)
            predictions.add(new, pixels)
    if not predictions.all:
        raise UserError(f"none of {len(files)} images could be read", "see above")
    return predictions


def _decode(files: Sequence[Path], size: int) -> list[Decoded]:
    """Decode files in parallel, as the images of a training are."""

    def decode(path: Path) -> Decoded:
        try:
            pixels = decode_image(path, size)
            flat = is_flattened(path, pixels)
        except DECODER_ERRORS as error:
            return Decoded(path, None, f"could not be read: {reason_of(error, path)}")
        return Decoded(path, pixels, "decoded to nearly one colour, although the file has more" * flat)

    with quiet_decoders(), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(decode, files))


@torch.no_grad()
def _most_likely(model: nn.Module, images: Tensor, compute: Compute) -> tuple[list[float], list[int]]:
    """The most likely class of each image, float32 [B, 3, S, S]: confidences in percent, and numbers."""
    with compute.autocast():
        logits = model(images)  # [B, C]
    if not logits.isfinite().all():
        raise UserError("the network's outputs are not finite", "use an earlier checkpoint, or --precision fp32")
    confidences, classes = logits.double().softmax(1).max(1)
    return [round(100 * value, 4) for value in confidences.tolist()], classes.tolist()


def plot_of(table: Path) -> Path:
    """Where the plot beside a table is."""
    return table.with_suffix(".png")


def choose_table(explicit: str | None, folder: Path) -> Path:
    """Where the table is written: `explicit`, or a new `predictions.csv` in `folder`, with a number if need be.

    Raises UserError where something is there already, table or plot, and where nothing can be written.
    """
    names = itertools.chain(["predictions.csv"], (f"predictions-{number}.csv" for number in itertools.count(2)))
    tables = [Path(explicit)] if explicit else (folder / name for name in names)
    for table in tables:
        present = next((path for path in (table, plot_of(table)) if os.path.lexists(path)), None)
        if present is None:
            if not os.access(table.parent, os.W_OK | os.X_OK):
                what = "cannot be written to" if table.parent.is_dir() else "is no folder"
                raise UserError(f"{table.parent} {what}", "name another file: --csv FILE.csv")
            return table
    raise UserError(f"{present} is there already", "name another file: --csv FILE.csv")
