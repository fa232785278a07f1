import os

import pytest
import torch
from toys import network

from models import build_model
from utils.runtime import files as storage
from utils.runtime.checkpoint import load_checkpoint, restore_network, save_checkpoint
from utils.runtime.files import DamagedFile, read_tensors, sha256_of
from utils.runtime.identity import Identity

CONTENT = {
    "model_name": "cnn_tiny",
    "num_classes": 3,
    "class_names": ["a", "b", "c"],
    "image_size": 32,
    "mean": [1.0, 2.0, 3.0],
    "std": [1.0, 1.0, 1.0],
    "config": {"identity": {"epochs": 2}, "data_dir": "data"},
    "epoch": 2,
    "metrics": {},
}


def saved(path, **changes):
    save_checkpoint(path, build_model("cnn_tiny", 3).state_dict(), CONTENT | changes)
    return path


def test_a_checkpoint_reads_back_as_it_was_written(tmp_path):
    model = build_model("cnn_tiny", 3)
    save_checkpoint(tmp_path / "a.pt", model.state_dict(), CONTENT)
    content = load_checkpoint(tmp_path / "a.pt")
    assert {key: content[key] for key in CONTENT} == CONTENT
    restored = restore_network(tmp_path / "a.pt", content, build_model)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), restored.state_dict().values(), strict=True)
    )


def test_a_checkpoint_is_what_weights_only_loading_accepts(tmp_path):
    assert torch.load(saved(tmp_path / "a.pt"), weights_only=True)["format"] == 2


def test_every_changed_bit_of_a_weight_is_noticed(tmp_path):
    path = saved(tmp_path / "a.pt")
    whole = path.read_bytes()
    needle = torch.load(path, weights_only=True)["model"]["features.0.weight"].numpy().tobytes()
    start = whole.index(needle)
    for offset in (0, 100, len(needle) - 1):
        broken = bytearray(whole)
        broken[start + offset] ^= 4
        path.write_bytes(broken)
        with pytest.raises(DamagedFile, match="damaged"):
            load_checkpoint(path)


@pytest.mark.parametrize("size", [0, 1, 0.5, -1])
def test_a_truncated_checkpoint_is_refused(tmp_path, size):
    path = saved(tmp_path / "a.pt")
    whole = path.read_bytes()
    keep = int(len(whole) * size) if 0 < size < 1 else size
    path.write_bytes(whole[:keep])
    with pytest.raises(DamagedFile, match=r"a\.pt is (empty|damaged)"):
        load_checkpoint(path)


def test_an_epoch_before_the_first_is_refused(tmp_path):
    model = build_model("cnn_tiny", 3)
    save_checkpoint(tmp_path / "a.pt", model.state_dict(), CONTENT | {"epoch": -1})
    with pytest.raises(DamagedFile, match="'epoch' cannot be -1"):
        load_checkpoint(tmp_path / "a.pt")


def test_text_and_other_contents_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    path.write_text("no checkpoint")
    with pytest.raises(DamagedFile):
        load_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(DamagedFile, match="holds a list"):
        load_checkpoint(path)


def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"model": Evil()}, tmp_path / "a.pt")
    with pytest.raises(DamagedFile):
        load_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_a_newer_format_and_a_missing_key_are_named(tmp_path):
    with pytest.raises(DamagedFile, match="format 3, this program reads 2"):
        load_checkpoint(saved(tmp_path / "a.pt", format=3))
    with pytest.raises(DamagedFile, match="'mean'"):
        load_checkpoint(saved(tmp_path / "a.pt", mean=None))
    with pytest.raises(DamagedFile, match="does not tell the settings of its run"):
        load_checkpoint(saved(tmp_path / "a.pt", config={"epochs": 2}))


def test_a_file_of_the_first_format_is_read_as_one_of_today(tmp_path):
    """Its settings and the paths of its data stood in one dict."""
    settings = {"role": "kd", "epochs": 2, "temp": 5.0, "alpha": 0.9}
    paths = {"data_dir": "data", "teacher_path": "results/teacher/last.pt"}
    content = load_checkpoint(saved(tmp_path / "a.pt", format=1, config=settings | paths))
    assert content["config"] == {"identity": settings} | paths
    identity = Identity.from_record(content["config"])
    assert (identity["method"], identity["method.temperature"], identity["epochs"]) == ("kd", 5.0, 2)
    assert "data_dir" not in identity.values
    assert isinstance(restore_network(tmp_path / "a.pt", content, build_model), torch.nn.Module)


def test_weights_of_another_network_are_refused(tmp_path):
    path = saved(tmp_path / "a.pt", model_name="cnn")
    with pytest.raises(DamagedFile, match=r"does not fit a cnn of 3 classes: features.0.weight is"):
        restore_network(path, load_checkpoint(path), build_model)
    for classes in (10**12, 0, -1):
        path = saved(tmp_path / "a.pt", num_classes=classes)
        with pytest.raises(DamagedFile, match=f"does not fit a cnn_tiny of {classes} classes"):
            restore_network(path, load_checkpoint(path), build_model)
    path = saved(tmp_path / "a.pt", model_name="resnet")
    with pytest.raises(DamagedFile, match="resnet"):
        restore_network(path, load_checkpoint(path), build_model)


def test_the_checksum_depends_on_names_types_shapes_and_bytes():
    base = {"a": torch.arange(6.0)}
    others = [
        {"b": torch.arange(6.0)},
        {"a": torch.arange(6.0).view(2, 3)},
        {"a": torch.arange(6.0).view(torch.int32)},
        {"a": torch.arange(6.0) + 1e-7 * torch.eye(6)[1]},
    ]
    sums = {sha256_of(tensors) for tensors in [base, *others]}
    assert len(sums) == 5
    model = network()
    assert sha256_of(model.state_dict()) == sha256_of(network().state_dict())


def test_reading_a_folder_or_nothing_is_an_os_error(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(OSError):
            read_tensors(path)


def test_optimizer_state_on_another_device_is_brought_to_the_cpu_first(tmp_path):
    """A tensor without data stands in for one on a GPU: writing it must try to fetch its values."""
    elsewhere = torch.zeros(2, device="meta")
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta"):
        saved(tmp_path / "a.pt", optimizer={"state": {0: {"momentum_buffer": elsewhere}}})


@pytest.mark.gpu
def test_a_checkpoint_of_cuda_tensors_is_the_same_file_content(tmp_path):
    model = build_model("cnn_tiny", 3)
    for device in ("cpu", "cuda"):
        state = {"optimizer": {"state": [torch.ones(3, device=device)]}}
        save_checkpoint(tmp_path / f"{device}.pt", model.to(device).state_dict(), CONTENT | state)
    first, second = (load_checkpoint(tmp_path / f"{device}.pt") for device in ("cpu", "cuda"))
    assert storage.checksum(first) == storage.checksum(second)
