"""What test.py does with a network: analysis on the test images, pictures, comparison with its teacher."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from utils.data.batches import Normalise
from utils.data.dataset import evaluation_batches, load_parts
from utils.data.image_set import ImageSet
from utils.evaluation.analysis import analyse, compare_with_baseline, compare_with_teacher, predict
from utils.evaluation.cost import measure_deployment
from utils.reporting.diagnostics import plot_confusion, plot_mistakes, plot_reliability
from utils.reporting.table import same_but_for_distillation
from utils.runtime.checkpoint import BuildModel, load_checkpoint, restore_network
from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.program import describe
from utils.runtime.run_dir import ANALYSIS, PLOTS, RESULT_KEYS, RESULTS, RunDir, write_json
from utils.train_run import format_metrics
from utils.training.progress import print_header

BULKY = ("calibration", "per_class", "confusion", "confused", "mistakes", "class_names", "per_class_gain")


@dataclass
class Network:
    """A network restored from a checkpoint, with the test images that it was made for and its answers to them."""

    path: Path
    kept: dict[str, Any]  # the checkpoint
    model: nn.Module
    dataset: str
    test: ImageSet
    logits: Tensor  # float32 [N, C]
    labels: Tensor  # int64 [N]


@dataclass
class Evaluator:
    """Measures networks on test images; those that several are compared with are asked once.

    `explicit` may hold `dataset`, `data_dir`, `image_size` and `limit`: other test images than a network's own.
    """

    explicit: dict[str, Any]
    compute: Compute
    build_model: BuildModel
    images: dict[tuple, ImageSet] = field(default_factory=dict)
    networks: dict[Path, Network] = field(default_factory=dict)

    def network(self, path: Path) -> Network:
        """Restore the network in a checkpoint and ask it about its test images."""
        if path not in self.networks:
            kept = load_checkpoint(path)
            where = kept["config"] | self.explicit
            test = self._test_images(where)
            for name, value in (("class_names", list(test.class_names)), ("image_size", test.image_size)):
                if kept[name] != value:
                    raise UserError(f"{path} has {name} {kept[name]}, dataset {where['dataset']} has {value}")
            model = self.compute.place(restore_network(path, kept, self.build_model)).eval()
            batches = evaluation_batches(test, Normalise(kept["mean"], kept["std"]))
            answers = predict(model, batches, self.compute)
            self.networks[path] = Network(path, kept, model, where["dataset"], test, *answers)
        return self.networks[path]

    def _test_images(self, where: dict[str, Any]) -> ImageSet:
        key = tuple(where.get(name) for name in ("dataset", "data_dir", "image_size", "limit"))
        if key not in self.images:
            test = load_parts(SimpleNamespace(**where)).test
            self.images[key] = test.to(self.compute.device)
        return self.images[key]

    def evaluate(self, path: Path, run: RunDir | None) -> dict[str, Any]:
        """Measure the network in `path` and write its analysis and pictures.

        They go to the run directory `run` where that run is finished and was measured on the same images, else
        beside the checkpoint, with its name in front. Returns the analysis.
        """
        network = self.network(path)
        print_header(str(path), {"network": network.kept["model_name"], "device": str(self.compute)})
        found = analyse(network.logits, network.labels, network.kept["class_names"])
        found |= measure_deployment(network.model, network.kept["image_size"], self.compute)
        found |= {"model": network.kept["model_name"], "epoch": network.kept["epoch"], "dataset": network.dataset}
        found |= {"checkpoint": str(path), "teacher": None, "baseline": None}
        if run is not None:
            found |= self._comparisons(network, run)
        own = run is not None and self._is_result_of_run(network)
        folder, prefix = (run.path, "") if own else (path.parent, f"{path.stem}.")
        self._draw(network, found, folder, prefix)
        write_json(folder / f"{prefix}{RESULTS}", {name: found[name] for name in RESULT_KEYS})
        write_json(folder / f"{prefix}{ANALYSIS}", found)
        for line in summary(found):
            print(line)
        print(f"written to {folder / prefix}*" if prefix else f"written to {folder}", flush=True)
        return found

    def evaluate_all(self, runs: list[RunDir]) -> tuple[dict[str, dict[str, Any]], list[RunDir]]:
        """Measure the last network of each run: brief analysis by path, and the runs where that failed."""
        found, missed = {}, []
        for run in runs:
            try:
                found[str(run.path)] = brief(self.evaluate(run.last, run))
            except (UserError, OSError) as error:
                what, hint = describe(error)
                print(
                    f"warning: {run.path} is not measured: {what}{f' (hint: {hint})' if hint else ''}",
                    file=sys.stderr,
                )
                missed.append(run)
        return found, missed

    def _is_result_of_run(self, network: Network) -> bool:
        config = network.kept["config"]
        same_images = config.get("test_data") == network.test.fingerprint()
        return network.path.name == "last.pt" and network.kept["epoch"] == config["epochs"] and same_images

    def _comparisons(self, network: Network, run: RunDir) -> dict[str, Any]:
        """How a taught student compares with its teacher, and with itself alone, as far as these are there."""
        own, seed, dataset_dir = network.kept["config"], run.path.name, run.path.parent.parent
        if own.get("role") != "kd":
            return {}
        found: dict[str, Any] = {}
        beside = dataset_dir / f"teacher-{own['teacher']}" / seed / "last.pt"
        for path in (beside, Path(own.get("teacher_path", beside))):
            other = self._other(path, network)
            if other is not None and other.kept["sha256"][:16] == own["teacher_sha256"]:
                compared = compare_with_teacher(network.logits, other.logits, network.labels)
                found["teacher"] = {"run": path.parent.parent.name} | compared
                break
        else:
            print(f"not compared with the teacher: it is not at {beside}, or no longer the one that taught")
        path = dataset_dir / f"student-{own['network']}" / seed / "last.pt"
        other = self._other(path, network)
        if other is not None and same_but_for_distillation(other.kept["config"], own):
            compared = compare_with_baseline(
                network.logits, other.logits, network.labels, network.kept["num_classes"]
            )
            found["baseline"] = {"run": path.parent.parent.name} | compared
        else:
            print(f"not compared with the student alone: none with the same recipe is at {path}")
        return found

    def _other(self, path: Path, network: Network) -> Network | None:
        """The finished network at `path`, if there is one that answers the same test images as `network`."""
        if not path.exists():
            return None
        try:
            other = self.network(path)
        except UserError:  # no checkpoint of this program: a plain state_dict teaches, but is of no known images
            return None
        finished = other.kept["epoch"] == other.kept["config"]["epochs"]
        return other if finished and torch.equal(other.labels, network.labels) else None

    def _draw(self, network: Network, found: dict[str, Any], folder: Path, prefix: str) -> None:
        reliability, confusion, mistakes = (folder / f"{prefix}{name}" for name in PLOTS)
        of = f"{folder.parent.name}, {folder.name}" if not prefix else network.path.name
        title = f"{of} on {network.dataset}"
        places = torch.tensor([mistake["index"] for mistake in found["mistakes"]], dtype=torch.int64)
        images = network.test.images[places.to(network.test.images.device)].cpu()
        try:
            plot_reliability(found, reliability, f"{title}: reliability")
            plot_confusion(found, confusion, f"{title}: confusion")
            plot_mistakes(images, found, mistakes, f"{title}: the most confident mistakes")
        except OSError as error:
            print(f"warning: no pictures: {error}", file=sys.stderr)  # figures are worth more


def summary(found: dict[str, Any]) -> list[str]:
    """Analysis in a few lines for people."""
    worst = found["confused"][0] if found["confused"] else None
    lines = [
        format_metrics(found),
        f"cost: {found['multiply_adds'] / 1e6:,.1f} million multiply-adds, {found['file_bytes'] / 1e6:.2f} MB, "
        f"{found['latency_ms']:.2f} ms for one image, {found['throughput']:,.0f} images/s in batches of "
        f"{found['throughput_batch']}",
    ]
    if worst:
        lines.append(f"most confused: {worst['true']} taken for {worst['predicted']}, {worst['share']:.1f} %")
    if found["teacher"]:
        of = found["teacher"]
        fates = [(of["inherited"], "inherited"), (of["corrected"], "corrected")]
        text = ", ".join(f"{share:.1f} % {fate}" for share, fate in fates if share is not None)
        lines.append(
            f"teacher: agrees on {of['agreement']:.2f} %; of its {of['teacher_mistakes']:,} mistakes {text}"
        )
    if found["baseline"]:
        of = found["baseline"]
        gains = [
            (gain, name)
            for gain, name in zip(of["per_class_gain"], found["class_names"], strict=True)
            if gain is not None
        ]
        (low, loser), (high, winner) = min(gains), max(gains)
        lines.append(f"against alone: {of['gain']:+.2f} points; {winner} {high:+.1f}, {loser} {low:+.1f}")
    return lines


def brief(found: dict[str, Any]) -> dict[str, Any]:
    """Analysis without its long lists."""
    short = {name: value for name, value in found.items() if name not in BULKY}
    for name in ("teacher", "baseline"):
        if found[name]:
            short[name] = {key: value for key, value in found[name].items() if key not in BULKY}
    return short
