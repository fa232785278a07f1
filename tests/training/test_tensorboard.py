import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from toys import CPU, NORMALISE, Oracle, assert_same_weights, batches, frozen, network, training, weights

from utils.runtime.errors import UserError
from utils.training.loop import fit
from utils.training.tensorboard import TensorBoardLogger, require_tensorboard

pytest.importorskip("tensorboard")


KD = "kd:temperature=4"
TEACHER = Oracle(lambda batch: 4 * F.one_hot((batch.labels + 1) % 4, 4).float())


def logged(folder, epochs: int = 3, method: str = KD, teacher=TEACHER):
    train, val = batches(70, 32), batches(40, 32, seed=None)
    adapted_to = teacher if method.startswith("fitnet") else None
    state = training(epochs, len(train), method=method, teacher=adapted_to)
    with TensorBoardLogger(folder, state, train, CPU, teacher) as logger:
        for record in fit(state, teacher, train, val, CPU):
            logger.epoch_done(record)
    return state, logger


def scalars(folder) -> dict[str, list]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    assert events.Tags()["images"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_metric_of_an_epoch_is_there_with_its_terms_and_gradients(tmp_path):
    state, _ = logged(tmp_path)
    values = scalars(tmp_path)
    assert values.keys() == {
        "lr", "seconds", "loss/train", "top1/train", "top5/train", "loss/val", "top1/val", "top5/val",
        "weighted terms, first batch/CE", "gradient norm of weighted terms, first batch/CE",
        "weighted terms, first batch/KL", "gradient norm of weighted terms, first batch/KL",
    }  # fmt: skip
    for tag, points in values.items():
        assert [step for step, _ in points] == [1, 2, 3], tag
    for record, (_, value) in zip(state.history, values["top1/val"], strict=True):
        assert value == pytest.approx(record.val_top1)


def test_the_training_is_the_same_to_the_last_bit_with_and_without_it(tmp_path):
    with_it, _ = logged(tmp_path)
    train, val = batches(70, 32), batches(40, 32, seed=None)
    without = training(epochs=3, steps=len(train), method=KD)
    list(fit(without, TEACHER, train, val, CPU))
    assert_same_weights(weights(with_it.model), weights(without.model))


def test_terms_are_the_weighted_ones_and_their_gradients_those_of_each_alone(tmp_path):
    state, logger = logged(tmp_path)
    values = logger.terms(1)
    batch = next(logger.train.epoch(1))
    teacher = TEACHER(batch).logits
    for name, weight, loss in (
        ("CE", 0.1, lambda z: F.cross_entropy(z, batch.labels)),
        ("KL", 0.9 * 16, lambda z: (F.softmax(teacher / 4, 1) * (F.log_softmax(teacher / 4, 1)
                                    - F.log_softmax(z / 4, 1))).sum(1).mean()),
    ):  # fmt: skip
        model = copy.deepcopy(state.model).train()
        value = weight * loss(model(batch.images))
        value.backward()
        norm = sum((p.grad.double() ** 2).sum() for p in model.parameters()).sqrt()
        assert values[name] == pytest.approx((value.item(), norm.item()), rel=1e-4)


def test_a_network_without_a_teacher_has_one_term(tmp_path):
    _, logger = logged(tmp_path, 1, "", None)
    assert logger.terms(0).keys() == {"CE"}


def test_the_terms_of_a_method_on_features_are_there_and_leave_its_trainable_parts_alone(tmp_path):
    state, logger = logged(tmp_path, 1, "fitnet:stage=0", frozen(network(seed=7), "features"))
    before = weights(state.method)
    terms = logger.terms(0)
    assert terms.keys() == {"CE", "hint"}
    assert all(norm > 0 for _, norm in terms.values())
    assert_same_weights(before, weights(state.method))
    assert all(parameter.grad is None for parameter in state.method.parameters())


def test_the_images_are_those_that_the_network_saw(tmp_path):
    _, logger = logged(tmp_path, 1)
    batch = next(logger.train.epoch(0))
    pixels = (
        batch.images * torch.tensor(NORMALISE.std)[:, None, None] + torch.tensor(NORMALISE.mean)[:, None, None]
    )
    torch.testing.assert_close(logger._images(), pixels / 255, rtol=0, atol=1e-5)


def test_without_the_package_the_command_for_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        require_tensorboard()
