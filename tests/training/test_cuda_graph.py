import copy
import math

import pytest
import torch
from toys import CPU, assert_same_weights, batches, network, training, weights

import utils.training.cuda_graph
import utils.training.loop
from utils.data.augment import Augmentation
from utils.distillation.teacher import Teacher
from utils.losses import CrossEntropy, Distillation
from utils.runtime.device import Compute
from utils.training.cuda_graph import WARM_UP, GraphedStep
from utils.training.loop import Schedule, TrainState, fit


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
        view, answers = graphed.step.shown
        rate = graphed.step.training.optimizer.lr
        return [*view, *([] if answers is None else [answers]), rate, graphed.indices]

    monkeypatch.setattr(GraphedStep, "broken", False)
    monkeypatch.setattr(utils.training.cuda_graph, "capture", capture)
    monkeypatch.setattr(utils.training.cuda_graph, "on_side_stream", lambda work: work())
    return captures, replays


def trained(graphed: bool, monkeypatch, ema: float = 0.0, answers=None, resume: bool = False):
    train = batches(110, 32)
    objective = CrossEntropy() if answers is None else Distillation(0.9, 4.0)
    state = training(epochs=4, steps=len(train), ema=ema)
    monkeypatch.setattr(utils.training.loop, "graphed", GraphedStep if graphed else lambda step: step)
    epochs = fit(state, objective, train, None, CPU, None, answers)
    if resume:
        next(epochs), next(epochs)
        kept, result = copy.deepcopy(state.state_dict()), weights(state.result)
        state = training(epochs=4, steps=len(train), seed=9, ema=ema)
        state.load_state_dict(result, kept)
        epochs = fit(state, objective, train, None, CPU, None, answers)
    list(epochs)
    return state


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("kept_answers", [False, True])
@pytest.mark.parametrize("resume", [False, True])
def test_replayed_steps_train_as_single_ones_do(graphs_on_the_cpu, monkeypatch, ema, kept_answers, resume):
    """With a smaller last batch, another view, other answers and another learning rate in each epoch."""
    tables = [torch.randn(110, 4, generator=torch.Generator().manual_seed(view)).half() for view in range(4)]
    answers = (lambda view: tables[view].clone()) if kept_answers else None
    replayed = trained(True, monkeypatch, ema, answers, resume)
    captures, replays = graphs_on_the_cpu
    runs = 2 if resume else 1
    assert len(captures) == runs
    assert len(replays) == 3 * 4 - runs * WARM_UP  # three whole batches in each of four epochs
    single = trained(False, monkeypatch, ema, answers, resume)
    assert_same_weights(weights(replayed.model), weights(single.model))
    assert_same_weights(weights(replayed.result), weights(single.result))
    for one, other in zip(replayed.history, single.history, strict=True):
        assert one.__dict__ | {"seconds": 0} == other.__dict__ | {"seconds": 0}


def test_where_nothing_can_be_captured_training_goes_on_step_by_step(graphs_on_the_cpu, monkeypatch, capsys):
    def capture(work):
        graphed = work.__closure__[0].cell_contents
        batch = graphed.step.train.serve(graphed.indices, graphed.step.shown[0])
        graphed.step.training.model(batch.images).sum().backward()  # half a step: gradients are left behind
        raise RuntimeError("operation not permitted when stream is capturing\nsecond line")

    monkeypatch.setattr(utils.training.cuda_graph, "capture", capture)
    model = network()
    model[1] = torch.nn.Identity()  # whose statistics half a step would move; a capture executes nothing
    results = []
    for graphed in (True, False):
        train = batches(110, 32)
        state = TrainState(copy.deepcopy(model), Schedule(2, len(train), lr=0.05))
        monkeypatch.setattr(utils.training.loop, "graphed", GraphedStep if graphed else lambda step: step)
        list(fit(state, CrossEntropy(), train, None, CPU))
        results.append(weights(state.model))
    assert_same_weights(*results)
    assert capsys.readouterr().err.count("no CUDA graph") == 1


def on_cuda(
    cuda_graph: bool, precision: str, ema: float, taught: str = "", guard=None, compiled=False
) -> TrainState:
    """Train on CUDA with cutout; `taught` is "", "live" or "kept"."""
    compute = Compute.choose("cuda", precision)
    train = batches(330, 32)
    train.image_set, train.augmentation = train.image_set.to(compute.device), Augmentation(cutout=8)
    state = TrainState(compute.place(network()), Schedule(3, len(train), lr=0.05, ema=ema))
    model = compute.place(network(seed=7)).eval().requires_grad_(False)
    teacher = Teacher(model, compute, "toy", "", "", None) if taught == "live" else None
    tables = [torch.randn(330, 4, generator=torch.Generator().manual_seed(n)).half().cuda() for n in range(3)]
    answers = (lambda view: tables[view].clone()) if taught == "kept" else None
    objective = Distillation(0.9, 4.0) if taught else CrossEntropy()
    checks = {"check_interrupt": guard(len(train))} if guard else {}
    more = {"cuda_graph": cuda_graph, "compiled": compiled, **checks}
    list(fit(state, objective, train, None, compute, teacher, answers, **more))
    return state


@pytest.mark.gpu
@pytest.mark.parametrize("taught", ["", "live", "kept"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_captured_training_has_the_weights_statistics_and_momentum_of_the_eager_one(precision, ema, taught):
    captured, eager = (on_cuda(graph, precision, ema, taught) for graph in (True, False))
    assert not GraphedStep.broken
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.02, "atol": 0.002}
    for one, other in ((captured.model, eager.model), (captured.result, eager.result)):
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(tensor, other.state_dict()[name], **tolerance)
    for name, velocity in captured.optimizer.velocity.items():
        torch.testing.assert_close(velocity, eager.optimizer.velocity[name], **tolerance)
    for one, other in zip(captured.history, eager.history, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-3)


@pytest.mark.gpu
def test_a_compiled_network_can_be_captured():
    compiled, plain = (on_cuda(True, "fp32", 0.0, compiled=each) for each in (True, False))
    assert not GraphedStep.broken
    losses = [[record.train_loss for record in state.history] for state in (compiled, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.gpu
def test_on_cuda_too_a_failed_capture_only_costs_speed(monkeypatch, capsys):
    expected = on_cuda(False, "fp32", 0.0)
    monkeypatch.setattr(GraphedStep, "broken", False)
    real = utils.training.loop.Step.__call__

    def waits(step, indices):
        real(step, indices)
        if torch.cuda.is_current_stream_capturing():
            step.meter.sums.tolist()  # to wait is forbidden within a capture

    monkeypatch.setattr(utils.training.loop.Step, "__call__", waits)
    state = on_cuda(True, "fp32", 0.0)
    assert "no CUDA graph" in capsys.readouterr().err
    for record, other in zip(state.history, expected.history, strict=True):
        assert record.train_loss == pytest.approx(other.train_loss, rel=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("taught", ["", "live", "kept"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_no_step_waits_for_the_device(monkeypatch, cuda_graph, ema, taught):
    monkeypatch.setattr(utils.training.loop, "LOG_INTERVAL", math.inf)  # a look waits, a few times a second
    calls = []

    def guard(steps):
        def check():
            calls.append(1)
            settled = WARM_UP + 1 < len(calls) < steps  # the capture itself may wait, once
            torch.cuda.set_sync_debug_mode("error" if settled else "default")

        return check

    try:
        on_cuda(cuda_graph, "bf16", ema, taught, guard)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(calls) == 33
