import os
import threading
import time
from pathlib import Path

import pytest
import torch
from test_teacher import frozen
from toys import CPU, NORMALISE, images, network, training

from models import build_model
from utils.data.augment import Augmentation
from utils.data.batches import Batches, Normalise
from utils.distillation.cache import HEADER, AnswerFile, Answers, open_answers
from utils.distillation.teacher import Teacher, fold_batch_norm
from utils.losses import Distillation
from utils.training.loop import fit


def served(views: int = 3, seed: int = 0, cutout: int = 0, count: int = 70, normalise=NORMALISE) -> Batches:
    return Batches(images(count), normalise, 32, seed, Augmentation(cutout=cutout), views)


def teacher(seed: int = 5, sha256: str = "a" * 64, model: str = "cnn_tiny") -> Teacher:
    torch.manual_seed(seed)
    net = build_model(model, 4)
    net(torch.randn(64, 3, 32, 32))  # statistics of batch norm that are not the initial ones
    return Teacher(net.eval().requires_grad_(False), CPU, model, sha256, "", None)


def opened(folder: Path, of: Teacher, batches: Batches, data: str = "data", limit: float = 1.0) -> Answers:
    answers, _ = open_answers(of, batches, data, 100, folder, limit, lambda: None)
    return answers


class Counting:
    """A teacher that counts the images that it is asked about."""

    def __init__(self, of: Teacher):
        self.of, self.asked = of, 0

    def __getattr__(self, name: str):
        return getattr(self.of, name)

    def __call__(self, batch):
        self.asked += len(batch.images)
        return self.of(batch)


@pytest.mark.parametrize("cutout", [0, 8])
def test_kept_answers_equal_live_ones_to_the_precision_of_float16(tmp_path, cutout):
    """The batches are shuffled and augmented, and the last one is smaller: the places and the views must match."""
    batches, live = served(cutout=cutout), teacher()
    answers = opened(tmp_path, live, batches)
    for epoch in range(5):
        table = answers(batches.view_number(epoch))
        assert table.dtype == torch.float16
        for batch in batches.epoch(epoch):
            expected = live(batch)
            error = (table[batch.indices].float() - expected).abs()
            assert (error <= 2.0**-11 * expected.abs() + 1e-4).all()
            assert error.max() < 0.01 * expected.std()


def test_epoch_e_shows_view_e_modulo_v_in_an_order_of_its_own():
    batches, fresh = served(views=3), served(views=0)
    for epoch in range(7):
        shown = torch.cat([batch.images for batch in batches.epoch(epoch)])
        places = torch.cat([batch.indices for batch in batches.epoch(epoch)])
        first = torch.cat([batch.images for batch in fresh.epoch(epoch % 3)])
        first_places = torch.cat([batch.indices for batch in fresh.epoch(epoch % 3)])
        assert torch.equal(shown[places.argsort()], first[first_places.argsort()])
        assert epoch < 3 or not torch.equal(places, first_places)


def test_a_student_taught_by_kept_answers_learns_what_a_live_teacher_teaches(tmp_path):
    weights = []
    for cached in (False, True):
        batches, live = served(), teacher()
        state = training(epochs=6, steps=len(batches))
        answers = opened(tmp_path, live, batches) if cached else None
        list(fit(state, Distillation(0.9, 4.0), batches, None, CPU, None if cached else live, answers))
        weights.append(torch.cat([parameter.flatten() for parameter in state.model.parameters()]))
    assert not torch.equal(*weights)
    torch.testing.assert_close(*weights, rtol=0.02, atol=0.002)


def test_another_run_reads_what_the_first_one_wrote(tmp_path):
    first, second = Counting(teacher()), Counting(teacher())
    kept = [opened(tmp_path, first, served())(view) for view in range(3)]
    again = opened(tmp_path, second, served(views=2))  # fewer views of the same images are the same views
    assert all(torch.equal(again(view), kept[view]) for view in range(3))
    assert (first.asked, second.asked) == (210, 0)
    assert len(list(tmp_path.glob("*.answers"))) == 1


def test_answers_are_those_of_the_same_teacher_images_augmentation_and_seed(tmp_path):
    rescaled = Teacher(teacher().model, CPU, "cnn_tiny", "a" * 64, "", (torch.zeros(3, 1, 1), torch.ones(3, 1, 1)))
    others = {
        "teacher": (teacher(6, sha256="b" * 64), served(), "data"),
        "its normalisation": (rescaled, served(), "data"),
        "images": (teacher(), served(), "other data"),
        "normalisation": (teacher(), served(normalise=Normalise([100.0] * 3, [64.0] * 3)), "data"),
        "cutout": (teacher(), served(cutout=4), "data"),
        "seed": (teacher(), served(seed=1), "data"),
    }
    opened(tmp_path, teacher(), served())(0)
    for what, (of, batches, data) in others.items():
        counting = Counting(of)
        opened(tmp_path, counting, batches, data)(0)
        assert counting.asked == 70, f"another {what} must not find these answers"


def values(view: int) -> torch.Tensor:
    return torch.randn(70, 4, generator=torch.Generator().manual_seed(view)).half()


def answer_file(folder: Path, key: str = "k" * 64) -> AnswerFile:
    return AnswerFile(folder, "toy", key, 70, 4)


def test_views_are_kept_in_any_order_and_the_others_stay_absent(tmp_path):
    file = answer_file(tmp_path)
    assert file.read(0) is None
    for view in (5, 0, 2):
        file.write(view, values(view))
    for view in range(8):
        kept = file.read(view)
        assert torch.equal(kept, values(view)) if view in (5, 0, 2) else kept is None


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_write_that_is_cut_off_leaves_the_whole_views_and_no_other(tmp_path, monkeypatch, moment):
    file = answer_file(tmp_path)
    file.write(0, values(0))
    synced, real = [], os.fsync

    def fsync(descriptor):
        synced.append(1)
        if len(synced) == moment:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if moment < 3:
        with pytest.raises(OSError, match="No space"):
            file.write(1, values(1))
    else:
        file.write(1, values(1))
    assert torch.equal(file.read(0), values(0))
    kept = file.read(1)
    assert kept is None if moment == 1 else torch.equal(kept, values(1))


def test_damage_in_a_view_is_noticed_and_the_view_is_made_again(tmp_path):
    live = Counting(teacher())
    answers = opened(tmp_path, live, served())
    good = answers(1).clone()
    path = answers.file.path
    with open(path, "r+b") as file:
        file.seek(HEADER + answers.file.record + 100)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 4]))
    assert answers.file.read(1) is None
    torch.testing.assert_close(answers(1), good)
    assert live.asked == 140
    assert answers.file.read(1) is not None


@pytest.mark.parametrize("content", [b"", b"{", bytes(5000), b"PK" * 4000])
def test_a_file_that_is_something_else_is_never_read_and_is_replaced(tmp_path, content):
    file = answer_file(tmp_path)
    file.path.write_bytes(content)
    assert file.read(0) is None
    file.write(0, values(0))
    assert torch.equal(file.read(0), values(0))
    other = answer_file(tmp_path, "k" * 12 + "x" * 52)  # the same name, another fingerprint inside
    assert other.path == file.path
    assert other.read(0) is None


def test_a_file_that_was_cut_short_has_no_view_beyond_its_end(tmp_path):
    file = answer_file(tmp_path)
    for view in (0, 1):
        file.write(view, values(view))
    os.truncate(file.path, HEADER + file.record + 50)
    assert torch.equal(file.read(0), values(0))
    assert file.read(1) is None


def test_of_two_processes_one_makes_the_answers_and_the_other_waits_and_reads_them(tmp_path, capsys):
    class Slow(Counting):
        def __call__(self, batch):
            time.sleep(0.5)
            return super().__call__(batch)

    teachers = [Slow(teacher()), Slow(teacher())]
    # A lock belongs to an open file, so two threads exclude each other as two processes do.
    results = []
    threads = [
        threading.Thread(target=lambda t=t: results.append(opened(tmp_path, t, served())(0))) for t in teachers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.asked for each in teachers) == [0, 70]
    assert torch.equal(*results)
    assert "waiting" in capsys.readouterr().out


def test_making_and_waiting_stop_when_asked_and_leave_nothing_half(tmp_path):
    class Stop(BaseException):
        pass

    def stop():
        raise Stop

    answers, _ = open_answers(teacher(), served(), "data", 9, tmp_path, 1.0, stop)
    with pytest.raises(Stop):
        answers(0)
    assert opened(tmp_path, teacher(), served()).file.read(0) is None


def test_answers_that_would_take_more_than_the_limit_are_not_kept(tmp_path):
    space = HEADER + 3 * (16 + 70 * 4 * 2)
    answers, text = open_answers(teacher(), served(), "data", 9, tmp_path, (space - 1) / 1e9, lambda: None)
    assert answers is None
    assert "live" in text
    assert "--teacher-cache-limit" in text
    answers, text = open_answers(teacher(), served(), "data", 9, tmp_path, space / 1e9, lambda: None)
    assert answers is not None
    assert "3 views" in text
    assert str(tmp_path) in text
    # In two epochs only two views are needed.
    assert open_answers(teacher(), served(), "data", 2, tmp_path, (space - 1) / 1e9, lambda: None)[0] is not None


def test_the_answers_used_longest_ago_make_room_and_nothing_else_does(tmp_path, capsys):
    batches = [served(seed=seed) for seed in range(3)]
    paths = []
    for number, each in enumerate(batches[:2]):
        answers = opened(tmp_path, teacher(), each)
        answers(0)
        paths.append(answers.file.path)
        os.utime(answers.file.path, (number, number))
    (tmp_path / "thesis.txt").write_text("mine")
    taken = paths[1].stat().st_blocks * 512
    need = HEADER + 3 * (16 + 70 * 4 * 2)
    opened(tmp_path, teacher(), batches[2], limit=(taken + need) / 1e9)
    assert [path.exists() for path in paths] == [False, True]
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert paths[0].name in capsys.readouterr().out


def test_what_a_longer_run_kept_counts_towards_the_limit(tmp_path):
    for seed, views in ((0, 60), (1, 60)):
        answers = opened(tmp_path, teacher(), served(seed=seed, views=views))
        for view in range(views):
            answers.file.write(view, values(view))
    need = HEADER + 3 * (16 + 70 * 4 * 2)
    taken = [path.stat().st_blocks * 512 for path in sorted(tmp_path.glob("*.answers"))]
    opened(tmp_path, teacher(), served(seed=1), limit=(taken[0] + need) / 1e9)
    assert len(list(tmp_path.glob("*.answers"))) == 1


def test_answers_that_cannot_be_written_are_used_all_the_same(tmp_path, capsys):
    folder = tmp_path / "file"
    folder.write_text("in the way")
    live = Counting(teacher())
    answers = opened(folder, live, served())
    first = answers(0)
    assert torch.equal(answers(0), first)
    assert live.asked == 70
    assert "not kept" in capsys.readouterr().err


def test_folding_batch_norm_changes_no_answer():
    model = teacher(model="vgg11_bn").model
    batch = next(served().epoch(0))
    folded = fold_batch_norm(model)
    assert not [module for module in folded.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    torch.testing.assert_close(folded(batch.images), model(batch.images), rtol=1e-3, atol=1e-4)


def test_a_network_that_cannot_be_traced_is_left_as_it_is():
    class Branching(torch.nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    model = Branching()
    assert fold_batch_norm(model) is model


def test_logits_beyond_float16_stay_finite(tmp_path):
    model = network()
    with torch.no_grad():
        model[-1].bias += 1e6
    table = opened(tmp_path, frozen(model), served())(0)
    assert table.isfinite().all()
