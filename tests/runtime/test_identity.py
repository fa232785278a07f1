import json

import pytest

from utils.runtime.identity import Identity

STUDENT = {"role": "student", "network": "cnn", "dataset": "shapes", "epochs": 3, "lr": 0.1, "seed": 0}
IMAGES = {"data": "0123456789abcdef", "val_data": "1123456789abcdef", "test_data": "2123456789abcdef"}
TEACHER = {"teacher": "vgg11_bn", "teacher_sha256": "fedcba9876543210"}
TEACHER |= {"teacher_mean": [0.5, 0.5, 0.5], "teacher_std": [0.2, 0.2, 0.2]}
DKD = {
    "role": "kd",
    "method": "dkd",
    "method.temperature": 4.0,
    "method.alpha": 1.0,
    "method.beta": 8.0,
    **TEACHER,
}
DKD_DEFAULTS = {"method.temperature": 4.0, "method.alpha": 1.0, "method.beta": 8.0}


def student(images: int | None = None, **changes) -> Identity:
    return Identity(STUDENT | IMAGES | changes, images=images)


def distilled(**changes) -> Identity:
    settings = {f"method.{name}": value for name, value in changes.items() if f"method.{name}" in DKD}
    others = {name: value for name, value in changes.items() if f"method.{name}" not in DKD}
    return Identity(STUDENT | IMAGES | DKD | settings | others, DKD_DEFAULTS, "DKD")


def both_ways(one: Identity, other: Identity) -> bool:
    assert bool(one.differing(other)) is bool(other.differing(one))
    return not one.differing(other)


def test_runs_of_equal_settings_are_the_same_and_any_other_setting_makes_another():
    assert both_ways(student(), student())
    for name, value in (STUDENT | IMAGES).items():
        assert not both_ways(student(), student(**{name: f"not {value}"})), name


def test_a_setting_that_one_run_does_not_know_equals_its_default_in_both_directions():
    earlier = student()
    later = [Identity(STUDENT | IMAGES | {"optimizer": name}, {"optimizer": "sgd"}) for name in ("sgd", "adamw")]
    assert both_ways(earlier, later[0])
    assert not both_ways(earlier, later[1])
    assert not both_ways(*later)
    assert later[1].explain(earlier) == ["optimizer sgd instead of adamw"]


def test_a_setting_without_a_default_that_one_run_does_not_know_makes_another():
    assert not both_ways(student(), student(views=8))


def test_a_record_reads_back_as_the_identity_that_it_was_made_of():
    for identity in (student(), distilled(beta=2.0)):
        again = Identity.from_record(json.loads(json.dumps(identity.to_record() | {"data": {"train": 162}})))
        assert both_ways(identity, again)
        assert (again.label, again.title(), again.images) == (identity.label, identity.title(), 162)


@pytest.mark.parametrize("known", [{"temp": 5.0, "alpha": 0.9}, {"temp": 5.0}])
def test_a_record_of_before_there_were_methods_is_of_hintons(known):
    old = Identity.from_record({"identity": STUDENT | IMAGES | {"role": "kd"} | TEACHER | known})
    settings = {"method.temperature": 5.0, "method.alpha": 0.9}
    defaults = settings | {"optimizer": "sgd"}
    new = STUDENT | IMAGES | {"role": "kd", "method": "kd"} | TEACHER
    assert both_ways(old, Identity(new | settings | {"optimizer": "sgd"}, defaults, "KD"))
    assert not both_ways(old, Identity(new | settings | {"method.temperature": 2.0}, defaults, "KD"))
    assert not both_ways(old, Identity(new | settings | {"method.alpha": 0.5}, defaults, "KD"))
    assert not both_ways(old, distilled())
    assert old.title() == "student cnn, KD at T = 5"
    other = Identity.from_record({"identity": old.values | {"method.alpha": 0.5}, "defaults": old.defaults})
    assert other.title() == "student cnn, KD at T = 5, alpha = 0.5"
    assert old.same_sweep(Identity(new | settings | {"method.alpha": 0.5}, defaults, "KD"))


def test_a_partial_identity_compares_only_what_it_knows():
    partial = Identity(STUDENT, {"optimizer": "sgd"}, partial=True)
    assert not partial.differing(student())
    assert not partial.differing(student(views=8))
    assert partial.differing(student(epochs=5))
    assert not Identity(STUDENT | {"optimizer": "sgd"}, {"optimizer": "sgd"}, partial=True).differing(student())


def test_a_row_holds_the_seeds_of_one_recipe_each_with_its_own_teacher():
    assert distilled().same_row(distilled(seed=1, teacher_sha256="0" * 16))
    for change in ({"epochs": 5}, {"beta": 2.0}, {"teacher": "vgg19_bn"}, {"data": "f" * 16}, {"method": "kd"}):
        assert not distilled().same_row(distilled(seed=1, **change))


def test_a_student_with_kd_is_compared_with_the_student_alone_whatever_the_method_and_the_seed():
    for run in (distilled(), distilled(beta=2.0), distilled(seed=3, teacher="vgg19_bn")):
        assert run.same_but_for_teaching(student())
        assert student().same_but_for_teaching(run)
    for change in ({"epochs": 5}, {"network": "cnn_tiny"}, {"data": "f" * 16}, {"test_data": "f" * 16}):
        assert not distilled(**change).same_but_for_teaching(student())


def test_a_sweep_holds_the_runs_that_differ_in_temperature_alpha_and_seed():
    assert distilled().same_sweep(distilled(temperature=20.0, alpha=0.5, seed=2, teacher_sha256="0" * 16))
    for change in ({"beta": 2.0}, {"epochs": 5}, {"teacher": "vgg19_bn"}, {"method": "kd"}):
        assert not distilled().same_sweep(distilled(**change))


@pytest.mark.parametrize(
    ("mine", "theirs", "texts"),
    [
        (student(), student(), []),
        (student(162), student(432, data="f" * 16), ["trained on other images: 432 instead of 162"]),
        (student(162), student(45_000, data="f" * 16), ["trained on other images: 45,000 instead of 162"]),
        (student(162), student(162, data="f" * 16), ["trained on other images"]),
        (student(162), student(data="f" * 16), ["trained on other images"]),
        (student(), student(val_data="f" * 16, test_data="e" * 16),
         ["validated on other images", "tested on other images"]),
        (student(), student(lr=0.05, epochs=5), ["epochs 5 instead of 3", "lr 0.05 instead of 0.1"]),
        (student(), student(label_smoothing=0.1), ["label smoothing 0.1 instead of none"]),
        (distilled(), distilled(beta=2.0), ["beta 2 instead of 8"]),
        (distilled(), distilled(teacher_sha256="0" * 16), ["the teacher has been trained again since"]),
        (distilled(), distilled(teacher="vgg19_bn", teacher_sha256="0" * 16),
         ["teacher vgg19_bn instead of vgg11_bn"]),
    ],
)  # fmt: skip
def test_a_difference_is_explained_in_words(mine, theirs, texts):
    assert mine.explain(theirs) == texts


def test_an_explanation_leaves_out_what_it_is_told_to():
    assert student().explain(student(seed=1, epochs=5), "seed") == ["epochs 5 instead of 3"]
    assert distilled().explain(distilled(beta=2.0, epochs=5), "method.") == ["epochs 5 instead of 3"]


@pytest.mark.parametrize(
    ("identity", "title"),
    [
        (student(), "student cnn, alone"),
        (student(role="teacher", network="vgg11_bn"), "teacher vgg11_bn"),
        (distilled(), "student cnn, DKD at T = 4"),
        (distilled(temperature=2.5), "student cnn, DKD at T = 2.5"),
        (distilled(beta=2.0, alpha=0.5), "student cnn, DKD at T = 4, alpha = 0.5, beta = 2"),
        (Identity({"role": "kd", "network": "cnn", "method.stage": -1}, {"method.stage": -2}, "FitNet"),
         "student cnn, FitNet, stage = -1"),
    ],
)  # fmt: skip
def test_a_title_tells_the_method_and_what_is_not_its_default(identity, title):
    assert identity.title() == title
