"""The page to look at, `results/<dataset>/report.html`: table, plots and evidence of all runs in one file.

It runs no script and asks nothing of the network: pictures are data URIs, and its own policy forbids the rest.
"""

import base64
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.page_plots import Point, Series, class_bars, curves, key, reliability, scatter, short, summarise
from utils.report import OF_A_SEED, Row, gain, read_rows, spread, verdicts
from utils.results import NUMBER, ROLES, read_json
from utils.storage import write_text

MEASURE = "python test.py --all"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
PARTS = {"train": "data", "val": "val_data", "test": "test_data"}  # of the images, and their names in an identity
SEEDS = "mean of the seeds, with the range from the lowest to the highest"
CURVES = {  # column of history.csv: title, note, on a logarithmic scale
    "val_top1": ("Validation accuracy (%)", SEEDS, False),
    "val_loss": ("Validation loss", "cross-entropy in nats", True),
    "train_top1": ("Training accuracy (%)", "on augmented images", False),
    "train_loss": ("Training loss", "of the objective, which with a teacher is another than without", True),
}
PROTOCOL = (
    "Every figure is of the network after its last epoch, never of the best one on the test images.",
    "± is the standard deviation over seeds. The gain compares runs of the same seed and recipe.",
    "NLL: mean negative log-likelihood of the true class. ECE: expected calibration error, 15 bins of equal "
    "width (Guo et al. 2017, equation 3).",
    "Multiply-adds are per image. Latency is the median at batch 1 after warm-up, throughput that of the best "
    "batch size. The file size is that of the weights; a last.pt holds the optimizer's state too.",
)
# What the page reads of an evidence.json; a list names the kind of all its items.
PERCENT = (NUMBER, type(None))
SHAPE = {
    **dict.fromkeys(("multiply_adds", "file_bytes", "throughput_batch", "epoch"), int),
    **dict.fromkeys(("ece", "latency_ms", "throughput"), NUMBER),
    **dict.fromkeys(("device", "checkpoint"), str),
    "calibration": {"count": [int], "confidence": [PERCENT], "accuracy": [PERCENT]},
    "class_names": [str],
    "per_class": [PERCENT],
    "confused": [{"true": str, "predicted": str, "count": int, "share": NUMBER}],
    "mistakes": [{"index": int, "true": str, "predicted": str, "confidence": NUMBER}],
}
OF_TEACHER = dict.fromkeys(("agreement", "teacher_mistakes"), NUMBER)
OF_TEACHER |= dict.fromkeys(("inherited", "mended", "spoilt"), PERCENT)  # None for a perfect teacher
OF_ALONE = {"per_class_gain": [PERCENT]}


@dataclass(frozen=True)
class Entry:
    """A row of the table, with what was measured of its runs."""

    index: int  # its colour and marker
    row: Row
    folder: Path
    evidence: dict[int, dict[str, Any]]  # by seed, the lowest first

    @property
    def name(self) -> str:
        """Its title with its marker, in HTML; a temperature stays on one line."""
        return key(self.index) + _text(self.row.title).replace(" = ", "&nbsp;=&nbsp;")

    @property
    def first(self) -> dict[str, Any]:
        return next(iter(self.evidence.values()))

    def values(self, figure: str, part: str = "") -> list[Any]:
        """A figure of each seed, from the top level or from its `part` "teacher" or "alone" where there is one."""
        found = [each[part] if part else each for each in self.evidence.values()]
        return [each[figure] for each in found if each is not None]


Columns = Mapping[str, Callable[[Entry], str]]


def write_page(dataset_dir: Path) -> Path:
    """Write the page of all finished runs under `dataset_dir`; returns its path.

    Raises UserError where there is no finished run, and for a damaged file.
    """
    rows = read_rows(dataset_dir)
    if not rows:
        raise UserError(f"{dataset_dir} holds no finished run", "python train.py --all")
    entries = [_entry(index, row, dataset_dir / row.name) for index, row in enumerate(rows)]
    measured = [entry for entry in entries if entry.evidence]
    sections = {
        "All runs": _table(entries),
        "Accuracy against cost": _cost(entries),
        "Training": _curves(entries),
        "Calibration": _calibration(measured),
        "Class by class": _classes(measured) + _inherited(measured),
        "The most confident mistakes": _mistakes(measured),
        "How it was made and measured": _how(entries),
    }
    title = f"Knowledge distillation on {_text(dataset_dir.name)}"
    page = dataset_dir / "report.html"
    text = _document(title, _head(rows, verdicts(rows)), sections)
    write_text(page, text.encode(errors="replace").decode())  # names of files need not be Unicode
    return page


def _entry(index: int, row: Row, folder: Path) -> Entry:
    paths = {seed: folder / f"seed{seed}" / "evidence.json" for seed in sorted(row.tests)}
    return Entry(index, row, folder, {seed: _read(path) for seed, path in paths.items() if path.exists()})


def _read(path: Path) -> dict[str, Any]:
    damaged = UserError(f"{path} is damaged", f"remove it, then {MEASURE} writes it again")
    try:
        found = read_json(path)
    except UserError as error:
        raise damaged from error
    if not _fits(found, SHAPE):
        raise damaged
    for part, shape in (("teacher", OF_TEACHER), ("alone", OF_ALONE)):
        if found.setdefault(part) is not None and not _fits(found[part], shape):
            raise damaged
    return found


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(_fits(value.get(name, ...), kind) for name, kind in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(each, shape[0]) for each in value)
    # Neither NaN nor infinite nor beyond what can be drawn.
    return isinstance(value, shape) and (not isinstance(value, NUMBER) or abs(value) < 1e18)


def _text(text: Any) -> str:
    return escape(str(text))


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
    said = "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences)
    return lead + (f'\n<ul class="verdicts" aria-label="What distillation gained">{said}</ul>' if said else "")


def _table(entries: Sequence[Entry]) -> str:
    rows = [entry.row for entry in entries]
    columns: Columns = {
        "seeds": lambda entry: f"{len(entry.row.tests)}",
        "top-1 (%)": lambda entry: f"<strong>{spread(entry.row.values('top1'))}</strong>",
        "gain over the student alone": lambda entry: gain(entry.row, rows),
        "parameters": lambda entry: f"{entry.row.values('parameters')[0]:,}",
        "multiply-adds": lambda entry: _mean_as(short, entry.values("multiply_adds")),
        "file size (bytes)": lambda entry: _mean_as(short, entry.values("file_bytes")),
        "latency (ms)": lambda entry: _mean_as("{:.2f}".format, entry.values("latency_ms")),
        "top-5 (%)": lambda entry: spread(entry.row.values("top5")),
        "NLL (nats)": lambda entry: spread(entry.row.values("loss"), digits=3),
        "ECE (%)": lambda entry: _spread(entry.values("ece")),
        "agrees with the teacher (%)": lambda entry: _spread(entry.values("agreement", "teacher")),
    }
    table = _grid("Mean ± standard deviation over seeds", columns, entries)
    without = [f"{e.row.name}/seed{seed}" for e in entries for seed in sorted(e.row.tests.keys() - e.evidence)]
    if without:
        what = f"<code>{MEASURE}</code> adds the evidence (cost, calibration, classes, mistakes)"
        table += f'\n<p class="soft">{what} of the runs that have none yet: {_text(", ".join(without))}.</p>'
    return table


def _spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation of the seeds that have a figure, or nothing."""
    known = [value for value in values if value is not None]
    return spread(known) if known else ""


def _mean_as(form: Callable[[float], str], values: Sequence[float]) -> str:
    return form(statistics.mean(values)) if values else ""


def _grid(caption: str, columns: Columns, entries: Sequence[Entry]) -> str:
    """A table that scrolls within its own box, with a line for each entry; what is not known is a dash."""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("model", *columns))
    lines = []
    for entry in entries:
        cells = "".join(f"<td>{figure(entry) or '-'}</td>" for figure in columns.values())
        lines.append(f'<tr><th scope="row">{entry.name}</th>{cells}</tr>')
    table = f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table>{table}</table></div>'


def _cost(entries: Sequence[Entry]) -> str:
    where = dict.fromkeys(device for entry in entries for device in entry.values("device"))
    plots = ""
    for title, note, x_label, values in (
        ("Top-1 (%) against size", SEEDS, "parameters", [entry.row.values("parameters") for entry in entries]),
        (
            "Top-1 (%) against latency",
            f"one image at a time on {', '.join(where)}",
            "latency (ms)",
            [entry.values("latency_ms") for entry in entries],
        ),
    ):
        series = [_against(entry, across) for entry, across in zip(entries, values, strict=True) if across]
        series = [one for one in series if all(map(math.isfinite, one.points[0]))]
        if series:
            plots += _figure(title, note, scatter("Top-1", x_label, series))
    return _plots(entries, plots)


def _against(entry: Entry, across: Sequence[float]) -> Series:
    top1 = entry.row.values("top1")
    point = Point(statistics.mean(across), statistics.mean(top1), min(top1), max(top1))
    return Series(entry.index, entry.row.title, [point])


def _curves(entries: Sequence[Entry]) -> str:
    plots = ""
    for column, (title, note, log) in CURVES.items():
        series = [summarise(e.index, e.row.title, list(e.row.histories.values()), column) for e in entries]
        series = [one for one in series if one.points]
        if series:
            plots += _figure(title, note, curves(title, series, log))
    return _plots(entries, plots) if plots else ""


def _plots(entries: Sequence[Entry], plots: str) -> str:
    keys = "".join(f"<li>{entry.name}</li>" for entry in entries)
    return f'<ul class="keys" aria-label="Markers">{keys}</ul>\n<div class="grid">{plots}</div>'


def _figure(title: str, note: str, content: str) -> str:
    caption = f"<figcaption>{_text(title)}<span>{_text(note)}</span></figcaption>"
    return f'<figure class="card">{caption}{content}</figure>'


def _calibration(entries: Sequence[Entry]) -> str:
    plots = ""
    for entry in entries:
        note = f"expected calibration error {_spread(entry.values('ece'))} %"
        plot = reliability(entry.index, f"Accuracy against confidence, {note}", entry.values("calibration"))
        plots += _figure(entry.row.title, note, plot)
    return (
        "<p>Accuracy (%) of the answers against how sure the network was of them. On the dashed line it is as "
        "often right as it claims; below, it is too sure of itself. Grey bars: share of the images.</p>\n"
        f'<div class="grid">{plots}</div>'
        if plots
        else ""
    )


def _classes(entries: Sequence[Entry]) -> str:
    cards = []
    for entry in entries:
        alt = f"Confusion matrix of {entry.row.title}; its largest entries are in the list that follows"
        pairs = [
            f"{_text(pair['true'])} → {_text(pair['predicted'])}: {pair['count']:,} ({pair['share']:.1f}&nbsp;%)"
            for pair in entry.first["confused"]
        ]
        left = _picture(entry, "confusion.png", alt) + _list("Most confused: true → predicted", pairs)
        note = f"Confusion of seed {min(entry.evidence)}; accuracy of each class is the mean of the seeds."
        halves = f'<div class="halves"><div>{left}</div><div>{_bars(entry)}</div></div>'
        cards.append(f'<div class="card"><h3>{entry.name}</h3><p class="soft">{note}</p>{halves}</div>')
    return "\n".join(cards)


def _bars(entry: Entry) -> str:
    accuracy, gains = map(_by_class, (entry.values("per_class"), entry.values("per_class_gain", "alone")))
    against = "best gain over the student alone first" if gains else "lowest first"
    classes = zip(entry.first["class_names"], accuracy, gains or accuracy, strict=False)
    return f"<h4>Accuracy by class, {against}</h4>{class_bars(classes, bool(gains))}"


def _by_class(seeds: Sequence[Sequence[float | None]]) -> list[float | None]:
    known = ([value for value in values if value is not None] for values in zip(*seeds, strict=False))
    return [statistics.mean(values) if values else None for values in known]


def _inherited(entries: Sequence[Entry]) -> str:
    entries = [entry for entry in entries if entry.values("agreement", "teacher")]
    names = ("agreement", "inherited", "mended", "spoilt")
    columns = {f"{name} (%)": lambda entry, name=name: _spread(entry.values(name, "teacher")) for name in names}
    columns["teacher's mistakes"] = lambda entry: _mean_as(
        "{:,.0f}".format, entry.values("teacher_mistakes", "teacher")
    )
    if not entries:
        return ""
    return (
        '\n<h3 class="apart">What came from the teacher</h3>\n<p>Agreement: both give the same answer. '
        "Inherited: of the teacher's mistakes, those where the student gives the very same wrong answer. "
        "Mended: of them, those where the student is right. "
        "Spoilt: of what the teacher got right, what the student does not.</p>\n"
        + _grid("Student and teacher on the same test images", columns, entries)
    )


def _mistakes(entries: Sequence[Entry]) -> str:
    cards = []
    for entry in entries:
        wrong = [
            f"{_text(each['true'])} → {_text(each['predicted'])}, {each['confidence']:.1f}&nbsp;% sure, "
            f"test&nbsp;image&nbsp;{each['index']}"
            for each in entry.first["mistakes"]
        ]
        if wrong:
            alt = (
                f"The test images that {entry.row.title} got wrong with most confidence; the list below names them"
            )
            text = f"<details><summary>As a list: true → predicted</summary>{_list('', wrong)}</details>"
            caption = f"<figcaption>{entry.name}<span>seed {min(entry.evidence)}</span></figcaption>"
            cards.append(f'<figure class="card">{caption}{_picture(entry, "mistakes.png", alt)}{text}</figure>')
    return f'<div class="grid">{"".join(cards)}</div>' if cards else ""


def _picture(entry: Entry, name: str, alt: str) -> str:
    """A picture of the lowest seed that was measured, or nothing where it is missing."""
    path = entry.folder / f"seed{min(entry.evidence)}" / name
    if not path.exists():
        return ""
    return f'<img alt="{_text(alt)}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def _list(title: str, items: Sequence[str]) -> str:
    heading = f"<h4>{title}</h4>" if title and items else ""
    return heading + f"<ol>{''.join(f'<li>{item}</li>' for item in items)}</ol>" if items else ""


def _how(entries: Sequence[Entry]) -> str:
    return f"<ul>{''.join(f'<li>{each}</li>' for each in PROTOCOL)}</ul>\n" + "\n".join(map(_recipe, entries))


def _recipe(entry: Entry) -> str:
    row, configs = entry.row, entry.row.configs.values()
    first = next(iter(configs))
    settings = row.settings("role", "network", *PARTS.values(), *OF_A_SEED)
    counts = first["data"]
    images = [f"{counts[part]:,} {part} ({row.identity.get(PARTS[part])})" for part in PARTS if counts[part]]
    facts = {
        "Objective": [first["objective"]],
        "Recipe": [", ".join(f"{name} {value}" for name, value in settings.items())],
        "Images": [f"{', '.join(images)}, with their fingerprints"],
        "Seeds": [", ".join(map(str, sorted(row.tests)))],
        "Trained on": [f"{config['device']}, Python {config.get('python', 'unknown')}" for config in configs],
        "Seconds": [f"{statistics.mean(row.seconds()):,.0f} of training, mean of the seeds"],
        "Measured on": [_measured(each) for each in entry.evidence.values()],
        "Checkpoints": [f"{each['checkpoint']}, epoch {each['epoch']}" for each in entry.evidence.values()],
    }
    commands = "\n".join(dict.fromkeys(config["command"] for config in configs))
    lines = [f"<dt>Command</dt><dd><pre>{_text(commands)}</pre></dd>"]
    for name, values in facts.items():
        if values:
            lines.append(f"<dt>{name}</dt><dd>{'<br>'.join(map(_text, dict.fromkeys(values)))}</dd>")
    return f'<details class="card"><summary>{entry.name}</summary><dl>{"".join(lines)}</dl></details>'


def _measured(evidence: Mapping[str, Any]) -> str:
    speed = f"{evidence['throughput']:,.0f} images/s in batches of {evidence['throughput_batch']}"
    return f"{evidence['device']}: {speed}"
