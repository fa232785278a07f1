"""What a network costs where it is used: size, arithmetic and time, measured on the device at hand."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from utils.evaluation.metrics import count_parameters
from utils.runtime.device import Compute
from utils.runtime.program import describe

BATCHES = {"cpu": (1, 4, 16, 64, 256), "cuda": (1, 4, 16, 64, 256, 1024, 4096)}
LATENCY_SECONDS = 1.0  # of repeats at batch 1
BATCH_SECONDS = 0.5  # of repeats at each batch size
LONGEST_PASS = 1.0  # seconds; a larger batch that would need more is not tried
FEWEST = 3  # repeats, however long they take


def measure_deployment(model: nn.Module, image_size: int, compute: Compute) -> dict[str, Any]:
    """The part of analysis.json from `parameters` to `threads`, of `model` on the device where it is.

    `file_bytes` is what its weights and statistics take in a file; last.pt holds the optimizer's state too.
    """
    images_per_second, batch = throughput(model, image_size, compute)
    return {
        "parameters": count_parameters(model),
        "multiply_adds": multiply_adds(model, image_size, compute.device),
        "file_bytes": sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()),
        "latency_ms": round(latency_ms(model, image_size, compute), 4),
        "throughput": round(images_per_second, 1),
        "throughput_batch": batch,
        "device": str(compute),
        "threads": torch.get_num_threads() if compute.device.type == "cpu" else None,
    }


def multiply_adds(model: nn.Module, image_size: int, device: torch.device) -> int:
    """Multiplications with an addition for one image: those of convolutions and matrix products.

    Batch norm, activations and pooling are not counted, as is usual. torch counts two operations for each.
    """
    with _inference(model), FlopCounterMode(display=False) as counter:
        model(_images(1, image_size, device))
    return counter.get_total_flops() // 2


def latency_ms(model: nn.Module, image_size: int, compute: Compute) -> float:
    """Median milliseconds from one normalised image on the device to its logits there, after warming up."""
    with _inference(model):
        return 1000 * _median_seconds(_pass(model, 1, image_size, compute), compute.device, LATENCY_SECONDS)


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
    _repeat(run, device, budget / 10, 1 if device.type == "cpu" else FEWEST)  # cuDNN tries its kernels first
    return statistics.median(_repeat(run, device, budget, FEWEST))


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
