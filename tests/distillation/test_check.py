"""What is said of a teacher before a student is trained with it."""

import itertools

import pytest
import torch
from torch import nn
from toys import NORMALISE, frozen, images

from utils.data.dataset import Dataset
from utils.distillation import check
from utils.distillation.check import check_teacher, find_order


class Brightness(nn.Module):
    """Knows the classes of `toys.images` by their brightness; its outputs are in the order of `outputs`."""

    def __init__(self, outputs: list[int], noise: float = 0.0):
        super().__init__()
        self.outputs, self.noise = torch.tensor(outputs), noise

    def forward(self, normalised):
        brightness = normalised.mean((1, 2, 3)) * NORMALISE.std[0] + NORMALISE.mean[0]
        logits = -(brightness[:, None] - 39.5 - 40 * torch.arange(len(self.outputs))).abs()
        logits += self.noise * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
        return logits[:, self.outputs]


def dataset(val: int | None = 80, classes: int = 4) -> Dataset:
    train = images(40, classes)
    return Dataset(train, images(val, classes, seed=1) if val else None, train, NORMALISE, {})


def test_a_teacher_is_measured_on_the_validation_part_or_else_on_the_training_part():
    teacher = frozen(Brightness([0, 1, 2, 3]))
    assert check_teacher(teacher, dataset()).record() == {"val_top1": 100.0, "images": 80}
    assert check_teacher(teacher, dataset(None)).record() == {"train_top1": 100.0, "images": 40}


def test_a_part_of_many_images_is_spread_over_all_of_them(monkeypatch):
    monkeypatch.setattr(check, "MOST_IMAGES", 20)
    whole = dataset()
    first_half_is_wrong = whole.val.labels.clone()
    first_half_is_wrong[:40] = (first_half_is_wrong[:40] + 1) % 4
    object.__setattr__(whole.val, "labels", first_half_is_wrong)
    assert check_teacher(frozen(Brightness([0, 1, 2, 3])), whole).record() == {"val_top1": 50.0, "images": 20}


def test_outputs_are_measured_as_the_student_sees_them_after_the_teachers_own_normalisation():
    shift, scale = torch.full((3, 1, 1), 1.0), torch.full((3, 1, 1), 1.0)
    wrong = check_teacher(frozen(Brightness([0, 1, 2, 3]), rescale=(shift, scale)), dataset())
    assert wrong.top1 < 60  # each class is taken for one that is brighter


def test_classes_in_another_order_are_named_with_the_fix(capsys):
    checked = check_teacher(frozen(Brightness([0, 3, 2, 1])), dataset())
    assert checked.top1 == 50
    assert checked.order.outputs == [0, 3, 2, 1]
    assert checked.order.top1 == 100
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "validation top-1 50.00 % of 80 images, and 100.00 % in the order that fits best" in error
    assert "the output for 'class 3' stands for 'class 1'" in error
    assert "weight[[0, 3, 2, 1]] and bias[[0, 3, 2, 1]]" in error


def test_the_fix_makes_the_order_right():
    torch.manual_seed(0)
    head = nn.Linear(8, 6)
    inputs, order = torch.randn(600, 8), torch.tensor([3, 0, 5, 1, 2, 4])
    labels = head(inputs).argmax(1)
    permuted = head.weight[order]  # the output i of this head is what the data calls class order[i]
    predicted = (inputs @ permuted.T + head.bias[order]).argmax(1)
    outputs = find_order(predicted, labels, 6).outputs
    fixed = inputs @ permuted[outputs].T + head.bias[order][outputs]
    assert torch.equal(fixed.argmax(1), labels)


@pytest.mark.parametrize(("classes", "count"), [(2, 30), (10, 60), (2, 2000), (10, 2000), (100, 2000)])
def test_chance_and_mere_weakness_are_no_other_order(classes, count):
    for seed, share in itertools.product(range(5), (0.0, 0.2, 0.5, 0.9)):
        random = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % classes
        guesses = torch.randint(0, classes, (count,), generator=random)
        guesses[torch.rand(count, generator=random) < 0.4] = 1  # which it favours
        predicted = torch.where(torch.rand(count, generator=random) < share, labels, guesses)
        assert find_order(predicted, labels, classes) is None


@pytest.mark.parametrize(("classes", "accuracy"), [(2, 0.8), (10, 0.42), (100, 0.42), (300, 0.8)])
def test_any_order_is_found_where_the_teacher_knows_enough(classes, accuracy):
    random = torch.Generator().manual_seed(classes)
    order = torch.randperm(classes, generator=random) if classes > 2 else torch.tensor([1, 0])
    labels = torch.arange(2000) % classes
    guesses = torch.randint(0, classes, (2000,), generator=random)
    predicted = torch.where(torch.rand(2000, generator=random) < accuracy, order[labels], guesses)
    other = find_order(predicted, labels, classes)
    assert (torch.tensor(other.outputs) == order).double().mean() > 0.9
    assert other.outputs[other.pair[0]] == other.pair[1] != other.pair[0]


def test_two_outputs_are_exchanged_for_what_both_classes_gain():
    labels, predicted = torch.tensor([[0, 0]] * 5 + [[0, 1]] * 4 + [[1, 0]] * 4).repeat(50, 1).T
    other = find_order(predicted, labels, 2)
    assert other.outputs == [1, 0]
    assert other.top1 == pytest.approx(100 * 8 / 13)


def test_one_exchanged_pair_of_ten_and_of_a_hundred_is_found():
    for classes in (10, 100):
        labels = torch.arange(2000) % classes
        predicted = labels.clone()
        predicted[labels == 3], predicted[labels == 7] = 7, 3
        other = find_order(predicted, labels, classes)
        assert set(other.pair) == {3, 7}
        assert other.top1 == 100


def test_a_teacher_that_guesses_is_said_so(capsys):
    class Constant(nn.Module):
        def forward(self, normalised):
            return torch.tensor([[0.0, 1.0, 0.0, 0.0]]).expand(len(normalised), -1)

    assert check_teacher(frozen(Constant()), dataset()).order is None
    assert "THE TEACHER GUESSES: validation top-1 25.00 % of 80 images" in capsys.readouterr().err
    check_teacher(frozen(Brightness([0, 1, 2, 3])), dataset())
    assert capsys.readouterr().err == ""


def test_a_check_can_be_interrupted():
    class Stop(Exception):
        pass

    def stop():
        raise Stop

    with pytest.raises(Stop):
        check_teacher(frozen(Brightness([0, 1, 2, 3])), dataset(), stop)
