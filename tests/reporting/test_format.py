"""How numbers and tables are written, in the README tables and on the page."""

import pytest

from utils.reporting.format import (
    align,
    code,
    fixed,
    format_gain,
    leave_out_top5,
    markdown,
    markdown_table,
    short,
    spread,
)
from utils.reporting.statistics import paired_gain


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (0.4367, "0.437"), (999.4, "999"), (999.6, "1 k"), (72_954, "73 k"), (999_999, "1 M")),
        *((9_870_000, "9.87 M"), (1.5e9, "1.5 G"), (-12_345, "-12.3 k")),
    ],
)
def test_numbers_are_short(value, text):
    assert short(value) == text


def test_what_is_unknown_is_left_out_of_a_mean_and_written_as_a_dash():
    assert spread([1.0, None, 3.0]) == "2.00 ± 1.41"
    assert spread([1.0]) == "1.00"
    assert spread([None]) == spread([]) == format_gain(None) == ""
    assert (fixed(None), fixed(-0.25, "+.2f")) == ("-", "-0.25")


def test_a_gain_has_its_sign_and_its_spread_over_seeds():
    assert format_gain(paired_gain([51.0, 53.0], [50.0, 50.0])) == "+2.00 ± 1.41"
    assert format_gain(paired_gain([49.0], [50.0])) == "-1.00"


def test_a_markdown_table_has_names_on_the_left_and_numbers_on_the_right():
    table = markdown_table([{"model": "cnn", "top-1 (%)": "90.1"}, {"model": "vgg", "top-1 (%)": "94.2"}])
    assert table == "| model | top-1 (%) |\n|:--|--:|\n| cnn | 90.1 |\n| vgg | 94.2 |"


@pytest.mark.parametrize(
    ("cells", "there"), [(["100.00", "100.00 ± 0.00"], False), (["100.00", "99.98"], True), (["", ""], True)]
)
def test_a_column_in_which_every_row_has_all_images_among_the_first_five_is_left_out(cells, there):
    rows = leave_out_top5([{"model": "cnn", "top-5 (%)": cell, "epochs": "3"} for cell in cells])
    assert [("top-5 (%)" in row, row["epochs"]) for row in rows] == [(there, "3")] * 2


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("student cnn_tiny, KD at T = 5, 0.1 * 2 (+4.80 ± 1.52)", None),  # nothing in it is markup
        ("a|b", r"a\|b"),
        ("a\n# b\r\tc", r"a\\n\# b\\r\\tc"),
        ("<img src=x>&lt;", r"\<img src=x\>\&lt;"),
        ("![a](b) [c][d]", r"!\[a\](b) \[c\]\[d\]"),
        ("`x` *a* **b** _c_ ~~d~~ $e$", r"\`x\` \*a\* \*\*b\*\* \_c\_ \~\~d\~\~ \$e\$"),
        (r"\| and \\", r"\\\| and \\\\"),
        ("https://a.b www.a.b @c", r"https\://a.b www\.a.b \@c"),
        ("\x1b[31m\u202eabc\udcff", r"\\x1b\[31m\\u202eabc\\udcff"),
        ("- a", r"\- a"),
        (" * a", r"\* a"),
        ("12. a", r"12\. a"),
    ],
)
def test_text_becomes_no_markup_in_markdown_and_what_is_none_stays_readable(text, escaped):
    assert markdown(text) == (text if escaped is None else escaped)


def test_cells_and_titles_of_a_markdown_table_are_escaped_and_one_column_is_bold():
    table = markdown_table([{"mo|del": "<b>\n|", "top-1 (%)": "9*"}], "top-1 (%)")
    assert table == "| mo\\|del | top-1 (%) |\n|:--|--:|\n| \\<b\\>\\\\n\\| | **9\\*** |"


def test_a_code_span_ends_where_it_should():
    assert code("0.1 * CE | <b>") == "`0.1 * CE | <b>`"
    assert code("a`b``c\n") == "``` a`b``c\\n ```"


def test_a_terminal_has_columns_as_wide_as_their_cells_and_long_titles_in_two_lines():
    rows = [
        {"model": "teacher", "top-1 (%)": "90.10", "gain over it": ""},
        {"model": "student", "top-1 (%)": "9.25", "gain over it": "+0.15"},
    ]
    assert align(rows).splitlines() == [
        "         top-1     gain",
        "model      (%)  over it",
        "teacher  90.10",
        "student   9.25    +0.15",
    ]
