"""What a step of training costs with each method of distillation, beside plain KD.

python -m benchmarks.methods [--teacher vgg11_bn] [--student cnn] [--method kd dkd ...] [--repeats 5]

All methods in one process and in turn; "cached" reads the teacher's outputs, "live" runs the teacher on each
batch. Milliseconds are medians; "x kd" is the median over the repeats of the ratio to KD in the same repeat, with
the lowest and the highest behind it.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.throughput import Bench, wait
from models import MODELS, build_model
from utils.distillation.cached_teacher import cached
from utils.distillation.taps import TappedNetwork
from utils.distillation.teacher import LiveTeacher, fold_batch_norm
from utils.losses import METHODS, build_method
from utils.runtime.device import Compute
from utils.training.cuda_graph import WARM_UP, graphed
from utils.training.loop import LoopOptions, Step
from utils.training.state import Schedule, TrainState

BATCHES = 4  # in an epoch of what is measured


def step(bench: Bench, teacher: str, student: str, spec: str, stored: bool) -> Callable[[], None] | None:
    """What trains for one step; None for a method that has no such form."""
    torch.manual_seed(0)  # the same teacher for all methods: they share its cached outputs
    compute, method = bench.compute, build_method(spec)
    batches = bench.batches(BATCHES * bench.batch_size)
    batches.augmentation = replace(batches.augmentation, strong=method.strong_view)
    images = next(batches.epoch(0)).images
    model, source = compute.place(build_model(student, 10)), None
    if method.needs != "labels":
        network = build_model(teacher, 10).eval().requires_grad_(False)
        network = compute.place(fold_batch_norm(network) if method.needs == "logits" else network)
        tapped = TappedNetwork(network, method.needs, images)
        source = LiveTeacher(tapped, compute, teacher, f"{teacher} {method.needs}", "", None)
        method.adapt(TappedNetwork(model, method.needs, images).example(images), tapped.example(images))
        if stored:
            source, _text = cached(source, batches, "bench", 1, bench.folder, 1.0, lambda: None)
            if isinstance(source, LiveTeacher):
                return None
        source.set_view(0)
    state = TrainState(model, Schedule(10**6, BATCHES, lr=0.001), method.to(compute.device))
    state.model.train()
    run = graphed(Step(state, source, batches, compute, LoopOptions()))
    run.view = batches.view(0)
    order = batches.order(0)
    return lambda: [run(indices) for indices in order]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", choices=MODELS, default="vgg11_bn")
    parser.add_argument("--student", choices=MODELS, default="cnn")
    parser.add_argument("--method", nargs="+", default=list(METHODS), metavar="SPEC")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    compute, specs = Compute.choose(args.device, "auto"), list(dict.fromkeys(["kd", *args.method]))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(compute, args.batch_size, 0.0, Path(folder))
        work = {
            (spec, stored): run
            for stored in (True, False)
            for spec in specs
            if (run := step(bench, args.teacher, args.student, spec, stored)) is not None
        }
        times: dict[tuple[str, bool], list[float]] = {key: [] for key in work}
        for run in work.values():
            for _ in range(WARM_UP):
                run()
        for _ in range(args.repeats):
            for key, run in work.items():
                wait(compute)
                started = time.perf_counter()
                run()
                wait(compute)
                times[key].append(1000 * (time.perf_counter() - started) / BATCHES)
    print(f"{compute}; batches of {args.batch_size}; {args.teacher} -> {args.student}; ms a step\n")
    print(f"{'method':16} {'cached':>8} {'x kd':>20} {'live':>8} {'x kd':>20}")
    for spec in specs:
        cells = [cell(times, spec, stored) for stored in (True, False)]
        print(f"{spec:16} " + " ".join(cells))
    if args.json:
        lines = [{"method": spec, "cached": stored, "ms": each} for (spec, stored), each in times.items()]
        args.json.write_text(
            json.dumps({"device": str(compute), "lines": lines}, indent=1) + "\n", encoding="utf-8"
        )


def cell(times: dict[tuple[str, bool], list[float]], spec: str, stored: bool) -> str:
    own = times.get((spec, stored))
    if own is None:
        return f"{'-':>8} {'':>20}"
    ratios = [one / kd for one, kd in zip(own, times["kd", stored], strict=True)]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    return f"{statistics.median(own):8.1f} {spread:>20}"


if __name__ == "__main__":
    main()
