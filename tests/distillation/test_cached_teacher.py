import os
import threading
import time
from pathlib import Path

import pytest
import torch
from toys import CPU, NORMALISE, assert_same_weights, frozen, images, network, training, weights

from models import build_model
from utils.data.augment import Augmentation
from utils.data.batches import Batches, Normalise
from utils.distillation.cached_teacher import SAMPLES, CachedTeacher, cached
from utils.distillation.output_cache import OVERHEAD, OutputCache
from utils.distillation.teacher import LiveTeacher
from utils.losses import Outputs
from utils.runtime.device import Compute
from utils.runtime.files import write_tensors
from utils.training.loop import fit

SPACE = 3 * (OVERHEAD + 70 * 4 * 2)  # bytes of the logits for three views of 70 images of 4 classes


def served(views: int = 3, seed: int = 0, normalise: Normalise = NORMALISE, **augmentation) -> Batches:
    return Batches(images(70), normalise, 32, seed, Augmentation(**augmentation), views)


def teacher(seed: int = 5, needs: str = "logits", **more) -> LiveTeacher:
    torch.manual_seed(seed)
    model = build_model("cnn_tiny", 4)
    model(torch.randn(64, 3, 32, 32))  # statistics of batch norm that are not the initial ones
    return frozen(model, needs, **more)


class Counting:
    """A teacher that counts the images that it is asked about, and takes its time."""

    def __init__(self, of: LiveTeacher, seconds: float = 0.0):
        self.of, self.asked, self.seconds = of, 0, seconds

    def __getattr__(self, name: str):
        return getattr(self.of, name)

    def __call__(self, batch):
        time.sleep(self.seconds)
        self.asked += len(batch.images)
        return self.of(batch)


def opened(
    folder: Path, of: LiveTeacher, batches: Batches, data: str = "data", limit: float = 1.0
) -> CachedTeacher:
    return cached(of, batches, data, 100, folder, limit, lambda: None)[0]


def test_epoch_e_serves_view_e_modulo_v_in_an_order_of_its_own():
    batches, fresh = served(views=3), served(views=0)
    for epoch in range(7):
        pixels = torch.cat([batch.images for batch in batches.epoch(epoch)])
        indices = torch.cat([batch.indices for batch in batches.epoch(epoch)])
        first = torch.cat([batch.images for batch in fresh.epoch(epoch % 3)])
        first_indices = torch.cat([batch.indices for batch in fresh.epoch(epoch % 3)])
        assert torch.equal(pixels[indices.argsort()], first[first_indices.argsort()])
        assert epoch < 3 or not torch.equal(indices, first_indices)


@pytest.mark.parametrize("changes", [{"cutout": 0}, {"cutout": 8}, {"strong": True}])
@pytest.mark.parametrize("needs", ["logits", "embedding"])
def test_cached_outputs_equal_live_ones_to_the_precision_of_float16(tmp_path, needs, changes):
    """Batches are shuffled and augmented, and the last one is smaller: indices and views must match."""
    batches, live = served(**changes), teacher(needs=needs)
    for written_before in (False, True):
        stored = opened(tmp_path, live, batches)
        for epoch in range(5):
            stored.set_view(batches.view_number(epoch))
            for batch in batches.epoch(epoch):
                outputs, expected = stored(batch), live(batch)
                assert outputs.features is None
                assert (outputs.embedding is None) is (needs == "logits")
                for ours, theirs in zip(outputs[:2], expected[:2], strict=True):
                    if ours is not None:
                        assert ours.dtype == torch.float16
                        error = (ours.float() - theirs).abs()
                        assert (error <= 2.0**-11 * theirs.abs() + 1e-4).all()
                        assert error.max() < 0.01 * theirs.std()
        assert len(list(tmp_path.glob("*/view*.pt"))) == 3, written_before


def test_another_view_is_copied_to_where_the_one_before_it_was(tmp_path):
    stored = opened(tmp_path, teacher(needs="embedding"), served())
    stored.set_view(0)
    first = [tensor.data_ptr() for tensor in stored.current[:2]]
    before = stored.current.logits.clone()
    stored.set_view(1)
    assert [tensor.data_ptr() for tensor in stored.current[:2]] == first
    assert not torch.equal(stored.current.logits, before)


def test_a_student_learns_from_cached_outputs_what_a_live_teacher_teaches(tmp_path):
    results = []
    for live in (True, False):
        batches, source = served(), teacher()
        state = training(epochs=6, steps=len(batches), method="kd:temperature=4")
        list(fit(state, source if live else opened(tmp_path, source, batches), batches, None, CPU))
        results.append(torch.cat([parameter.flatten() for parameter in state.model.parameters()]))
    assert not torch.equal(*results)
    torch.testing.assert_close(*results, rtol=0.02, atol=0.002)


def test_feature_maps_are_never_cached_and_a_text_says_so(tmp_path):
    live, batches = teacher(needs="features"), served()
    source, text = cached(live, batches, "data", 100, tmp_path, 1.0, lambda: None)
    assert source is live
    assert text == "live: feature maps are too large to be cached"
    assert not list(tmp_path.iterdir())


def test_another_run_reads_what_the_first_one_wrote(tmp_path):
    first, second = Counting(teacher()), Counting(teacher())
    outputs = [opened(tmp_path, first, served()).outputs(view) for view in range(3)]
    again = opened(tmp_path, second, served(views=2))  # fewer views of the same images are the same views
    assert all(torch.equal(again.outputs(view).logits, outputs[view].logits) for view in range(3))
    assert (first.asked, second.asked) == (210, 3 * SAMPLES)
    assert len(list(tmp_path.iterdir())) == 1


def test_outputs_are_those_of_the_same_teacher_images_augmentation_and_seed(tmp_path):
    rescale = (torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    others = {
        "teacher": (teacher(6, sha256="b" * 64), served(), "data"),
        "normalisation of the teacher": (teacher(rescale=rescale), served(), "data"),
        "precision": (teacher(compute=Compute(CPU.device, "bf16")), served(), "data"),
        "part of the outputs": (teacher(needs="embedding"), served(), "data"),
        "images": (teacher(), served(), "other data"),
        "normalisation": (teacher(), served(normalise=Normalise([100.0] * 3, [64.0] * 3)), "data"),
        "cutout": (teacher(), served(cutout=4), "data"),
        "padding": (teacher(), served(padding=3), "data"),
        "flip": (teacher(), served(flip=False), "data"),
        "seed": (teacher(), served(seed=1), "data"),
    }
    opened(tmp_path, teacher(), served()).set_view(0)
    for what, (of, batches, data) in others.items():
        counting = Counting(of)
        opened(tmp_path, counting, batches, data).set_view(0)
        assert counting.asked == 70, f"another {what} must not find these outputs"


def test_views_are_written_in_any_order_and_the_others_stay_absent(tmp_path):
    cache = OutputCache(tmp_path, "k" * 64, 70)
    tables = {view: torch.randn(70, 4).half() for view in (5, 0, 2)}
    for view, table in tables.items():
        cache.write(view, Outputs(table))
    for view in range(8):
        outputs = cache.read(view)
        assert torch.equal(outputs.logits, tables[view]) if view in tables else outputs is None


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        flip_a_bit,
        lambda path: os.truncate(path, path.stat().st_size - 50),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"{"),
        lambda path: path.write_bytes(bytes(5000)),
        lambda path: write_tensors(path, {"logits": torch.zeros(70, 4).half()}),
        lambda path: OutputCache(path.parent, "k" * 64, 70).write(1, Outputs(torch.zeros(70, 4).half())),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["damaged", "cut", "empty", "text", "zeros", "without a key", "of another key", "a folder"],
)
def test_a_file_that_does_not_hold_these_outputs_whole_is_never_used(tmp_path, spoil):
    live = Counting(teacher())
    source = opened(tmp_path, live, served())
    good, path = source.outputs(1).logits, source.cache.path(1)
    spoil(path)
    assert source.cache.read(1) is None
    assert torch.equal(source.outputs(1).logits, good)
    assert live.asked == 140
    assert path.is_dir() or torch.equal(source.cache.read(1).logits, good)  # made again


@pytest.mark.parametrize("needs", ["logits", "embedding"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cached_outputs_are_compared_with_a_few_live_ones_once_a_view(tmp_path, capsys, needs, precision):
    of = teacher(needs=needs, compute=Compute(CPU.device, precision))
    expected = [opened(tmp_path, of, served()).outputs(view) for view in range(3)]
    counting = Counting(of)
    again = opened(tmp_path, counting, served())
    for _ in range(2):
        for view in range(3):
            assert torch.equal(again.outputs(view).logits, expected[view].logits)
    assert counting.asked == 3 * SAMPLES
    assert capsys.readouterr().out == ""


def of_another_view(cache: OutputCache) -> None:
    """A file of the same key, size and time, with a valid checksum."""
    state = cache.path(1).stat()
    cache.path(1).write_bytes(cache.path(0).read_bytes())
    os.utime(cache.path(1), ns=(state.st_atime_ns, state.st_mtime_ns))


def of_another_teacher(cache: OutputCache) -> None:
    cache.write(1, opened(cache.folder / "other", teacher(6), served()).outputs(1))


def of_other_widths(cache: OutputCache) -> None:
    cache.write(1, Outputs(torch.zeros(70, 1).half()))


def of_no_numbers(cache: OutputCache) -> None:
    cache.write(1, Outputs(torch.full((70, 4), torch.nan).half()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("change", [of_another_view, of_another_teacher, of_other_widths, of_no_numbers])
def test_cached_outputs_that_the_live_teacher_contradicts_are_made_again_with_a_note(
    tmp_path, capsys, change, precision
):
    live = Counting(teacher(compute=Compute(CPU.device, precision)))
    source = opened(tmp_path, live, served())
    good = [source.outputs(view).logits for view in range(3)]
    change(source.cache)
    again = opened(tmp_path, live, served())
    for _ in range(2):
        assert all(torch.equal(again.outputs(view).logits, good[view]) for view in range(3))
    note = "cached outputs are not those of the teacher now, and are made again"
    assert capsys.readouterr().out == f"note: {source.cache.folder}: {note}\n"
    assert torch.equal(source.cache.read(1).logits, good[1])


def test_one_note_is_enough_for_all_views(tmp_path, capsys):
    source = opened(tmp_path, teacher(), served())
    other = opened(tmp_path, teacher(6), served())  # its hash is said to be the same
    for view in range(3):
        source.outputs(view)
    for view in range(3):
        other.outputs(view)
    assert capsys.readouterr().out.count("made again") == 1


def test_a_write_that_fails_leaves_the_view_absent_and_the_others_whole(tmp_path, monkeypatch, capsys):
    live = Counting(teacher())
    source = opened(tmp_path, live, served())
    first = source.outputs(0)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        outputs = source.outputs(1)
        assert torch.equal(source.outputs(1).logits, outputs.logits)  # from memory
    assert live.asked == 140
    assert "outputs are not cached: [Errno 28] No space left" in capsys.readouterr().err
    assert torch.equal(source.cache.read(0).logits, first.logits)
    assert source.cache.read(1) is None
    assert [path.name for path in source.cache.folder.glob("*.pt")] == ["view000.pt"]


def test_where_no_folder_can_be_made_outputs_are_used_all_the_same(tmp_path, capsys):
    folder = tmp_path / "file"
    folder.write_text("in the way")
    live = Counting(teacher())
    source = opened(folder, live, served())
    assert torch.equal(source.outputs(0).logits, source.outputs(0).logits)
    assert live.asked == 70
    assert "not cached" in capsys.readouterr().err


def test_of_two_processes_one_makes_the_outputs_and_the_other_waits_and_reads_them(tmp_path, capsys):
    teachers = [Counting(teacher(), 0.5), Counting(teacher(), 0.5)]
    # A lock belongs to an open file, so two threads exclude each other as two processes do.
    results = []
    threads = [
        threading.Thread(target=lambda of=of: results.append(opened(tmp_path, of, served()).outputs(0)))
        for of in teachers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.asked for each in teachers) == [SAMPLES, 70]
    assert torch.equal(results[0].logits, results[1].logits)
    assert "waiting" in capsys.readouterr().out


def test_making_stops_when_interrupted_and_leaves_nothing_half(tmp_path):
    class Stop(BaseException):
        pass

    def stop():
        raise Stop

    source, _ = cached(teacher(), served(), "data", 9, tmp_path, 1.0, stop)
    with pytest.raises(Stop):
        source.set_view(0)
    assert source.cache.read(0) is None
    assert not list(tmp_path.glob("*/view*"))


@pytest.mark.parametrize(("needs", "space"), [("logits", SPACE), ("embedding", SPACE + 3 * 70 * 64 * 2)])
def test_outputs_that_would_take_more_than_the_limit_are_not_cached(tmp_path, needs, space):
    def at(limit: int, epochs: int = 9):
        return cached(teacher(needs=needs), served(), "data", epochs, tmp_path, limit / 1e9, lambda: None)

    source, text = at(space - 1)
    assert isinstance(source, LiveTeacher)
    assert "live" in text
    assert "--teacher-cache-limit" in text
    source, text = at(space)
    assert "3 views" in text
    assert str(tmp_path) in text
    for view in range(3):
        source.set_view(view)
    assert sum(path.stat().st_size for path in source.cache.folder.glob("*.pt")) <= space
    assert at(space)[1].endswith("3 there already")
    assert isinstance(at(space - 1, epochs=2)[0], CachedTeacher)  # which need two views only


def test_the_outputs_used_longest_ago_make_room_and_nothing_else_does(tmp_path, capsys):
    paths = []
    for number in range(2):
        source = opened(tmp_path, teacher(), served(seed=number))
        source.set_view(0)
        paths.append(source.cache.path(0))
        os.utime(paths[-1], (1000 + number, 1000 + number))
    mine = {tmp_path / "thesis.txt": b"mine", tmp_path / "thesis" / "view000.pt": b"mine, and very old"}
    for path, content in mine.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (0, 0))
    write_tensors(paths[0].with_name("view001.pt"), {"model": torch.zeros(1)})  # tensors, and none of ours
    other = paths[0].with_name("view001.pt")
    os.utime(other, (0, 0))
    taken = paths[1].stat().st_size + other.stat().st_size + len(b"mine, and very old")
    opened(tmp_path, teacher(), served(seed=2), limit=(taken + SPACE) / 1e9)
    assert [path.exists() for path in (*paths, other)] == [False, True, True]
    assert all(path.read_bytes() == content for path, content in mine.items())
    assert str(paths[0]) in capsys.readouterr().out
    # Once read, the other one is no longer the one used longest ago.
    opened(tmp_path, teacher(), served(seed=1)).set_view(0)
    assert paths[1].stat().st_mtime > time.time() - 60


def test_only_files_that_begin_as_ours_are_removed_whole_or_not_and_never_through_a_link(tmp_path):
    folder, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    for number, root in enumerate((folder, elsewhere, folder)):
        opened(root, teacher(), served(seed=number)).set_view(0)
    cut, far, ours = (opened(tmp_path / name, teacher(), served(seed=number)).cache.path(0)
                      for number, name in enumerate(("cache", "elsewhere", "cache")))  # fmt: skip
    os.truncate(cut, 1000)
    others = [folder / name / "view000.pt" for name in ("text", "state", "link", "pipe", "answers")]
    for path in others:
        path.parent.mkdir()
    others[0].write_bytes(b"teacher_outputs")
    torch.save({"teacher_outputs": torch.zeros(500)}, others[1])  # by another program
    others[2].symlink_to(far)
    os.mkfifo(others[3])
    others[4] = others[4].with_name("cifar.answers")
    others[4].write_bytes(b"mine")
    temporary = cut.with_name(".view001.pt.7.0123456789abcdef.tmp")
    temporary.touch()
    opened(folder, teacher(), served(seed=9), limit=SPACE / 1e9)
    assert [path.exists() for path in (cut, ours, temporary, far)] == [False, False, False, True]
    assert all(os.path.lexists(path) for path in others)


def test_room_is_made_view_by_view_and_the_run_at_hand_keeps_its_own(tmp_path):
    for seed in (0, 1):
        for view in range(6):
            opened(tmp_path, teacher(), served(seed=seed, views=6)).set_view(view)
    own, other = (opened(tmp_path, teacher(), served(seed=seed, views=6)).cache for seed in (1, 0))
    size = other.path(0).stat().st_size
    opened(tmp_path, teacher(), served(seed=1, views=6), limit=(2 * SPACE + 4 * size) / 1e9)
    assert [len(list(cache.folder.glob("*.pt"))) for cache in (own, other)] == [6, 4]


def test_logits_beyond_float16_stay_finite(tmp_path):
    model = network()
    with torch.no_grad():
        model[-1].bias += 1e6
    before = weights(model)
    assert opened(tmp_path, frozen(model), served()).outputs(0).logits.isfinite().all()
    assert_same_weights(before, weights(model))
