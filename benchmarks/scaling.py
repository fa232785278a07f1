"""Cost against work: an epoch of 1, 2, 4, 8 times the images, and images per second for batches of 64 to 2048.

python -m benchmarks.scaling [--student cnn] [--teacher vgg19_bn] [--json FILE]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.throughput import Bench, wait
from models import MODELS
from utils.runtime.device import Compute
from utils.training.cuda_graph import WARM_UP

IMAGES = (1024, 2048, 4096, 8192)
BATCHES = (64, 128, 256, 512, 1024, 2048)
SLACK = 1.1  # a point that costs more than this times the cheapest one, per image, is not linear any more


def seconds(bench: Bench, work: Callable[[], object], repeats: int) -> float:
    """Median seconds of `work`, after as many as a CUDA graph needs before it is replayed."""
    taken = []
    for _ in range(WARM_UP + 1 + repeats):
        wait(bench.compute)
        started = time.perf_counter()
        work()
        wait(bench.compute)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[-repeats:])


def print_points(title: str, points: dict[int, float], images: Callable[[int], int]) -> None:
    """Points are seconds for a number of images or a batch size; a mark shows where cost stops being linear."""
    cheapest = min(taken / images(point) for point, taken in points.items())
    print(f"\n{title}")
    for point, taken in points.items():
        cost = taken / images(point)
        mark = "" if cost <= SLACK * cheapest else f"   {cost / cheapest:.2f} times the cheapest"
        print(f"{point:>8,} {taken:>9.3f} s {images(point) / taken:>10,.0f} images/s{mark}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", choices=MODELS, default="vgg19_bn")
    parser.add_argument("--student", choices=MODELS, default="cnn")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    compute = Compute.choose(args.device, "auto")
    print(compute)
    results = {"device": str(compute), "images": {}, "batches": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, teacher in (
            (f"train {args.student}", None),
            (f"KD {args.student}, cached outputs", args.teacher),
        ):
            bench = Bench(compute, 128, 0, Path(folder))
            points = {}
            for images in IMAGES:
                work = bench.ours(args.student, images, teacher, teacher is not None)
                points[images] = seconds(bench, work, args.repeats)
            print_points(f"{name}: images in an epoch, batches of 128", points, lambda images: images)
            results["images"][name] = points
        for name in (args.student, args.teacher):
            points = {}
            for size in BATCHES:
                bench = Bench(compute, size, 0, Path(folder))
                points[size] = seconds(bench, bench.ours(name, size), args.repeats)
            print_points(f"train {name}: images in a step", points, lambda size: size)
            results["batches"][name] = points
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
