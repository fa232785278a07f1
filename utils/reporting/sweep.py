"""The page of a sweep, `results/<dataset>/sweep/README.md`: which temperature and alpha did best in validation."""

import statistics
import sys
from pathlib import Path
from typing import Any

from utils.reporting.curves import plot_heat_map
from utils.reporting.format import markdown_table, spread
from utils.runtime.files import write_text
from utils.runtime.identity import SWEPT, Identity
from utils.runtime.run_dir import RunDir

VALIDATION = "val.json"  # the metrics of a finished run of a sweep, instead of test.json
FLAGS = {"temperature": "--temp", "alpha": "--alpha"}
Point = tuple[float, ...]  # of the settings that are varied


def write_sweep(folder: Path, like: list[RunDir]) -> Path:
    """Rank all finished runs of sweeps by validation accuracy after the last epoch; returns the page's path.

    The page has a table for each method among the runs `like`, with every run in `folder` that differs from one of
    them in nothing but temperature, alpha and seed.
    """
    parts: list[str] = []
    first: list[Identity] = []
    for run in like:
        config = run.read_config()
        identity = Identity.from_record(config)
        if not any(identity.same_sweep(other) for other in first):
            first.append(identity)
            parts += _part(folder, identity, config)
    write_text(folder / "README.md", "\n\n".join(parts) + "\n")
    return folder / "README.md"


def _part(folder: Path, identity: Identity, config: dict[str, Any]) -> list[str]:
    """The title, the heat map, the table and the commands of one method."""
    names = [name for name in SWEPT if name in identity.settings()]
    accuracies: dict[Point, list[float]] = {}
    commands: dict[str, None] = {}
    for path in sorted(folder.glob(f"*/seed*/{VALIDATION}")):
        run = RunDir(path.parent, VALIDATION)
        record = run.read_config()
        other = Identity.from_record(record)
        if identity.same_sweep(other):
            point = tuple(other.settings()[name] for name in names)
            accuracies.setdefault(point, []).append(run.read_results()["top1"])
            commands[record["command"]] = None
    means = {point: statistics.mean(values) for point, values in accuracies.items()}
    ranked = sorted(means, key=lambda point: (-means[point], point))
    network, data, method = identity["network"], config["data"], identity["method"]
    best = " ".join(f"{FLAGS[name]} {value:g}" for name, value in zip(names, ranked[0], strict=True))
    print(f"best in validation: {method} {best} with {means[ranked[0]]:.2f} %")
    columns = [{"temperature": "T"}.get(name, name) for name in names]
    rows = [
        dict(zip(columns, (f"{value:g}" for value in point), strict=True))
        | {"validation top-1 (%)": spread(accuracies[point]), "seeds": f"{len(accuracies[point])}"}
        for point in ranked
    ]
    part = [f"# {' and '.join(names).capitalize()} of {identity.label} for {network} on {folder.parent.name}"]
    if len(names) == 2:
        plot = folder / ("heatmap.png" if method == "kd" else f"heatmap-{method}.png")
        try:
            plot_heat_map(f"{network}: validation top-1 (%)", means, plot)
        except OSError as error:
            print(f"warning: no {plot}: {error}", file=sys.stderr)
        part.append(f"![Heat map of validation accuracy]({plot.name})")
    over_seeds = ", ± standard deviation over seeds" if any(len(each) > 1 for each in accuracies.values()) else ""
    flag = "--kd True" if method == "kd" else f"--kd True --method {method}"
    return [
        *part,
        markdown_table(rows),
        f"Accuracy after the last epoch{over_seeds}, on {data['val']:,} images held out from training, which had "
        f"{data['train']:,}. The test images were not used. The best of many is a little better than it "
        "will be elsewhere.",
        f"Best: `{flag} {best}`. Measured on {config['device']}.",
        "\n".join(f"    {command}" for command in commands),
    ]
