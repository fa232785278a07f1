import pytest
import torch
import torch.nn.functional as F
from toys import CPU, batches, network

from utils.evaluation.metrics import Meter, count_parameters, evaluate, format_metrics


def test_evaluation_equals_all_samples_at_once():
    model, served = network(), batches(70, 32, seed=None)
    metrics = evaluate(model, served, CPU)
    images = torch.cat([batch.images for batch in served.epoch(0)])
    labels = served.image_set.labels
    logits = model.eval()(images).double()
    assert metrics.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert metrics.top1 == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
    assert metrics.top5 == 100  # of four classes


def test_top5_counts_a_label_among_the_five_highest():
    meter = Meter(torch.device("cpu"))
    logits = -torch.arange(10.0).repeat(3, 1)
    meter.update(torch.tensor(1.0), logits, torch.tensor([0, 4, 5]))
    assert (meter.read().top1, meter.read().top5) == pytest.approx((100 / 3, 200 / 3))


def test_batches_count_by_their_samples():
    meter = Meter(torch.device("cpu"))
    right, wrong = torch.eye(4)[:3], -torch.eye(4)[:1]
    meter.update(torch.tensor(1.0), right, torch.arange(3))
    meter.update(torch.tensor(5.0), wrong, torch.zeros(1, dtype=torch.long))
    assert meter.read().loss == pytest.approx(2.0)
    assert meter.read().top1 == pytest.approx(75.0)


def test_logits_that_are_not_numbers_do_not_count_as_right():
    meter = Meter(torch.device("cpu"))
    meter.update(torch.tensor(0.0), torch.full((40, 10), float("nan")), torch.arange(10).repeat(4))
    assert meter.read().top1 <= 10


def test_evaluation_leaves_weights_statistics_and_mode_alone():
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, batches(40, 32, seed=None), CPU)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_parameters_are_counted_without_statistics():
    assert count_parameters(network()) == 3 * 9 * 8 + 16 + 8 * 4 + 4


@pytest.mark.parametrize(("top5", "text"), [(99.5, "top-5 99.50 %"), (100.0, "top-1 80.00 %, loss")])
def test_top5_is_named_where_it_says_something(top5, text):
    metrics = {"top1": 80.0, "top5": top5, "loss": 0.5, "ece": 1.0, "images": 50, "parameters": 1000, "epoch": 3}
    assert text in format_metrics(metrics)
