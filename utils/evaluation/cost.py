"""What a network costs where it is used: size, arithmetic and time, measured on the device at hand."""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from utils.evaluation.metrics import count_parameters
from utils.runtime.device import Compute
from utils.runtime.program import describe
from utils.runtime.system import load_average

BATCHES = {"cpu": (1, 4, 16, 64, 256), "cuda": (1, 4, 16, 64, 256, 1024, 4096)}
LATENCY_SECONDS = 1.0  # of repeats at batch 1
ROUNDS = 10  # in which the networks take turns; a slow one shortens them to FEWEST
SPREAD = 0.2  # between the quartiles, of the median; more of it marks a busy machine
BATCH_SECONDS = 0.5  # of repeats at each batch size
LONGEST_PASS = 1.0  # seconds; a larger batch that would need more is not tried
FEWEST = 3  # repeats, however long they take


class Latency(NamedTuple):
    """Milliseconds from one normalised image on the device to its logits there, after warming up."""

    q1: float  # a quarter of the repeats was faster
    median: float
    q3: float


def measure_costs(networks: Sequence[tuple[nn.Module, int]], compute: Compute) -> list[dict[str, Any]]:
    """The part of analysis.json from `parameters` to `busy`, of each model with its image size, on its device.

    The latencies are measured in turn, so that what else the machine does at a moment favours none of the models.
    `busy` says what speaks against them: a load above the number of cores, or quartiles far apart.
    """
    load = _overload()
    return [
        _cost(model, size, latency, load, compute)
        for (model, size), latency in zip(networks, latencies(networks, compute), strict=True)
    ]


def _overload() -> str:
    """What else the machine has to do, in words; empty where it is little or unknown (Windows)."""
    load, cores = load_average(), os.cpu_count() or 1
    return f"load {load:.1f} on {cores} cores" if load > cores + 0.5 else ""  # up to `cores` of it is ours


def _cost(model: nn.Module, image_size: int, latency: Latency, load: str, compute: Compute) -> dict[str, Any]:
    """`file_bytes` is what weights and statistics take in a file; last.pt holds the optimizer's state too."""
    images_per_second, batch = throughput(model, image_size, compute)
    apart = (latency.q3 - latency.q1) / latency.median
    spread = f"quartiles {100 * apart:.0f} % of the median apart" if apart > SPREAD else ""
    return {
        "parameters": count_parameters(model),
        "multiply_adds": multiply_adds(model, image_size, compute.device),
        "file_bytes": sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()),
        "latency_ms": round(latency.median, 4),
        "latency_q1_ms": round(latency.q1, 4),
        "latency_q3_ms": round(latency.q3, 4),
        "throughput": round(images_per_second, 1),
        "throughput_batch": batch,
        "device": str(compute),
        "threads": torch.get_num_threads() if compute.device.type == "cpu" else None,
        "busy": ", ".join(filter(None, (load, spread))),
    }


def multiply_adds(model: nn.Module, image_size: int, device: torch.device) -> int:
    """Multiplications with an addition for one image: those of convolutions and matrix products.

    Batch norm, activations and pooling are not counted, as is usual. torch counts two operations for each.
    """
    with _inference(model), FlopCounterMode(display=False) as counter:
        model(_images(1, image_size, device))
    return counter.get_total_flops() // 2


def latencies(networks: Sequence[tuple[nn.Module, int]], compute: Compute) -> list[Latency]:
    """The latency of each model with its image size, measured in turn."""
    with ExitStack() as stack:
        for model, _ in networks:
            stack.enter_context(_inference(model))
        passes = [_pass(model, 1, size, compute) for model, size in networks]
        warm = [_warm_up(run, compute.device, LATENCY_SECONDS) for run in passes]
        rounds = max(FEWEST, min(ROUNDS, int(LATENCY_SECONDS / max(warm, default=1.0))))
        times: list[list[float]] = [[] for _ in passes]
        for _ in range(rounds):
            for run, own in zip(passes, times, strict=True):
                own += _repeat(run, compute.device, LATENCY_SECONDS / rounds, 1)
    return [Latency(*(1000 * value for value in statistics.quantiles(own, method="inclusive"))) for own in times]


def throughput(model: nn.Module, image_size: int, compute: Compute) -> tuple[float, int]:
    """The most images per second, and the batch size that had them; images and logits stay on the device.

    Batch sizes grow until one does not fit in memory or would take long; a slower one may be chance. Raises
    RuntimeError where not even one image fits.
    """
    best = (0.0, 0)
    with _inference(model):
        for batch in BATCHES[compute.device.type]:
            try:
                run = _pass(model, batch, image_size, compute)
                seconds = _median_seconds(run, compute.device, BATCH_SECONDS)
            except (MemoryError, RuntimeError) as error:
                if best[1] and describe(error)[0] == "out of memory":
                    break
                raise
            best = max(best, (batch / seconds, batch))
            if 4 * seconds > LONGEST_PASS:  # the next batch is four times as large
                break
    return best


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """The model as it is when it is used: in eval mode, without gradients. Its mode comes back."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def _images(batch: int, size: int, device: torch.device) -> Tensor:
    """Normalised noise in the shape and memory layout of `utils.data.batches`: float32 [B, 3, H, W]."""
    pixels = torch.randn(batch, size, size, 3, generator=torch.Generator().manual_seed(0))
    return pixels.to(device).permute(0, 3, 1, 2)


def _pass(model: nn.Module, batch: int, size: int, compute: Compute) -> Callable[[], None]:
    images = _images(batch, size, compute.device)

    def run() -> None:
        with compute.autocast():
            model(images)

    return run


def _median_seconds(run: Callable[[], None], device: torch.device, budget: float) -> float:
    """Median of the repeats that fit in `budget` seconds, at least `FEWEST`, after a tenth of that to warm up."""
    _warm_up(run, device, budget)
    return statistics.median(_repeat(run, device, budget, FEWEST))


def _warm_up(run: Callable[[], None], device: torch.device, budget: float) -> float:
    """Repeat for a tenth of `budget` seconds; returns the seconds of the last repeat."""
    return _repeat(run, device, budget / 10, 1 if device.type == "cpu" else FEWEST)[-1]  # cuDNN tries its kernels


def _repeat(run: Callable[[], None], device: torch.device, budget: float, fewest: int) -> list[float]:
    times, end = [], time.perf_counter() + budget
    while len(times) < fewest or time.perf_counter() < end:
        _wait_for(device)
        started = time.perf_counter()
        run()
        _wait_for(device)
        times.append(time.perf_counter() - started)
    return times


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
