"""Images per second of this project beside the plain loop, in one process and in turn.

    python -m benchmarks.throughput [--teacher vgg19_bn] [--student cnn] [--repeats 5] [--json FILE]

"plain" is the loop that most projects have, "tips" the same with what they are told to add (see `plain.py`). Each
number is the median of the repeats, with the lowest and the highest behind it; "ratio" is that to the plain loop,
"of matmul" the share of the measured rate of a large matrix product that the convolutions and linear layers reach.
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
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain import plain_epoch, plain_evaluation, plain_loader, plain_network
from models import MODELS, build_model
from utils.data.batches import Batches, Normalise
from utils.data.dataset import evaluation_batches
from utils.data.image_set import ImageSet
from utils.data.sources.shapes import draw
from utils.distillation.cached_teacher import CachedTeacher, cached
from utils.distillation.taps import TappedNetwork
from utils.distillation.teacher import LiveTeacher, fold_batch_norm
from utils.evaluation.metrics import evaluate
from utils.losses import build_method
from utils.runtime.device import Compute
from utils.training.cuda_graph import WARM_UP, graphed
from utils.training.loop import LoopOptions, Step, fit
from utils.training.state import Schedule, TrainState

VIEWS = 2  # of the cached outputs: enough to change from one to the next


@dataclass
class Line:
    """One measurement: images per second of each repeat, and what an image costs."""

    name: str
    rates: list[float]
    gflop: float | None = None  # per image
    against: str | None = None  # the line that it is compared with

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


class Bench:
    """The work that is measured; each function returned serves `images` images when it is called."""

    def __init__(self, compute: Compute, batch_size: int, seconds: float, folder: Path):
        self.compute, self.batch_size, self.seconds, self.folder = compute, batch_size, seconds, folder
        self.images = draw(8192, seed=3)
        self.normalise = Normalise(*self.images.mean_and_std())

    def whole_batches(self, images: int) -> int:
        return max(self.batch_size, images // self.batch_size * self.batch_size)

    def subset(self, images: int) -> ImageSet:
        return self.images.first(images)

    def batches(self, images: int) -> Batches:
        on_device = self.subset(images).to(self.compute.device)
        return Batches(on_device, self.normalise, self.batch_size, seed=0, views=VIEWS)

    def rate(self, images: int, work: Callable[[], object]) -> float:
        """Images per second of `work`, repeated for long enough to be timed."""
        wait(self.compute)
        started, done = time.perf_counter(), 0
        while done == 0 or time.perf_counter() - started < self.seconds:
            work()
            wait(self.compute)
            done += images
        return done / (time.perf_counter() - started)

    def teacher(self, name: str) -> LiveTeacher:
        model = self.compute.place(fold_batch_norm(build_model(name, 10).eval().requires_grad_(False)))
        return LiveTeacher(TappedNetwork(model, "logits", torch.empty(0)), self.compute, name, name, "", None)

    def cached(self, teacher: str, batches: Batches, folder: Path) -> CachedTeacher:
        return cached(
            self.teacher(teacher), batches, str(len(batches.image_set)), VIEWS, folder, 1.0, lambda: None
        )[0]

    def state(self, model: str, batches: Batches, method: str | None = None) -> TrainState:
        schedule = Schedule(10**6, len(batches), lr=0.01)
        return TrainState(
            self.compute.place(build_model(model, 10)), schedule, build_method(method) if method else None
        )

    def ours(
        self, model: str, images: int, teacher: str | None = None, cached: bool = False
    ) -> Callable[[], object]:
        """One epoch of the project's own loop."""
        batches, source = self.batches(images), None
        if teacher:
            source = self.cached(teacher, batches, self.folder) if cached else self.teacher(teacher)
        for view in range(VIEWS if cached else 0):
            source.set_view(view)
        state = self.state(model, batches, "kd" if teacher else None)
        epochs = fit(state, source, batches, None, self.compute)
        return lambda: next(epochs)

    def plain(self, model: str, images: int, tips: bool, teacher: str | None = None) -> Callable[[], object]:
        device = self.compute.device
        network = plain_network(build_model(model, 10), device, tips)
        frozen = plain_network(build_model(teacher, 10), device, tips).eval() if teacher else None
        loader = plain_loader(self.subset(images), self.batch_size, tips)
        return lambda: plain_epoch(network, loader, device, frozen, tips)

    def outputs(self, teacher: str, images: int) -> Callable[[], object]:
        source = self.cached(teacher, self.batches(images), self.folder / "unused")
        return lambda: source.make(0)

    def evaluation(self, model: str, images: int, plain: bool) -> Callable[[], object]:
        network = build_model(model, 10)
        if plain:
            loader = plain_loader(self.subset(images), self.batch_size, train=False)
            network = network.to(self.compute.device)
            return lambda: plain_evaluation(network, loader, self.compute.device)
        batches = evaluation_batches(self.subset(images).to(self.compute.device), self.normalise)
        network = self.compute.place(network)
        return lambda: evaluate(network, batches, self.compute)


def wait(compute: Compute) -> None:
    if compute.device.type == "cuda":
        torch.cuda.synchronize()


def matmul_rate(compute: Compute, seconds: float = 2.0) -> float:
    """GFLOP/s of a large matrix product in the precision of the training."""
    size = 8192 if compute.device.type == "cuda" else 2048
    dtype = torch.bfloat16 if compute.precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=compute.device, dtype=dtype) for _ in range(2))
    a @ b
    wait(compute)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        a @ b
        wait(compute)
        done += 1
    return done / (time.perf_counter() - started) * 2 * size**3 / 1e9


def gflop(model: str, backward: bool) -> float:
    """Floating-point operations (1e9) per image of 32x32 pixels, of convolutions and linear layers."""
    with FlopCounterMode(display=False) as counter:
        loss = build_model(model, 10)(torch.zeros(2, 3, 32, 32)).sum()
        if backward:
            loss.backward()
    return counter.get_total_flops() / 2 / 1e9


def measure(bench: Bench, teacher: str, student: str, repeats: int) -> tuple[list[Line], float]:
    """All lines, each measured `repeats` times in turn, and the rate of the matrix product in GFLOP/s."""
    work: list[tuple[Line, int, Callable[[], object]]] = []

    def add(name: str, images: int, make: Callable[[int], Callable], cost: float | None = None, against: str = ""):
        images = bench.whole_batches(images)
        work.append((Line(name, [], cost, against or None), images, make(images)))

    def size(name: str) -> int:
        return 256 if name.startswith("vgg") and bench.compute.device.type == "cpu" else 4096

    def serve(batches) -> Callable[[], object]:
        return lambda: sum(len(batch[1]) for batch in batches)

    def serve_epoch(batches: Batches) -> Callable[[], object]:
        return lambda: sum(len(batch.labels) for batch in batches.epoch(0))

    first = "batches: plain"
    add(first, 6000, lambda n: serve(plain_loader(bench.subset(n), bench.batch_size)))
    add("batches: tips", 6000, lambda n: serve(plain_loader(bench.subset(n), bench.batch_size, True)), None, first)
    add("batches: ours", 6000, lambda n: serve_epoch(bench.batches(n)), None, first)
    for name in dict.fromkeys((teacher, student)):
        cost, first = gflop(name, True), f"train {name}: plain"
        add(first, size(name), lambda n, name=name: bench.plain(name, n, False), cost)
        add(f"train {name}: tips", size(name), lambda n, name=name: bench.plain(name, n, True), cost, first)
        add(f"train {name}: ours", size(name), lambda n, name=name: bench.ours(name, n), cost, first)
    cost, first = gflop(teacher, False) + gflop(student, True), "KD, live teacher: plain"
    images = 2 * size(teacher)
    add(first, images, lambda n: bench.plain(student, n, False, teacher), cost)
    add("KD, live teacher: tips", images, lambda n: bench.plain(student, n, True, teacher), cost, first)
    add("KD, live teacher: ours", images, lambda n: bench.ours(student, n, teacher), cost, first)
    cost = gflop(student, True)
    add("KD, cached outputs: ours", size(student), lambda n: bench.ours(student, n, teacher, True), cost, first)
    add("teacher's outputs: ours", images, lambda n: bench.outputs(teacher, n), gflop(teacher, False))
    cost, first = gflop(student, False), f"evaluate {student}: plain"
    add(first, 6000, lambda n: bench.evaluation(student, n, True), cost)
    add(f"evaluate {student}: ours", 6000, lambda n: bench.evaluation(student, n, False), cost, first)

    for _, _, function in work:
        function()  # kernels are chosen, workers started and memory taken before anything is timed
    products = []
    for _ in range(repeats):
        products.append(matmul_rate(bench.compute))
        for line, images, function in work:
            line.rates.append(bench.rate(images, function))
    return [line for line, _, _ in work], statistics.median(products)


def host_and_device(bench: Bench, model: str, steps: int = 100) -> dict[str, float]:
    """Milliseconds in which the host gives the orders of a step, and in which the device has carried them out."""
    batches = bench.batches(bench.whole_batches(0))
    state = bench.state(model, batches)
    state.model.train()
    run = graphed(Step(state, None, batches, bench.compute, LoopOptions()))
    run.view = batches.view(0)
    (indices,) = batches.order(0)
    for _ in range(WARM_UP + 2):
        run(indices)
    wait(bench.compute)
    started = time.perf_counter()
    for _ in range(steps):
        run(indices)
    host = time.perf_counter() - started
    wait(bench.compute)
    return {"host": 1000 * host / steps, "device": 1000 * (time.perf_counter() - started) / steps}


def print_table(lines: list[Line], product: float, fp32: bool) -> None:
    """`fp32`: the product was measured in the precision of the plain loop, and is a measure for it."""
    by_name = {line.name: line for line in lines}
    print(f"{'':28} {'images/s':>10} {'lowest-highest':>18} {'ratio':>7} {'of matmul':>10}")
    for line in lines:
        ratio = f"{line.rate / by_name[line.against].rate:.2f}x" if line.against else ""
        share = (
            f"{line.rate * line.gflop / product:.0%}" if line.gflop and (fp32 or "plain" not in line.name) else ""
        )
        spread = f"{min(line.rates):,.0f}-{max(line.rates):,.0f}"
        print(f"{line.name:28} {line.rate:>10,.0f} {spread:>18} {ratio:>7} {share:>10}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", choices=MODELS, default="vgg19_bn")
    parser.add_argument("--student", choices=MODELS, default="cnn")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="least time of one measurement")
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    compute = Compute.choose(args.device, "auto")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(compute, args.batch_size, args.seconds, Path(folder))
        lines, product = measure(bench, args.teacher, args.student, args.repeats)
        print(f"{compute}; batches of {args.batch_size}; KD {args.teacher} -> {args.student}; ", end="")
        print(f"matrix product {product:,.0f} GFLOP/s\n")
        print_table(lines, product, compute.precision == "fp32")
        steps = {}
        if compute.device.type == "cuda":
            steps = {name: host_and_device(bench, name) for name in (args.teacher, args.student)}
            for name, each in steps.items():
                print(f"a step of {name}: host {each['host']:.3f} ms, device {each['device']:.3f} ms")
    if args.json:
        results = {"device": str(compute), "batch_size": args.batch_size, "matmul_gflops": product, "steps": steps}
        results |= {"lines": [asdict(line) for line in lines]}
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
