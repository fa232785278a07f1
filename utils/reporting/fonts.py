"""Fonts for names in any script: what the plots' own font lacks is taken from those that are installed."""

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text

FAMILY = "DejaVu Sans"  # comes with matplotlib
INSTALL = "install one that has, such as Noto Sans CJK (Debian, Ubuntu: apt install fonts-noto-cjk)"
BOXES = "Last Resort"  # a font of boxes for all characters
_reported: set[str] = set()  # characters
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # not every font has a bold weight


@contextmanager
def use_fonts(figure: Figure) -> Iterator[None]:
    """Give the texts of a figure, within the block, fonts that have their characters.

    Characters that no installed font has are drawn as boxes; which, and what to install, is said once.
    """
    for axes in figure.axes:
        axes.get_xticklabels(), axes.get_yticklabels()  # makes their texts, which are not there before
    texts = figure.findobj(Text)
    missing = _not_in((text.get_text() for text in texts), findfont(FontProperties(family=FAMILY)))
    if missing:
        families = [FAMILY, *_fallbacks(missing)]
        for text in texts:
            text.set_family(families)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # said below, once
        yield


def text_width(text: str) -> float:
    """Points that a text takes in letters of 10 points; what needs another font is taken to be square."""
    path = findfont(FAMILY)
    font = get_font(path)
    font.set_size(10, 72)
    foreign = _not_in(text, path)
    return sum(10 if each in foreign else font.load_char(ord(each)).linearHoriAdvance / 65536 for each in text)


def _fallbacks(missing: set[str]) -> Iterator[str]:
    """Families of installed fonts that have these characters, the one with the most of them first."""
    fonts = [font for font in fontManager.ttflist if not font.name.startswith(BOXES)]
    while missing and fonts:
        best = min(fonts, key=lambda font: (len(_not_in(missing, font.fname)), *_oddity(font)))
        left = _not_in(missing, best.fname)
        if left == missing:
            break
        yield best.name
        missing = left
    if missing - _reported:
        _reported.update(missing)
        text = "".join(sorted(missing))[:20]
        print(f"warning: no installed font has {text}, drawn as boxes in the plots: {INSTALL}", file=sys.stderr)


def _oddity(font: FontEntry) -> tuple:
    """Upright fonts of usual weight come first, and equal ones in the order of their names."""
    weight = font.weight if isinstance(font.weight, int) else 400
    return font.style != "normal", abs(weight - 400), font.name


def _not_in(texts: Iterable[str], path: str) -> set[str]:
    characters = {character for text in texts for character in text if character.isprintable()}
    return {character for character in characters if ord(character) not in _characters(path)}


@cache
def _characters(path: str) -> frozenset[int]:
    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):  # removed since the list was made, or damaged
        return frozenset()
