"""Images per second of this project beside the plain loop, in one process and in turn.

    python -m benchmarks.throughput [--teacher vgg19_bn] [--student cnn] [--repeats 3] [--json FILE]

Each figure is the median of the repeats, with the lowest and the highest behind it. "of matmul" is the share of
the measured rate of a large matrix product, counting the operations of convolutions and linear layers.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain import plain_epoch, plain_loader
from models import MODELS, build_model
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.data.batches import Batches, Normalise
from utils.data.image_set import ImageSet
from utils.data.sources.shapes import draw
from utils.device import Compute
from utils.losses import CrossEntropy, Distillation
from utils.metrics import evaluate
from utils.teacher import Teacher
from utils.trainer import Schedule, Training, fit

BATCH = 128


@dataclass
class Line:
    """One measurement: images per second of each repeat, and what a training image costs."""

    name: str
    rates: list[float]
    gflop: float | None = None  # per image
    against: str | None = None  # the line that it is compared with

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


class Bench:
    def __init__(self, compute: Compute, seconds: float):
        self.compute, self.seconds = compute, seconds
        self.images = draw(6000, seed=3)
        self.normalise = Normalise(*self.images.mean_and_std())

    def subset(self, images: int) -> ImageSet:
        """Enough whole batches for a measurement."""
        return self.images.first(max(BATCH, images // BATCH * BATCH))

    def batches(self, images: int, seed: int | None = 0) -> Batches:
        return Batches(self.subset(images).to(self.compute.device), self.normalise, BATCH, seed)

    def rate(self, images: int, work: Callable[[], object]) -> float:
        """Images per second of `work`, which serves `images` of them, repeated for long enough to be timed."""
        self.wait()
        started, done = time.perf_counter(), 0
        while done == 0 or time.perf_counter() - started < self.seconds:
            work()
            self.wait()
            done += images
        return done / (time.perf_counter() - started)

    def wait(self) -> None:
        if self.compute.device.type == "cuda":
            torch.cuda.synchronize()

    def matmul_rate(self) -> float:
        """GFLOP/s of a large matrix product in the precision of the training."""
        size = 8192 if self.compute.device.type == "cuda" else 2048
        dtype = torch.bfloat16 if self.compute.precision == "bf16" else torch.float32
        a, b = (torch.randn(size, size, device=self.compute.device, dtype=dtype) for _ in range(2))
        return self.rate(1, lambda: a @ b) * 2 * size**3 / 1e9

    def teacher(self, name: str) -> Teacher:
        model = self.compute.place(build_model(name, 10)).eval().requires_grad_(False)
        return Teacher(model, self.compute, name, "", "", None)

    def ours(self, model: str, images: int, teacher: Teacher | None = None) -> Callable[[], object]:
        """One epoch of the project's own loop."""
        batches = self.batches(images)
        training = Training(self.compute.place(build_model(model, 10)), Schedule(10**6, len(batches), lr=0.01))
        objective = Distillation(0.9, 5.0) if teacher is not None else CrossEntropy()
        epochs = fit(training, objective, batches, None, self.compute, teacher)
        return lambda: next(epochs)

    def plain(self, model: str, images: int, teacher: str | None = None) -> Callable[[], object]:
        network = build_model(model, 10).to(self.compute.device)
        frozen = build_model(teacher, 10).to(self.compute.device).eval() if teacher else None
        loader = plain_loader(self.subset(images), BATCH)
        return lambda: plain_epoch(network, loader, self.compute.device, frozen)


def gflop(model: str, backward: bool) -> float:
    """Floating-point operations (1e9) per image of 32x32 pixels, of convolutions and linear layers."""
    network: nn.Module = build_model(model, 10)
    with FlopCounterMode(display=False) as counter:
        loss = network(torch.zeros(2, 3, 32, 32)).sum()
        if backward:
            loss.backward()
    return counter.get_total_flops() / 2 / 1e9


def measure(bench: Bench, teacher: str, student: str, repeats: int) -> tuple[list[Line], float]:
    """All lines, each measured `repeats` times in turn, and the rate of the matrix product in GFLOP/s."""
    frozen = bench.teacher(teacher)
    every = len(bench.images)
    size = {name: 2 * BATCH if name.startswith("vgg") else 16 * BATCH for name in MODELS}
    distil = 4 * BATCH if teacher.startswith("vgg") else 16 * BATCH
    plain0, plain2 = plain_loader(bench.images, BATCH), plain_loader(bench.images, BATCH, workers=2)
    batches, test = bench.batches(every), bench.batches(every, seed=None)
    network = bench.compute.place(build_model(student, 10))
    served = len(batches.image_set)

    work: list[tuple[Line, int, Callable[[], object]]] = []

    def add(name: str, images: int, function: Callable, cost: float | None = None, against: str | None = None):
        images = max(BATCH, images // BATCH * BATCH)
        work.append((Line(name, [], cost, against), images, function))

    add("batches: DataLoader, 0 workers", every, lambda: sum(len(labels) for _, labels in plain0))
    add("batches: DataLoader, 2 workers", every, lambda: sum(len(labels) for _, labels in plain2))
    fastest = "batches: DataLoader, 2 workers"
    add("batches: ours", served, lambda: sum(len(b.labels) for b in batches.epoch(0)), None, fastest)
    for name in dict.fromkeys((teacher, "vgg11_bn", student, "cnn_tiny")):
        cost = gflop(name, backward=True)
        add(f"train {name}: plain", size[name], bench.plain(name, size[name]), cost)
        add(f"train {name}: ours", size[name], bench.ours(name, size[name]), cost, f"train {name}: plain")
    pair, cost = f"{teacher} -> {student}", gflop(teacher, backward=False) + gflop(student, backward=True)
    add(f"KD {pair}: plain", distil, bench.plain(student, distil, teacher), cost)
    add(f"KD {pair}: ours", distil, bench.ours(student, distil, frozen), cost, f"KD {pair}: plain")
    add(f"evaluate {student}: ours", served, lambda: evaluate(network, test, bench.compute), gflop(student, False))

    for _, _, function in work:
        function()  # kernels are chosen, workers started and memory taken before anything is timed
    products = []
    for _ in range(repeats):
        products.append(bench.matmul_rate())
        for line, images, function in work:
            line.rates.append(bench.rate(images, function))
    return [line for line, _, _ in work], statistics.median(products)


def saving_seconds(name: str, repeats: int) -> tuple[float, float]:
    """Median seconds to save last.pt and best.pt of network `name`, and to read and check last.pt."""
    training = Training(build_model(name, 10), Schedule(1, 1, lr=0.1))
    for parameter in training.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    training.optimizer.step()
    content = {"model_name": name, "num_classes": 10, "class_names": [], "image_size": 32, "mean": [], "std": []}
    content |= {"config": {}, "epoch": 1, "metrics": {}}
    saving, loading = [], []
    with tempfile.TemporaryDirectory() as folder:
        last, best = Path(folder, "last.pt"), Path(folder, "best.pt")
        for _ in range(repeats):
            started = time.perf_counter()
            save_checkpoint(best, training.result, content)
            save_checkpoint(last, training.result, content | training.state_dict())
            saved = time.perf_counter()
            load_checkpoint(last)
            saving.append(saved - started)
            loading.append(time.perf_counter() - saved)
    return statistics.median(saving), statistics.median(loading)


def print_table(lines: list[Line], product: float) -> None:
    by_name = {line.name: line for line in lines}
    print(f"{'':34} {'images/s':>10} {'lowest-highest':>18} {'ratio':>7} {'of matmul':>10}")
    for line in lines:
        ratio = f"{line.rate / by_name[line.against].rate:.1f}x" if line.against else ""
        share = f"{line.rate * line.gflop / product:.0%}" if line.gflop else ""
        spread = f"{min(line.rates):,.0f}-{max(line.rates):,.0f}"
        print(f"{line.name:34} {line.rate:>10,.0f} {spread:>18} {ratio:>7} {share:>10}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", choices=MODELS, default="vgg19_bn")
    parser.add_argument("--student", choices=MODELS, default="cnn")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="least time of one measurement")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    compute = Compute.choose(args.device, "auto")
    lines, product = measure(Bench(compute, args.seconds), args.teacher, args.student, args.repeats)
    print(f"{compute}; batches of {BATCH}; matrix product {product:,.0f} GFLOP/s; ratio: to the plain loop\n")
    print_table(lines, product)
    for name in (args.teacher, args.student):
        saving, loading = saving_seconds(name, args.repeats)
        print(f"{name}: {saving:.3f} s to save after an epoch, {loading:.3f} s to read and check last.pt")
    if args.json:
        figures = {"device": str(compute), "matmul_gflops": product, "lines": [asdict(line) for line in lines]}
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
