"""The HTML page of a dataset, `results/<dataset>/report.html`: table, plots and analysis of all runs in one file.

It runs no script and asks nothing of the network: its images are data URIs, and its own policy forbids the rest.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from utils.reporting.format import fixed
from utils.reporting.notes import shared_counts
from utils.reporting.page.charts import reliability
from utils.reporting.page.content import cost_charts, lead, recipe, table_cells, teacher_cells, training_charts
from utils.reporting.page.entry import read_entry
from utils.reporting.table import read_rows, summarise_gains
from utils.runtime.files import write_text

PAGE = "report.html"


def write_page(dataset_dir: Path) -> Path:
    """Write the page of all finished runs under `dataset_dir`; returns its path.

    Raises UserError where there is no finished run, and for a damaged file.
    """
    rows = read_rows(dataset_dir)
    entries = [read_entry(index, row, dataset_dir / row.name) for index, row in enumerate(rows)]
    measured = [entry for entry in entries if entry.analysis]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "fixed": fixed,
        "path": lambda positions: "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in positions) if positions else "",
    }
    text = environment.get_template("report.html.jinja").render(
        dataset=dataset_dir.name,
        images=shared_counts(rows).get("test"),
        lead=lead(rows),
        gains=summarise_gains(rows),
        entries=entries,
        measured=measured,
        unmeasured=[f"{e.row.name}/seed{k}" for e in entries for k in sorted(e.row.tests.keys() - e.analysis)],
        cells=[(entry, table_cells(entry, rows)) for entry in entries],
        teacher_cells=[(entry, cells) for entry in measured if (cells := teacher_cells(entry))],
        cost_charts=cost_charts(entries),
        training_charts=training_charts(entries),
        calibration_charts=[reliability(entry) for entry in measured],
        recipes=[(entry, recipe(entry)) for entry in entries],
    )
    page = dataset_dir / PAGE
    write_text(page, text.encode(errors="replace").decode())  # names of files need not be Unicode
    return page
