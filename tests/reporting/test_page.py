"""The page of a dataset: what it says, that it is safe to open, and how it looks in a real browser."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from html import escape, unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.reporting.page import write_page
from utils.reporting.style import COLOURS, GREY
from utils.runtime.errors import UserError

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "shapes"
NASTY = "<script>alert(\"1\")</script> & 'co'"
VOID = {"meta", "link", "img", "br", "path", "rect"}


def analyse(classes: int = 4, distilled: bool = False, **changes) -> dict:
    names = [f"class {number}" for number in range(classes - 1)] + [NASTY]
    pair = {"true": "<i>", "predicted": NASTY}
    teacher = {"run": "teacher-cnn", "top1": 96.0, "agreement": 88.5, "teacher_mistakes": 160}
    teacher |= {"inherited": 31.5, "corrected": 22.25, "regressed": 7.75}
    baseline = {"run": "student-cnn_tiny", "top1": 85.0, "gain": 5.0, "per_class_gain": [1.5, -2.5, 4.0, None]}
    analysis = {
        "images": 4000,
        **{"top1": 90.0, "top5": 99.0, "loss": 0.3, "ece": 3.25},
        "calibration": {
            "count": [0] * 13 + [1000, 3000],
            "confidence": [None] * 13 + [90.0, 99.0],
            "accuracy": [None] * 13 + [80.0, 97.5],
        },
        "class_names": names,
        "per_class": [90.0 - number / 10 for number in range(classes - 1)] + [None],
        "confusion": None,
        "confused": [pair | {"count": 31, "share": 3.1}],
        "mistakes": [pair | {"index": 123, "confidence": 99.5}],
        **{"parameters": 72954, "multiply_adds": 9_870_000, "file_bytes": 592_000, "latency_ms": 0.44},
        **{"latency_q1_ms": 0.43, "latency_q3_ms": 0.46, "busy": ""},
        **{"throughput": 3456.7, "throughput_batch": 128, "device": "cpu & co", "threads": 2},
        **{"model": "cnn_tiny", "epoch": 12, "dataset": "shapes", "checkpoint": "results/<x>/last.pt"},
        "teacher": teacher if distilled else None,
        "baseline": baseline if distilled else None,
    }
    return analysis | changes


@pytest.fixture
def shapes(tmp_path):
    """The finished runs of the reference, with analysis and images for each, and a command to be escaped."""
    target = tmp_path / "shapes"
    Image.new("RGB", (900, 600), "green").save(tmp_path / "green.png")
    for name in ("teacher-cnn", "student-cnn_tiny", "kd-cnn_tiny-t5", "kd-cnn_tiny-t20"):
        shutil.copytree(REFERENCE / name, target / name, ignore=shutil.ignore_patterns("*.png"))
    for run in target.glob("*/seed*"):
        (run / "analysis.json").write_text(json.dumps(analyse(distilled=run.parent.name.startswith("kd"))))
        for name in ("reliability.png", "confusion.png", "mistakes.png"):
            shutil.copy(tmp_path / "green.png", run / name)
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(config | {"command": f"python train.py --data-dir {NASTY}"}))
    return target


class Reader(HTMLParser):
    """What a browser would find: the text, the cells of the first table, and each element with its attributes."""

    def __init__(self, page: Path):
        super().__init__()
        self.words, self.elements, self.rows, self.open = [], [], [], []
        self.feed(page.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open += [tag] if tag not in VOID else []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data.strip()

    def items(self, start: str) -> list[str]:
        """The texts that begin so."""
        return [words for words in self.words if words.startswith(start)]

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def cells(self, title: str) -> dict[str, str]:
        """The row of the first table whose title contains this."""
        row = next(row for row in self.rows[1:] if title in row[0].replace("\N{NO-BREAK SPACE}", " "))
        return dict(zip(self.rows[0], row, strict=True))

    def plot(self, start: str) -> str:
        """The text that stands for a plot."""
        return next(label for one in self.all("svg") if (label := one.get("aria-label", "")).startswith(start))


def values(shapes: Path, run: str, key: str) -> np.ndarray:
    """A value of the test.json of each seed, read without the code that is tested."""
    return np.array([json.loads((shapes / run / f"seed{seed}/test.json").read_text())[key] for seed in range(3)])


def test_the_table_has_the_results_of_all_seeds(shapes):
    top1, baseline, loss = (
        values(shapes, run, key)
        for run, key in (("kd-cnn_tiny-t5", "top1"), ("student-cnn_tiny", "top1"), ("kd-cnn_tiny-t5", "loss"))
    )
    cells = Reader(write_page(shapes)).cells("KD at T = 5")
    assert list(cells.values())[1:4] == [
        "3",
        f"{top1.mean():.2f} ± {top1.std(ddof=1):.2f}",
        f"{(top1 - baseline).mean():+.2f} ± {(top1 - baseline).std(ddof=1):.2f}",
    ]
    assert list(cells.values())[4:8] == ["72,954", "9.87 M", "592 k", "0.44 (0.43-0.46)"]
    assert cells["NLL (nats)"] == f"{loss.mean():.3f} ± {loss.std(ddof=1):.3f}"
    assert (cells["ECE (%)"], cells["agrees with the teacher (%)"]) == ("3.25 ± 0.00", "88.50 ± 0.00")


def test_a_run_without_analysis_has_its_row_and_the_command_that_adds_it(shapes):
    for seed in range(3):
        (shapes / f"kd-cnn_tiny-t5/seed{seed}/analysis.json").unlink()
    (shapes / "teacher-cnn/seed1/analysis.json").unlink()
    top1 = values(shapes, "kd-cnn_tiny-t5", "top1")
    reader = Reader(write_page(shapes))
    cells = reader.cells("KD at T = 5")
    assert cells["top-1 (%)"] == f"{top1.mean():.2f} ± {top1.std(ddof=1):.2f}"
    assert [name for name, text in cells.items() if text == "-"] == [
        *("multiply-adds", "file size (bytes)", "latency (ms)", "ECE (%)", "agrees with the teacher (%)")
    ]
    missing = ", ".join(["teacher-cnn/seed1", *(f"kd-cnn_tiny-t5/seed{seed}" for seed in range(3))])
    assert f"mistakes) of the runs that have none yet: {missing}." in reader.text


def test_the_page_has_every_section_and_without_analysis_those_that_it_can_fill(shapes):
    whole = Reader(write_page(shapes)).text
    for path in shapes.glob("*/*/analysis.json"):
        path.unlink()
    text = Reader(write_page(shapes)).text
    measured = ("Calibration", "Class by class", "What came from the teacher", "The most confident mistakes")
    for heading in ("All runs", "Accuracy against cost", "Training", *measured, "How it was made and measured"):
        assert heading in whole
        assert (f" {heading} " in text) == (heading not in measured), heading


def test_no_text_becomes_markup(shapes):
    shapes = shapes.rename(shapes.with_name("<script>&"))
    reader = Reader(write_page(shapes))
    assert not reader.all("script")
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
    assert reader.text.count("Knowledge distillation on <script>&") == 2
    assert f"python train.py --data-dir {NASTY}" in reader.text
    assert f"<i> → {NASTY}: 31 (3.1 %)" in reader.text
    assert reader.text.count("results/<x>/last.pt, epoch 12") == 4
    assert "one image at a time on cpu & co" in reader.text


def test_a_name_that_is_no_unicode_leaves_a_readable_page(shapes):
    broken = analyse(class_names=["\udcff", "b", "c", "d"])
    (shapes / "teacher-cnn/seed0/analysis.json").write_text(json.dumps(broken))
    assert "?" in Reader(write_page(shapes)).text


def test_everything_is_within_the_file(shapes):
    reader = Reader(write_page(shapes))
    assert {attributes["src"][:22] for attributes in reader.all("img")} == {"data:image/png;base64,"}
    policy = next(one["content"] for one in reader.all("meta") if "http-equiv" in one)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    targets = {attributes["id"] for _, attributes in reader.elements if "id" in attributes}
    assert all(attributes["href"][1:] in targets for attributes in reader.all("a"))
    assert [attributes["href"] for attributes in reader.all("link")] == ["data:,"]
    assert not re.search(r"@import|url\(|https?:", reader.text)


def test_images_and_plots_are_told_in_words_and_headings_skip_no_level(shapes):
    (shapes / "teacher-cnn/seed0/confusion.png").unlink()
    reader = Reader(write_page(shapes))
    assert len(reader.all("img")) == 4 * 2 - 1  # of one seed each; one is missing
    assert all(len(attributes["alt"]) > 20 for attributes in reader.all("img"))
    plots = [attributes for attributes in reader.all("svg") if attributes.get("role") == "img"]
    assert len(plots) == 2 + 3 + 3 + 4  # cost, curves, an objective each of CE and two temperatures, calibration
    assert all(len(attributes["aria-label"]) > 20 for attributes in plots)
    assert all("aria-hidden" in attributes for attributes in reader.all("svg") if attributes.get("class") == "key")
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch("h[1-6]", tag)]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after - before <= 1 for before, after in pairwise(levels))


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "[" * 100_000,
        json.dumps({}),
        json.dumps(analyse(ece="3.2")),
        json.dumps(analyse(ece=float("nan"))),
        json.dumps(analyse(multiply_adds=10**400)),
        json.dumps(analyse(class_names=[1, 2])),
        json.dumps(analyse(calibration={"count": [1], "confidence": ["1"], "accuracy": [1]})),
        json.dumps(analyse(confused=[{"true": "cat"}])),
        json.dumps(analyse(teacher={"agreement": 3})),
        json.dumps(analyse(baseline=[])),
    ],
    ids=range(12),
)
def test_a_damaged_analysis_is_named_and_the_page_has_all_others(shapes, damage, capsys):
    path = shapes / "teacher-cnn/seed2/analysis.json"
    path.write_text(damage)
    page = write_page(shapes).read_text()
    assert f"left out of the page: {path} is damaged (hint: remove it, then python" in capsys.readouterr().err
    path.unlink()
    assert write_page(shapes).read_text() == page


def test_a_folder_in_the_place_of_an_analysis_is_named_and_passed_over(shapes, capsys):
    path = shapes / "teacher-cnn/seed2/analysis.json"
    path.unlink()
    path.mkdir()
    write_page(shapes)
    assert f"left out of the page: {path} is damaged" in capsys.readouterr().err


def test_mistakes_name_the_files_of_their_images_where_these_have_any(shapes):
    mistake = {"true": "cat", "predicted": "dog", "index": 7, "confidence": 99.5}
    for seed in range(3):
        named = analyse(mistakes=[mistake | {"file": "test/cat/<1>.png"}, mistake, mistake | {"file": 5}])
        (shapes / f"teacher-cnn/seed{seed}/analysis.json").write_text(json.dumps(named))
    items = [item.replace("\N{NO-BREAK SPACE}", " ") for item in Reader(write_page(shapes)).items("cat → dog")]
    assert items == [f"cat → dog, 99.5 % sure, {of}" for of in ("test/cat/<1>.png", *["test image 7"] * 2)]


def test_shorter_lists_than_promised_break_nothing(shapes):
    empty = {"count": [], "confidence": [], "accuracy": []}
    short = analyse(class_names=["a"], per_class=[], calibration=empty, confused=[], mistakes=[])
    (shapes / "teacher-cnn/seed0/analysis.json").write_text(json.dumps(short))
    assert Reader(write_page(shapes)).text.count("As a list") == 3


def test_a_folder_without_finished_runs_has_no_page(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        write_page(tmp_path)


def test_gains_stand_above_the_table(shapes):
    text = Reader(write_page(shapes)).text
    first, second = text.index("KD at T = 5 gains 4."), text.index("KD at T = 20: no measurable gain")
    assert first < second < text.index("agrees with")


def test_equal_images_in_several_parts_are_a_note_above_the_table(shapes):
    assert "Note:" not in Reader(write_page(shapes)).text
    for path in shapes.glob("*/seed*/config.json"):
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"duplicates": {"test_in_train": 12}}))
    text = Reader(write_page(shapes)).text
    assert text.count("Note: 12 of 4,000 test images are in train, too.") == 1


def test_classes_stand_by_their_gain_or_by_their_accuracy_unknown_ones_last_and_many_are_folded(shapes):
    for seed in range(3):
        many = analyse(classes=100) | {"class_names": [f"class {number}" for number in range(100)]}
        (shapes / f"teacher-cnn/seed{seed}/analysis.json").write_text(json.dumps(many))
    text = Reader(write_page(shapes)).text
    teacher, *_, distilled = text.split("Accuracy by class")[1:]
    numbers = re.findall(r"class (\d+) (?:\d+\.\d|-)", teacher)
    assert numbers == [*map(str, reversed(range(99))), "99"]
    assert teacher.index("class 79 ") < teacher.index("80 more classes") < teacher.index("class 78 ")
    assert re.findall(r"(class \d|</script>.*?) ((?:\d+\.\d|-) (?:[+-]\d\.\d|-))", distilled)[:4] == [
        *(("class 2", "89.8 +4.0"), ("class 0", "90.0 +1.5"), ("class 1", "89.9 -2.5")),
        ("</script> & 'co'", "- -"),
    ]


def test_curves_end_at_the_mean_of_the_last_epoch_that_all_seeds_have(shapes):
    paths = sorted(shapes.glob("teacher-cnn/seed*/history.csv"))
    losses = [float(path.read_text().splitlines()[-2].split(",")[5]) for path in paths]
    *lines, last = paths[0].read_text().splitlines()
    cells = last.split(",")
    paths[0].write_text("\n".join([*lines, ",".join([*cells[:5], "", *cells[6:]])]) + "\n")
    end = re.search(r"teacher cnn: ([\d.]+) after", Reader(write_page(shapes)).plot("Validation loss"))[1]
    assert float(end) == pytest.approx(np.mean(losses), rel=5e-3)


def test_without_validation_images_there_are_no_validation_curves(shapes):
    for path in shapes.glob("*/*/history.csv"):
        head, *lines = (line.split(",") for line in path.read_text().splitlines())
        lines = [[*line[:5], "", "", "", line[8]] for line in lines]
        path.write_text("".join(",".join(line) + "\n" for line in [head, *lines]))
    text = Reader(write_page(shapes)).text
    assert "Validation" not in text
    assert "Training accuracy" in text


def test_the_plot_of_cost_says_its_points(shapes):
    label = Reader(write_page(shapes)).plot("Top-1 against parameters.")
    assert f"student cnn_tiny, alone: {values(shapes, 'student-cnn_tiny', 'top1').mean():.2f} % at 73 k" in label


def axes_of(figure: str) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """What the axes of a plot's markup say of a position: a value for each x and each y."""
    x = re.findall(r'<text x="([\d.]+)" y="230\.?0?" text-anchor="middle">(\d+)<', figure)
    y = re.findall(r'd="M0.0,([\d.]+)L[^>]*><text[^>]*>(\d+)<', figure)
    lines = [np.polyfit(*np.array(labels, dtype=float)[[0, -1]].T, 1) for labels in (x, y)]
    return tuple(partial(np.polyval, line) for line in lines)


def test_reliability_pools_the_images_of_all_seeds_and_its_marks_and_bars_stand_where_the_axes_say(shapes):
    for seed, (count, confidence, accuracy) in enumerate([(100, 90.0, 60.0), (300, 98.0, 80.0), (0, None, None)]):
        bins = {"count": [100, count], "confidence": [25.0, confidence], "accuracy": [30.0, accuracy]}
        (shapes / f"teacher-cnn/seed{seed}/analysis.json").write_text(json.dumps(analyse(calibration=bins)))
    page = write_page(shapes).read_text(encoding="utf-8")
    figure = page.split('aria-label="Accuracy against confidence')[1].split("</figure>")[0]
    x, y = axes_of(figure)
    tip = "75.0 % right of 400 predictions at 96.0 % confidence, 95 % interval 70.5 to 79.0"
    mark = re.search(rf"translate\(([\d.]+) ([\d.]+)\)[^>]*><title>{re.escape(tip)}<", figure).groups()
    assert (x(float(mark[0])), y(float(mark[1]))) == pytest.approx((96, 75), abs=0.1)
    bars = re.findall(r'class="share" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', figure)
    for (left, top, width, height), share, start in zip(
        np.array(bars, dtype=float), (300 / 7, 400 / 7), (0, 50), strict=True
    ):
        assert (y(top), y(top + height)) == pytest.approx((share, 0), abs=0.1)
        assert (x(left), x(left + width)) == pytest.approx((start, start + 50), abs=0.5)


def test_bins_of_few_images_are_hollow_and_no_line_leads_to_them(shapes):
    bins = {"count": [900, 90, 3], "confidence": [20.0, 50.0, 90.0], "accuracy": [20.0, 50.0, 100.0]}
    for seed in range(3):
        (shapes / f"teacher-cnn/seed{seed}/analysis.json").write_text(json.dumps(analyse(calibration=bins)))
    figure = write_page(shapes).read_text(encoding="utf-8").split('aria-label="Accuracy against confidence')[1]
    marks = re.findall(r"(hollow|fill)=?[^>]*><title>[\d.]+ % right of ([\d,]+)", figure.split("</figure>")[0])
    assert [(kind == "hollow", count) for kind, count in marks] == [(False, "2,700"), (False, "270"), (True, "9")]
    line = re.search(r'stroke-width="2" d="([^"]*)"', figure)[1]
    assert line.count(",") == 2


def test_equal_networks_share_one_latency_that_of_quiet_moments(shapes):
    for run, seed, ms, busy in (
        *(("student-cnn_tiny", seed, ms, "") for seed, ms in enumerate((0.40, 0.42, 0.50))),
        *(("kd-cnn_tiny-t5", seed, 8.9, "load 7.0 on 2 cores") for seed in range(3)),
        *(("teacher-cnn", seed, 3.0, "load 7.0 on 2 cores") for seed in range(3)),
        *(("kd-cnn_tiny-t20", seed, 0.44, "quartiles far apart") for seed in range(3)),
    ):
        cost = {"latency_ms": ms, "latency_q1_ms": ms - 0.02, "latency_q3_ms": ms + 0.1, "busy": busy}
        (shapes / run / f"seed{seed}/analysis.json").write_text(json.dumps(analyse(**cost)))
    reader = Reader(write_page(shapes))
    texts = [reader.cells(title)["latency (ms)"] for title in ("alone", "KD at T = 5", "KD at T = 20", "teacher")]
    assert texts == ["0.42 (0.40-0.52)"] * 3 + ["3.00 (2.98-3.10)*"]
    assert "* measured on a busy machine (load 7.0 on 2 cores), so it may be too long." in reader.text


def test_latencies_of_different_devices_are_told_apart_and_never_in_one_plot(shapes):
    for seed in range(3):
        other = analyse(device="cuda:0 (fast)", latency_ms=0.1)
        (shapes / f"teacher-cnn/seed{seed}/analysis.json").write_text(json.dumps(other))
    reader = Reader(write_page(shapes))
    labels = [one["aria-label"] for one in reader.all("svg") if "against latency" in one.get("aria-label", "")]
    assert ["teacher" in label for label in labels] == [True, False]
    assert ["student" in label for label in labels] == [False, True]
    assert "Latencies of different devices are not to be compared." in reader.text


def test_an_analysis_of_an_earlier_version_has_a_latency_without_quartiles(shapes):
    old = analyse()
    for name in ("latency_q1_ms", "latency_q3_ms", "busy"):
        del old[name]
    for path in shapes.glob("*/*/analysis.json"):
        path.write_text(json.dumps(old))
    assert Reader(write_page(shapes)).cells("teacher")["latency (ms)"] == "0.44"


def test_rows_of_other_objectives_are_never_in_one_plot(shapes):
    labels = [one["aria-label"] for one in Reader(write_page(shapes)).all("svg") if one.get("role") == "img"]
    rows = [
        re.findall("teacher|alone|T = 20|T = 5", label) for label in labels if label.startswith("Training obj")
    ]
    assert rows == [["teacher", "alone"], ["T = 5"], ["T = 20"]]


def test_logarithmic_axes_say_so(shapes):
    text = Reader(write_page(shapes)).text
    assert "parameters, logarithmic scale" in text
    assert "latency (ms), logarithmic scale" in text
    assert "cross-entropy in nats, logarithmic scale" in text


def test_single_seeds_have_no_deviation_anywhere(shapes):
    for path in shapes.glob("*/seed[12]"):
        shutil.rmtree(path)
    reader = Reader(write_page(shapes))
    assert "±" not in reader.text
    assert not [one for _, attributes in reader.elements for one in attributes.values() if one and "±" in one]
    assert "lowest to the highest" not in reader.text


def test_top5_is_left_out_where_it_says_nothing(shapes):
    assert "top-5 (%)" in Reader(write_page(shapes)).rows[0]
    for path in shapes.glob("*/*/test.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"top5": 100.0}))
    assert "top-5 (%)" not in Reader(write_page(shapes)).rows[0]


def test_a_colour_belongs_to_a_role(shapes):
    def colours() -> dict[str, str]:
        page = write_page(shapes).read_text(encoding="utf-8")
        keys = re.findall(r'<svg class="key"[^>]*><path fill="([^"]*)"[^>]*></path></svg>([^<]*)', page)
        return {name.replace("\N{NO-BREAK SPACE}", " "): colour for colour, name in keys}

    every = colours()
    assert len(set(every.values())) == 4
    shutil.rmtree(shapes / "teacher-cnn")
    assert colours() == {name: colour for name, colour in every.items() if "teacher" not in name}


@pytest.mark.parametrize("part", ["confusion.png", "seed0", "teacher-cnn"])
def test_what_a_link_points_to_is_left_out_and_named(shapes, part, capsys):
    """A page is passed on: a folder from elsewhere must not get pictures of this machine into it."""
    plot = shapes / "teacher-cnn/seed0/confusion.png"
    link = next(path for path in (plot, *plot.parents) if path.name == part)
    link.rename(shapes.parent / f"secret {part}")
    link.symlink_to(shapes.parent / f"secret {part}")
    reader = Reader(write_page(shapes))
    assert len(reader.all("img")) == 4 * 2 - (1 if part == "confusion.png" else 2)
    assert f"warning: {plot} is left out of the page: {link} is a link" in capsys.readouterr().err


def test_what_is_no_regular_file_is_left_out_and_named(shapes, capsys):
    plot = shapes / "teacher-cnn/seed0/mistakes.png"
    plot.unlink()
    os.mkfifo(plot)
    assert len(Reader(write_page(shapes)).all("img")) == 4 * 2 - 1
    assert f"{plot} is left out of the page: it is no regular file" in capsys.readouterr().err


def browse(page: Path, script: str, width: int = 1280, dark: bool = False) -> tuple[list, list[str]]:
    """The value of `script` in the page, all unfolded, in a frame of so many pixels; and what the browser said.

    The page's policy lets no script run in it, so that of the document around it looks in.
    """
    if shutil.which("chromium") is None:
        pytest.skip("needs chromium")
    frame = f"width:{width}px;height:900px;border:0;color-scheme:{'dark' if dark else 'light'}"
    outer = page.with_name("outer.html")
    outer.write_text(f"""<!doctype html><meta charset="utf-8"><title></title>
        <iframe srcdoc="{escape(page.read_text(encoding="utf-8"))}" style="{frame}"></iframe>
        <script>onload = () => {{
          const frame = document.querySelector('iframe');
          document.title = JSON.stringify((({{document, innerWidth, getComputedStyle}}) => {{
            document.querySelectorAll('details').forEach(one => one.open = true);
            return {script};
          }})(frame.contentWindow));
          frame.remove();
        }}</script>""")
    flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --hide-scrollbars"
    flags += (
        f" --disable-background-networking --enable-logging=stderr --user-data-dir={page.with_name('profile')}"
    )
    command = ["chromium", *flags.split(), "--window-size=1400,1000", "--dump-dom", outer.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    value = json.loads(unescape(re.search("<title>(.*?)</title>", result.stdout, re.DOTALL)[1]))
    return value, [line for line in result.stderr.splitlines() if ":CONSOLE:" in line]


def test_a_browser_opens_the_page_without_complaint_and_it_asks_for_nothing(shapes):
    page = write_page(shapes)
    loaded = "[...document.images].every(one => one.complete && one.naturalWidth > 0)"
    asked = "document.defaultView.performance.getEntriesByType('resource').length"
    assert browse(page, f"[{loaded}, {asked}]") == ([True, 0], [])
    # The harness itself: it hears what a page complains of, and what its policy holds back.
    bad = "<img src=http://localhost:9/a.png onerror=nothing()></main>"
    page.write_text(page.read_text(encoding="utf-8").replace("</main>", bad), encoding="utf-8")
    value, complaints = browse(page, f"[{loaded}, {asked}]")
    assert value == [False, 1]
    assert len(complaints) == 2


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(shapes, width):
    long = {"class_names": ["a" * 80, "b c " * 20, "c", "d"], "device": "x" * 200, "checkpoint": "y" * 300}
    (shapes / "teacher-cnn/seed0/analysis.json").write_text(json.dumps(analyse(**long)))
    wide = (
        "[...document.querySelectorAll('main *, header *')].filter(one => one.getClientRects().length && "
        "!one.closest('.scroll, svg') && one.getBoundingClientRect().right > innerWidth + 1)"
        ".map(one => one.outerHTML)"
    )
    boxes = "['html', '.scroll'].map(s => document.querySelector(s)).flatMap(e => [e.clientWidth, e.scrollWidth])"
    (window, page, box, table, *too_wide), _ = browse(write_page(shapes), f"[...{boxes}, ...{wide}]", width)
    assert too_wide == []
    assert window == page == width
    assert box <= width
    assert width > 390 or table > box


CONTRAST = """(() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = rgb => rgb.slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = one => {
    for (; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
  };
  const ratios = {};
  const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (nodes.nextNode()) {
    const one = nodes.currentNode.parentElement;
    if (!nodes.currentNode.data.trim() || one.tagName == 'title') continue;
    const style = getComputedStyle(one);
    const colour = numbers(one.tagName == 'text' ? style.fill : style.color);
    const pair = [light(colour), light(behind(one))].sort((a, b) => b - a);
    ratios[one.tagName + ' ' + colour] = (pair[0] + 0.05) / (pair[1] + 0.05);
  }
  for (const colour of COLOURS) {
    const one = document.querySelector('.card').appendChild(document.createElement('i'));
    one.style.color = colour;
    const pair = [light(numbers(getComputedStyle(one).color)), light(behind(one))].sort((a, b) => b - a);
    ratios['mark ' + colour] = 1.5 * (pair[0] + 0.05) / (pair[1] + 0.05);
  }
  const plot = light(numbers(getComputedStyle(document.querySelector('.image')).backgroundColor));
  const pair = [light(numbers('rgb GREY')), plot].sort((a, b) => b - a);
  ratios['text in plots'] = (pair[0] + 0.05) / (pair[1] + 0.05);
  return [getComputedStyle(document.body).backgroundColor, ratios];
})()"""
CONTRAST = CONTRAST.replace("COLOURS", str(list(COLOURS)))
CONTRAST = CONTRAST.replace("rgb GREY", " ".join(str(int(GREY[at : at + 2], 16)) for at in (1, 3, 5)))


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_marks_stand_out_in_light_and_dark(shapes, dark):
    """WCAG 2.1, level AA: 4.5 to 1 for text, 3 to 1 for graphics (here times 1.5)."""
    (shade, ratios), _ = browse(write_page(shapes), CONTRAST, dark=dark)
    assert (sum(map(int, re.findall(r"\d+", shade))) < 200) == dark
    assert len(ratios) > 12
    assert {what: ratio for what, ratio in ratios.items() if ratio < 4.5} == {}


def test_on_a_phone_no_flag_breaks_and_captions_of_tables_say_that_there_is_more(shapes):
    config = json.loads((shapes / "student-cnn_tiny/seed0/config.json").read_text())
    config["command"] = "python train.py --label-smoothing 0.1 " + "--weight-decay 0.0005 " * 9
    for seed in range(3):
        (shapes / f"student-cnn_tiny/seed{seed}/config.json").write_text(json.dumps(config))
    flags = "[...document.querySelectorAll('.flag')].map(one => [one.textContent, one.getClientRects().length])"
    caption = "document.querySelector('caption > span').getBoundingClientRect().right <= innerWidth"
    swipe = "getComputedStyle(document.querySelector('.swipe')).display"
    page = write_page(shapes)
    (found, caption_fits, display), _ = browse(page, f"[{flags}, {caption}, {swipe}]", 390)
    assert {text for text, _ in found} >= {"--weight-decay", "--label-smoothing"}
    assert {lines for _, lines in found} == {1}
    assert (caption_fits, display) == (True, "inline")
    assert browse(page, swipe)[0] == "none"


def test_plots_on_the_page_are_as_wide_as_their_letters_need(shapes):
    """Letters of 10 points in plots of 5.8 inches are 9 pixels high where a plot has 534 of them."""
    widths = "[...document.images].map(one => one.clientWidth - 2 * parseFloat(getComputedStyle(one).padding))"
    assert min(browse(write_page(shapes), widths)[0]) >= 534
