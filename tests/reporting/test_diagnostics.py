import warnings

import numpy as np
import pytest
import torch
from fontTools.ttLib import TTFont
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager
from matplotlib.text import Text
from PIL import Image

from utils.evaluation.analysis import analyse
from utils.reporting import diagnostics, fonts
from utils.reporting.diagnostics import plot_confusion, plot_mistakes, plot_reliability

LONG = "a class name that is far too long for any plot"
TITLE = "student of $a_ long name$, KD at T = 20 (epochs 12, batch_size 64, lr 0.1): what it gets wrong"


def analysis_of(classes: int = 10, strength: float = 2.0, names: list[str] | None = None) -> dict:
    """The analysis of a network on 300 images that is the better the larger `strength` is."""
    labels = torch.arange(300) % classes
    logits = torch.randn(300, classes, generator=torch.Generator().manual_seed(0))
    logits[torch.arange(300), labels] += strength
    return analyse(logits, labels, names or [f"class {number}" for number in range(classes)])


def images_of(analysis: dict) -> np.ndarray:
    """An image of its own grey for each mistake."""
    shades = 40 + 5 * np.arange(len(analysis["mistakes"]), dtype=np.uint8)
    return shades[:, None, None, None] * np.ones((1, 32, 32, 3), dtype=np.uint8)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize(("classes", "strength"), [(2, 2.0), (10, 100.0), (20, -3.0), (21, 2.0), (100, 2.0)])
def test_plots_of_any_number_of_classes_and_mistakes_are_whole(tmp_path, figures, classes, strength):
    analysis = analysis_of(classes, strength, [f"${number}_ {LONG} {number}^" for number in range(classes)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a layout that does not fit and of missing glyphs
        plot_reliability(analysis, tmp_path / "reliability.png", TITLE)
        assert plot_confusion(analysis, tmp_path / "confusion.png", TITLE)
        plot_mistakes(images_of(analysis), analysis, tmp_path / "mistakes.png", TITLE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion.png", "mistakes.png", "reliability.png"]
    for path in tmp_path.iterdir():
        with Image.open(path) as plot:
            assert len(plot.getcolors(1 << 20)) > 10
    for figure in figures:
        assert TITLE in [text.replace("\n", " ") for text in texts(figure)]
        assert not [text for text in figure.findobj(Text) if "$" in text.get_text() and text.get_parse_math()]
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height


def test_the_reliability_diagram_has_a_bar_for_each_bin_with_images(tmp_path, figures):
    analysis = analysis_of()
    plot_reliability(analysis, tmp_path / "reliability.png", "title")
    upper, lower = figures[0].axes
    bins = analysis["calibration"]
    filled = [number for number, count in enumerate(bins["count"]) if count]
    assert 3 < len(filled) < 15
    for axes in (upper, lower):
        middles = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
        assert middles == pytest.approx([(number + 0.5) * 100 / 15 for number in filled])
    assert [bar.get_height() for bar in upper.patches] == [bins["accuracy"][number] for number in filled]
    assert sum(bar.get_height() for bar in lower.patches) == pytest.approx(100)
    assert [tuple(axis) for axis in upper.lines[0].get_data()] == [(0, 100), (0, 100)]
    assert len(upper.collections[0].get_segments()) == len(filled)  # the intervals
    for number, bar in zip(filled, upper.patches, strict=True):
        assert (bar.get_facecolor()[3] == 0) == (bins["count"][number] < 20)
    assert any(f"calibration error {analysis['ece']:.1f} %" in text for text in texts(figures[0]))


def test_a_confusion_matrix_is_in_percent_of_each_row_and_tells_counts(tmp_path, figures):
    labels = torch.tensor([0] * 8 + [1] * 2)
    analysis = analyse(torch.eye(3)[[0] * 6 + [2] * 2 + [1, 0]], labels, ["cat", "dog", "eel"])
    plot_confusion(analysis, tmp_path / "confusion.png", "title")
    axes = figures[0].axes[0]
    assert axes.images[0].get_array().tolist() == [[75, None, 25], [50, 50, None], [None, None, None]]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "6", (2, 0): "2", (0, 1): "1", (1, 1): "1"}  # (column, row)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "eel"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "eel"]


def test_many_classes_have_no_counts_and_few_labels_at_their_own_rows(tmp_path, figures):
    plot_confusion(analysis_of(100), tmp_path / "confusion.png", "title")
    axes = figures[0].axes[0]
    assert not axes.texts
    labels = axes.get_yticklabels()
    assert 10 <= len(labels) <= 25
    for index, label in zip(axes.get_yticks(), labels, strict=True):
        assert label.get_text() == f"class {index}"


def test_too_many_classes_have_no_confusion_matrix(tmp_path):
    assert plot_confusion(analysis_of(201), tmp_path / "confusion.png", "title") is False
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_each_mistake_is_displayed_with_its_classes_and_confidence(tmp_path, figures, kind):
    analysis = analysis_of(strength=3.0)
    analysis["mistakes"] = analysis["mistakes"][:8]
    images = images_of(analysis)
    plot_mistakes(kind(images), analysis, tmp_path / "mistakes.png", "title")
    drawn = [axes for axes in figures[0].axes if axes.images]
    for axes, pixels, mistake in zip(drawn, images, analysis["mistakes"], strict=True):
        assert np.array_equal(axes.images[0].get_array(), pixels)
        assert axes.get_title("left") == f"{mistake['true']}\n→ {mistake['predicted']}"
        assert axes.texts[0].get_text().startswith(f"{mistake['confidence']:.1f} %")
    with Image.open(tmp_path / "mistakes.png") as plot:
        colours = {colour for _, colour in plot.convert("RGB").getcolors(1 << 20)}
    assert {(40 + 5 * number,) * 3 for number in range(8)} <= colours


def test_a_network_without_mistakes_is_told_so(tmp_path, figures):
    analysis = analysis_of(strength=100.0)
    plot_mistakes(images_of(analysis), analysis, tmp_path / "mistakes.png", "title")
    assert "no mistakes on 300 test images" in texts(figures[0])


def test_class_names_that_are_no_text_or_too_long_can_be_told_apart(tmp_path, figures):
    names = ["two\nlines", "\udcff", f"{LONG} 1", f"{LONG} 2"]
    plot_confusion(analysis_of(4, names=names), tmp_path / "confusion.png", "title")
    labels = [label.get_text() for label in figures[0].axes[0].get_yticklabels()]
    assert labels == ["two lines", "?", "a class na…ny plot 1", "a class na…ny plot 2"]


@pytest.mark.parametrize("classes", [2, 10, 20, 40])
def test_every_letter_on_the_page_is_nine_pixels_high(tmp_path, figures, classes):
    """In a window of 1,280 pixels the page gives a plot 534 of them; a capital of DejaVu Sans is 0.729 em high."""
    analysis = analysis_of(classes)
    plot_confusion(analysis, tmp_path / "confusion.png", "title")
    plot_mistakes(images_of(analysis), analysis, tmp_path / "mistakes.png", "title")
    for figure in figures:
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
        assert min(sizes) * 0.729 / 72 * 534 / figure.get_figwidth() >= 9


@pytest.mark.parametrize(("most", "counts"), [(9, True), (99, True), (99_999, False)])
def test_counts_stand_in_their_cells_where_there_is_room_for_all(tmp_path, figures, most, counts):
    analysis = analysis_of(20)
    analysis["confusion"] = [[most] * 20 for _ in range(20)]
    plot_confusion(analysis, tmp_path / "confusion.png", "title")
    axes = figures[0].axes[0]
    assert len(axes.texts) == (400 if counts else 0)
    renderer, cell = FigureCanvasAgg(figures[0]).get_renderer(), axes.get_window_extent().width / 20
    assert all(text.get_window_extent(renderer).width < cell for text in axes.texts)


@pytest.fixture
def with_cat(tmp_path):
    """A font that has 猫, as matplotlib's own has not, among those that are installed."""
    font = TTFont(findfont("DejaVu Sans"))
    for table in font["cmap"].tables:
        table.cmap[ord("猫")] = table.cmap[ord("A")]
    for record in font["name"].names:
        record.string = str(record).replace("DejaVu Sans", "Cats")
    font.save(tmp_path / "cats.ttf")
    fontManager.addfont(tmp_path / "cats.ttf")
    yield
    fontManager.ttflist.pop()


def test_control_characters_in_the_name_of_a_class_are_written_out():
    assert diagnostics._short("b\nad\x1b[31m", 200) == r"b ad\x1b[31m"


def test_names_in_chinese_are_drawn_in_an_installed_font_that_has_them(
    tmp_path, figures, with_cat, capsys, recwarn
):
    analysis = analysis_of(4, names=["猫", "dog", "eel", "cow"])
    plot_confusion(analysis, tmp_path / "confusion.png", "title")
    plot_mistakes(images_of(analysis), analysis, tmp_path / "mistakes.png", "title")
    for figure in figures:
        text = next(text for text in figure.findobj(Text) if "猫" in text.get_text())
        assert text.get_fontfamily() == ["DejaVu Sans", "Cats"]
    assert capsys.readouterr().err == ""
    assert not recwarn.list


def test_a_font_that_is_missing_is_named_once_and_without_raw_warnings(tmp_path, monkeypatch, capsys, recwarn):
    monkeypatch.setattr(fonts, "_reported", set())
    own = [font for font in fontManager.ttflist if font.name in ("DejaVu Sans", "Last Resort High-Efficiency")]
    monkeypatch.setattr(fontManager, "ttflist", own)
    analysis = analysis_of(2, names=["猫", "犬"])
    for _ in range(2):
        plot_confusion(analysis, tmp_path / "confusion.png", "title")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning: no installed font has 犬猫, drawn as boxes in the plots: install one")
    assert "fonts-noto-cjk" in lines[0]
    assert not recwarn.list


def test_captions_do_not_run_into_their_neighbours(tmp_path, figures):
    analysis = analysis_of(strength=1.0)
    names = ["W" * 30, "AUTOMOBILE AND TRUCK", "a class of a very long name", "i" * 40, "m" * 16, "mW" * 9]
    analysis["mistakes"] = [{"true": name, "predicted": name, "confidence": 99.0} for name in names]
    plot_mistakes(images_of(analysis), analysis, tmp_path / "mistakes.png", "title")
    figure = figures[0]
    renderer, axes = FigureCanvasAgg(figure).get_renderer(), figure.axes
    column = (axes[1].get_position().x0 - axes[0].get_position().x0) * figure.bbox.width
    captions = [text for text in figure.findobj(Text) if "→" in text.get_text()]
    assert len(captions) == len(names)
    for text in captions:
        assert 0.6 * column < text.get_window_extent(renderer).width < 0.98 * column
