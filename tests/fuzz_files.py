"""Damage real files at random and read them: nothing but a clear error or the unharmed content may come out.

    python tests/fuzz_files.py [--count 5000] [--seed 0]

Flips bits, cuts, repeats, splices and overwrites parts of checkpoints, weights of other programs, image caches,
config.json, test.json and history.csv, 200 files in a process of its own each time, so that a crash of the
interpreter is detected too. A case fails with any error but UserError and OSError, with tensors other than the
original ones (but in formats that hold no sum of their content: safetensors, and torch's from before 1.6), with
code run from the file (seen by an audit hook), or after 20 seconds (SIGALRM then ends its group). Exit code 1 if a
case failed.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from utils.runtime.program import SPIN_COUNT

os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

import numpy as np
import torch
from PIL import Image

from models import build_model
from utils.data.sources import load_images
from utils.data.sources.image_cache import ImageCache
from utils.data.sources.scan import scan
from utils.reporting.table import write_report
from utils.runtime.checkpoint import load_checkpoint, restore_network
from utils.runtime.errors import UserError
from utils.runtime.files import checksum
from utils.runtime.identity import Identity
from utils.runtime.run_dir import RunDir
from utils.runtime.weights import fit_weights

LIMIT = 20  # seconds for one file
CHUNK = 200


def make_originals(folder: Path) -> None:
    """A finished run, and a folder of images."""
    words = "--dataset shapes --limit 100 --student cnn_tiny --epochs 2 --ema 0.9".split()
    line = [sys.executable, "train.py", *words, "--results-dir", str(folder / "results")]
    subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    for number, array in enumerate(pixels):
        path = folder / "images" / ("train", "test")[number // 4] / ("a", "b")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    weights = build_model("cnn_tiny", 10).state_dict()
    torch.save(weights, folder / "plain.pt")
    torch.save({"net": weights}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    with suppress(ImportError):
        from safetensors.torch import save_file

        save_file(weights, folder / "weights.safetensors")


def mutate(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """A damaged copy of `data`; `other` is what splices come from."""
    kind = chance.choice(
        ("bits", "bits", "byte", "cut", "cut front", "repeat", "splice", "zeros", "insert", "swap")
    )
    data, offset = bytearray(data), chance.randrange(len(data))
    length = min(len(data) - offset, chance.choice((1, 2, 4, 16, 100, 1000, 10**5)))
    if kind == "bits":
        # Half of them near the ends, where headers and directories are.
        for _ in range(chance.choice((1, 1, 1, 2, 8))):
            near = chance.choice((chance.randrange(len(data)), chance.randrange(min(2000, len(data)))))
            data[chance.choice((near, -near - 1))] ^= 1 << chance.randrange(8)
    elif kind == "byte":
        data[offset] = chance.randrange(256)
    elif kind == "cut":
        del data[offset:]
    elif kind == "cut front":
        del data[: chance.choice((1, 2, 30, offset))]
    elif kind == "repeat":
        data[offset:offset] = data[offset : offset + length]
    elif kind == "splice":
        start = chance.randrange(len(other))
        data[offset : offset + length] = other[start : start + length]
    elif kind == "zeros":
        data[offset : offset + length] = bytes(length)
    elif kind == "insert":
        data[offset:offset] = chance.randbytes(chance.choice((1, 4, 100)))
    elif kind == "swap":
        source = chance.randrange(len(data))
        data[offset : offset + length] = data[source : source + length]
    return bytes(data)


class Reader:
    """Reads a damaged file as the programs do, and compares what comes out with the original."""

    def __init__(self, folder: Path):
        self.run = RunDir(next(folder.glob("results/shapes/*/seed0")))
        self.pixels = load_images("folder", folder / "images").train.images.clone()
        self.images = ImageCache(scan(folder / "images")[0]["train"], 32)
        self.cache = self.images.path
        self.files = [
            self.run.last,
            self.run.best,
            self.cache,
            self.run.config,
            self.run.results,
            self.run.history,
        ]
        self.foreign = [path for path in folder.iterdir() if path.is_file()]
        self.files += self.foreign
        self.shapes = build_model("cnn_tiny", 10).state_dict()
        self.plain = load_checkpoint(folder / "plain.pt", plain=True)["model"]
        self.expected = {path: checksum(load_checkpoint(path)) for path in (self.run.last, self.run.best)}

    def read(self, path: Path) -> str:
        """What came of it: `refused` or `unharmed`; raises where something is wrong."""
        try:
            if path == self.cache:
                cached, rows = self.images.read()
                if (rows < 0).any():
                    return "made again"
                if not torch.equal(cached.images[torch.from_numpy(rows)], self.pixels):
                    raise AssertionError("other pixels were accepted")
            elif path in self.foreign:
                weights = fit_weights(path, load_checkpoint(path, plain=True)["model"], self.shapes, "a cnn_tiny")
                equal = all(torch.equal(tensor, self.plain[name]) for name, tensor in weights.tensors.items())
                if not equal and path.name == "plain.pt":
                    raise AssertionError("other weights were accepted")
            elif path.suffix == ".pt":
                content = load_checkpoint(path, plain=True)
                restore_network(path, {"model_name": "cnn_tiny", "num_classes": 10} | content, build_model)
                if checksum(content) != self.expected[path]:
                    raise AssertionError("another content was accepted")
            else:
                identity = Identity.from_record(self.run.read_config())
                self.run.prepare(identity, resume=True, overwrite=False, skip_finished=False)
                write_report(self.run.path.parent.parent)
        except (UserError, OSError):
            return "refused"
        return "unharmed"


def fuzz(folder: Path, seeds: range) -> int:
    """Read one damaged file for each seed; prints failures, returns how many."""
    reader, failures = Reader(folder), 0
    originals = {path: path.read_bytes() for path in reader.files}
    outcomes: Counter[str] = Counter()
    events: list[str] = []

    def audit(event: str, _arguments: tuple) -> None:
        if event.startswith(("os.system", "subprocess.", "os.exec", "os.posix_spawn", "socket.")):
            events.append(event)

    sys.addaudithook(audit)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the notes on damaged caches
    for seed in seeds:
        chance = random.Random(seed)
        path = chance.choice(reader.files[:3] * 2 + reader.files[3:])
        other = originals[chance.choice(reader.files)]
        path.write_bytes(mutate(originals[path], other, chance))
        events.clear()
        signal.alarm(LIMIT)
        try:
            outcomes[f"{path.suffix} {reader.read(path)}"] += 1
        except Exception as error:
            print(f"seed {seed}, {path.name}: {type(error).__name__}: {str(error)[:200]}", flush=True)
            failures += 1
        finally:
            signal.alarm(0)
        if events:
            print(f"seed {seed}, {path.name}: ran {events}", flush=True)
            failures += 1
        path.write_bytes(originals[path])
    print(dict(outcomes), flush=True)
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started, failed = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as name:
        make_originals(Path(name) / "originals")
        for start in range(args.seed, args.seed + args.count, CHUNK):
            folder = Path(name) / "case"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(Path(name) / "originals", folder)  # copies times too, so that the cache is current
            child = os.fork()
            if not child:
                os._exit(fuzz(folder, range(start, min(start + CHUNK, args.seed + args.count))) > 0)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                print(f"seeds from {start}: the interpreter died of signal {os.WTERMSIG(status)}")
            failed += status != 0
    print(f"{args.count} damaged files in {time.perf_counter() - started:.0f} s, {failed} groups with failures")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
