import json
import math

import numpy as np
import pytest
import torch
from toys import CPU, batches, network

from utils.evaluation.analysis import _calibration, analyse, compare_with_baseline, compare_with_teacher, predict
from utils.runtime.device import Compute
from utils.runtime.errors import UserError

NAMES = [f"class {number}" for number in range(7)]


def outputs(count: int = 400, classes: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are often right, and labels of all classes but the last."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes - 1, (count,), generator=random)
    logits = 2 * torch.randn(count, classes, generator=random)
    logits[torch.arange(count), labels] += 3
    return logits, labels


def chosen(classes: list[int], count: int = 3) -> torch.Tensor:
    """Logits of a network that predicts these classes."""
    return torch.eye(count)[classes]


def probabilities(logits: torch.Tensor) -> np.ndarray:
    odds = np.exp(logits.numpy().astype(np.float64))
    return odds / odds.sum(1, keepdims=True)


def test_predictions_are_those_of_all_images_at_once_and_in_order():
    model, served = network().train(), batches(70, 32, seed=None)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits, labels = predict(model, served, CPU)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    assert torch.equal(labels, served.image_set.labels)
    images = torch.cat([batch.images for batch in served.epoch(0)])
    torch.testing.assert_close(logits, model.eval()(images).detach())
    predict(model, served, CPU)
    assert not model.training


def test_predictions_in_bfloat16_come_out_as_float32():
    model, served = network(), batches(20, 20, seed=None)
    logits, _ = predict(model, served, Compute(torch.device("cpu"), "bf16"))
    assert logits.dtype == torch.float32
    assert torch.equal(logits, logits.bfloat16().float())
    assert not torch.equal(logits, predict(model, served, CPU)[0])


def test_metrics_are_those_of_a_count_image_by_image():
    logits, labels = outputs()
    analysis, chance = analyse(logits, labels, NAMES), probabilities(logits)
    hits, hits5, loss, confusion = 0, 0, 0.0, np.zeros((7, 7), dtype=int)
    bins = [[] for _ in range(15)]
    for row, label in zip(chance, labels.tolist(), strict=True):
        order = sorted(range(7), key=lambda number: -row[number])
        hits, hits5 = hits + (order[0] == label), hits5 + (label in order[:5])
        loss -= math.log(row[label])
        confusion[label, order[0]] += 1
        for number in range(15):
            if number / 15 < row[order[0]] <= (number + 1) / 15:
                bins[number].append((row[order[0]], order[0] == label))
    assert analysis["images"] == 400
    assert analysis["top1"] == pytest.approx(100 * hits / 400)
    assert analysis["top5"] == pytest.approx(100 * hits5 / 400)
    assert analysis["loss"] == pytest.approx(loss / 400, abs=1e-6)
    assert analysis["confusion"] == confusion.tolist()
    totals = confusion.sum(1)
    assert analysis["per_class"][:6] == pytest.approx(100 * confusion.diagonal()[:6] / totals[:6], abs=1e-4)
    means = [np.mean(inside, axis=0) if inside else None for inside in bins]
    sizes = [len(inside) for inside in bins]
    assert analysis["calibration"]["count"] == sizes
    assert any(mean is None for mean in means)
    for number, mean in enumerate(means):
        both = (analysis["calibration"]["confidence"][number], analysis["calibration"]["accuracy"][number])
        assert both == ((None, None) if mean is None else pytest.approx(100 * mean, abs=1e-4))
    gaps = [size * abs(mean[0] - mean[1]) for size, mean in zip(sizes, means, strict=True) if size]
    assert analysis["ece"] == pytest.approx(100 * sum(gaps) / 400, abs=1e-4)


def test_the_calibration_error_of_four_images_is_that_of_a_sum_by_hand():
    # 0.9 sure twice, right once: a gap of 0.4; 0.6 sure twice, right twice: a gap of 0.4
    logits = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]).log()
    analysis = analyse(logits, torch.tensor([0, 1, 1, 1]), ["a", "b"])
    assert analysis["ece"] == pytest.approx(40, abs=1e-3)
    assert sum(analysis["calibration"]["count"]) == 4


def test_a_bin_holds_its_upper_edge_and_not_its_lower_one():
    edges = torch.arange(1, 16, dtype=torch.float64) / 15
    right = torch.ones(15, dtype=torch.bool)
    assert _calibration(edges, right)[1]["count"] == [1] * 15
    assert _calibration(torch.nextafter(edges, torch.tensor(2.0))[:14], right[:14])[1]["count"] == [0] + [1] * 14


def test_of_equal_logits_the_first_class_counts_as_the_higher():
    analysis = analyse(torch.zeros(10, 10), torch.arange(10), [str(number) for number in range(10)])
    assert (analysis["top1"], analysis["top5"]) == (10, 50)
    assert analysis["per_class"] == [100] + [0] * 9
    assert analysis["loss"] == pytest.approx(math.log(10), abs=1e-6)


def test_a_class_without_test_images_has_no_accuracy_and_breaks_nothing():
    analysis = analyse(*outputs(), NAMES)
    assert analysis["per_class"][6] is None
    assert None not in analysis["per_class"][:6]
    assert analysis["confusion"][6] == [0] * 7


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_one_image_of_fewer_than_five_classes_is_measured(classes):
    analysis = analyse(torch.zeros(1, classes), torch.tensor([0]), ["a", "b", "c", "d"][:classes])
    assert (analysis["images"], analysis["top1"], analysis["top5"]) == (1, 100, 100)
    assert analysis["ece"] == pytest.approx(100 - 100 / classes, abs=1e-4)
    assert analysis["confused"] == analysis["mistakes"] == []


def test_logits_of_any_size_have_a_finite_loss():
    analysis = analyse(torch.tensor([[1e4, -1e4], [-1e4, 1e4]]), torch.tensor([1, 1]), ["a", "b"])
    assert analysis["loss"] == 1e4
    assert analysis["mistakes"][0]["confidence"] == 100


def test_the_commonest_mistakes_stand_first_with_their_share_of_the_true_class():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    analysis = analyse(chosen([0, 1, 1, 2, 1, 0, 1, 1, 1]), labels, ["a", "b", "c"])
    assert analysis["confused"] == [
        {"true": "c", "predicted": "b", "count": 3, "share": 100},
        {"true": "a", "predicted": "b", "count": 2, "share": 50},
        {"true": "a", "predicted": "c", "count": 1, "share": 25},
        {"true": "b", "predicted": "a", "count": 1, "share": 50},
    ]


def test_mistakes_are_the_most_confident_ones_and_name_their_image():
    logits, labels = outputs(2000)
    chance = probabilities(logits)
    wrong = [i for i in range(2000) if chance[i].argmax() != labels[i]]
    expected = sorted(wrong, key=lambda i: -chance[i].max())[:24]
    mistakes = analyse(logits, labels, NAMES)["mistakes"]
    assert [mistake["index"] for mistake in mistakes] == expected
    for mistake, i in zip(mistakes, expected, strict=True):
        assert mistake["true"] == NAMES[labels[i]]
        assert mistake["predicted"] == NAMES[chance[i].argmax()]
        assert mistake["confidence"] == pytest.approx(100 * chance[i].max(), abs=1e-4)
    same = analyse(chosen([1] * 30), torch.zeros(30, dtype=torch.long), ["a", "b", "c"])["mistakes"]
    assert [mistake["index"] for mistake in same] == list(range(24))


@pytest.mark.parametrize(("classes", "saved"), [(200, True), (201, False)])
def test_a_confusion_matrix_of_very_many_classes_is_left_out_and_its_mistakes_are_not(classes, saved):
    labels = torch.full((30,), classes - 1)
    analysis = analyse(chosen([3] * 30, classes), labels, [str(number) for number in range(classes)])
    assert (analysis["confusion"] is not None) is saved
    assert analysis["confused"] == [{"true": str(classes - 1), "predicted": "3", "count": 30, "share": 100}]


def test_an_analysis_is_json_of_plain_numbers():
    logits, labels = outputs()
    analysis = analyse(logits, labels, NAMES)
    analysis |= {"teacher": compare_with_teacher(logits, logits, labels)}
    analysis |= {"baseline": compare_with_baseline(logits, logits, labels, 7)}
    assert json.loads(json.dumps(analysis, allow_nan=False)) == analysis


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "no test images"),
        (torch.zeros(2, 4), torch.tensor([0, 1]), "of shape"),
        (torch.zeros(3, 3), torch.tensor([0, 1]), "of shape"),
        (torch.tensor([[0.0, math.nan, 0.0]]), torch.tensor([0]), "not finite"),
    ],
)
def test_outputs_that_cannot_be_measured_are_refused(logits, labels, message):
    with pytest.raises(UserError, match=message):
        analyse(logits, labels, ["a", "b", "c"])
    with pytest.raises(UserError, match=message):
        compare_with_teacher(torch.zeros(len(labels), 3), logits, labels)
    with pytest.raises(UserError, match=message):
        compare_with_baseline(torch.zeros(len(labels), 3), logits, labels, 3)


def test_what_a_student_inherits_corrects_and_regresses_of_its_teacher_is_counted():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
    teacher = chosen([1, 1, 2, 1, 1, 1, 1, 2])  # four mistakes, on the first images
    student = chosen([1, 0, 1, 0, 1, 0, 1, 2])  # the same, right, another, right; then one regressed
    assert compare_with_teacher(student, teacher, labels) == {
        "top1": 50,
        "agreement": 50,
        "teacher_mistakes": 4,
        "inherited": 25,
        "corrected": 50,
        "regressed": 25,
    }


def test_a_teacher_without_mistakes_or_without_hits_leaves_no_share_of_them():
    labels = torch.tensor([0, 1])
    perfect = compare_with_teacher(chosen([1, 1]), chosen([0, 1]), labels)
    assert (perfect["teacher_mistakes"], perfect["inherited"], perfect["corrected"]) == (0, None, None)
    assert perfect["regressed"] == 50
    useless = compare_with_teacher(chosen([0, 0]), chosen([1, 0]), labels)
    assert (useless["inherited"], useless["corrected"], useless["regressed"]) == (50, 50, None)


def test_a_gain_is_counted_in_points_for_all_images_and_for_each_class():
    labels = torch.tensor([0, 0, 0, 0, 1])
    baseline, distilled = chosen([0, 1, 1, 1, 1]), chosen([0, 0, 0, 1, 0])
    assert compare_with_baseline(distilled, baseline, labels, 3) == {
        "top1": 40,
        "gain": 20,
        "per_class_gain": [50, -100, None],
    }
