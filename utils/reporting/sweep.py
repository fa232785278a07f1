"""The page of a sweep, `results/<dataset>/sweep/README.md`: which temperature and alpha did best in validation."""

import statistics
import sys
from pathlib import Path

from utils.reporting.curves import plot_heat_map
from utils.reporting.format import spread
from utils.reporting.table import OF_A_SEED
from utils.runtime.files import write_text
from utils.runtime.run_dir import RunDir

VALIDATION = "val.json"  # the figures of a finished run of a sweep, in the place of test.json
OF_A_POINT = ("temp", "alpha", *OF_A_SEED)


def write_sweep(folder: Path, like: RunDir) -> Path:
    """Rank all finished runs of sweeps by validation accuracy after the last epoch; returns the page's path.

    The page has every run in `folder` that differs from the run `like` in nothing but temperature, alpha and seed.
    """

    def settings(config: dict) -> dict:
        return {name: value for name, value in config["identity"].items() if name not in OF_A_POINT}

    first = like.read_config()
    accuracies: dict[tuple[float, float], list[float]] = {}
    commands: dict[str, None] = {}
    for path in sorted(folder.glob(f"*/seed*/{VALIDATION}")):
        run = RunDir(path.parent, VALIDATION)
        config = run.read_config()
        if settings(config) == settings(first):
            point = config["identity"]["temp"], config["identity"]["alpha"]
            accuracies.setdefault(point, []).append(run.read_results()["top1"])
            commands[config["command"]] = None
    means = {point: statistics.mean(values) for point, values in accuracies.items()}
    ranked = sorted(means, key=lambda point: (-means[point], point))
    network, data = first["identity"]["network"], first["data"]
    picture = folder / "heatmap.png"
    try:
        plot_heat_map(f"{network}: validation top-1 (%)", means, picture)
    except OSError as error:
        print(f"warning: no heat map: {error}", file=sys.stderr)
    temp, alpha = ranked[0]
    lines = [f"| {t:g} | {a:g} | {spread(accuracies[t, a])} | {len(accuracies[t, a])} |" for t, a in ranked]
    page = [
        f"# Temperature and alpha for {network} on {folder.parent.name}",
        f"![Heat map of validation accuracy]({picture.name})",
        "\n".join(["| T | alpha | validation top-1 (%) | seeds |", "|--:|--:|--:|--:|", *lines]),
        f"Accuracy after the last epoch, ± standard deviation over seeds, on {data['val']:,} images held out from "
        f"training, which had {data['train']:,}. The test images were not used. The best of many is a little "
        "better than it will be elsewhere.",
        f"Best: `--kd True --temp {temp:g} --alpha {alpha:g}`. Measured on {first['device']}.",
        "\n".join(f"    {command}" for command in commands),
    ]
    write_text(folder / "README.md", "\n\n".join(page) + "\n")
    print(f"best in validation: --temp {temp:g} --alpha {alpha:g} with {means[temp, alpha]:.2f} %")
    return folder / "README.md"
