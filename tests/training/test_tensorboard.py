import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from toys import CPU, NORMALISE, assert_same_weights, batches, training, weights

from utils.losses import CrossEntropy, Distillation
from utils.runtime.errors import UserError
from utils.training.loop import fit
from utils.training.tensorboard import TensorBoardLogger, require_tensorboard

pytest.importorskip("tensorboard")


def teacher(batch):
    return 4 * F.one_hot((batch.labels + 1) % 4, 4).float()


def watched(folder, epochs: int = 3, objective=None, with_teacher: bool = True):
    train, val = batches(70, 32), batches(40, 32, seed=None)
    state = training(epochs=epochs, steps=len(train))
    objective = objective or Distillation(0.9, 4.0)
    asked = teacher if with_teacher else None
    with TensorBoardLogger(folder, state, objective, train, CPU, asked, None) as watch:
        for record in fit(state, objective, train, val, CPU, asked):
            watch.epoch_done(record)
    return state, watch


def scalars(folder) -> dict[str, list]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    assert events.Tags()["images"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_figure_of_an_epoch_is_there_with_its_terms_and_gradients(tmp_path):
    state, _ = watched(tmp_path)
    found = scalars(tmp_path)
    assert found.keys() == {
        "lr", "seconds", "loss/train", "top1/train", "top5/train", "loss/val", "top1/val", "top5/val",
        "weighted terms, first batch/CE", "gradient norm of weighted terms, first batch/CE",
        "weighted terms, first batch/KL", "gradient norm of weighted terms, first batch/KL",
    }  # fmt: skip
    for tag, values in found.items():
        assert [step for step, _ in values] == [1, 2, 3], tag
    for record, (_, value) in zip(state.history, found["top1/val"], strict=True):
        assert value == pytest.approx(record.val_top1)


def test_the_training_is_the_same_to_the_last_bit_with_and_without_it(tmp_path):
    with_it, _ = watched(tmp_path)
    train, val = batches(70, 32), batches(40, 32, seed=None)
    without = training(epochs=3, steps=len(train))
    list(fit(without, Distillation(0.9, 4.0), train, val, CPU, teacher))
    assert_same_weights(weights(with_it.model), weights(without.model))


def test_terms_are_the_weighted_ones_and_their_gradients_those_of_each_alone(tmp_path):
    state, watch = watched(tmp_path)
    found = watch.terms(1)
    batch = next(watch.train.epoch(1))
    for name, weight, loss in (
        ("CE", 0.1, lambda z: F.cross_entropy(z, batch.labels)),
        ("KL", 0.9 * 16, lambda z: (F.softmax(teacher(batch) / 4, 1) * (F.log_softmax(teacher(batch) / 4, 1)
                                    - F.log_softmax(z / 4, 1))).sum(1).mean()),
    ):  # fmt: skip
        network = copy.deepcopy(state.model).train()
        value = weight * loss(network(batch.images))
        value.backward()
        norm = sum((p.grad.double() ** 2).sum() for p in network.parameters()).sqrt()
        assert found[name] == pytest.approx((value.item(), norm.item()), rel=1e-4)


def test_a_network_without_a_teacher_has_one_term(tmp_path):
    _, watch = watched(tmp_path, 1, CrossEntropy(), with_teacher=False)
    assert watch.terms(0).keys() == {"CE"}


def test_the_images_are_those_that_the_network_saw(tmp_path):
    _, watch = watched(tmp_path, 1)
    batch = next(watch.train.epoch(0))
    pixels = (
        batch.images * torch.tensor(NORMALISE.std)[:, None, None] + torch.tensor(NORMALISE.mean)[:, None, None]
    )
    torch.testing.assert_close(watch._images(), pixels / 255, rtol=0, atol=1e-5)


def test_without_the_package_the_command_for_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        require_tensorboard()
