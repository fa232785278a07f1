"""The page to look at, `results/<dataset>/report.html`: table, plots and analysis of all runs in one file.

It runs no script and asks nothing of the network: pictures are data URIs, and its own policy forbids the rest.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.reporting.page.entry import MEASURE, Entry, read_entry, text_of
from utils.reporting.page.plots import short
from utils.reporting.page.sections import (
    Columns,
    calibration,
    classes,
    cost,
    curve_plots,
    grid,
    inherited,
    mean_as,
    mistakes,
    spread_of,
)
from utils.reporting.table import Row, gain, read_rows, spread, summarise_gains
from utils.runtime.files import write_text
from utils.runtime.identity import SEED
from utils.runtime.run_dir import ROLES

PAGE = "report.html"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
PARTS = {"train": "data", "val": "val_data", "test": "test_data"}  # of the images, and their names in an identity
PROTOCOL = (
    "Every figure is of the network after its last epoch, never of the best one on the test images.",
    "± is the standard deviation over seeds. The gain compares runs of the same seed and recipe.",
    "NLL: mean negative log-likelihood of the true class. ECE: expected calibration error, 15 bins of equal "
    "width (Guo et al. 2017, equation 3).",
    "Multiply-adds are per image. Latency is the median at batch 1 after warm-up, throughput that of the best "
    "batch size. The file size is that of the weights; a last.pt holds the optimizer's state too.",
)


def write_page(dataset_dir: Path) -> Path:
    """Write the page of all finished runs under `dataset_dir`; returns its path.

    Raises UserError where there is no finished run, and for a damaged file.
    """
    rows = read_rows(dataset_dir)
    entries = [read_entry(index, row, dataset_dir / row.name) for index, row in enumerate(rows)]
    measured = [entry for entry in entries if entry.analysis]
    sections = {
        "All runs": _table(entries),
        "Accuracy against cost": cost(entries),
        "Training": curve_plots(entries),
        "Calibration": calibration(measured),
        "Class by class": classes(measured) + inherited(measured),
        "The most confident mistakes": mistakes(measured),
        "How it was made and measured": _how(entries),
    }
    title = f"Knowledge distillation on {text_of(dataset_dir.name)}"
    page = dataset_dir / PAGE
    text = _document(title, _head(rows, summarise_gains(rows)), sections)
    write_text(page, text.encode(errors="replace").decode())  # names of files need not be Unicode
    return page


def _document(title: str, head: str, sections: Mapping[str, str]) -> str:
    shown = {heading: content for heading, content in sections.items() if content}
    links = "".join(f'<a href="#part{number}">{heading}</a>' for number, heading in enumerate(shown))
    parts = (
        f'<section>\n<h2 id="part{number}">{heading}</h2>\n{content}\n</section>'
        for number, (heading, content) in enumerate(shown.items())
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{Path(__file__).with_name("page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{head}
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{chr(10).join(parts)}
</main>
</body>
</html>
"""


def _head(rows: Sequence[Row], sentences: Sequence[str]) -> str:
    names = {"teacher": "the teacher", "student": "the student alone", "kd": "the taught student"}
    parts = []
    for role in ROLES:
        same = [row for row in rows if row.identity["role"] == role]
        if same:
            means = sorted(statistics.mean(row.values("top1")) for row in same)
            sizes = sorted(row.values("parameters")[0] for row in same)
            top1 = " to ".join(dict.fromkeys((f"{means[0]:.2f}", f"{means[-1]:.2f}")))
            size = " to ".join(dict.fromkeys((short(sizes[0]), short(sizes[-1]))))
            parts.append(f"{names[role]} ({size} parameters) {top1}&nbsp;%")
    images = next(iter(rows[0].configs.values()))["data"]["test"]
    lead = f'<p class="lead">Top-1 accuracy on {images:,} test images: {", ".join(parts)}.</p>'
    said = "".join(f"<li>{text_of(sentence)}</li>" for sentence in sentences)
    return lead + (f'\n<ul class="verdicts" aria-label="What distillation gained">{said}</ul>' if said else "")


def _table(entries: Sequence[Entry]) -> str:
    rows = [entry.row for entry in entries]
    columns: Columns = {
        "seeds": lambda entry: f"{len(entry.row.tests)}",
        "top-1 (%)": lambda entry: f"<strong>{spread(entry.row.values('top1'))}</strong>",
        "gain over the student alone": lambda entry: gain(entry.row, rows),
        "parameters": lambda entry: f"{entry.row.values('parameters')[0]:,}",
        "multiply-adds": lambda entry: mean_as(short, entry.values("multiply_adds")),
        "file size (bytes)": lambda entry: mean_as(short, entry.values("file_bytes")),
        "latency (ms)": lambda entry: mean_as("{:.2f}".format, entry.values("latency_ms")),
        "top-5 (%)": lambda entry: spread(entry.row.values("top5")),
        "NLL (nats)": lambda entry: spread(entry.row.values("loss"), digits=3),
        "ECE (%)": lambda entry: spread_of(entry.values("ece")),
        "agrees with the teacher (%)": lambda entry: spread_of(entry.values("agreement", "teacher")),
    }
    table = grid("Mean ± standard deviation over seeds", columns, entries)
    without = [f"{e.row.name}/seed{seed}" for e in entries for seed in sorted(e.row.tests.keys() - e.analysis)]
    if without:
        what = f"<code>{MEASURE}</code> adds the analysis (cost, calibration, classes, mistakes)"
        table += f'\n<p class="soft">{what} of the runs that have none yet: {text_of(", ".join(without))}.</p>'
    return table


def _how(entries: Sequence[Entry]) -> str:
    return f"<ul>{''.join(f'<li>{each}</li>' for each in PROTOCOL)}</ul>\n" + "\n".join(map(_recipe, entries))


def _recipe(entry: Entry) -> str:
    row, configs = entry.row, entry.row.configs.values()
    first = next(iter(configs))
    settings = row.settings("role", "network", *PARTS.values(), *SEED)
    counts = first["data"]
    images = [f"{counts[part]:,} {part} ({row.identity.get(PARTS[part])})" for part in PARTS if counts[part]]
    facts = {
        "Objective": [first["objective"]],
        "Recipe": [", ".join(f"{name} {value}" for name, value in settings.items())],
        "Images": [f"{', '.join(images)}, with their fingerprints"],
        "Seeds": [", ".join(map(str, sorted(row.tests)))],
        "Trained on": [f"{config['device']}, Python {config.get('python', 'unknown')}" for config in configs],
        "Seconds": [f"{statistics.mean(row.seconds()):,.0f} of training, mean of the seeds"],
        "Measured on": [_measured(each) for each in entry.analysis.values()],
        "Checkpoints": [f"{each['checkpoint']}, epoch {each['epoch']}" for each in entry.analysis.values()],
    }
    commands = "\n".join(dict.fromkeys(config["command"] for config in configs))
    lines = [f"<dt>Command</dt><dd><pre>{text_of(commands)}</pre></dd>"]
    for name, values in facts.items():
        if values:
            lines.append(f"<dt>{name}</dt><dd>{'<br>'.join(map(text_of, dict.fromkeys(values)))}</dd>")
    return f'<details class="card"><summary>{entry.name}</summary><dl>{"".join(lines)}</dl></details>'


def _measured(analysis: Mapping) -> str:
    speed = f"{analysis['throughput']:,.0f} images/s in batches of {analysis['throughput_batch']}"
    return f"{analysis['device']}: {speed}"
