"""The page of a dataset: what it says, that it is safe to open, and how it looks in a real browser."""

import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.reporting.page import write_page
from utils.reporting.page.plots import (
    FOLD,
    Point,
    Scale,
    Series,
    class_bars,
    curves,
    reliability,
    scatter,
    short,
    summarise,
)
from utils.runtime.errors import UserError

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "shapes"
NASTY = "<script>alert(\"1\")</script> & 'co'"
PLOTS = ("reliability.png", "confusion.png", "mistakes.png")


def analyse(classes: int = 4, taught: bool = False, **changes) -> dict:
    names = [f"class {number}" for number in range(classes - 1)] + [NASTY]
    pair = {"true": names[0], "predicted": NASTY}
    teacher = {"run": "teacher-cnn", "top1": 96.0, "agreement": 88.5, "teacher_mistakes": 160}
    teacher |= {"inherited": 31.5, "corrected": 22.25, "regressed": 7.75}
    found = {
        "images": 4000,
        **{"top1": 90.0, "top5": 99.0, "loss": 0.3, "ece": 3.25},
        "calibration": {
            "count": [0] * 13 + [1000, 3000],
            "confidence": [None] * 13 + [90.0, 99.0],
            "accuracy": [None] * 13 + [80.0, 97.5],
        },
        "class_names": names,
        "per_class": [90.0 + number / 10 for number in range(classes - 1)] + [None],
        "confusion": None,
        "confused": [pair | {"count": 31, "share": 3.1}],
        "mistakes": [pair | {"index": 123, "confidence": 99.5}],
        **{"parameters": 72954, "multiply_adds": 9_870_000, "file_bytes": 592_000, "latency_ms": 0.44},
        **{"throughput": 3456.7, "throughput_batch": 128, "device": "cpu & co", "threads": 2},
        **{"model": "cnn_tiny", "epoch": 12, "dataset": "shapes", "checkpoint": "results/<x>/last.pt"},
        "teacher": teacher if taught else None,
        "baseline": {
            "run": "student-cnn_tiny",
            "top1": 85.0,
            "gain": 5.0,
            "per_class_gain": [1.5, -2.5, 4.0, None],
        }
        if taught
        else None,
    }
    return found | changes


@pytest.fixture
def shapes(tmp_path):
    """The finished runs of the reference, with analysis and pictures for each, and a command to be escaped."""
    target = tmp_path / "shapes"
    Image.new("RGB", (900, 600), "green").save(tmp_path / "green.png")
    shutil.copytree(REFERENCE, target, ignore=shutil.ignore_patterns("*.png", "README.md"))
    for run in target.glob("*/seed*"):
        (run / "analysis.json").write_text(json.dumps(analyse(taught=run.parent.name.startswith("kd"))))
        for name in PLOTS:
            shutil.copy(tmp_path / "green.png", run / name)
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(config | {"command": f"python train.py --data-dir {NASTY}"}))
    return target


class Reader(HTMLParser):
    """What a browser would find: the text, and each element with its attributes."""

    def __init__(self, page: Path):
        super().__init__()
        self.words, self.elements = [], []
        self.feed(page.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def cells(page: Path, title: str) -> list[str]:
    """The cells of a row of the first table."""
    table = page.read_text(encoding="utf-8").split("<tbody>")[1].split("</tbody>")[0]
    row = next(line for line in table.split("<tr>") if title in line.replace("&nbsp;", " "))
    return [re.sub("<[^>]+>", "", cell) for cell in re.findall("<td>(.*?)</td>", row)]


def test_the_table_has_the_figures_of_all_seeds(shapes):
    top1, alone, loss = (
        np.array([json.loads((shapes / run / f"seed{seed}/test.json").read_text())[key] for seed in range(3)])
        for run, key in (("kd-cnn_tiny-t5", "top1"), ("student-cnn_tiny", "top1"), ("kd-cnn_tiny-t5", "loss"))
    )
    found = cells(write_page(shapes), "KD at T = 5")
    assert found[0] == "3"
    assert found[1] == f"{top1.mean():.2f} ± {top1.std(ddof=1):.2f}"
    assert found[2] == f"{(top1 - alone).mean():+.2f} ± {(top1 - alone).std(ddof=1):.2f}"
    assert found[3:7] == ["72,954", "9.87 M", "592 k", "0.44"]
    assert found[8] == f"{loss.mean():.3f} ± {loss.std(ddof=1):.3f}"
    assert found[9:] == ["3.25 ± 0.00", "88.50 ± 0.00"]


def test_a_run_without_evidence_has_its_row_and_the_command_that_adds_it(shapes):
    for seed in range(3):
        (shapes / f"kd-cnn_tiny-t5/seed{seed}/analysis.json").unlink()
    (shapes / "teacher-cnn/seed1/analysis.json").unlink()
    figures = [json.loads(path.read_text())["top1"] for path in shapes.glob("kd-cnn_tiny-t5/seed*/test.json")]
    page = write_page(shapes)
    found = cells(page, "KD at T = 5")
    assert found[1] == f"{np.mean(figures):.2f} ± {np.std(figures, ddof=1):.2f}"
    assert [found[column] for column in (4, 5, 6, 9, 10)] == ["-"] * 5
    missing = ", ".join(["teacher-cnn/seed1", *(f"kd-cnn_tiny-t5/seed{seed}" for seed in range(3))])
    assert (
        f"python test.py --all adds the analysis (cost, calibration, classes, mistakes) of the runs that have "
        f"none yet: {missing}." in Reader(page).text
    )


def test_runs_without_any_evidence_make_a_page_of_what_there_is(shapes):
    for path in shapes.glob("*/*/analysis.json"):
        path.unlink()
    reader = Reader(write_page(shapes))
    assert reader.text.count("Validation accuracy") == 1
    assert "Class by class" not in reader.text
    assert "expected calibration error" not in reader.text.split("How it was made")[0]


def test_no_text_becomes_markup(shapes):
    reader = Reader(write_page(shapes))
    assert not reader.all("script")
    assert f"python train.py --data-dir {NASTY}" in reader.text
    assert f"class 0 → {NASTY}: 31 (3.1 %)" in reader.text
    assert "results/<x>/last.pt, epoch 12" in reader.text
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]


def test_a_name_that_is_no_unicode_leaves_a_readable_page(shapes):
    broken = analyse(class_names=["\udcff", "\ud800", "c", "d"])
    (shapes / "teacher-cnn/seed0/analysis.json").write_text(json.dumps(broken))
    assert "?" in Reader(write_page(shapes)).text


def test_everything_is_within_the_file(shapes):
    reader = Reader(write_page(shapes))
    assert {attributes["src"][:22] for attributes in reader.all("img")} == {"data:image/png;base64,"}
    targets = {attributes["id"] for _, attributes in reader.elements if "id" in attributes}
    assert all(attributes["href"][1:] in targets for attributes in reader.all("a"))
    assert [attributes["href"] for attributes in reader.all("link")] == ["data:,"]
    assert not re.search(r"@import|url\(|https?:", reader.text)


def test_pictures_and_plots_are_told_in_words_and_headings_skip_no_level(shapes):
    reader = Reader(write_page(shapes))
    assert len(reader.all("img")) == 8
    assert all(len(attributes["alt"]) > 20 for attributes in reader.all("img"))
    plots = [attributes for attributes in reader.all("svg") if attributes.get("role") == "img"]
    assert len(plots) == 2 + 4 + 4
    assert all(len(attributes["aria-label"]) > 20 for attributes in plots)
    assert all("aria-hidden" in attributes for attributes in reader.all("svg") if attributes.get("class") == "key")
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_a_missing_picture_is_left_out(shapes):
    (shapes / "teacher-cnn/seed0/confusion.png").unlink()
    (shapes / "teacher-cnn/seed0/mistakes.png").unlink()
    assert len(Reader(write_page(shapes)).all("img")) == 6


def test_a_page_of_twelve_runs_holds_the_pictures_of_one_seed_each(shapes):
    for path in shapes.glob("*/*/*.png"):
        path.write_bytes(path.read_bytes().ljust(300_000, b"\0"))
    assert 3_000_000 < write_page(shapes).stat().st_size < 5_000_000


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        json.dumps({}),
        json.dumps(analyse(ece="3.2")),
        json.dumps(analyse(ece=float("nan"))),
        json.dumps(analyse(latency_ms=float("inf"))),
        json.dumps(analyse(multiply_adds=10**400)),
        json.dumps(analyse(class_names=[1, 2])),
        json.dumps(analyse(per_class=None)),
        json.dumps(analyse(calibration={"count": [1], "confidence": ["1"], "accuracy": [1]})),
        json.dumps(analyse(confused=[{"true": "cat"}])),
        json.dumps(analyse(mistakes={"index": 3})),
        json.dumps(analyse(teacher={"agreement": 3})),
        json.dumps(analyse(baseline=[])),
    ],
    ids=range(16),
)
def test_damaged_evidence_is_named_and_the_old_page_stays(shapes, damage):
    (shapes / "report.html").write_text("old")
    (shapes / "teacher-cnn/seed2/analysis.json").write_text(damage)
    with pytest.raises(
        UserError, match=r"seed2/analysis\.json is damaged \(hint: remove it, then python test\.py"
    ):
        write_page(shapes)
    assert (shapes / "report.html").read_text() == "old"


def test_shorter_lists_than_promised_break_nothing(shapes):
    short_lists = analyse(
        class_names=["a"], per_class=[], calibration={"count": [], "confidence": [], "accuracy": []}
    )
    (shapes / "teacher-cnn/seed0/analysis.json").write_text(json.dumps(short_lists))
    assert write_page(shapes).exists()


def test_a_folder_without_finished_runs_has_no_page(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        write_page(tmp_path)


def test_without_validation_images_there_are_no_validation_curves(shapes):
    for path in shapes.glob("*/*/history.csv"):
        lines = [line.split(",") for line in path.read_text().splitlines()]
        path.write_text("\n".join(",".join([*line[:5], "", "", "", line[8]]) for line in lines[1:]))
        path.write_text(",".join(lines[0]) + "\n" + path.read_text() + "\n")
    text = Reader(write_page(shapes)).text
    assert "Validation" not in text
    assert "Training accuracy" in text


def test_verdicts_stand_above_the_table(shapes):
    text = Reader(write_page(shapes)).text
    assert text.index("KD at T = 5 gains 4.") < text.index("KD at T = 20 gains 2.") < text.index("agrees with")


def test_classes_stand_by_their_gain_or_by_their_accuracy_and_unknown_ones_last():
    classes = [("a", 90.0, -2.0), ("b", None, None), ("c", 80.0, 3.0), ("d", 85.0, 0.0)]
    assert re.findall('row">(.)<', class_bars(classes, taught=True)) == ["c", "d", "a", "b"]
    assert re.findall('row">(.)<', class_bars(classes, taught=False)) == ["c", "d", "a", "b"]
    classes[0] = ("a", 70.0, -2.0)
    assert re.findall('row">(.)<', class_bars(classes, taught=False)) == ["a", "c", "d", "b"]
    # The widest bar fills its half; a loss ends in the middle, where a gain begins.
    bars = re.findall(r'middle (\w+)"><i style="left:([\d.]+)%;width:([\d.]+)%', class_bars(classes, taught=True))
    assert bars[0] == ("up", "50.0", "50.0")
    assert bars[2] == ("down", "16.7", "33.3")


def test_many_classes_are_folded_and_none_is_lost():
    text = class_bars([(f"class {number}", float(number), None) for number in range(100)], taught=False)
    shown, folded = text.split(f"<summary>{100 - FOLD} more classes</summary>")
    assert (shown.count('<th scope="row">'), folded.count('<th scope="row">')) == (FOLD, 100 - FOLD)


@pytest.mark.parametrize(
    ("values", "log", "whole"),
    [
        ((0, 100), False, False),
        ((93.21, 93.24), False, False),
        ((50, 50), False, False),
        ((1, 2), False, True),
        ((1, 300), False, True),
        ((72_954, 288_746), True, False),
        ((300_000, 20_000_000), True, False),
        ((1.10, 1.15), True, False),
        ((5, 5), True, False),
        ((1e-6, 1e9), True, False),
        ((0, 5), True, False),
    ],
)
def test_an_axis_has_a_few_round_ticks_within_its_ends(values, log, whole):
    scale = Scale(values, 100, log=log, whole=whole)
    ticks, labels = scale.ticks(), [short(tick, 5) for tick in scale.ticks()]
    assert 2 <= len(ticks) <= 8
    assert len(set(labels)) == len(ticks)
    assert all(0 <= scale(tick) <= 100 for tick in ticks if tick > 0 or not log)
    assert all(0 < scale(value) < 100 for value in values)
    assert not whole or all(tick == int(tick) for tick in ticks)


def test_a_logarithmic_axis_puts_the_geometric_mean_in_the_middle():
    scale = Scale((10, 1000), 200, log=True)
    assert scale(100) == pytest.approx(100)
    assert scale(0) < 0
    assert Scale((10, 1000), 200)(505) == pytest.approx(100)


def test_the_noise_of_a_latency_does_not_fill_an_axis():
    scale = Scale((1.0, 1.1), 100, log=True)
    # log10(1.1) / log10(2) of the axis, around its middle
    assert (scale(1.0), scale(1.1)) == pytest.approx((43.125, 56.875), abs=0.001)


def test_numbers_are_short():
    given = (0, 0.4367, 999.4, 999.6, 72_954, 999_999, 9_870_000, 1.5e9, -12_345)
    assert [short(value) for value in given] == [
        "0",
        "0.437",
        "999",
        "1 k",
        "73 k",
        "1 M",
        "9.87 M",
        "1.5 G",
        "-12.3 k",
    ]


def test_a_curve_is_the_mean_of_the_seeds_and_skips_what_is_no_number():
    low, high = (
        [{"epoch": e, "val_loss": v} for e, v in enumerate(values, 1)] for values in ((1, 2, None), (3, 4, 5))
    )
    points = summarise(0, "row", [low, high], "val_loss").points
    assert points == [Point(1, 2, 1, 3), Point(2, 3, 2, 4)]
    low[0]["val_loss"] = float("inf")
    assert summarise(0, "row", [low, high], "val_loss").points == [Point(2, 3, 2, 4)]


def test_a_curve_is_drawn_where_its_values_are():
    text = curves("Loss", [Series(0, "a", [Point(1, 10, 10, 10), Point(3, 0.1, 0.1, 0.1)])], log=True)
    path = re.search(r'stroke-width="2" d="M([\d.]+),([\d.]+)L([\d.]+),([\d.]+)"', text)
    # A room of 6 % on both sides of two values: 6/112 and 106/112 of 366 by 214 units.
    assert [float(place) for place in path.groups()] == pytest.approx([19.6, 11.5, 346.4, 202.5], abs=0.06)
    assert "a: 0.1 after the last epoch" in text


def test_a_scatter_plot_says_its_points():
    series = [Series(0, "teacher", [Point(2e7, 94, 93, 95)]), Series(1, "student", [Point(3e5, 92.5, 92, 93)])]
    text = scatter("Top-1", "parameters", series)
    assert 'aria-label="Top-1 against parameters. teacher: 94.00 % at 20 M; student: 92.50 % at 300 k."' in text


def test_reliability_pools_the_images_of_all_seeds():
    one = {"count": [0, 100], "confidence": [None, 90.0], "accuracy": [None, 60.0]}
    two = {"count": [0, 300], "confidence": [None, 98.0], "accuracy": [None, 80.0]}
    assert "75.0 % right of 400 answers 96.0 % sure" in reliability(0, "calibration", [one, two])


class Browser:
    """A tab of a headless Chromium, spoken to over pipes (the DevTools protocol)."""

    FLAGS = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe"
    )
    # Chromium reads from file 3 and writes to file 4.
    START = (
        "import os, sys; [os.dup2(int(sys.argv[n]), n + 2) for n in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"
    )

    def __init__(self, profile: Path):
        ends = [*os.pipe(), *os.pipe()]
        theirs_in, self.out, self.inp, theirs_out = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ends)
        words = [str(theirs_in), str(theirs_out), shutil.which("chromium"), *self.FLAGS.split()]
        line = [sys.executable, "-c", self.START, *words, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(line, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        for end in (*ends, theirs_in, theirs_out):
            os.close(end)
        self.rest, self.events, self.count, self.session = b"", [], 0, {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {
            "sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        }
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters):
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters} | self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != self.count:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def receive(self) -> dict:
        until = time.monotonic() + 60
        while b"\0" not in self.rest:
            assert select.select([self.inp], [], [], max(0, until - time.monotonic()))[0], "the browser is silent"
            part = os.read(self.inp, 1 << 20)
            assert part, "the browser has ended"
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, page: Path, width: int, dark: bool = False) -> None:
        """Load the page in a window of `width` CSS pixels and open all that is folded."""
        self.events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())
        self.run("document.querySelectorAll('details').forEach(one => one.open = true)")

    def run(self, script: str):
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def close(self) -> None:
        os.close(self.out)
        os.close(self.inp)
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if shutil.which("chromium") is None:
        pytest.skip("needs chromium")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def test_a_browser_opens_the_page_without_complaint_and_asks_for_nothing_else(shapes, browser):
    page = write_page(shapes)
    browser.open(page, 1280)
    seen = {event["method"]: event["params"] for event in browser.events}
    assert not {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"} & seen.keys(), seen
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
    assert browser.run("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    # The harness itself: it hears what a page complains of.
    (shapes / "bad.html").write_text("<script>console.error(1); nothing()</script><img src=none.png>")
    browser.open(shapes / "bad.html", 1280)
    heard = {event["method"] for event in browser.events}
    assert {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"} <= heard


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(shapes, browser, width):
    long = {"class_names": ["a" * 80, "b c " * 20, "c", "d"], "device": "x" * 200, "checkpoint": "y" * 300}
    (shapes / "teacher-cnn/seed0/analysis.json").write_text(json.dumps(analyse(**long)))
    browser.open(write_page(shapes), width)
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    wide = (
        "[...document.querySelectorAll('main *, header *')].filter(one => one.getClientRects().length && "
        "!one.closest('.scroll, svg') && one.getBoundingClientRect().right > innerWidth + 1)"
        ".map(one => one.outerHTML)"
    )
    assert browser.run(wide) == []
    box = browser.run("(one => [one.clientWidth, one.scrollWidth])(document.querySelector('.scroll'))")
    assert box[0] <= width
    assert width > 390 or box[1] > box[0]


CONTRAST = """
(() => {
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
  const found = {};
  const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (nodes.nextNode()) {
    const one = nodes.currentNode.parentElement;
    if (!nodes.currentNode.data.trim() || one.tagName == 'title') continue;
    const style = getComputedStyle(one);
    const colour = numbers(one.tagName == 'text' ? style.fill : style.color);
    const pair = [light(colour), light(behind(one))].sort((a, b) => b - a);
    found[one.tagName + ' ' + colour] = (pair[0] + 0.05) / (pair[1] + 0.05);
  }
  for (let number = 0; number < 8; number++) {
    const one = document.querySelector('.card').appendChild(document.createElement('i'));
    one.className = 'c' + number;
    const pair = [light(numbers(getComputedStyle(one).color)), light(behind(one))].sort((a, b) => b - a);
    found['mark ' + number] = 1.5 * (pair[0] + 0.05) / (pair[1] + 0.05);
  }
  return found;
})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_marks_stand_out_in_light_and_dark(shapes, browser, dark):
    """WCAG 2.1, level AA: 4.5 to 1 for text, 3 to 1 for graphics (here times 1.5)."""
    browser.open(write_page(shapes), 1280, dark)
    shade = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", shade))) < 200) == dark
    found = browser.run(CONTRAST)
    assert len(found) > 12
    assert {what: ratio for what, ratio in found.items() if ratio < 4.5} == {}
