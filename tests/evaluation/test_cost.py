import itertools
import os
from itertools import pairwise

import pytest
import torch
from torch import nn
from toys import CPU, network

import utils.evaluation.cost
from utils.evaluation.cost import latencies, measure_costs, multiply_adds, throughput
from utils.runtime.device import Compute


class Clock:
    """Time that passes only where a network says how long it takes: no busy machine disturbs a test."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Timed(nn.Module):
    """A network that needs `seconds(batch size)` for a batch, and notes how it was called."""

    def __init__(self, clock: Clock, seconds):
        super().__init__()
        self.clock, self.seconds, self.batches = clock, seconds, []

    def forward(self, images):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        assert images.shape[1:] == (3, 8, 8)
        assert images.is_contiguous(memory_format=torch.channels_last)
        self.batches.append(len(images))
        self.clock.now += self.seconds(len(images))
        return images.mean((2, 3))


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(utils.evaluation.cost, "time", clock)
    return clock


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(utils.evaluation.cost, "LATENCY_SECONDS", 0.05)
    monkeypatch.setattr(utils.evaluation.cost, "BATCH_SECONDS", 0.05)


def test_multiply_adds_are_those_of_the_layers_by_hand():
    # 32x32 pixels, kernel 3, stride 4: 8x8 positions of 8 channels from 3 * 9 values; then 8 to 4
    assert multiply_adds(network(), 32, CPU.device) == 8 * 8 * 8 * 27 + 8 * 4
    grouped = nn.Conv2d(3, 6, 5, padding=2, groups=3)  # 6 channels from 25 values of one channel each
    assert multiply_adds(grouped, 10, CPU.device) == 10 * 10 * 6 * 25


@pytest.mark.parametrize("training", [True, False])
def test_counting_and_timing_leave_mode_and_weights_alone(quick, training):
    model = network().train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    multiply_adds(model, 32, CPU.device)
    assert latencies([(model, 32)], CPU)[0].median > 0
    assert throughput(model, 32, CPU)[0] > 0
    assert model.training is training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_failing_network_gets_its_mode_back_and_is_not_taken_for_one_that_does_not_fit(clock):
    def seconds(batch):
        if batch > 4:
            raise RuntimeError("shapes cannot be multiplied")
        return 0.01

    model = Timed(clock, seconds).train()
    with pytest.raises(RuntimeError, match="shapes"):
        throughput(model, 8, CPU)
    assert model.training


def test_latency_is_the_median_of_a_second_of_single_images_after_warming_up(clock):
    model = Timed(clock, lambda batch: 0.3 if len(model.batches) in (1, 9) else 0.02)
    assert latencies([(model, 8)], CPU) == [pytest.approx((20, 20, 20))]
    assert set(model.batches) == {1}
    assert len(model.batches) >= 30
    assert clock.now < 2


def test_a_slow_network_is_measured_a_few_times_only(clock):
    model = Timed(clock, lambda batch: 7.0)
    assert latencies([(model, 8)], CPU) == [pytest.approx((7000, 7000, 7000))]
    assert clock.now == pytest.approx(7 * (1 + 3))


def test_networks_take_turns_so_that_a_busy_moment_falls_on_all_of_them(clock):
    """One after the other, most repeats of the second would fall into the moment."""
    order = []

    def timed(name: str, seconds: float) -> Timed:
        def run(_batch: int) -> float:
            order.append(name)
            return seconds * (1.3 if 1.2 < clock.now < 2.0 else 1)

        return Timed(clock, run)

    first, second = latencies([(timed("a", 0.01), 8), (timed("b", 0.02), 8)], CPU)
    assert (first.median, second.median) == (pytest.approx(10), pytest.approx(20))
    assert (first.q3, second.q3) == (pytest.approx(13), pytest.approx(26))
    assert sum(a != b for a, b in pairwise(order)) >= 19  # ten rounds of both


def test_a_latency_has_the_quartiles_of_its_repeats(clock):
    times = itertools.cycle([0.01, 0.02, 0.03, 0.04])
    latency = latencies([(Timed(clock, lambda batch: next(times)), 8)], CPU)[0]
    assert latency.q1 == pytest.approx(17.5, abs=2.6)  # of 10, 20, 30 and 40 ms
    assert latency.median == pytest.approx(25, abs=5.1)
    assert latency.q3 == pytest.approx(32.5, abs=2.6)


@pytest.mark.parametrize(
    ("load", "uneven", "busy"), [(1.0, 1, ""), (6.5, 1, "load 6.5 on 2 cores"), (1.0, 2, "quartiles")]
)
def test_a_busy_machine_is_marked_by_its_load_or_by_quartiles_far_apart(clock, monkeypatch, load, uneven, busy):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(utils.evaluation.cost, "multiply_adds", lambda *_: 1)
    model = Timed(clock, lambda batch: 0.01 * (uneven if len(model.batches) % 2 else 1))
    assert measure_costs([(model, 8)], CPU)[0]["busy"].startswith(busy)
    assert bool(measure_costs([(model, 8)], CPU)[0]["busy"]) == bool(busy)


def test_throughput_is_of_the_best_batch_though_a_smaller_one_was_slower_by_chance(clock):
    seconds = {1: 0.001, 4: 0.02, 16: 0.004, 64: 0.1, 256: 0.2}
    model = Timed(clock, seconds.get)
    assert throughput(model, 8, CPU) == (pytest.approx(16 / 0.004), 16)
    assert max(model.batches) == 256
    assert clock.now < 4


def test_a_network_that_grows_faster_with_every_batch_is_tried_up_to_the_largest(clock):
    assert throughput(Timed(clock, lambda batch: 0.01), 8, CPU) == (pytest.approx(256 / 0.01), 256)


def test_a_batch_that_would_take_long_is_not_tried(clock):
    model = Timed(clock, lambda batch: 0.1 * batch**0.9)
    assert throughput(model, 8, CPU)[1] == max(model.batches) == 4


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried to allocate 2 GiB", "can't allocate memory"])
def test_a_batch_that_does_not_fit_in_memory_ends_the_search(clock, message):
    def seconds(batch):
        if batch > 4:
            raise RuntimeError(message)
        return 0.002

    assert throughput(Timed(clock, seconds), 8, CPU)[1] == 4


def test_a_network_of_which_not_one_image_fits_says_so(clock):
    def seconds(batch):
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        throughput(Timed(clock, seconds), 8, CPU)


def test_all_costs_that_an_analysis_promises_are_there(quick):
    compute = Compute(torch.device("cpu"), "bf16")
    (measured,) = measure_costs([(network(), 32)], compute)
    assert list(measured) == [
        *("parameters", "multiply_adds", "file_bytes", "latency_ms", "latency_q1_ms", "latency_q3_ms"),
        *("throughput", "throughput_batch", "device", "threads", "busy"),
    ]
    assert measured["parameters"] == 3 * 9 * 8 + 16 + 8 * 4 + 4
    assert measured["multiply_adds"] == 8 * 8 * 8 * 27 + 8 * 4
    assert measured["file_bytes"] == 4 * (3 * 9 * 8 + 4 * 8 + 8 * 4 + 4) + 8  # and the int64 count of batch norm
    assert 0 < measured["latency_q1_ms"] <= measured["latency_ms"] <= measured["latency_q3_ms"]
    assert measured["throughput"] > 0
    assert measured["throughput_batch"] in (1, 4, 16, 64, 256)
    assert measured["device"] == str(compute)
    assert measured["threads"] == torch.get_num_threads()


@pytest.mark.gpu
def test_on_cuda_the_clock_waits_for_the_device():
    compute = Compute.choose("cuda", "bf16")
    heavy = compute.place(nn.Sequential(nn.Conv2d(3, 512, 3, padding=1), *[nn.Conv2d(512, 512, 3)] * 8))
    (measured,) = measure_costs([(heavy, 64)], compute)
    assert measured["threads"] is None
    # No GPU does 2e15 operations a second in bfloat16: a shorter time would be that of the launches alone.
    assert measured["throughput"] * 2 * measured["multiply_adds"] < 5e15
