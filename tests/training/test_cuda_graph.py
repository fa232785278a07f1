import copy
import math

import pytest
import torch
from toys import CPU, assert_same_weights, batches, frozen, network, training, weights

import utils.training.cuda_graph
import utils.training.loop
from utils.data.augment import Augmentation
from utils.distillation.cached_teacher import cached
from utils.runtime.device import Compute
from utils.training.cuda_graph import WARM_UP, GraphedStep
from utils.training.loop import LoopOptions, fit
from utils.training.state import Schedule, TrainState

METHODS = {"alone": "", "live": "kd:temperature=4", "cached": "dkd:warmup=0.5", "features": "fitnet:stage=0"}


def teaching(kind: str, train, folder, compute: Compute = CPU, seed: int = 0, **settings):
    """A training with a teacher of this kind, and the teacher."""
    teacher = None
    if kind != "alone":
        teacher = frozen(network(seed=7), "features" if kind == "features" else "logits", compute)
    settings |= {"method": METHODS[kind], "teacher": teacher, "compute": compute, "seed": seed}
    state = training(steps=len(train), **settings)
    if kind == "cached":
        train.views = state.schedule.epochs
        teacher, _ = cached(teacher, train, "data", train.views, folder, 1.0, lambda: None)
    return state, teacher


@pytest.fixture
def graphs_on_the_cpu(monkeypatch):
    """A stand-in for capture and replay: like a graph, a replay reads only the tensors that the capture saw."""
    captures, replays = [], []

    def capture(work):
        step = captures_of(work)
        seen = [tensor.data_ptr() for tensor in step]
        captures.append(work)

        def replay():
            assert [tensor.data_ptr() for tensor in captures_of(work)] == seen
            replays.append(1)
            work()

        return replay

    def captures_of(work):
        graphed = work.__closure__[0].cell_contents
        step = graphed.step
        outputs = getattr(step.teacher, "current", None) or ()
        rates = [group["lr"] for group in step.state.optimizer.param_groups]
        tensors = [*step.view, *outputs, *rates, step.progress, graphed.indices]
        return [tensor for tensor in tensors if tensor is not None]

    monkeypatch.setattr(GraphedStep, "broken", False)
    monkeypatch.setattr(utils.training.cuda_graph, "capture", capture)
    monkeypatch.setattr(utils.training.cuda_graph, "on_side_stream", lambda work: work())
    return captures, replays


def trained(graphed: bool, monkeypatch, folder, ema: float = 0.0, kind: str = "alone", resume: bool = False):
    train = batches(110, 32)
    state, teacher = teaching(kind, train, folder, epochs=4, ema=ema)
    monkeypatch.setattr(utils.training.loop, "graphed", GraphedStep if graphed else lambda step: step)
    epochs = fit(state, teacher, train, None, CPU)
    if resume:
        next(epochs), next(epochs)
        saved, result = copy.deepcopy(state.state_dict()), weights(state.result)
        state, teacher = teaching(kind, train, folder, epochs=4, ema=ema, seed=9)
        state.load_state_dict(result, saved)
        epochs = fit(state, teacher, train, None, CPU)
    list(epochs)
    return state


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("resume", [False, True])
def test_replayed_steps_train_as_single_ones_do(graphs_on_the_cpu, tmp_path, monkeypatch, ema, kind, resume):
    """With a smaller last batch, another view, other outputs, learning rate and progress in each epoch."""
    replayed = trained(True, monkeypatch, tmp_path, ema, kind, resume)
    captures, replays = graphs_on_the_cpu
    runs = 2 if resume else 1
    assert len(captures) == runs
    assert len(replays) == 3 * 4 - runs * WARM_UP  # three whole batches in each of four epochs
    single = trained(False, monkeypatch, tmp_path, ema, kind, resume)
    assert_same_weights(weights(replayed.model), weights(single.model))
    assert_same_weights(weights(replayed.result), weights(single.result))
    assert_same_weights(weights(replayed.method), weights(single.method))
    for one, other in zip(replayed.history, single.history, strict=True):
        assert one.__dict__ | {"seconds": 0} == other.__dict__ | {"seconds": 0}


def test_where_nothing_can_be_captured_training_goes_on_step_by_step(graphs_on_the_cpu, monkeypatch, capsys):
    def capture(work):
        graphed = work.__closure__[0].cell_contents
        batch = graphed.step.train.serve(graphed.indices, graphed.step.view)
        graphed.step.state.model(batch.images).sum().backward()  # half a step: gradients are left behind
        raise RuntimeError("operation not permitted when stream is capturing\nsecond line")

    monkeypatch.setattr(utils.training.cuda_graph, "capture", capture)
    model = network()
    model[1] = torch.nn.Identity()  # whose statistics half a step would move; a capture executes nothing
    results = []
    for graphed in (True, False):
        train = batches(110, 32)
        state = TrainState(copy.deepcopy(model), Schedule(2, len(train), lr=0.05))
        monkeypatch.setattr(utils.training.loop, "graphed", GraphedStep if graphed else lambda step: step)
        list(fit(state, None, train, None, CPU))
        results.append(weights(state.model))
    assert_same_weights(*results)
    assert capsys.readouterr().err.count("no CUDA graph") == 1


def on_cuda(
    cuda_graph: bool, precision: str, folder, kind: str = "alone", ema: float = 0.0, guard=None, compiled=False
) -> TrainState:
    """Train on CUDA with cutout and a teacher of this kind."""
    compute = Compute.choose("cuda", precision)
    train = batches(330, 32)
    train.image_set, train.augmentation = train.image_set.to(compute.device), Augmentation(cutout=8)
    state, teacher = teaching(kind, train, folder, compute, epochs=3, ema=ema)
    more = {"check_interrupt": guard(len(train))} if guard else {}
    list(fit(state, teacher, train, None, compute, LoopOptions(cuda_graph=cuda_graph, compile=compiled, **more)))
    return state


@pytest.mark.gpu
@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_captured_training_has_the_weights_statistics_and_momentum_of_the_eager_one(
    tmp_path, precision, ema, kind
):
    captured, eager = (on_cuda(graph, precision, tmp_path, kind, ema) for graph in (True, False))
    assert not GraphedStep.broken
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.02, "atol": 0.002}
    for one, other in (
        (captured.model, eager.model),
        (captured.result, eager.result),
        (captured.method, eager.method),
    ):
        torch.testing.assert_close(weights(one), weights(other), **tolerance)
    momenta = [state.optimizer.state_dict()["state"] for state in (captured, eager)]
    torch.testing.assert_close(*momenta, **tolerance)
    for one, other in zip(captured.history, eager.history, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-3)


@pytest.mark.gpu
def test_a_compiled_network_can_be_captured(tmp_path):
    compiled, plain = (on_cuda(True, "fp32", tmp_path, compiled=each) for each in (True, False))
    assert not GraphedStep.broken
    losses = [[record.train_loss for record in state.history] for state in (compiled, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.gpu
def test_on_cuda_too_a_failed_capture_only_costs_speed(tmp_path, monkeypatch, capsys):
    expected = on_cuda(False, "fp32", tmp_path)
    monkeypatch.setattr(GraphedStep, "broken", False)
    real = utils.training.loop.Step.__call__

    def waits(step, indices):
        real(step, indices)
        if torch.cuda.is_current_stream_capturing():
            step.meter.sums.tolist()  # to wait is forbidden within a capture

    monkeypatch.setattr(utils.training.loop.Step, "__call__", waits)
    state = on_cuda(True, "fp32", tmp_path)
    assert "no CUDA graph" in capsys.readouterr().err
    for record, other in zip(state.history, expected.history, strict=True):
        assert record.train_loss == pytest.approx(other.train_loss, rel=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_no_step_waits_for_the_device(tmp_path, monkeypatch, cuda_graph, ema, kind):
    monkeypatch.setattr(utils.training.loop, "LOG_INTERVAL", math.inf)  # each reading waits
    calls = []

    def guard(steps):
        def check():
            calls.append(1)
            settled = WARM_UP + 1 < len(calls) < steps  # the capture itself may wait, once
            torch.cuda.set_sync_debug_mode("error" if settled else "default")

        return check

    try:
        on_cuda(cuda_graph, "bf16", tmp_path, kind, ema, guard)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(calls) == 33
