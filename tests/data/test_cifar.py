import hashlib
import io
import pickle
import socket
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.data.image_set import ImageSet
from utils.data.sources import cifar, load_images
from utils.runtime.errors import UserError

datasets = pytest.importorskip("torchvision.datasets")


class Archive:
    """A tiny archive that torchvision takes for the official one, and its contents."""

    def __init__(self, name: str, monkeypatch):
        self.name, self.kind = name, {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        self.monkeypatch, self.meta = monkeypatch, self.kind.meta["filename"]
        random, fine = np.random.default_rng(0), name == "cifar100"
        self.class_names = [f"class {number}" for number in range(100 if fine else 10)]

        def batch(count: int) -> dict:
            labels = random.integers(0, len(self.class_names), count).tolist()
            pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
            return {"data": pixels, "fine_labels" if fine else "labels": labels}

        parts = ["train", "test"] if fine else ["data_batch_1", "data_batch_2", "test_batch"]
        self.batches = {part: batch(count) for count, part in enumerate(parts, start=5)}
        packed = {part: pickle.dumps(content) for part, content in self.batches.items()}
        packed[self.meta] = pickle.dumps({self.kind.meta["key"]: self.class_names})
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as tar:
            for member, data in packed.items():
                entry = tarfile.TarInfo(f"{self.kind.base_folder}/{member}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        self.content = content.getvalue()
        md5 = {member: hashlib.md5(data).hexdigest() for member, data in packed.items()}
        monkeypatch.setattr(self.kind, "tgz_md5", hashlib.md5(self.content).hexdigest())
        monkeypatch.setattr(self.kind, "train_list", [[part, md5[part]] for part in parts if "test" not in part])
        monkeypatch.setattr(self.kind, "test_list", [[part, md5[part]] for part in parts if "test" in part])
        monkeypatch.setattr(self.kind, "meta", self.kind.meta | {"md5": md5[self.meta]})
        monkeypatch.setenv("no_proxy", "127.0.0.1")

    def serve_at(self, port: int) -> None:
        self.monkeypatch.setattr(self.kind, "url", f"http://127.0.0.1:{port}/{self.kind.filename}")

    def write(self, folder: Path) -> None:
        (folder / self.kind.filename).write_bytes(self.content)

    def assert_is(self, parts: tuple[ImageSet, ImageSet]) -> None:
        for part, listed in zip(parts[:2], (self.kind.train_list, self.kind.test_list), strict=True):
            batches = [self.batches[name] for name, _ in listed]
            planes = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
            labels = [label for batch in batches for label in batch.get("labels") or batch["fine_labels"]]
            np.testing.assert_array_equal(part.images.numpy(), np.moveaxis(planes, 1, 3))
            assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
            assert part.images.is_contiguous()
            assert part.labels.tolist() == labels
            assert list(part.class_names) == self.class_names


@pytest.fixture(params=["cifar10", "cifar100"])
def archive(request, monkeypatch) -> Archive:
    return Archive(request.param, monkeypatch)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_args) -> None:
        pass


def test_cifar_is_downloaded_once_into_a_new_folder_and_read_from_there_afterwards(archive, tmp_path):
    archive.write(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=tmp_path)) as server:
        archive.serve_at(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            first = load_images(archive.name, tmp_path / "new" / "data")
        finally:
            server.shutdown()
            thread.join()
    archive.assert_is(first)
    archive.assert_is(load_images(archive.name, tmp_path / "new" / "data"))


def test_the_test_part_of_cifar_comes_alone_where_it_alone_is_asked_for(archive, tmp_path):
    archive.write(tmp_path)
    both = load_images(archive.name, tmp_path)
    parts = load_images(archive.name, tmp_path, test_only=True)
    assert parts.train is None
    assert parts.test.fingerprint() == both.test.fingerprint()


@pytest.mark.parametrize("server", ["gone", "silent"])
def test_a_failed_download_is_one_line_that_names_the_archive_and_following_it_helps(
    archive, tmp_path, monkeypatch, server
):
    monkeypatch.setattr(cifar, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        archive.serve_at(listening.getsockname()[1])
        if server == "gone":
            listening.close()
        give_up = threading.Timer(5, listening.shutdown, [socket.SHUT_RDWR])  # else it would wait for ever
        give_up.start()
        with pytest.raises(UserError) as raised:
            load_images(archive.name, tmp_path)
        assert give_up.is_alive()
        give_up.cancel()
    text = str(raised.value)
    kind = archive.kind
    for part in (kind.filename, kind.tgz_md5, kind.url, f"into {tmp_path}/", "--dataset shapes"):
        assert part in text
    assert "\n" not in text
    assert socket.getdefaulttimeout() is None
    archive.write(tmp_path)
    archive.assert_is(load_images(archive.name, tmp_path))


def test_damaged_images_are_unpacked_again_and_damaged_class_names_name_the_way_out(archive, tmp_path):
    archive.write(tmp_path)
    load_images(archive.name, tmp_path)
    folder = tmp_path / archive.kind.base_folder
    damaged = folder / archive.kind.test_list[0][0]
    damaged.write_bytes(damaged.read_bytes()[:-10])
    archive.assert_is(load_images(archive.name, tmp_path))
    (folder / archive.meta).write_bytes(b"cut")
    with pytest.raises(UserError, match=f"in place of {archive.kind.base_folder}/"):
        load_images(archive.name, tmp_path)
    folder.rename(tmp_path / "away")
    archive.assert_is(load_images(archive.name, tmp_path))


def test_a_data_folder_that_cannot_be_made_is_one_line(archive, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=f"into {tmp_path}/file/"):
        load_images(archive.name, tmp_path / "file")


@pytest.mark.parametrize(
    "failure",
    [
        'RuntimeError("operator torchvision::nms does not exist")',
        "AttributeError(\"partially initialized module 'torchvision' has no attribute 'extension'\")",
        'ImportError("undefined symbol: _ZN3c10")',
    ],
)
def test_a_torchvision_that_does_not_fit_torch_is_answered_with_the_way_to_a_pair(tmp_path, monkeypatch, failure):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(f"raise {failure}\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as raised:
        load_images("cifar10", tmp_path / "data")
    assert f"torchvision does not work with torch {torch.__version__}" in str(raised.value)
    assert failure.split('"')[1].split("'")[0] in str(raised.value)
    assert "pip install --force-reinstall torch torchvision" in raised.value.hint
    assert not (tmp_path / "data").exists()
