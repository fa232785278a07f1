"""How all plots look: a role has its colour, and everything stands out on a white page as on a black one."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure  # without pyplot: no display and no MPLBACKEND is ever asked for

from utils.reporting.fonts import FAMILY, use_fonts
from utils.runtime.atomic import atomic_write

# 3 to 1 at least on white and on the dark page, and apart for colour-blind readers.
COLOURS = ("#1f7fc4", "#d55e00", "#00936b", "#b85a9e", "#a07400", "#7f6bd0", "#0a8c9c", "#7f7f7f")
OF_ROLE = {"teacher": COLOURS[:1], "student": COLOURS[1:2], "kd": COLOURS[2:7]}
OTHER = COLOURS[7]
MARKERS = "osD^"
GREY = "#757575"  # 4.6 to 1 on white and on black: no other grey is as readable on both
DARK = "#202124"  # on a light field
PLAIN = {"parse_math": False}  # a $ in a name is a $
HALF, WHOLE = 4.6, 6.4  # inches wide: a plot beside another on a page, and one alone
DPI = 200
STYLE = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), GREY),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left", "legend.frameon"), False),
    **{"axes.axisbelow": True, "axes.grid": True, "axes.grid.axis": "y", "grid.color": GREY, "grid.alpha": 0.35},
    **{"xtick.major.size": 0, "ytick.major.size": 0, "font.family": FAMILY, "font.size": 10},
    **dict.fromkeys(("axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize"), 10),
    **{"axes.titlelocation": "left", "legend.fontsize": 10, "lines.linewidth": 1.8, "hatch.linewidth": 1.0},
}
styled = rc_context(STYLE)  # a decorator of functions that draw


class Style(NamedTuple):
    """What a row of the table looks like in every plot."""

    colour: str
    marker: int  # of MARKERS
    dashed: bool = False  # its colour is that of an earlier row


def styles(roles: Sequence[str]) -> list[Style]:
    """A style for each row by its role: no other row that comes or goes gives it the colour of another role."""
    before: Counter[str] = Counter()
    chosen = []
    for role in roles:
        number, colours = before[role], OF_ROLE.get(role, (OTHER,))
        first = list(OF_ROLE).index(role) if role in OF_ROLE else 3
        chosen.append(
            Style(colours[number % len(colours)], (first + number) % len(MARKERS), number >= len(colours))
        )
        before[role] += 1
    return chosen


def new_figure(title: str, width: float, height: float) -> Figure:
    """An empty transparent figure of so many inches, with its title in as many lines as it needs."""
    figure = Figure(figsize=(width, height), layout="constrained")
    title = title.encode(errors="replace").decode()  # a folder's name need not be text
    lines = textwrap.fill(title, round(10 * width))  # letters of this size, 10 to an inch
    figure.suptitle(lines, x=0.01, ha="left", fontsize=11, fontweight="bold", **PLAIN)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically, in fonts that have its characters."""
    with use_fonts(figure), atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DPI)
