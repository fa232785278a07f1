"""What test.py does with a network: analysis on the test images, plots, comparison with its teacher."""

import errno
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from utils.evaluation.analysis import analyse
from utils.evaluation.comparison import compare
from utils.evaluation.cost import measure_costs
from utils.evaluation.networks import Network, Networks, require_own
from utils.evaluation.summary import brief, summary
from utils.reporting.diagnostics import plot_confusion, plot_mistakes, plot_reliability
from utils.reporting.rows import find_copies, read_run
from utils.runtime.errors import UserError
from utils.runtime.json_file import write_json
from utils.runtime.program import describe
from utils.runtime.run_dir import ANALYSIS, PLOTS, RESULT_KEYS, RESULTS, WEIGHTS, RunDir
from utils.training.progress import print_header

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass
class Evaluator:
    """Measures networks on test images, each architecture's cost once."""

    networks: Networks
    costs: dict[tuple, dict[str, Any]] = field(default_factory=dict)  # by architecture

    def evaluate(self, path: Path, run: RunDir | None) -> dict[str, Any]:
        """Measure the network in `path` and write its analysis and plots.

        They go to the run directory `run` where that run is finished and was measured on the same images, else
        beside the checkpoint, with its name in front, where that is a run directory. Returns the analysis. Raises
        UserError for a checkpoint that is not the one that `run` trained.
        """
        network = self.networks.network(path)
        if run is not None:
            require_own(network, run)
        header = {"network": network.checkpoint["model_name"], "device": str(self.networks.compute)}
        print_header(str(path), header)
        analysis = self._analyse(network, run)
        for line in summary(analysis):
            print(line)
        if run is not None and network.is_finished and network.path.name == "last.pt" and _has_own_images(network):
            _write(network, analysis, run.path, "")
        elif run is not None or _is_run_dir(path.parent):
            _write(network, analysis, path.parent, f"{path.stem}.")
        else:
            print(f"not saved: {path.parent} is no run directory", flush=True)
        return analysis

    def _analyse(self, network: Network, run: RunDir | None) -> dict[str, Any]:
        """All that analysis.json holds of a network."""
        of = network.checkpoint
        analysis = analyse(network.logits, network.labels, of["class_names"])
        for mistake in analysis["mistakes"] if network.test.files else ():
            mistake["file"] = network.test.files[mistake["index"]]
        self._measure_costs([network])
        analysis |= self.costs[network.architecture]
        analysis |= {"model": of["model_name"], "epoch": of["epoch"], "dataset": network.dataset}
        analysis |= {WEIGHTS: network.sha256, "checkpoint": str(network.path), "teacher": None, "baseline": None}
        return analysis | (compare(network, run, self.networks) if run is not None else {})

    def _measure_costs(self, networks: Iterable[Network]) -> None:
        """Measure each architecture among `networks` that has not been measured yet, in turn with the others."""
        new = {each.architecture: each for each in networks if each.architecture not in self.costs}
        sized = [(each.model, each.checkpoint["image_size"]) for each in new.values()]
        self.costs |= zip(new, measure_costs(sized, self.networks.compute), strict=True)

    def evaluate_all(self, runs: list[RunDir]) -> tuple[dict[str, dict[str, Any]], list[RunDir]]:
        """Measure the last network of each run: brief analysis by path, and the runs where that failed.

        A run that the table leaves out counts as one of these.
        """
        measured, rows, failed = {}, [], []
        for run in runs:
            with suppress(UserError, OSError):  # reported below
                self.networks.network(run.last)
        self._measure_costs(self.networks.restored.values())
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


def _has_own_images(network: Network) -> bool:
    """Whether it was measured on the test images of its run."""
    return network.identity.get("test_data") == network.test.fingerprint()


def _is_run_dir(folder: Path) -> bool:
    """A folder of somebody else is left as it is."""
    try:
        RunDir(folder).read_config()
    except (UserError, OSError):
        return False
    return True


def _write(network: Network, analysis: dict[str, Any], folder: Path, prefix: str) -> None:
    """Write metrics, analysis and plots, with `prefix` before their names, where that is allowed."""
    try:
        write_json(folder / f"{prefix}{RESULTS}", {name: analysis[name] for name in RESULT_KEYS})
        write_json(folder / f"{prefix}{ANALYSIS}", analysis)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        print(f"not saved: {folder}: {error.strerror}", flush=True)
        return
    _plot(network, analysis, folder, prefix)
    print(f"written to {folder / prefix}*" if prefix else f"written to {folder}", flush=True)


def _plot(network: Network, analysis: dict[str, Any], folder: Path, prefix: str) -> None:
    reliability, confusion, mistakes = (folder / f"{prefix}{name}" for name in PLOTS)
    of = f"{folder.parent.name}, {folder.name}" if not prefix else network.path.name
    title, role = f"{of} on {network.dataset}", network.identity.get("role", "")
    indices = torch.tensor([mistake["index"] for mistake in analysis["mistakes"]], dtype=torch.int64)
    images = network.test.images[indices.to(network.test.images.device)].cpu()
    try:
        plot_reliability(analysis, reliability, f"{title}: reliability", role)
        plot_confusion(analysis, confusion, f"{title}: confusion")
        plot_mistakes(images, analysis, mistakes, f"{title}: the most confident mistakes")
    except OSError as error:
        print(f"warning: no plots in {folder}: {error}", file=sys.stderr)  # metrics are worth more
