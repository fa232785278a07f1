import copy
import math
import shutil
import time

import pytest
import torch
import torch.nn.functional as F
from toys import CPU, Oracle, Probe, assert_same_weights, batches, frozen, network, training, weights

from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.files import read_tensors, write_tensors
from utils.training.loop import LoopOptions, fit
from utils.training.state import Schedule


def test_the_loop_equals_plain_sgd_written_out():
    """Nesterov momentum and decoupled groups as in Sutskever et al. (2013), in the form that PyTorch documents."""
    train = batches(100, 32)
    state = training(epochs=2, steps=len(train), momentum=0.9, weight_decay=5e-4, warmup=0.25)
    plain = copy.deepcopy(state.model)
    list(fit(state, None, train, None, CPU))

    velocity = {name: torch.zeros_like(p) for name, p in plain.named_parameters()}
    for step in range(2 * len(train)):
        batch = list(train.epoch(step // len(train)))[step % len(train)]
        plain.train()
        plain.zero_grad()
        F.cross_entropy(plain(batch.images), batch.labels).backward()
        lr = 0.05 * ((step + 1) / 3 if step < 2 else (8 - step) / 6)
        with torch.no_grad():
            for name, p in plain.named_parameters():
                gradient = p.grad + (5e-4 * p if p.ndim > 1 else 0)
                velocity[name] = gradient if step == 0 else 0.9 * velocity[name] + gradient
                p -= lr * (gradient + 0.9 * velocity[name])
    for (name, ours), theirs in zip(state.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_history_is_weighted_by_samples_with_a_partial_last_batch():
    train = batches(70, 32)  # 32, 32 and 6
    seen = []

    def loss(student, _teacher, labels, _progress):
        loss = F.cross_entropy(student.logits, labels)
        hits = (student.logits.argmax(1) == labels).sum()
        seen.append((loss.item() * len(labels), hits.item(), len(labels)))
        return loss

    state = training(epochs=1, steps=len(train), method=Probe(loss), momentum=0.0, weight_decay=0.0)
    record = next(fit(state, None, train, None, CPU))
    assert sum(count for _, _, count in seen) == 70
    assert record.train_loss == pytest.approx(sum(loss for loss, _, _ in seen) / 70)
    assert record.train_top1 == pytest.approx(100 * sum(hits for _, hits, _ in seen) / 70)


def test_a_network_learns_what_can_be_learnt():
    train, val = batches(200, 32), batches(80, 32, seed=None)
    state = training(epochs=8, steps=len(train), warmup=0.2)
    *_, last = fit(state, None, train, val, CPU)
    assert last.val_top1 > 70
    assert state.best_epoch == max(state.history, key=lambda r: (r.val_top1, -r.epoch)).epoch


def test_a_student_comes_to_agree_with_a_teacher_that_is_wrong():
    """With alpha 1 the labels do not matter: the student learns the teacher's classes, each the next one."""
    train = batches(200, 32)
    state = training(epochs=10, steps=len(train), method="kd:alpha=1,temperature=2")
    teacher = Oracle(lambda batch: 8 * F.one_hot((batch.labels + 1) % 4, 4).float())
    *_, last = fit(state, teacher, train, None, CPU)
    assert last.train_top1 < 20
    state.model.eval()
    batch = next(train.epoch(0))
    assert (state.model(batch.images).argmax(1) == (batch.labels + 1) % 4).float().mean() > 0.7


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    results = []
    for seed in (0, 0, 1):
        train = batches(100, 32, seed=seed)
        state = training(epochs=2, steps=len(train), seed=seed)
        list(fit(state, None, train, None, CPU))
        results.append(weights(state.result))
    assert_same_weights(results[0], results[1])
    assert any(not torch.equal(results[0][name], results[2][name]) for name in results[0])


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("method", ["", "dkd:warmup=0.5", "fitnet:stage=0"])
def test_a_resumed_training_ends_bit_identical(tmp_path, method, optimizer, ema):
    train, val = batches(70, 32), batches(40, 32, seed=None)
    teacher = frozen(network(seed=7), "features" if "fitnet" in method else "logits") if method else None
    settings = {"method": method, "teacher": teacher, "optimizer": optimizer, "ema": ema, "lr": 0.01}
    unbroken = training(4, len(train), **settings)
    list(fit(unbroken, teacher, train, val, CPU))

    broken = training(4, len(train), **settings)
    epochs = fit(broken, teacher, train, val, CPU)
    next(epochs), next(epochs)
    write_tensors(tmp_path / "last.pt", broken.state_dict() | {"model": broken.result.state_dict()})
    torch.rand(17)  # whatever the process does in between
    resumed, state = training(4, len(train), seed=99, **settings), read_tensors(tmp_path / "last.pt")
    resumed.load_state_dict(state["model"], state)
    list(fit(resumed, teacher, train, val, CPU))

    assert_same_weights(weights(unbroken.result), weights(resumed.result))
    assert_same_weights(weights(unbroken.model), weights(resumed.model))
    assert_same_weights(unbroken.state_dict()["method"], resumed.state_dict()["method"])
    assert_same_weights(weights(unbroken.method), weights(resumed.method))
    for first, second in zip(unbroken.history, resumed.history, strict=True):
        assert first.__dict__ | {"seconds": 0} == second.__dict__ | {"seconds": 0}


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_the_trainable_parts_of_a_method_are_trained_averaged_and_saved_beside_the_student(ema):
    train, teacher = batches(64, 32), frozen(network(seed=7), "features")
    state = training(2, len(train), method="fitnet:stage=0", teacher=teacher, ema=ema)
    first, snapshots = weights(state.method), []
    options = LoopOptions(check_interrupt=lambda: snapshots.append(weights(state.method)))
    list(fit(state, teacher, train, None, CPU, options))
    assert first.keys() == {"regressor.weight", "regressor.bias"}
    assert all(not torch.equal(first[name], tensor) for name, tensor in weights(state.method).items())
    average = snapshots[0]
    for snapshot in snapshots[1:]:
        average = {name: torch.lerp(average[name], snapshot[name], 1 - ema) for name in first}
    for name, tensor in state.state_dict()["method"].items():
        torch.testing.assert_close(tensor, average[name])
    assert weights(state.result).keys() == weights(state.model).keys() == weights(network()).keys()
    assert all(parameter.grad is None for parameter in teacher.network.model.parameters())


def test_a_method_is_told_on_the_device_which_share_of_the_training_is_done():
    train, seen = batches(70, 32), []

    def loss(student, _teacher, labels, progress):
        assert progress.shape == ()
        assert progress.device == labels.device
        seen.append(progress.item())
        return F.cross_entropy(student.logits, labels)

    list(fit(training(4, len(train), method=Probe(loss)), None, train, None, CPU))
    assert seen == pytest.approx([step / 12 for step in range(12)])


def test_weight_averaging_keeps_an_exponential_average_of_weights_and_statistics():
    train = batches(64, 32)
    state = training(epochs=1, steps=len(train), ema=0.8)
    snapshots = []
    options = LoopOptions(check_interrupt=lambda: snapshots.append(weights(state.model)))
    list(fit(state, None, train, None, CPU, options))
    average = snapshots[0]
    for snapshot in snapshots[1:]:
        average = {
            n: 0.8 * average[n] + 0.2 * snapshot[n] if average[n].is_floating_point() else 0 for n in average
        }
    for name, value in state.result.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, average[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(shape):
    schedule = Schedule(epochs=10, steps_per_epoch=10, lr=0.4, warmup=0.2, schedule=shape)
    rates = [schedule.lr_at(step) for step in range(100)]
    assert rates[:21] == sorted(rates[:21])
    assert rates[20] == pytest.approx(0.4) == max(rates)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[-1] < 0.01
    middle = rates[60]  # half way down
    assert middle == pytest.approx(0.2, rel=0.01)
    quarter = rates[40]
    assert quarter == pytest.approx(0.3 if shape == "linear" else 0.2 * (1 + math.cos(math.pi / 4)), rel=0.01)


def test_a_stepwise_rate_falls_to_a_tenth_at_the_epochs_of_the_published_protocol():
    schedule = Schedule(epochs=240, steps_per_epoch=10, lr=0.05, warmup=0.0, schedule="step")
    for epoch, rate in ((0, 0.05), (149, 0.05), (150, 5e-3), (179, 5e-3), (180, 5e-4), (209, 5e-4), (210, 5e-5)):
        assert schedule.lr_at(epoch * 10) == pytest.approx(rate)
    assert schedule.lr_at(2399) == pytest.approx(5e-5)


def test_without_warm_up_the_first_step_has_the_peak_rate():
    assert Schedule(epochs=2, steps_per_epoch=3, lr=0.1, warmup=0.0).lr_at(0) == 0.1


def test_a_loss_that_is_not_finite_ends_the_training_within_its_epoch():
    train = batches(64, 32)
    method = Probe(lambda student, *_: student.logits.sum() * (math.nan if state.epoch == 1 else 0.0))
    state = training(epochs=3, steps=len(train), method=method)
    epochs = fit(state, None, train, None, CPU)
    next(epochs)
    with pytest.raises(UserError, match=r"no longer finite in epoch 2.*--lr below .*--overwrite"):
        next(epochs)
    assert state.epoch == 1


def test_weights_that_are_not_finite_after_the_last_step_are_found():
    train = batches(32, 32)  # one step: its loss is fine, the weights after it are not
    method = Probe(lambda student, _teacher, labels, _progress: 1e3 * F.cross_entropy(student.logits, labels))
    state = training(epochs=1, steps=1, method=method, lr=1e38, warmup=0.0)
    with pytest.raises(UserError, match="no longer finite"):
        list(fit(state, None, train, None, CPU))


def test_statistics_and_validation_that_are_not_finite_are_found():
    train, val = batches(32, 32), batches(40, 32, seed=None)
    state = training(epochs=1, steps=1)
    state.model[1].running_var[3] = math.inf
    with pytest.raises(UserError, match="no longer finite"):
        list(fit(state, None, train, None, CPU))
    state = training(epochs=1, steps=1)

    def spoil(module, images):
        return images[0] * (1 if module.training else math.nan)

    state.model.register_forward_pre_hook(spoil)
    with pytest.raises(UserError, match="no longer finite"):
        list(fit(state, None, train, val, CPU))
    assert state.epoch == 0


def test_progress_is_shown_a_few_times_a_second_and_not_in_each_step():
    train = batches(100, 4)
    state = training(epochs=2, steps=len(train))
    calls = []
    started = time.perf_counter()
    list(fit(state, None, train, None, CPU, LoopOptions(on_progress=lambda *seen: calls.append(seen))))
    assert len(calls) <= (time.perf_counter() - started) / 0.3 + 1


def test_a_stop_after_a_step_leaves_the_finished_epochs():
    train = batches(100, 32)
    state = training(epochs=3, steps=len(train))
    steps = []

    def stop():
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(fit(state, None, train, None, CPU, LoopOptions(check_interrupt=stop)))
    assert state.epoch == 1


@pytest.mark.gpu
def test_cuda_and_cpu_train_alike_in_float32():
    results = []
    for device in ("cpu", "cuda"):
        compute = Compute.choose(device, "fp32")
        train = batches(100, 32)
        train.image_set = train.image_set.to(compute.device)
        state = training(2, len(train), compute=compute)
        list(fit(state, None, train, None, compute))
        results.append([record.train_loss for record in state.history])
    assert results[1] == pytest.approx(results[0], rel=1e-3)


@pytest.mark.parametrize(("eval_every", "measured"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_validation_comes_as_often_as_asked_and_after_the_last_epoch(eval_every, measured):
    train, val = batches(64, 32), batches(40, 32, seed=None)
    state = training(epochs=5, steps=len(train))
    records = list(fit(state, None, train, val, CPU, LoopOptions(eval_every)))
    assert [record.epoch for record in records if record.val_top1 is not None] == measured
    assert state.best_epoch in measured


def test_a_compiled_network_trains_as_the_plain_one():
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("needs a C++ compiler")
    results = []
    for compiled in (False, True):
        train, val = batches(70, 32), batches(40, 32, seed=None)
        state = training(epochs=2, steps=len(train))
        records = list(fit(state, None, train, val, CPU, LoopOptions(compile=compiled)))
        results.append([value for record in records for value in (record.train_loss, record.val_loss)])
        assert not [name for name in state.result.state_dict() if "_orig_mod" in name]
    assert results[1] == pytest.approx(results[0], rel=1e-3)
