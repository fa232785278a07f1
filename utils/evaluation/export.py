"""A trained network as files for other programs, each read back and compared with the live network."""

import copy
import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.data.batches import Normalise
from utils.data.dataset import evaluation_batches
from utils.data.image_set import ImageSet
from utils.data.sources.decode import STEPS
from utils.evaluation.formats import FORMATS, Deployable, Forward, trace
from utils.evaluation.metrics import count_parameters
from utils.runtime.atomic import atomic_folder
from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.identity import Identity

EXTRAS = ("safetensors", "onnx", "onnxscript", "onnxruntime")
CARD = "card.json"
MOST_IMAGES = 10_000  # that a file is compared on
NEAR_TIE = 1e-4  # of the two best logits: rounding may exchange them
TOLERANCE = 1e-3  # of a logit, as a share of the largest one: rounding is a hundred times smaller


def require_ready(folder: Path) -> None:
    """Raise UserError unless the extra packages are there and `folder` can take the files; writes nothing."""
    missing = [name for name in EXTRAS if find_spec(name) is None]
    if missing:
        raise UserError(f"--export needs {' and '.join(missing)}", f"pip install {' '.join(missing)}")
    other = "name another --export folder"
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"--export {folder}: {nearest} is not a folder", other)
    beside = nearest.absolute().parent if nearest == folder else nearest
    if not os.access(beside, os.W_OK | os.X_OK):
        raise UserError(f"--export {folder}: {beside} cannot be written to", f"check its permissions, or {other}")
    present = sorted(os.listdir(folder)) if nearest == folder else []
    if present:
        more = f" and {len(present) - 1} more" if len(present) > 1 else ""
        raise UserError(f"--export {folder}: it holds {present[0]}{more} already", f"{other}, or remove it")
    if os.path.ismount(folder):
        raise UserError(f"--export {folder}: it is where a disk is mounted", "name a new folder within it")


@torch.no_grad()
def export(
    network: nn.Module, checkpoint: dict[str, Any], test: ImageSet, compute: Compute, folder: str | Path
) -> dict[str, Any]:
    """Write the network in each of `FORMATS`, and `card.json`, to `folder`; returns the card.

    The files are `student.onnx` and so on, or `teacher.onnx`, or `network.onnx` where its role is unknown.
    `network` is in eval mode on the device of `compute`, and `checkpoint` what it was restored from.
    Each file is read back and has to predict as `network` does in float32, on up to 10,000 test images spread
    evenly over the set: the same top-1, unless the two best logits are less than 1e-4 apart. All files appear at
    once, or none: `folder`, absent or empty before, is made under another name beside it and then renamed. Raises
    UserError where a package is missing, where `folder` holds something or cannot be made, where the network
    cannot be exported, and where a file's outputs differ.
    """
    folder = Path(folder)
    require_ready(folder)
    normalise = Normalise(checkpoint["mean"], checkpoint["std"])
    batches = evaluation_batches(test.to(compute.device), normalise).epoch(0)
    logits = torch.cat([network(batch.images).float().cpu() for batch in batches])  # [N, C]
    count = min(len(test), MOST_IMAGES)
    chosen = torch.arange(count) * len(test) // count
    few = test.to(torch.device("cpu")).select(chosen)
    parts = few.images.split(evaluation_batches(few, normalise).batch_size)

    deployable = Deployable(_plain_copy(network), checkpoint["mean"], checkpoint["std"]).eval()
    try:
        target = folder.resolve()  # a link to a folder stays one
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(target) as new, _quiet():
            card = _card(network, checkpoint, test, compute, logits)
            program = trace(deployable, test.image_size)
            for ending, (make, load, content) in FORMATS.items():
                name = f"{_role(checkpoint)}{ending}"
                data = make(deployable.network, program, checkpoint)
                (new / name).write_bytes(data)
                check = compare(name, load(new / name, deployable, checkpoint), parts, logits[chosen])
                sha256 = hashlib.sha256(data).hexdigest()
                card["files"][name] = {"content": content, "bytes": len(data), "sha256": sha256, "check": check}
            text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
            (new / CARD).write_bytes(text.encode(errors="surrogateescape"))
    except (UserError, MemoryError):
        raise
    except OSError as error:
        what = f"--export {folder} cannot be written: {error.strerror or error}"
        raise UserError(what, "free some space, or name another --export folder") from error
    except Exception as error:  # torch, onnxscript and onnxruntime have dozens of kinds, with no common base
        text = " ".join(f"{type(error).__name__}: {error}".split())
        hint = f"pip install --upgrade {' '.join(EXTRAS)}; --debug shows where"
        raise UserError(f"{checkpoint['model_name']} cannot be exported: {text:.300}", hint) from error
    for name, file in card["files"].items():
        check = file["check"]
        same = f"{check['images'] - check['top1_differs']:,} of {check['images']:,} images"
        print(
            f"{folder / name}: {file['bytes']:,} bytes, same top-1 as the live network on {same} "
            f"({check['near_ties']} near ties), logits within {check['largest_logit_difference']:.1e}"
        )
    return card


def compare(name: str, forward: Forward, parts: tuple[Tensor, ...], expected: Tensor) -> dict[str, Any]:
    """Compare a file's logits with those `expected` (float32 [N, C]) for images in batches, and for a single one.

    Returns what the card says of it. Raises UserError for another top-1 where the two best logits are at least
    `NEAR_TIE` apart, and for logits that differ by more than rounding, or are not finite.
    """
    logits = torch.cat([forward(part) for part in parts])
    single = forward(parts[0][:1])
    changed = logits.argmax(1) != expected.argmax(1)
    changed[:1] |= single.argmax(1) != expected[:1].argmax(1)
    best = expected.topk(min(2, expected.shape[1])).values
    near_tie = best[:, 0] - best[:, -1] < NEAR_TIE
    difference = torch.cat((logits - expected, single - expected[:1])).abs().max().item()
    wrong = int((changed & ~near_tie).sum())
    largest = max(1.0, expected.abs().max().item())
    if wrong or not difference <= TOLERANCE * largest:  # NaN is not within it
        what = f"{name} predicts another class on {wrong} of {len(expected)} images"
        what += f", with logits up to {difference:.1e} off: it is not written"
        raise UserError(what, f"pip install --upgrade {' '.join(EXTRAS)}; if that does not help, please report it")
    return {
        "images": len(expected),
        "batch_sizes": sorted({1, *map(len, parts)}),
        "top1_differs": int(changed.sum()),
        "near_ties": int(near_tie.sum()),
        "largest_logit_difference": difference,
    }


def _plain_copy(network: nn.Module) -> nn.Module:
    """On the CPU and in the default memory layout, so that the files are the same from any device."""
    copied = copy.deepcopy(network).requires_grad_(False)
    return copied.to("cpu", torch.float32, memory_format=torch.contiguous_format)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and logs of the exporters, which say nothing that a user could act on."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _role(checkpoint: dict[str, Any]) -> str:
    """ "student" also of one with KD; "network" of a file of another program, which does not tell."""
    role = Identity.from_record(checkpoint["config"]).get("role")
    return {"teacher": "teacher", "student": "student", "kd": "student"}.get(role, "network")


def _card(
    network: nn.Module, checkpoint: dict[str, Any], test: ImageSet, compute: Compute, logits: Tensor
) -> dict[str, Any]:
    size, hits = test.image_size, logits.argmax(1) == test.labels.cpu()
    run = Identity.from_record(checkpoint["config"])
    return {
        "model": checkpoint["model_name"],
        "parameters": count_parameters(network),
        "classes": checkpoint["class_names"],
        "input": {"name": "images", "dtype": "uint8", "shape": ["batch", size, size, 3]}
        | {"layout": "NHWC, RGB", "range": [0, 255], "made_from_a_file": STEPS},
        "normalisation": {"formula": "(pixel - mean) / std", "mean": checkpoint["mean"], "std": checkpoint["std"]},
        "output": {"name": "logits", "dtype": "float32", "shape": ["batch", logits.shape[1]]},
        "test": {
            "images": len(test),
            "fingerprint": test.fingerprint(),
            "top1": round(100 * hits.double().mean().item(), 4),
            "precision": "fp32",
            "device": str(Compute(compute.device, "fp32")),
        },
        "provenance": {
            "sha256": checkpoint["sha256"],
            "epoch": checkpoint["epoch"],
            "data": run.get("data"),
            "teacher_sha256": run.get("teacher_sha256"),
            "config": run.values,
            "versions": {name: str(import_module(name).__version__) for name in ("torch", *EXTRAS)},
        },
        "files": {},
    }
