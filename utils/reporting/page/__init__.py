"""The HTML page of a dataset, `results/<dataset>/report.html`: table, plots and analysis of all runs in one file.

It runs no script and asks nothing of the network: its images are data URIs, and its own policy forbids the rest.
"""

import re
from html import escape
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from utils.reporting.calibration import FEW
from utils.reporting.format import fixed, leave_out_top5
from utils.reporting.methods import method_tables
from utils.reporting.notes import shared_counts
from utils.reporting.page.charts import reliability
from utils.reporting.page.content import (
    cost_charts,
    latencies,
    latency_notes,
    lead,
    recipe,
    table_cells,
    teacher_cells,
    training_charts,
)
from utils.reporting.page.entry import read_entry
from utils.reporting.style import styles
from utils.reporting.table import METHODS_NOTE, notes_on_images, paired, read_rows, summarise_gains
from utils.runtime.files import write_text

PAGE = "report.html"


def write_page(dataset_dir: Path) -> Path:
    """Write the page of all finished runs under `dataset_dir`; returns its path.

    Raises UserError where there is no finished run, and for a damaged file.
    """
    rows = read_rows(dataset_dir)
    looks = styles([row.identity["role"] for row in rows])
    entries = [read_entry(look, row, dataset_dir / row.name) for look, row in zip(looks, rows, strict=True)]
    measured = [entry for entry in entries if entry.analysis]
    known = latencies(entries)
    cells = [table_cells(entry, rows, latency) for entry, latency in zip(entries, known, strict=True)]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "fixed": fixed,
        "flags": unbroken_flags,
        "path": lambda positions: "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in positions) if positions else "",
    }
    text = environment.get_template("report.html.jinja").render(
        dataset=dataset_dir.name,
        images=shared_counts(rows).get("test"),
        lead=lead(rows),
        gains=summarise_gains(rows),
        notes=notes_on_images(rows),
        entries=entries,
        measured=measured,
        unmeasured=[f"{e.row.name}/seed{k}" for e in entries for k in sorted(e.row.tests.keys() - e.analysis)],
        methods={
            network: [(entries[rows.index(row)], each) for row, each in cells]
            for network, cells in method_tables(rows, [paired(row, rows) for row in rows]).items()
        },
        methods_note=METHODS_NOTE,
        cells=list(zip(entries, leave_out_top5(cells), strict=True)),
        several=any(len(row.tests) > 1 for row in rows),
        few=FEW,
        latency_notes=latency_notes(known),
        teacher_cells=[(entry, cells) for entry in measured if (cells := teacher_cells(entry))],
        cost_charts=cost_charts(entries, known),
        training_charts=training_charts(entries),
        calibration_charts=[reliability(entry) for entry in measured],
        recipes=[(entry, recipe(entry)) for entry in entries],
    )
    page = dataset_dir / PAGE
    write_text(page, text.encode(errors="replace").decode())  # names of files need not be Unicode
    return page


def unbroken_flags(text: str) -> str:
    """Escaped text, as markup, in which no flag is broken at its hyphens: `--seeds` stays on one line."""
    return re.sub(r"(?<![\w-])(--?[A-Za-z][\w-]*)", r'<span class="flag">\1</span>', escape(text))
