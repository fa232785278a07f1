"""The page of a sweep, `results/<dataset>/sweep/README.md`: which temperature and alpha did best in validation."""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.plots import plot_heat_map
from utils.results import RunDir
from utils.storage import write_text

VALIDATION = "val.json"  # the figures of a finished run of a sweep, in the place of test.json


def write_sweep(folder: Path, runs: Sequence[RunDir]) -> Path:
    """Rank the finished `runs` of a sweep by validation accuracy after the last epoch; returns the page's path."""
    found: dict[tuple[float, float], list[float]] = {}
    for run in runs:
        identity = run.read_config()["identity"]
        found.setdefault((identity["temp"], identity["alpha"]), []).append(run.read_figures()["top1"])
    means = {point: statistics.mean(values) for point, values in found.items()}
    ranked = sorted(means, key=lambda point: (-means[point], point))
    first = runs[0].read_config()
    network, data = first["identity"]["network"], first["data"]
    picture = folder / "heatmap.png"
    try:
        plot_heat_map(f"{network}: validation top-1 (%)", means, picture)
    except OSError as error:
        print(f"warning: no heat map: {error}", file=sys.stderr)
    (temp, alpha), seeds = ranked[0], len(found[ranked[0]])
    lines = [f"| {t:g} | {a:g} | {_spread(found[t, a])} |" for t, a in ranked]
    page = [
        f"# Temperature and alpha for {network} on {folder.parent.name}",
        f"![Heat map of validation accuracy]({picture.name})",
        "\n".join(["| T | alpha | validation top-1 (%) |", "|--:|--:|--:|", *lines]),
        f"Accuracy after the last epoch on {data['val']:,} images held out from training, which had "
        f"{data['train']:,}; {seeds} seed{'s' * (seeds > 1)}{', mean ± standard deviation' * (seeds > 1)}. The "
        "test images were not used. The best of many is a little better than it will be elsewhere.",
        f"Best: `--temp {temp:g} --alpha {alpha:g}`. Measured on {first['device']}.\n\n    {first['command']}",
    ]
    write_text(folder / "README.md", "\n\n".join(page) + "\n")
    print(f"best in validation: --temp {temp:g} --alpha {alpha:g} with {means[temp, alpha]:.2f} %")
    return folder / "README.md"


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"
