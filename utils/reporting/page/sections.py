"""The parts of the page that show what was measured: cost, curves, calibration, classes and mistakes."""

import base64
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from utils.reporting.page.entry import Entry, text_of
from utils.reporting.page.plots import Point, Series, class_bars, curves, reliability, scatter, summarise
from utils.reporting.table import spread

SEEDS = "mean of the seeds, with the range from the lowest to the highest"
CURVES = {  # column of history.csv: title, note, on a logarithmic scale
    "val_top1": ("Validation accuracy (%)", SEEDS, False),
    "val_loss": ("Validation loss", "cross-entropy in nats", True),
    "train_top1": ("Training accuracy (%)", "on augmented images", False),
    "train_loss": ("Training loss", "of the objective, which with a teacher is another than without", True),
}
Columns = Mapping[str, Callable[[Entry], str]]


def cost(entries: Sequence[Entry]) -> str:
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


def curve_plots(entries: Sequence[Entry]) -> str:
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
    caption = f"<figcaption>{text_of(title)}<span>{text_of(note)}</span></figcaption>"
    return f'<figure class="card">{caption}{content}</figure>'


def calibration(entries: Sequence[Entry]) -> str:
    plots = ""
    for entry in entries:
        note = f"expected calibration error {spread_of(entry.values('ece'))} %"
        plot = reliability(entry.index, f"Accuracy against confidence, {note}", entry.values("calibration"))
        plots += _figure(entry.row.title, note, plot)
    return (
        "<p>Accuracy (%) of the answers against how sure the network was of them. On the dashed line it is as "
        "often right as it claims; below, it is too sure of itself. Grey bars: share of the images.</p>\n"
        f'<div class="grid">{plots}</div>'
        if plots
        else ""
    )


def classes(entries: Sequence[Entry]) -> str:
    cards = []
    for entry in entries:
        alt = f"Confusion matrix of {entry.row.title}; its largest entries are in the list that follows"
        pairs = [
            f"{text_of(pair['true'])} → {text_of(pair['predicted'])}: {pair['count']:,} "
            f"({pair['share']:.1f}&nbsp;%)"
            for pair in entry.first["confused"]
        ]
        left = _picture(entry, "confusion.png", alt) + _list("Most confused: true → predicted", pairs)
        note = f"Confusion of seed {min(entry.analysis)}; accuracy of each class is the mean of the seeds."
        halves = f'<div class="halves"><div>{left}</div><div>{_bars(entry)}</div></div>'
        cards.append(f'<div class="card"><h3>{entry.name}</h3><p class="soft">{note}</p>{halves}</div>')
    return "\n".join(cards)


def _bars(entry: Entry) -> str:
    accuracy, gains = map(_by_class, (entry.values("per_class"), entry.values("per_class_gain", "baseline")))
    against = "best gain over the student alone first" if gains else "lowest first"
    classes = zip(entry.first["class_names"], accuracy, gains or accuracy, strict=False)
    return f"<h4>Accuracy by class, {against}</h4>{class_bars(classes, bool(gains))}"


def _by_class(seeds: Sequence[Sequence[float | None]]) -> list[float | None]:
    known = ([value for value in values if value is not None] for values in zip(*seeds, strict=False))
    return [statistics.mean(values) if values else None for values in known]


def inherited(entries: Sequence[Entry]) -> str:
    entries = [entry for entry in entries if entry.values("agreement", "teacher")]
    names = ("agreement", "inherited", "corrected", "regressed")
    columns = {f"{name} (%)": lambda entry, name=name: spread_of(entry.values(name, "teacher")) for name in names}
    columns["teacher's mistakes"] = lambda entry: mean_as(
        "{:,.0f}".format, entry.values("teacher_mistakes", "teacher")
    )
    if not entries:
        return ""
    return (
        '\n<h3 class="apart">What came from the teacher</h3>\n<p>Agreement: both give the same answer. '
        "Inherited: of the teacher's mistakes, those where the student gives the very same wrong answer. "
        "Corrected: of them, those where the student is right. "
        "Regressed: of what the teacher got right, what the student does not.</p>\n"
        + grid("Student and teacher on the same test images", columns, entries)
    )


def mistakes(entries: Sequence[Entry]) -> str:
    cards = []
    for entry in entries:
        wrong = [
            f"{text_of(each['true'])} → {text_of(each['predicted'])}, {each['confidence']:.1f}&nbsp;% sure, "
            f"test&nbsp;image&nbsp;{each['index']}"
            for each in entry.first["mistakes"]
        ]
        if wrong:
            alt = (
                f"The test images that {entry.row.title} got wrong with most confidence; the list below names them"
            )
            text = f"<details><summary>As a list: true → predicted</summary>{_list('', wrong)}</details>"
            caption = f"<figcaption>{entry.name}<span>seed {min(entry.analysis)}</span></figcaption>"
            cards.append(f'<figure class="card">{caption}{_picture(entry, "mistakes.png", alt)}{text}</figure>')
    return f'<div class="grid">{"".join(cards)}</div>' if cards else ""


def _picture(entry: Entry, name: str, alt: str) -> str:
    """A picture of the lowest seed that was measured, or nothing where it is missing."""
    path = entry.folder / f"seed{min(entry.analysis)}" / name
    if not path.exists():
        return ""
    return f'<img alt="{text_of(alt)}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def _list(title: str, items: Sequence[str]) -> str:
    heading = f"<h4>{title}</h4>" if title and items else ""
    return heading + f"<ol>{''.join(f'<li>{item}</li>' for item in items)}</ol>" if items else ""


def grid(caption: str, columns: Columns, entries: Sequence[Entry]) -> str:
    """A table that scrolls within its own box, with a line for each entry; what is not known is a dash."""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("model", *columns))
    lines = []
    for entry in entries:
        cells = "".join(f"<td>{figure(entry) or '-'}</td>" for figure in columns.values())
        lines.append(f'<tr><th scope="row">{entry.name}</th>{cells}</tr>')
    table = f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table>{table}</table></div>'


def spread_of(values: Sequence[float]) -> str:
    """Mean ± standard deviation of the seeds that have a figure, or nothing."""
    known = [value for value in values if value is not None]
    return spread(known) if known else ""


def mean_as(form: Callable[[float], str], values: Sequence[float]) -> str:
    return form(statistics.mean(values)) if values else ""
