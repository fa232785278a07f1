import hashlib
import io
import pickle
import socket
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.data.batches import Batches, Normalise
from utils.data.sources import Parts, cifar, load_images, shapes
from utils.runtime.errors import UserError

# --- shapes -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn():
    """Both parts of the embedded set, and the seconds of processor time that one thread took."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.process_time()
    train, test, *_ = load_images("shapes", "nowhere")
    seconds = time.process_time() - start
    yield SimpleNamespace(train=train, test=test, seconds=seconds)
    torch.set_num_threads(threads)


def test_shapes_are_balanced_uint8_images_of_ten_named_classes(drawn):
    for part, count in ((drawn.train, 6000), (drawn.test, 4000)):
        assert part.images.shape == (count, 32, 32, 3)
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
        assert part.images.is_contiguous()
        assert part.labels.bincount().tolist() == [count // 10] * 10
        assert len(set(part.class_names)) == 10


def test_shapes_are_drawn_in_seconds(drawn):
    assert drawn.seconds < 10


@pytest.mark.usefixtures("drawn")
def test_shapes_are_the_same_in_every_draw_whatever_the_global_random_state_and_threads():
    torch.manual_seed(1)
    np.random.seed(1)
    first = shapes.draw(100, seed=3)
    torch.manual_seed(2)
    np.random.seed(2)
    torch.set_num_threads(2)
    second = shapes.draw(100, seed=3)
    torch.set_num_threads(1)
    assert first.fingerprint() == second.fingerprint()
    assert shapes.draw(100, seed=4).fingerprint() != first.fingerprint()


def test_no_shape_is_drawn_twice_and_none_of_the_test_images_is_a_training_image(drawn):
    images = {image.numpy().tobytes() for part in (drawn.train, drawn.test) for image in part.images}
    assert len(images) == 10_000


def test_every_pair_of_shapes_differs_in_the_same_scene():
    scenes = []
    for label in range(10):
        labels = torch.full((20,), label)
        scenes.append(shapes._scenes(labels, np.random.default_rng(0)).int())
    for one, other in combinations(scenes, 2):
        visibly = ((one - other).abs().amax(-1) > 32).float().mean((1, 2))
        assert visibly.median() > 0.02


# --- CIFAR from a server ----------------------------------------------------------------------------


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def cifar_files(name: str) -> dict[str, dict]:
    """The content of a tiny archive, by file name."""
    random = np.random.default_rng(len(name))

    def batch(count: int, classes: int) -> dict:
        key = "labels" if name == "cifar10" else "fine_labels"
        labels = random.integers(0, classes, count).tolist()
        return {"data": random.integers(0, 256, (count, 3072), dtype=np.uint8), key: labels}

    if name == "cifar10":
        names = {"label_names": [f"class {number}" for number in range(10)]}
        batches = {"data_batch_1": batch(7, 10), "data_batch_2": batch(5, 10), "test_batch": batch(4, 10)}
        return batches | {"batches.meta": names}
    return {
        "train": batch(9, 100),
        "test": batch(4, 100),
        "meta": {"fine_label_names": [f"class {number}" for number in range(100)]},
    }


def archive(base_folder: str, files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{base_folder}/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return content.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests += 1
        self.close_connection = True
        getattr(self, self.server.manner)(self.server.content)

    def answer(self, content: bytes, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def whole(self, content: bytes) -> None:
        self.answer(content, len(content))

    def broken_in_the_middle(self, content: bytes) -> None:
        self.answer(content[: len(content) // 2], len(content))

    def broken_chunks(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n" % len(content) + content[: len(content) // 2])

    def wrong_bytes(self, content: bytes) -> None:
        self.answer(content[::-1], len(content))

    def a_page_instead(self, _content: bytes) -> None:
        self.answer(b"<html>log in first</html>", 25)

    def not_found(self, _content: bytes) -> None:
        self.send_error(404)

    def server_error(self, _content: bytes) -> None:
        self.send_error(503)

    def no_answer(self, _content: bytes) -> None:
        self.server.released.wait(20)

    def closed_at_once(self, _content: bytes) -> None:
        pass

    def no_http(self, _content: bytes) -> None:
        self.wfile.write(b"220 ftp ready\r\n")

    def log_message(self, *_args) -> None:
        pass


class Server(ThreadingHTTPServer):
    requests = 0
    manner = "whole"
    content = b""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as server:
        server.released = threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture(params=["cifar10", "cifar100"])
def fake(request, server, monkeypatch):
    """A server of a tiny archive that torchvision takes for the official one."""
    datasets = pytest.importorskip("torchvision.datasets")
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[request.param]
    files = cifar_files(request.param)
    packed = {name: pickle.dumps(content) for name, content in files.items()}
    sums = {name: md5(data) for name, data in packed.items()}
    server.content = archive(kind.base_folder, packed)
    meta = kind.meta["filename"]
    monkeypatch.setattr(kind, "url", f"http://127.0.0.1:{server.server_port}/{kind.filename}")
    monkeypatch.setattr(kind, "tgz_md5", md5(server.content))
    monkeypatch.setattr(kind, "train_list", [[n, s] for n, s in sums.items() if "test" not in n and n != meta])
    monkeypatch.setattr(kind, "test_list", [[n, s] for n, s in sums.items() if "test" in n])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": sums[meta]})
    monkeypatch.setattr(cifar, "TIMEOUT", 5)
    return SimpleNamespace(name=request.param, kind=kind, files=files, server=server, meta=meta)


def assert_is_whole(parts: Parts, fake: SimpleNamespace) -> None:
    for part, listed in zip(parts[:2], (fake.kind.train_list, fake.kind.test_list), strict=True):
        batches = [fake.files[name] for name, _ in listed]
        planes = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        labels = [label for batch in batches for label in batch.get("labels") or batch["fine_labels"]]
        np.testing.assert_array_equal(part.images.numpy(), np.moveaxis(planes, 1, 3))
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert part.labels.tolist() == labels
        assert list(part.class_names) == fake.files[fake.meta][fake.kind.meta["key"]]


def assert_names_the_way_out(error: UserError, fake: SimpleNamespace, data_dir: Path) -> None:
    text = str(error)
    for what in (fake.kind.filename, fake.kind.tgz_md5, fake.kind.url, str(data_dir), "--dataset shapes"):
        assert what in text
    assert "\n" not in text


def test_cifar_is_downloaded_into_a_new_folder(fake, tmp_path):
    assert_is_whole(load_images(fake.name, tmp_path / "new" / "data"), fake)
    assert fake.server.requests > 0


def test_cifar_is_served_in_normalised_and_augmented_batches(fake, tmp_path):
    train = load_images(fake.name, tmp_path).train
    mean, std = train.mean_and_std()
    np.testing.assert_allclose(mean, train.images.numpy().astype(np.float64).mean((0, 1, 2)))
    served = list(Batches(train, Normalise(mean, std), 4, seed=0).epoch(0))
    served += Batches(train, Normalise(mean, std), 4).epoch(0)
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in served)


def test_a_second_load_of_cifar_needs_no_server(fake, tmp_path):
    load_images(fake.name, tmp_path)
    fake.server.manner, fake.server.requests = "not_found", 0
    assert_is_whole(load_images(fake.name, tmp_path), fake)
    assert fake.server.requests == 0


def test_an_archive_that_the_user_put_there_needs_no_server(fake, tmp_path):
    (tmp_path / fake.kind.filename).write_bytes(fake.server.content)
    fake.server.manner = "not_found"
    assert_is_whole(load_images(fake.name, tmp_path), fake)
    assert fake.server.requests == 0


BAD_MANNERS = [
    "not_found",
    "server_error",
    "broken_in_the_middle",
    "broken_chunks",
    "wrong_bytes",
    "a_page_instead",
    "closed_at_once",
    "no_http",
]


@pytest.mark.parametrize("manner", BAD_MANNERS)
def test_a_download_that_fails_names_the_way_out_and_a_later_one_succeeds(fake, tmp_path, manner):
    fake.server.manner = manner
    for _ in range(2):
        with pytest.raises(UserError) as raised:
            load_images(fake.name, tmp_path)
        assert_names_the_way_out(raised.value, fake, tmp_path)
    fake.server.manner = "whole"
    assert_is_whole(load_images(fake.name, tmp_path), fake)


def test_a_server_that_never_answers_counts_as_gone(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "TIMEOUT", 0.2)
    fake.server.manner = "no_answer"
    start = time.monotonic()
    with pytest.raises(UserError) as raised:
        load_images(fake.name, tmp_path)
    assert time.monotonic() - start < 10
    assert_names_the_way_out(raised.value, fake, tmp_path)
    assert socket.getdefaulttimeout() is None


def test_without_a_server_the_error_names_the_way_out_and_a_later_load_succeeds(fake, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    good = fake.kind.url
    monkeypatch.setattr(fake.kind, "url", f"http://127.0.0.1:{port}/{fake.kind.filename}")
    with pytest.raises(UserError) as raised:
        load_images(fake.name, tmp_path)
    assert_names_the_way_out(raised.value, fake, tmp_path)
    monkeypatch.setattr(fake.kind, "url", good)
    assert_is_whole(load_images(fake.name, tmp_path), fake)


@pytest.mark.parametrize("damage", ["cut", "gone"])
@pytest.mark.parametrize("kind_of_file", ["train", "test", "meta"])
def test_an_archive_that_was_unpacked_in_part_is_unpacked_again(fake, tmp_path, kind_of_file, damage):
    load_images(fake.name, tmp_path)
    lists = {"train": fake.kind.train_list, "test": fake.kind.test_list, "meta": [[fake.meta, ""]]}
    path = tmp_path / fake.kind.base_folder / lists[kind_of_file][0][0]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        path.unlink()
    assert_is_whole(load_images(fake.name, tmp_path), fake)


def test_a_data_folder_that_cannot_be_made_names_the_way_out(fake, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError) as raised:
        load_images(fake.name, tmp_path / "file")
    assert_names_the_way_out(raised.value, fake, tmp_path / "file")


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
    assert "pip install" in raised.value.hint
    assert "torch torchvision" in raised.value.hint
    assert not (tmp_path / "data").exists()


def test_an_unknown_source_is_a_key_error(tmp_path):
    with pytest.raises(KeyError):
        load_images("imagenet", tmp_path)
