"""Files that somebody else made: each is read, or refused in one line that names it; nothing hangs."""

import copy
import json
import os
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import CPU, finished_run, images, network

from utils import train_run
from utils.data.sources import Parts
from utils.data.sources.decode import decode_image
from utils.distillation.output_cache import OutputCache
from utils.evaluation import networks
from utils.evaluation.networks import Networks
from utils.losses import Outputs
from utils.runtime import files
from utils.runtime.checkpoint import load_checkpoint, restore_network, save_checkpoint
from utils.runtime.console import escaped_output
from utils.runtime.errors import UserError
from utils.runtime.files import LARGEST_TUPLE, read_tensors
from utils.runtime.history import EpochRecord
from utils.runtime.identity import Identity
from utils.runtime.json_file import read_json
from utils.runtime.nesting import largest_tuple
from utils.runtime.regular_file import HOLLOW, LARGEST_TEXT, read_regular
from utils.runtime.run_dir import RunDir
from utils.test_run import Evaluator
from utils.training.state import Schedule, TrainState

IDENTITY = {
    "role": "kd", "dataset": "shapes", "image_size": 32, "limit": None, "val_size": None, "network": "cnn_tiny",
    "seed": 0, "epochs": 1, "batch_size": 8, "lr": 0.1, "flip": True, "method": "kd", "teacher": "cnn",
    "method.temperature": 5.0, "method.alpha": 0.9, "teacher_sha256": "0" * 16, "data": "0" * 16,
}  # fmt: skip
CONFIG = {
    "identity": IDENTITY,
    "defaults": {"method.alpha": 0.9},
    "label": "KD",
    "data": {"train": 90, "val": 10, "test": 50},
    "data_dir": "data",
    "teacher_path": "last.pt",
}
REMOVED = object()


def nested(depth: int, kind: type = list) -> Any:
    value: Any = kind()
    for _ in range(depth):
        value = kind([value])
    return value


# What stands in a JSON file or a checkpoint instead of what should.
VALUES = [
    *(REMOVED, None, True, 0, -1, 10**30, float("nan"), float("inf"), "", "../../etc", "\x1b[2J\nerror: x"),
    *("\ud800", [], {}, [None], {"a": {}}, nested(50)),
]
# And in a checkpoint alone.
TENSORS = [
    *(torch.tensor(1), torch.full((3,), torch.nan), torch.zeros(2, dtype=torch.complex64), {1: 2}, {(1, 2): 3}),
    *(torch.zeros(2, dtype=torch.float8_e4m3fn), torch.zeros(2, dtype=torch.int8), nested(900, tuple), 10**600),
    torch.zeros(1).expand(10**6, 10**6),
]


@pytest.fixture(autouse=True)
def alarm():
    """Ends a test that hangs."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def training() -> TrainState:
    """Of one epoch, in which all weights stayed as they were."""
    torch.manual_seed(0)
    state = TrainState(network(3), Schedule(1, 1, lr=0.0))
    state.model(torch.zeros(2, 3, 32, 32)).sum().backward()
    state.optimizer.step()
    state.history = [EpochRecord(1, 0.1, 2.0, 40.0, 80.0, 1.5, 50.0, 90.0, 12.0)]
    return state


def content_of(state: TrainState) -> dict[str, Any]:
    of_images = {"num_classes": 3, "class_names": ["a", "b", "c"], "image_size": 32}
    of_images |= {"mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 1.0]}
    of_run = {"config": CONFIG, "epoch": 1, "metrics": {"val_top1": 50.0}}
    return {"model_name": "cnn_tiny"} | of_images | of_run | state.state_dict()


def keys_of(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values in nested dicts and lists, of a list and of weights only the first one."""
    if path:
        yield path
    if isinstance(value, dict):
        few = list(value)[:1] if any(isinstance(item, Tensor) for item in value.values()) else value
        for key in few:
            yield from keys_of(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from keys_of(value[0], (*path, 0))


def mutated(content: dict[str, Any], path: tuple, value: Any) -> dict[str, Any]:
    """A copy in which `value` is at `path`."""
    content = copy.copy(content)
    parent = content
    for key in path[:-1]:
        parent[key] = copy.copy(parent[key])
        parent = parent[key]
    if value is REMOVED:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return content


def problem_with(read: Callable[[], object], path: Path) -> str:
    """What is wrong with how a file is refused; empty where it is read."""
    try:
        read()
    except UserError as error:
        text = str(error)
        return "" if path.name in text and len(text) < 600 else f"refused as {text!r:.300}"
    except Exception as error:
        return f"{type(error).__name__}: {error!s:.200}"
    return ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using a non-tuple")
def test_a_checkpoint_with_any_key_changed_is_used_or_refused_by_name(tmp_path, monkeypatch):
    state, path, problems, refused = training(), tmp_path / "last.pt", [], 0
    content, weights = content_of(state), state.result.state_dict()
    path.touch()
    resumed, identity = training(), Identity.from_record(CONFIG)

    def use() -> None:
        nonlocal refused
        refused += 1
        read = load_checkpoint(path)
        monkeypatch.setattr(train_run, "load_checkpoint", lambda _: read)
        restore_network(path, read, lambda _, classes: network(classes))
        train_run._restore(path, resumed, identity, CPU)
        refused -= 1

    whole = {"format": 2, "sha256": "0" * 64, "model": weights} | content
    for number, key in enumerate(keys_of(whole)):
        for value in (VALUES + TENSORS)[number % 3 :: 3]:  # all of them in three keys
            torch.save(mutated(whole, key, value), path)
            if problem := problem_with(use, path):
                problems.append(f"{key} = {value!r:.60}: {problem}")
    assert not problems, "\n".join(problems[:20]) + f"\n{len(problems)} in all"
    assert refused > 200


def test_each_file_of_a_run_with_any_key_changed_is_read_or_refused_by_name(tmp_path):
    run = finished_run(tmp_path / "kd-cnn_tiny-t5" / "seed0", **IDENTITY)
    config = json.loads(run.config.read_text()) | {key: CONFIG[key] for key in ("defaults", "label")}
    results, problems = json.loads(run.results.read_text()) | {"ece": 1.5, "model": "cnn_tiny"}, []

    def use_config() -> None:
        identity = Identity.from_record(run.read_config())
        write_again = (identity.title(), identity.explain(Identity.from_record(CONFIG)), run.read_config())
        json.dumps(write_again, ensure_ascii=False, allow_nan=False).encode(errors="surrogateescape")

    def use_results() -> None:
        read = run.read_results()
        f"{read['top1']:.2f} {read['top5']:.2f} {read['loss']:.4f} {read['parameters']:,} {read['epoch']}"

    for path, content, use in ((run.config, config, use_config), (run.results, results, use_results)):
        for key in keys_of(content):
            for value in VALUES:
                path.write_text(json.dumps(mutated(content, key, value)))
                if problem := problem_with(use, path):
                    problems.append(f"{key} = {value!r:.60}: {problem}")
        path.write_text(json.dumps(content))
        use()
    head, *lines = (line.split(",") for line in run.history.read_text().splitlines())
    for column in range(len(head)):
        for value in ("", "nan", "inf", "1e999", "1e30", "x", "9" * 200_000, "\0", '"', "\n", "1,1"):
            rows = [head, [*lines[0][:column], value, *lines[0][column + 1 :]], *lines[1:]]
            run.history.write_text("\n".join(map(",".join, rows)))
            if problem := problem_with(run.read_history, run.history):
                problems.append(f"{head[column]} = {value!r:.60}: {problem}")
    assert not problems, "\n".join(problems[:20]) + f"\n{len(problems)} in all"


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "1", '"', "{" * 10**5, "[" * 10**5, '{"a": 1e999}', '{"a": NaN}', "\ufeff{}", "\0"]
)
def test_json_that_is_no_object_of_finite_numbers_is_refused_by_name(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")


def read_cache(path: Path) -> Outputs | None:
    return OutputCache(path.parent, "key", images=3).read(0)


def read_history(path: Path) -> object:
    run = RunDir(path.parent)
    run.history = path
    return run.read_history()


READERS = {
    "a checkpoint": load_checkpoint,
    "weights": lambda path: load_checkpoint(path, plain=True),
    "a mapped file": lambda path: read_tensors(path, mmap=True),
    "a JSON file": read_json,
    "history.csv": read_history,
    "an image": lambda path: decode_image(path, 32),
}


def sparse(path: Path, head: bytes) -> None:
    path.write_bytes(head)
    os.truncate(path, 10**13)


def safetensors_head(claimed: int) -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [claimed // 4], "data_offsets": [0, claimed]}}).encode()
    return len(header).to_bytes(8, "little") + header


def sparse_zip(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(10**13)
        file.seek(0, os.SEEK_END)
        torch.save({"a": torch.zeros(3)}, path.with_name("inner.pt"))
        file.write(path.with_name("inner.pt").read_bytes())
    with open(path, "r+b") as file:
        file.write(b"PK\x03\x04")


NO_FILES = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a file without end": lambda path: sparse(path, b'{"a": 1}'),
    "safetensors of a small header": lambda path: sparse(path, safetensors_head(8)),
    "safetensors of a great claim": lambda path: sparse(path, safetensors_head(4 * 10**12)),
    "a zip archive behind a hole": sparse_zip,
    "a kernel's log": lambda path: path.symlink_to("/proc/kmsg"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_of_a_plausible_size_ends_in_one_line(tmp_path, reader, kind):
    path = tmp_path / "view000.pt"
    NO_FILES[kind](path)
    with pytest.raises((UserError, OSError)) as error:
        READERS[reader](path)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)
    assert read_cache(path) is None


def test_a_file_is_read_up_to_its_limit_and_what_is_full_of_holes_is_not(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"x" * 100)
    assert read_regular(path, most=100) == b"x" * 100
    with pytest.raises(UserError, match=r"a\.json is too large"):
        read_regular(path, most=99)
    os.truncate(path, HOLLOW + 1)
    with pytest.raises(UserError, match=r"a\.json is mostly a hole"):
        read_regular(path, most=2 * LARGEST_TEXT)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.zeros(1)] * 300_000, "more than 50,000 tensors"),
        ([1] * 20_000, "more than 50,000 tensors or 10,000 values"),
        (nested(50), "nested in itself"),
        ([10**9 * torch.zeros(10).expand(1000, 10)] * 1000, "claims more than the file holds"),
    ],
)
def test_many_references_and_deep_nesting_are_refused_by_name(tmp_path, monkeypatch, content, reason):
    torch.save({"net": network(3).state_dict(), "more": content}, tmp_path / "a.pt")
    if "10,000" in reason:
        monkeypatch.setattr(files, "MOST_VALUES", 10_000)
    with pytest.raises(UserError, match=rf"a\.pt is damaged.*{reason}"):
        load_checkpoint(tmp_path / "a.pt", plain=True)


def doubled(times: int) -> bytes:
    """A dict whose key is a tuple of twice a tuple of twice a tuple ..., and whose hash takes as long."""
    pairs = b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(1, times))
    return b"\x80\x02}q\0(X\1\0\0\0a](" + b")q\1" + pairs + b"eh%cK\1u." % times


@pytest.mark.parametrize("data", [doubled(60), b"\x80\x02})" + b"\x85" * 500_000 + b"K\1s."])
def test_a_key_that_would_take_years_to_hash_or_end_the_interpreter_is_refused(tmp_path, data):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/version", "3\n")
    with pytest.raises(
        UserError, match=rf"a\.pt is damaged: it has a tuple of more than {LARGEST_TUPLE:,} values"
    ):
        read_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("is_zip", [True, False])
def test_the_size_of_tuples_is_told_from_what_torch_writes(tmp_path, is_zip):
    triple = (1, (2, 3), ("x", (4.5, None)))  # 6 values in 4 tuples
    content = {"a": torch.zeros(2, 3), "b": [(triple,) * 5], "c": [(1,)] * 99, "d": {True: -(2**40)}}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
    data = (tmp_path / "a.pt").read_bytes()
    if is_zip:
        data = zipfile.ZipFile(tmp_path / "a.pt").read("a/data.pkl")
    assert largest_tuple(data, 1 if is_zip else 5) == 1 + 5 * 10


def test_the_name_of_a_file_can_neither_steer_the_terminal_nor_begin_a_line(capsys):
    name = "a\nerror: b\r\x1b[2J\u202e.pt"
    with escaped_output():
        print(f"\nnote: {name}")
        print(f"warning: {name}", file=sys.stderr)
        sys.stdout.write("\r50 %")
        print("first", "second", sep="\n")
    shown = capsys.readouterr()
    assert shown.out == "\nnote: a\\nerror: b\\r\\x1b[2J\\u202e.pt\n\r50 %first\nsecond\n"
    assert shown.err == "warning: a\\nerror: b\\r\\x1b[2J\\u202e.pt\n"


@pytest.fixture
def asked(monkeypatch):
    """The settings with which test images are asked for; in their place come a few of a toy."""
    asked = []

    def load(config, **_more):
        asked.append(config)
        return Parts(images(8, 3), images(8, 3))

    monkeypatch.setattr(networks, "load_parts", load)
    return asked


def test_no_checkpoint_says_where_images_are(tmp_path, capsys, asked):
    evil, path = tmp_path / "evil", tmp_path / "a.pt"
    more = {"data_dir": str(evil), "results_dir": str(evil), "image_size": 10**6, "dataset": "folder"}
    config = CONFIG | {"data_dir": str(evil), "results_dir": str(evil), "identity": IDENTITY | more}
    classes = [f"class {number}" for number in range(3)]
    content = content_of(training()) | {"config": config, "class_names": classes}
    save_checkpoint(path, network(3).state_dict(), content)
    explicit = {"data_dir": str(tmp_path / "mine")}
    Networks(explicit, CPU, lambda _, classes: network(classes)).network(path)
    assert (asked[0].data_dir, asked[0].dataset, asked[0].image_size) == (explicit["data_dir"], "folder", 32)
    assert not hasattr(asked[0], "results_dir")
    assert f"trained on images in {evil}; tested on those in {tmp_path / 'mine'}" in capsys.readouterr().err
    save_checkpoint(path, network(3).state_dict(), content | {"config": {"identity": IDENTITY | {"dataset": "x"}}})
    with pytest.raises(UserError, match=r"a\.pt is of a dataset 'x', unknown here"):
        Networks(explicit, CPU, lambda _, classes: network(classes)).network(path)


@pytest.mark.parametrize("name", ["../../cnn", "/cnn", "a\nb", "", "x" * 101, ".hidden"])
@pytest.mark.parametrize("key", ["network", "teacher", "dataset", "method", "model_name"])
def test_no_part_of_a_folders_name_comes_from_a_file_unless_it_is_a_plain_name(tmp_path, key, name):
    change = {key: name} if key == "model_name" else {"config": CONFIG | {"identity": IDENTITY | {key: name}}}
    save_checkpoint(tmp_path / "a.pt", network(3).state_dict(), content_of(training()) | change)
    with pytest.raises(UserError, match=r"a\.pt is damaged"):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64, torch.int64, torch.float8_e4m3fn])
def test_weights_of_a_type_that_is_no_plain_float_are_refused_in_a_checkpoint(tmp_path, kind):
    weights = {name: t.to(kind) if t.ndim > 1 else t for name, t in network(3).state_dict().items()}
    torch.save({"format": 2, "sha256": "0" * 64, "model": weights} | content_of(training()), tmp_path / "a.pt")
    name = str(kind).removeprefix("torch.")
    with pytest.raises(UserError, match=rf"a\.pt has (weights|a tensor) of type {name}, in .*0\.weight"):
        read = load_checkpoint(tmp_path / "a.pt")
        restore_network(tmp_path / "a.pt", read, lambda _, classes: network(classes))


@pytest.mark.parametrize("number", [0, 1, 2, 3, 10**9, True])
def test_a_file_of_another_program_with_a_format_of_its_own_is_not_taken_for_ours(tmp_path, number):
    weights = network(3).state_dict()
    torch.save({"format": number, "model": weights, "epoch": 3}, tmp_path / "a.pt")
    read = load_checkpoint(tmp_path / "a.pt", plain=True)
    assert "format" not in read
    assert read["model"].keys() == weights.keys()


def test_one_bad_run_does_not_end_the_measuring_of_the_others(tmp_path, monkeypatch, capsys):
    runs = [finished_run(tmp_path / "student-cnn" / f"seed{seed}", seed=seed) for seed in range(4)]
    errors = iter([ZeroDivisionError("x"), RecursionError("y\nz"), MemoryError()])

    def evaluate(_self, path, _run):
        if path.parent.name == "seed3":
            return {"top1": 1.0, "teacher": None, "baseline": None}
        raise next(errors)

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    measured, failed = Evaluator(Networks({}, CPU, build_model=None)).evaluate_all(runs)
    assert list(measured) == [str(runs[3].path)]
    assert failed == runs[:3]
    assert capsys.readouterr().err.count("is not measured: ") == 3


def test_the_optimizer_of_a_file_has_the_settings_of_the_run_that_goes_on():
    state, other = training(), training()
    content = state.state_dict()
    for group in content["optimizer"]["param_groups"]:
        group |= {"momentum": "x", "maximize": True, "lr": torch.ones(3)}
    other.load_state_dict(state.result.state_dict(), content)
    assert [group["momentum"] for group in other.optimizer.param_groups] == [0.9, 0.9]
    assert not any(group["maximize"] for group in other.optimizer.param_groups)
