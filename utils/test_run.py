"""What test.py does with a network: analysis on the test images, plots, comparison with its teacher."""

import errno
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from utils.data.batches import Normalise
from utils.data.dataset import describe_images, evaluation_batches, load_parts
from utils.data.image_set import ImageSet
from utils.data.sources import SOURCES
from utils.evaluation.analysis import analyse, compare_with_baseline, compare_with_teacher, predict
from utils.evaluation.cost import measure_costs
from utils.evaluation.metrics import format_metrics
from utils.reporting.diagnostics import plot_confusion, plot_mistakes, plot_reliability
from utils.reporting.rows import find_copies, read_run
from utils.runtime.checkpoint import (
    BuildModel,
    complete_checkpoint,
    load_checkpoint,
    restore_network,
    weights_sha256,
)
from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.identity import Identity
from utils.runtime.normalisation import Explicit
from utils.runtime.program import describe
from utils.runtime.run_dir import ANALYSIS, PLOTS, RESULT_KEYS, RESULTS, WEIGHTS, RunDir, write_json
from utils.training.progress import print_header

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
BULKY = ("calibration", "per_class", "confusion", "confused", "mistakes", "class_names", "per_class_gain")


@dataclass
class Network:
    """A network restored from a checkpoint, with the test images that it was made for and its outputs for them."""

    path: Path
    checkpoint: dict[str, Any]
    model: nn.Module
    dataset: str
    test: ImageSet
    logits: Tensor  # float32 [N, C]
    labels: Tensor  # int64 [N]
    sha256: str  # of its weights

    @property
    def architecture(self) -> tuple[str, int, int]:
        """What decides its cost: networks that agree in it are measured once."""
        return tuple(self.checkpoint[name] for name in ("model_name", "num_classes", "image_size"))


@dataclass(frozen=True)
class Foreign:
    """What the command line says of a file of another program, which says little itself."""

    network: str | None
    normalisation: Explicit | None
    images: dict[str, Any]  # its test images: dataset, data_dir, image_size, limit, skip_bad_images


@dataclass
class Evaluator:
    """Measures networks on test images; those that several are compared with run once.

    `explicit` may hold `dataset`, `data_dir`, `image_size`, `limit` and `skip_bad_images`: other test images than
    a network's own. Files of other programs are measured where `foreign` is there.
    """

    explicit: dict[str, Any]
    compute: Compute
    build_model: BuildModel
    foreign: Foreign | None = None
    images: dict[tuple, ImageSet] = field(default_factory=dict)
    networks: dict[Path, Network] = field(default_factory=dict)
    costs: dict[tuple, dict[str, Any]] = field(default_factory=dict)  # by architecture

    def network(self, path: Path) -> Network:
        """Restore the network in a checkpoint and run it on its test images."""
        if path not in self.networks:
            checkpoint, model = self.restore(path)
            where, test = self._test_images(path, checkpoint)
            for name, value in (("class_names", list(test.class_names)), ("image_size", test.image_size)):
                if checkpoint[name] != value:
                    raise UserError(
                        f"{path} has {name} {checkpoint[name]}, dataset {where['dataset']} has {value}"
                    )
            batches = evaluation_batches(test, Normalise(checkpoint["mean"], checkpoint["std"]))
            outputs = predict(model, batches, self.compute)
            sha256 = weights_sha256(checkpoint["model"])
            self.networks[path] = Network(path, checkpoint, model, where["dataset"], test, *outputs, sha256)
        return self.networks[path]

    def restore(self, path: Path) -> tuple[dict[str, Any], nn.Module]:
        """The content of a checkpoint and its network in eval mode; reads test images only for what it lacks."""
        checkpoint = load_checkpoint(path, plain=self.foreign is not None)
        if (of := self.foreign) is not None:
            images = partial(self._describe_test_images, path, checkpoint)
            checkpoint = complete_checkpoint(
                path, checkpoint, of.network, images, of.normalisation, self.build_model
            )
        return checkpoint, self.compute.place(restore_network(path, checkpoint, self.build_model)).eval()

    def _test_images(self, path: Path, checkpoint: dict[str, Any]) -> tuple[dict[str, Any], ImageSet]:
        """The test images of a network, and the settings that name them."""
        if "format" in checkpoint:
            where = _choose_images(path, checkpoint, self.explicit)
            names = tuple(map(str, checkpoint["class_names"]))
        else:
            where, names = self.foreign.images, ()
        key = (*(where.get(name) for name in ("dataset", "data_dir", "image_size", "limit")), names)
        if key not in self.images:
            test = load_parts(SimpleNamespace(**where), test_only=True, class_names=names).test
            self.images[key] = test.to(self.compute.device)
        return where, self.images[key]

    def _describe_test_images(self, path: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
        _, test = self._test_images(path, checkpoint)
        return describe_images(test, Normalise(*test.mean_and_std()))

    def evaluate(self, path: Path, run: RunDir | None) -> dict[str, Any]:
        """Measure the network in `path` and write its analysis and plots.

        They go to the run directory `run` where that run is finished and was measured on the same images, else
        beside the checkpoint, with its name in front, where that is a run directory. Returns the analysis. Raises
        UserError for a checkpoint that is not the one that `run` trained.
        """
        network = self.network(path)
        if run is not None:
            require_own(network, run)
        print_header(str(path), {"network": network.checkpoint["model_name"], "device": str(self.compute)})
        analysis = analyse(network.logits, network.labels, network.checkpoint["class_names"])
        for mistake in analysis["mistakes"] if network.test.files else ():
            mistake["file"] = network.test.files[mistake["index"]]
        self._measure_costs([network])
        analysis |= self.costs[network.architecture]
        of = network.checkpoint
        analysis |= {"model": of["model_name"], "epoch": of["epoch"], "dataset": network.dataset}
        analysis |= {WEIGHTS: network.sha256, "checkpoint": str(path), "teacher": None, "baseline": None}
        if run is not None:
            analysis |= self._comparisons(network, run)
        own = run is not None and self._is_result_of_run(network)
        for line in summary(analysis):
            print(line)
        if run is None and not _is_run_dir(path.parent):
            print(f"not saved: {path.parent} is no run directory", flush=True)
            return analysis
        folder, prefix = (run.path, "") if own else (path.parent, f"{path.stem}.")
        try:
            write_json(folder / f"{prefix}{RESULTS}", {name: analysis[name] for name in RESULT_KEYS})
            write_json(folder / f"{prefix}{ANALYSIS}", analysis)
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
            print(f"not saved: {folder}: {error.strerror}", flush=True)
            return analysis
        self._draw(network, analysis, folder, prefix)
        print(f"written to {folder / prefix}*" if prefix else f"written to {folder}", flush=True)
        return analysis

    def _measure_costs(self, networks: Iterable[Network]) -> None:
        """Measure each architecture among `networks` that has not been measured yet, in turn with the others."""
        new = {each.architecture: each for each in networks if each.architecture not in self.costs}
        sized = [(each.model, each.checkpoint["image_size"]) for each in new.values()]
        self.costs |= zip(new, measure_costs(sized, self.compute), strict=True)

    def evaluate_all(self, runs: list[RunDir]) -> tuple[dict[str, dict[str, Any]], list[RunDir]]:
        """Measure the last network of each run: brief analysis by path, and the runs where that failed.

        A run that the table leaves out counts as one of these.
        """
        measured, rows, failed = {}, [], []
        for run in runs:
            with suppress(UserError, OSError):  # reported below
                self.network(run.last)
        self._measure_costs(self.networks.values())
        for run in runs:
            try:
                analysis = brief(self.evaluate(run.last, run))
                rows.append(read_run(run))
                measured[str(run.path)] = analysis
            except Exception as error:  # whatever it is, the other runs are measured
                what, hint = describe(error)
                text = f"{what} (hint: {hint})" if hint else what
                print(f"warning: {run.path} is not measured: {text}", file=sys.stderr)
                failed.append(run)
        for copies in find_copies(rows):
            print(copies, file=sys.stderr)
            failed += [run for run in copies.runs if measured.pop(str(run.path), None)]
        return measured, failed

    def _is_result_of_run(self, network: Network) -> bool:
        identity = Identity.from_record(network.checkpoint["config"])
        same_images = identity.get("test_data") == network.test.fingerprint()
        finished = network.checkpoint["epoch"] == identity["epochs"]
        return network.path.name == "last.pt" and finished and same_images

    def _comparisons(self, network: Network, run: RunDir) -> dict[str, Any]:
        """How a distilled student compares with its teacher and its baseline, as far as these are there."""
        record = network.checkpoint["config"]
        own, seed, dataset_dir = Identity.from_record(record), run.path.name, run.path.parent.parent
        if own.get("role") != "kd":
            return {}
        compared: dict[str, Any] = {}
        beside = dataset_dir / f"teacher-{own.get('teacher')}" / seed / "last.pt"
        single = "teacher" in own.values and "teacher_mix" not in own.values
        paths = (beside, Path(record.get("teacher_path", beside)))
        for path in paths if single else ():
            other = self._other(path, network)
            if other is not None and other.sha256[:16] == own.get("teacher_sha256"):
                metrics = compare_with_teacher(network.logits, other.logits, network.labels)
                compared["teacher"] = {"run": path.parent.parent.name} | metrics
                break
        if single and not compared:
            where = " or ".join(map(str, dict.fromkeys(paths)))
            print(f"not compared with the teacher: no checkpoint with its weights is at {where}")
        path = dataset_dir / f"student-{own['network']}" / seed / "last.pt"
        other = self._other(path, network)
        if other is not None and _is_baseline(other, own, RunDir(path.parent)):
            classes = network.checkpoint["num_classes"]
            metrics = compare_with_baseline(network.logits, other.logits, network.labels, classes)
            compared["baseline"] = {"run": path.parent.parent.name} | metrics
        else:
            print(f"not compared with the student alone: none with the same recipe is at {path}")
        return compared

    def _other(self, path: Path, network: Network) -> Network | None:
        """The finished network at `path`, if there is one with the same test images as `network`."""
        if not path.exists():
            return None
        try:
            other = self.network(path)
        except (UserError, OSError):  # also a plain state_dict: it teaches, but is of no known images
            return None
        finished = other.checkpoint["epoch"] == other.checkpoint["config"]["identity"]["epochs"]
        same_images = other.test is network.test or other.test.fingerprint() == network.test.fingerprint()
        return other if finished and same_images else None

    def _draw(self, network: Network, analysis: dict[str, Any], folder: Path, prefix: str) -> None:
        reliability, confusion, mistakes = (folder / f"{prefix}{name}" for name in PLOTS)
        of = f"{folder.parent.name}, {folder.name}" if not prefix else network.path.name
        title, role = f"{of} on {network.dataset}", network.checkpoint["config"]["identity"].get("role", "")
        indices = torch.tensor([mistake["index"] for mistake in analysis["mistakes"]], dtype=torch.int64)
        images = network.test.images[indices.to(network.test.images.device)].cpu()
        try:
            plot_reliability(analysis, reliability, f"{title}: reliability", role)
            plot_confusion(analysis, confusion, f"{title}: confusion")
            plot_mistakes(images, analysis, mistakes, f"{title}: the most confident mistakes")
        except OSError as error:
            print(f"warning: no plots in {folder}: {error}", file=sys.stderr)  # metrics are worth more


def _is_run_dir(folder: Path) -> bool:
    """A folder of somebody else is left as it is."""
    try:
        RunDir(folder).read_config()
    except (UserError, OSError):
        return False
    return True


def _choose_images(path: Path, checkpoint: dict[str, Any], explicit: dict[str, Any]) -> dict[str, Any]:
    """The settings that name a network's test images. Where they are is never read from the file.

    Raises UserError for a dataset that is unknown here.
    """
    record = checkpoint["config"]
    of_run = {"dataset": record["identity"].get("dataset"), "limit": record["identity"].get("limit")}
    where = of_run | {"image_size": checkpoint["image_size"], "data_dir": "data"} | explicit
    if where["dataset"] not in SOURCES:
        raise UserError(f"{path} is of a dataset {where['dataset']!r}, unknown here", "name another --dataset")
    if record.get("data_dir") not in (None, where["data_dir"]):
        _note_data_dir(record["data_dir"], where["data_dir"])
    return where


@cache
def _note_data_dir(recorded: str, used: str) -> None:
    """Said once for each pair of folders."""
    text = f"trained on images in {recorded}; tested on those in {used} (--data-dir)"
    print(f"note: {text}", file=sys.stderr)


def require_own(network: Network, run: RunDir) -> None:
    """Raise UserError unless the network is that of which config.json and test.json of `run` tell."""
    path, record = network.path, network.checkpoint["config"]
    config = run.read_config() if run.config.exists() else None
    if config is not None:
        run.require_own(config)
    run.require_own(record, path)
    hint = "put the checkpoint of this run back, or --overwrite makes the run again"
    if config is not None:
        changed = Identity.from_record(config).explain(Identity.from_record(record))
        if changed:
            raise UserError(f"{path} is of another run than {run.config}: {', '.join(changed)}", hint)
    weights = None
    if run.results.exists():
        with suppress(UserError):  # what is damaged is written again
            weights = run.read_results().get(WEIGHTS)
    if weights not in (None, network.sha256):
        raise UserError(f"{path} has other weights than {run.results} was measured on", hint)


def _is_baseline(other: Network, own: Identity, run: RunDir) -> bool:
    """Whether `other` is the student alone of `run`, with the recipe of the student with the identity `own`."""
    try:
        require_own(other, run)
    except (UserError, OSError):
        return False
    return Identity.from_record(other.checkpoint["config"]).same_but_for_teaching(own)


def summary(analysis: dict[str, Any]) -> list[str]:
    """Analysis in a few lines for people."""
    mega_adds, megabytes = analysis["multiply_adds"] / 1e6, analysis["file_bytes"] / 1e6
    q1, median, q3 = (analysis[f"latency_{name}ms"] for name in ("q1_", "", "q3_"))
    lines = [
        format_metrics(analysis),
        f"cost: {mega_adds:,.1f} million multiply-adds, {megabytes:.2f} MB, {median:.2f} ms for one image "
        f"(quartiles {q1:.2f} and {q3:.2f}), {analysis['throughput']:,.0f} images/s in batches of "
        f"{analysis['throughput_batch']}",
    ]
    if analysis["busy"]:
        lines.append(f"note: the machine was busy ({analysis['busy']}): its times may be too long")
    if analysis["confused"]:
        worst = analysis["confused"][0]
        lines.append(f"most confused: {worst['true']} taken for {worst['predicted']}, {worst['share']:.1f} %")
    if analysis["teacher"]:
        of = analysis["teacher"]
        shares = [f"{of[name]:.1f} % {name}" for name in ("inherited", "corrected") if of[name] is not None]
        text = f"agrees on {of['agreement']:.2f} %; of its {of['teacher_mistakes']:,} mistakes {', '.join(shares)}"
        lines.append(f"teacher: {text}")
    if analysis["baseline"]:
        of = analysis["baseline"]
        by_class = zip(of["per_class_gain"], analysis["class_names"], strict=True)
        gains = [(gain, name) for gain, name in by_class if gain is not None]
        (low, loser), (high, winner) = min(gains), max(gains)
        text = f"{of['gain']:+.2f} points; {winner} {high:+.1f}, {loser} {low:+.1f}"
        lines.append(f"against the student alone: {text}")
    return lines


def brief(analysis: dict[str, Any]) -> dict[str, Any]:
    """Analysis without its long lists."""
    short = {name: value for name, value in analysis.items() if name not in BULKY}
    for name in ("teacher", "baseline"):
        if analysis[name]:
            short[name] = {key: value for key, value in analysis[name].items() if key not in BULKY}
    return short
