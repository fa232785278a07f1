import copy

import pytest
import torch
import torch.nn.functional as F
from toys import CPU, NORMALISE, Oracle, batches, frozen, network, training

from models import build_model
from utils.data.batches import Normalise
from utils.data.dataset import Dataset
from utils.distillation.teacher import LiveTeacher, fold_batch_norm, load_teacher
from utils.runtime.checkpoint import load_checkpoint, save_checkpoint
from utils.runtime.errors import UserError
from utils.runtime.files import sha256_of
from utils.training.loop import fit


def dataset(normalise: Normalise = NORMALISE, classes: int = 4) -> Dataset:
    images = batches(40, classes=classes).image_set
    return Dataset(images, None, images, normalise, {"data": images.fingerprint()})


def saved_teacher(path, mean=NORMALISE.mean, std=NORMALISE.std):
    content = dataset(Normalise(mean, std)).describe() | {"model_name": "cnn_tiny", "epoch": 3}
    content |= {"config": {"identity": {"epochs": 3}}, "metrics": {"val_top1": 81.0, "train_top1": 90.0}}
    model = build_model("cnn_tiny", 4)
    model(torch.randn(16, 3, 32, 32))  # statistics of batch norm that are not the initial ones
    save_checkpoint(path, model.state_dict(), content)
    return model.eval()


def loaded(path, needs: str = "logits", classes: int = 4, normalisation=None) -> LiveTeacher:
    return load_teacher(path, "cnn_tiny", needs, dataset(classes=classes), CPU, build_model, normalisation)


@pytest.mark.parametrize("method", ["kd", "fitnet:stage=0"])
def test_distilling_changes_nothing_of_the_teacher(method):
    teacher_model, train = network(seed=7), batches(100, 32)
    teacher = frozen(teacher_model, "logits" if method == "kd" else "features")
    before = sha256_of(copy.deepcopy(teacher_model.state_dict()))
    list(fit(training(2, len(train), method=method, teacher=teacher), teacher, train, None, CPU))
    assert sha256_of(teacher_model.state_dict()) == before
    assert not teacher_model.training
    assert all(p.grad is None and not p.requires_grad for p in teacher_model.parameters())


def test_teacher_and_student_see_the_same_augmented_batch():
    train, seen, asked = batches(64, 32), [], []
    state = training(epochs=1, steps=len(train), method="kd")
    state.model.register_forward_pre_hook(lambda _module, images: seen.append(images[0].clone()))

    def logits(batch):
        asked.append(batch.images.clone())
        return torch.zeros(len(batch.labels), 4)

    list(fit(state, Oracle(logits), train, None, CPU))
    assert len(seen) == 2
    assert all(torch.equal(first, second) for first, second in zip(seen, asked, strict=True))


@pytest.mark.parametrize("needs", ["logits", "embedding", "features"])
def test_outputs_carry_no_gradient(needs):
    outputs = frozen(network(), needs)(next(batches(8, 8).epoch(0)))
    assert not outputs.logits.requires_grad
    assert not any(
        each.requires_grad for each in (outputs.embedding, *(outputs.features or ())) if each is not None
    )


@pytest.mark.parametrize("needs", ["logits", "embedding", "features"])
def test_a_loaded_teacher_has_the_outputs_of_the_saved_network(tmp_path, needs):
    model = saved_teacher(tmp_path / "last.pt")
    teacher = loaded(tmp_path / "last.pt", needs)
    batch = next(batches(16, 16).epoch(0))
    outputs = teacher(batch)
    torch.testing.assert_close(outputs.logits, model(batch.images), rtol=1e-4, atol=1e-5)
    if needs == "embedding":
        expected = model.features(batch.images).mean((2, 3))
        torch.testing.assert_close(outputs.embedding, expected, rtol=1e-4, atol=1e-5)
    if needs == "features":
        assert [tuple(feature.shape[1:]) for feature in outputs.features] == [
            (16, 32, 32), (32, 16, 16), (64, 8, 8), (64, 4, 4)
        ]  # fmt: skip
    assert (teacher.name, teacher.sha256) == ("cnn_tiny", load_checkpoint(tmp_path / "last.pt")["sha256"])
    assert (teacher.path, teacher.note) == (tmp_path / "last.pt", "")


def test_a_teacher_of_another_normalisation_sees_images_as_it_was_trained(tmp_path):
    own = Normalise([90.0, 110.0, 140.0], [50.0, 60.0, 70.0])
    model = saved_teacher(tmp_path / "last.pt", own.mean, own.std)
    teacher = loaded(tmp_path / "last.pt")
    pixels = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8)
    batch = next(batches(16, 16).epoch(0))._replace(images=NORMALISE(pixels))
    torch.testing.assert_close(teacher(batch).logits, model(own(pixels)), rtol=1e-4, atol=1e-4)


def plain_teacher(path, **more) -> torch.nn.Module:
    """A file of another program; returns the network."""
    model = saved_teacher(path)
    torch.save({"state_dict": model.state_dict()} | more, path)
    return model


UNIT = ((0.25, 0.5, 0.75), (0.25, 0.2, 0.5))
RAW = Normalise([63.75, 127.5, 191.25], [63.75, 51.0, 127.5])


@pytest.mark.parametrize(
    ("more", "explicit", "expected", "line"),
    [
        (
            {},
            None,
            NORMALISE,
            "assumed is that of the images here, mean 0.498,0.498,0.498 and std 0.251,0.251,0.251",
        ),
        ({}, UNIT, RAW, "normalised with mean 0.25,0.5,0.75 and std 0.25,0.2,0.5"),
        ({"mean": [0.1] * 3, "std": [0.1] * 3}, UNIT, RAW, "normalised with mean 0.25,0.5,0.75"),
        ({"mean": UNIT[0], "std": UNIT[1]}, None, RAW, "normalised with its own mean: mean 0.25,0.5,0.75"),
    ],
)
def test_a_teacher_of_another_program_sees_images_as_the_flags_say_or_its_file_or_else_as_the_data_are(
    tmp_path, capsys, more, explicit, expected, line
):
    model = plain_teacher(tmp_path / "w.pt", **more)
    teacher = loaded(tmp_path / "w.pt", normalisation=explicit)
    notes = capsys.readouterr().err.splitlines()
    assert [note for note in notes if "normalis" in note] == [note for note in notes if line in note]
    assert any(line in note for note in notes)
    pixels = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8)
    batch = next(batches(16, 16).epoch(0))._replace(images=NORMALISE(pixels))
    torch.testing.assert_close(teacher(batch).logits, model(expected(pixels)), rtol=1e-4, atol=1e-4)
    settings = {"teacher_mean": list(UNIT[0]), "teacher_std": list(UNIT[1])} if expected is RAW else {}
    assert (teacher.note, teacher.settings) == ("of another program", settings)


def test_a_checkpoint_of_this_program_has_its_own_normalisation_and_no_other(tmp_path):
    saved_teacher(tmp_path / "last.pt", RAW.mean, RAW.std)
    assert loaded(tmp_path / "last.pt").settings == {}
    with pytest.raises(UserError, match=r"tells its normalisation .*leave out --teacher-mean and --teacher-std"):
        loaded(tmp_path / "last.pt", normalisation=UNIT)


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    saved_teacher(tmp_path / "last.pt")
    with pytest.raises(UserError, match="class_names"):
        loaded(tmp_path / "last.pt", classes=5)


def test_a_teacher_without_what_the_method_matches_is_refused(tmp_path):
    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(4, 3))

        def forward(self, images):
            return images.mean((2, 3)) @ self.weight.T

    content = dataset().describe() | {"model_name": "flat", "epoch": 3, "metrics": {"val_top1": 81.0}}
    save_checkpoint(tmp_path / "last.pt", Flat().state_dict(), content | {"config": {"identity": {"epochs": 3}}})
    for needs, what in (("features", "no feature maps"), ("embedding", "no linear last layer")):
        with pytest.raises(UserError, match=rf"the teacher .*last\.pt: Flat has {what}.*--method"):
            load_teacher(tmp_path / "last.pt", "flat", needs, dataset(), CPU, lambda *_: Flat())


def test_outputs_equal_a_plain_forward_pass_in_eval_mode():
    model = network(seed=5)
    batch = next(batches(32, 32).epoch(0))
    expected = model.eval()(batch.images)
    model.train()
    assert F.mse_loss(frozen(model)(batch).logits, expected).item() == 0


def test_folding_batch_norm_changes_no_output():
    torch.manual_seed(5)
    model = build_model("vgg11_bn", 4)
    model(torch.randn(64, 3, 32, 32))  # statistics of batch norm that are not the initial ones
    batch = next(batches().epoch(0))
    folded = fold_batch_norm(model.eval())
    assert not [module for module in folded.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    torch.testing.assert_close(folded(batch.images), model(batch.images), rtol=1e-3, atol=1e-4)


def test_a_network_that_cannot_be_traced_is_left_as_it_is():
    class Branching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(3)

        def forward(self, images):
            return self.norm(images) if images.sum() > 0 else -images

    model = Branching()
    assert fold_batch_norm(model) is model
