import copy

import pytest
import torch
import torch.nn.functional as F
from toys import CPU, NORMALISE, batches, network, training

from models import build_model
from utils.data.batches import Normalise
from utils.data.dataset import Dataset
from utils.distillation.teacher import Teacher, load_teacher
from utils.losses import Distillation
from utils.runtime.checkpoint import load_checkpoint, save_checkpoint
from utils.runtime.errors import UserError
from utils.runtime.files import sha256_of
from utils.training.loop import fit


def frozen(model: torch.nn.Module) -> Teacher:
    return Teacher(model.eval().requires_grad_(False), CPU, "toy", "", "", None)


def dataset(normalise: Normalise = NORMALISE, classes: int = 4) -> Dataset:
    images = batches(40, classes=classes).image_set
    return Dataset(images, None, images, normalise, {"data": images.fingerprint()})


def saved_teacher(path, mean=NORMALISE.mean, std=NORMALISE.std):
    content = dataset(Normalise(mean, std)).describe() | {"model_name": "cnn_tiny", "epoch": 3}
    content |= {"config": {"epochs": 3}, "metrics": {"val_top1": 81.0, "train_top1": 90.0}}
    model = build_model("cnn_tiny", 4)
    model(torch.randn(16, 3, 32, 32))  # statistics of batch norm that are not the initial ones
    save_checkpoint(path, model.state_dict(), content)
    return model.eval()


def test_distilling_changes_nothing_of_the_teacher():
    teacher_model, train = network(seed=7), batches(100, 32)
    teacher, before = frozen(teacher_model), sha256_of(copy.deepcopy(teacher_model.state_dict()))
    state = training(epochs=2, steps=len(train))
    list(fit(state, Distillation(0.9, 4.0), train, None, CPU, teacher))
    assert sha256_of(teacher_model.state_dict()) == before
    assert not teacher_model.training
    assert all(p.grad is None and not p.requires_grad for p in teacher_model.parameters())


def test_teacher_and_student_see_the_same_augmented_batch():
    train, seen = batches(64, 32), []
    student = training(epochs=1, steps=len(train))
    student.model.register_forward_pre_hook(lambda _module, images: seen.append(images[0].clone()))
    answers = []

    def teacher(batch):
        answers.append(batch.images.clone())
        return torch.zeros(len(batch.labels), 4)

    list(fit(student, Distillation(0.5, 2.0), train, None, CPU, teacher))
    assert len(seen) == 2
    assert all(torch.equal(first, second) for first, second in zip(seen, answers, strict=True))


def test_answers_carry_no_gradient():
    logits = frozen(network())(next(batches(8, 8).epoch(0)))
    assert not logits.requires_grad


def test_a_loaded_teacher_answers_as_the_saved_network(tmp_path):
    model = saved_teacher(tmp_path / "last.pt")
    teacher = load_teacher(tmp_path / "last.pt", "cnn_tiny", dataset(), CPU, build_model)
    batch = next(batches(16, 16).epoch(0))
    torch.testing.assert_close(teacher(batch), model(batch.images), rtol=1e-4, atol=1e-5)
    assert (teacher.name, teacher.sha256) == ("cnn_tiny", load_checkpoint(tmp_path / "last.pt")["sha256"])
    assert teacher.description.startswith("cnn_tiny, validation top-1 81.00 %")


def test_a_teacher_of_another_normalisation_sees_images_as_it_was_trained(tmp_path):
    own = Normalise([90.0, 110.0, 140.0], [50.0, 60.0, 70.0])
    model = saved_teacher(tmp_path / "last.pt", own.mean, own.std)
    teacher = load_teacher(tmp_path / "last.pt", "cnn_tiny", dataset(), CPU, build_model)
    pixels = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8)
    batch = next(batches(16, 16).epoch(0))._replace(images=NORMALISE(pixels))
    torch.testing.assert_close(teacher(batch), model(own(pixels)), rtol=1e-4, atol=1e-4)


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    saved_teacher(tmp_path / "last.pt")
    with pytest.raises(UserError, match="class_names"):
        load_teacher(tmp_path / "last.pt", "cnn_tiny", dataset(classes=5), CPU, build_model)


def test_answers_equal_a_plain_forward_pass_in_eval_mode():
    model = network(seed=5)
    batch = next(batches(32, 32).epoch(0))
    expected = model.eval()(batch.images)
    model.train()
    assert F.mse_loss(frozen(model)(batch), expected).item() == 0
