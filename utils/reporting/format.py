"""Numbers and tables as text, the same in the Markdown tables and on the HTML page."""

import re
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from utils.reporting.statistics import Gain
from utils.runtime.errors import printable

GAIN = "gain over the student alone"  # the title of its column
TEACHER = "teacher"  # likewise
TOP5 = "top-5 (%)"


def row_cells(
    tests: Sequence[Mapping[str, float]], seconds: Sequence[float], gain: Gain | None, teacher: str = ""
) -> dict[str, str]:
    """The text of each column that a table may have, by title, for finished runs that differ in their seed alone.

    `tests` holds their test.json, `seconds` the training time of each; `teacher` names who taught them.
    """
    values = {key: [test[key] for test in tests] for key in ("top1", "top5", "loss")}
    return {
        "seeds": f"{len(tests)}",
        "parameters": f"{tests[0]['parameters']:,}",
        "top-1 (%)": spread(values["top1"]),
        TOP5: spread(values["top5"]),
        "NLL (nats)": spread(values["loss"], digits=3),
        "epochs": f"{tests[0]['epoch']}",
        "seconds": duration(statistics.mean(seconds)),
        GAIN: format_gain(gain),
        TEACHER: teacher,
    }


def leave_out_top5(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The cells of a table without those of top-5 where all of them are 100 %, as of up to five classes."""
    dull = all(row[TOP5].startswith("100.00") for row in rows)
    return [{title: text for title, text in row.items() if not (dull and title == TOP5)} for row in rows]


def duplicates_text(duplicates: Any, counts: Mapping[str, int]) -> str:
    """What a run records of equal images in several parts, in words; empty where there are none.

    `counts` are the images of each part. `duplicates` may come from a file: what is no count is passed over.
    """
    duplicates = duplicates if isinstance(duplicates, dict) else {}
    number = {name: value for name, value in duplicates.items() if type(value) is int and value > 0}
    texts = []
    for part, other in (("test", "train"), ("test", "val"), ("val", "train")):
        if count := number.get(f"{part}_in_{other}"):
            verb = "is" if count == 1 else "are"
            texts.append(f"{count:,} of {counts[part]:,} {part} images {verb} in {other}, too")
    if count := number.get("relabelled"):
        texts.append(f"of {counts['train']:,} train images, {count:,} are equal to one of another class")
    if count := number.get("dropped"):
        texts.append(f"{count:,} images are left out of train and val: they are in val or test, too")
    return "; ".join(texts)


def markdown_table(rows: Sequence[Mapping[str, str]], strong: str = "") -> str:
    """A table in Markdown of `rows` with the same titles; the first column holds names, the others numbers.

    Any text may stand in it; the column titled `strong` is bold.
    """

    def cell(title: str, text: str) -> str:
        return f"**{markdown(text)}**" if title == strong and text else markdown(text)

    cells = ([cell(title, text) for title, text in row.items()] for row in rows)
    head, *body = (f"| {' | '.join(texts)} |" for texts in (map(markdown, rows[0]), *cells))
    return "\n".join([head, "|:--|" + "--:|" * (len(rows[0]) - 1), *body])


def markdown(text: object) -> str:
    """Any text as it is to be read in a Markdown page: no part of it becomes markup, a link, an image or HTML.

    What looks like markup but is none, such as `cnn_tiny` or 0.1 * 5, stays as it is.
    """
    text = re.sub(
        r"[\\`\[\]<>|&~$@#]|(?<!\s)\*|\*(?!\s)|(?<![^\W_])_|_(?![^\W_])|:(?=//)", r"\\\g<0>", printable(text)
    )
    text = re.sub(r"(?i)\bwww\.", r"www\\.", text)
    return re.sub(r"^\s*(\d*)([-+=*.)])(?=\s|$)", r"\1\\\2", text)  # of a list or a heading


def code(text: object) -> str:
    """Any text as a code span of a Markdown page."""
    text = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def align(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of `rows` for a terminal: columns as wide as what is in them, long titles in two lines."""
    columns = []
    for title in rows[0]:
        cells = [row[title] for row in rows]
        width = max(len(title) // 2 + 1, *map(len, (*title.split(), *cells)))
        columns.append((textwrap.wrap(title, width), cells, ">" if columns else "<", width))
    height = max(len(titles) for titles, *_ in columns)
    texts = [
        [f"{cell:{side}{width}}" for cell in (*[""] * (height - len(titles)), *titles, *cells)]
        for titles, cells, side, width in columns
    ]
    return "\n".join("  ".join(row).rstrip() for row in zip(*texts, strict=True))


def spread(values: Sequence[float | None], digits: int = 2) -> str:
    """Mean ± standard deviation (n - 1) of the seeds that have a value; empty where none has."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = f"{statistics.mean(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


def format_gain(gain: Gain | None) -> str:
    """The gain in points ± its standard deviation over seeds; empty where there is nothing to compare with."""
    if gain is None:
        return ""
    return f"{gain.mean:+.2f}" + (f" ± {gain.sd:.2f}" if gain.sd is not None else "")


def short(value: float, digits: int = 3) -> str:
    """A number of so many significant digits with a prefix: 73 k, 1.2 M."""
    for size, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if float(f"{abs(value):.{digits}g}") >= size:
            return f"{float(f'{value / size:.{digits}g}'):g}{prefix}"
    return f"{float(f'{value:.{digits}g}'):g}"


def duration(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}"


def fixed(value: float | None, form: str = ".1f") -> str:
    """A number in the given form; a dash where it is unknown."""
    return "-" if value is None else f"{value:{form}}"
