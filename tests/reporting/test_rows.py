"""Which runs a table shows, which it compares, and what stands in a row that must not be taken for the others."""

import json
import re
import shutil

import pytest
from toys import change_json, finished_run

from utils.reporting.rows import find_copies, read_runs
from utils.reporting.table import finished_runs, read_table, write_report
from utils.runtime.errors import UserError

HASHES = [f"{digit}" * 64 for digit in "0123456789abcdef"]
KD = {"role": "kd", "method": "kd", "teacher": "vgg", "method.temperature": 5.0}


def student(folder, seed=0, top1=80.0, **identity):
    return finished_run(folder / "student-cnn" / f"seed{seed}", top1, seed=seed, **identity)


def distilled(folder, seed=0, top1=85.0, taught_by="", record=None, teacher_run=None, **identity):
    name = f"kd-cnn-t{identity.get('method.temperature', 5.0):g}"
    identity = KD | {"teacher_sha256": taught_by[:16]} | identity
    run = finished_run(folder / name / f"seed{seed}", top1, seed=seed, **identity)
    change_json(run.config, run=name, teacher=record or {}, teacher_run=teacher_run or {})
    return run


def teacher(folder, seed=0, weights=HASHES[1], **identity):
    run = finished_run(
        folder / "teacher-vgg" / f"seed{seed}", 95.0, seed=seed, role="teacher", network="vgg", **identity
    )
    change_json(run.results, **({"weights_sha256": weights} if weights else {}))
    return run


def measured_on(run, train=90, val=10, test=50):
    change_json(run.config, data={"train": train, "val": val, "test": test})
    change_json(run.results, images=test)


def titles(folder) -> list[str]:
    return [row.title for row in read_table(folder)[0]]


def lines(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_rows_on_other_images_say_how_many_and_are_not_compared(tmp_path):
    student(tmp_path)
    measured_on(distilled(tmp_path), test=30)
    page = write_report(tmp_path).read_text()
    assert titles(tmp_path) == ["student cnn, alone (50 test images)", "student cnn, KD at T = 5 (30 test images)"]
    assert "on the test images that its row names" in page
    assert "Training had 90 images" in page
    assert "+5.00" not in page
    assert "no student alone" in page


def test_as_many_images_of_other_content_are_told_apart_by_their_hash(tmp_path):
    student(tmp_path, test_data="0123456789abcdef")
    distilled(tmp_path, test_data="fedcba9876543210")
    page = write_report(tmp_path).read_text()
    assert "student cnn, alone (50 test images 012345)" in page
    assert "student cnn, KD at T = 5 (50 test images fedcba)" in page
    assert "+5.00" not in page


def test_where_all_rows_have_the_same_images_no_row_says_so_and_they_are_compared(tmp_path):
    student(tmp_path)
    distilled(tmp_path)
    page = write_report(tmp_path).read_text()
    assert titles(tmp_path) == ["student cnn, alone", "student cnn, KD at T = 5"]
    assert "Accuracy on 50 test images" in page
    assert "| +5.00 |" in page


def test_seeds_on_other_images_are_no_mean(tmp_path):
    student(tmp_path, top1=80.0)
    measured_on(student(tmp_path, seed=1, top1=90.0), test=30)
    rows, _ = read_table(tmp_path)
    assert [row.values("top1") for row in rows] == [[80.0], [90.0]]


def test_metrics_of_other_images_than_the_run_records_are_left_out(tmp_path, capsys):
    student(tmp_path)
    change_json(distilled(tmp_path).results, images=30)
    assert "KD" not in write_report(tmp_path).read_text().split("Left out")[0]
    (line,) = lines(capsys)
    assert "test.json is of 30 images" in line
    assert "hint: python test.py" in line


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("test.json", {"top1": 999.0}),
        ("test.json", {"top1": -1e-9}),
        ("test.json", {"top5": float("nan")}),
        ("test.json", {"loss": float("inf")}),
        ("test.json", {"loss": -0.1}),
        ("test.json", {"ece": 100.5}),
        ("test.json", {"parameters": -5}),
        ("test.json", {"parameters": True}),
        ("test.json", {"parameters": 10**400}),
        ("test.json", {"epoch": 0}),
        ("test.json", {"images": 1.5}),
        ("test.json", {"weights_sha256": 3}),
        ("config.json", {"data": {"train": -1, "val": 10, "test": 50}}),
        ("config.json", {"data": {"train": True, "val": 10, "test": 50}}),
        ("config.json", {"teacher": {"val_top1": 101.0}}),
        ("config.json", {"teacher": {"sha256": 3}}),
        ("config.json", {"teacher_run": {"identity": {"epochs": [3]}}}),
        ("config.json", {"run": 3}),
        ("config.json", {"label": ["KD"]}),
        ("config.json", {"defaults": "none"}),
    ],
)
def test_a_value_that_cannot_be_leaves_the_run_out_and_names_the_file_in_one_line(tmp_path, capsys, file, changes):
    student(tmp_path)
    run = distilled(tmp_path)
    change_json(run.path / file, **changes)
    page = write_report(tmp_path).read_text()
    (line,) = lines(capsys)
    assert line.startswith(f"warning: left out of the table: {run.path / file} ")
    assert "(hint: " in line
    assert [row.name for row in read_table(tmp_path)[0]] == ["student-cnn"]
    assert "Left out, because their files" in page
    assert "`kd-cnn-t5/seed0`" in page


@pytest.mark.parametrize("identity", [{"seed": -1}, {"seed": "0"}, {"epochs": 0}, {"method.temperature": "5"}])
def test_a_setting_that_cannot_be_leaves_the_run_out(tmp_path, capsys, identity):
    student(tmp_path)
    run = distilled(tmp_path)
    config = json.loads(run.config.read_text())
    change_json(run.config, identity=config["identity"] | identity)
    write_report(tmp_path)
    assert lines(capsys)[0].startswith(f"warning: left out of the table: {run.config} ")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("train_top1", "100.5"), ("val_top1", "-3"), ("val_loss", "nan"), ("val_loss", "-1"), ("seconds", "-2")),
        *(("seconds", "inf"), ("epoch", "1.5"), ("epoch", "0"), ("lr", "-0.1"), ("train_loss", "inf"), ("lr", "")),
    ],
)
def test_an_epoch_that_cannot_be_leaves_the_run_out(tmp_path, capsys, column, value):
    student(tmp_path)
    run = distilled(tmp_path)
    head, first, *rest = (line.split(",") for line in run.history.read_text().splitlines())
    first[head.index(column)] = value
    run.history.write_text("".join(",".join(line) + "\n" for line in (head, first, *rest)))
    write_report(tmp_path)
    (line,) = lines(capsys)
    assert line.startswith(f"warning: left out of the table: {run.history} ")


def test_an_objective_may_be_below_zero_and_a_missing_history_leaves_the_run_out(tmp_path, capsys):
    run = student(tmp_path)
    run.history.write_text(run.history.read_text().replace(",2,", ",-2,"))
    distilled(tmp_path).history.unlink()
    write_report(tmp_path)
    (line,) = lines(capsys)
    assert "kd-cnn-t5/seed0/history.csv is missing" in line


def test_a_table_of_nothing_but_bad_runs_names_them_and_is_none(tmp_path, capsys):
    change_json(student(tmp_path).results, top1=999)
    with pytest.raises(UserError, match="no finished run"):
        write_report(tmp_path)
    assert len(lines(capsys)) == 1
    assert [run.path.name for run in finished_runs(tmp_path, "")] == ["seed0"]  # measuring mends it


def test_a_copy_of_a_seed_is_left_out_with_what_to_do(tmp_path, capsys):
    run = student(tmp_path)
    shutil.copytree(run.path, run.path.with_name("seed1"))
    assert "seeds)" not in write_report(tmp_path).read_text()
    assert lines(capsys) == [
        f"warning: left out of the table: {tmp_path}/student-cnn/seed1 holds the run student-cnn/seed0 "
        f"(hint: move that copy out of {tmp_path})"
    ]


@pytest.mark.parametrize("copied", [True, False])
def test_a_folder_of_another_name_than_its_runs_is_left_out_in_one_line(tmp_path, capsys, copied):
    student(tmp_path)
    for seed in range(2):
        run = distilled(tmp_path, seed)
    folder = run.path.parent
    (shutil.copytree if copied else shutil.move)(folder, tmp_path / "kd-cnn-t9")
    assert [row.name for row in read_table(tmp_path)[0]] == ["student-cnn", *["kd-cnn-t5"] * copied]
    write_report(tmp_path)
    hint = f"move that copy out of {tmp_path}"
    if not copied:
        hint = f"give it the name kd-cnn-t5 back, or move it out of {tmp_path}"
    assert lines(capsys) == [
        f"warning: left out of the table: {tmp_path}/kd-cnn-t9 holds the run kd-cnn-t5 (hint: {hint})"
    ]


def test_of_a_run_that_did_not_record_its_name_role_and_network_are_compared(tmp_path):
    finished_run(tmp_path / "kd-cnn-t5" / "seed0", **KD)
    finished_run(tmp_path / "kd-vgg-t5" / "seed0", **KD)
    finished_run(tmp_path / "student-cnn2" / "seed0")
    rows, left_out = read_table(tmp_path)
    assert [row.name for row in rows] == ["kd-cnn-t5"]
    assert sorted(run.path.parent.name for each in left_out for run in each.runs) == ["kd-vgg-t5", "student-cnn2"]


def test_one_run_under_two_names_is_no_two_rows_even_if_it_did_not_record_its_name(tmp_path, capsys):
    student(tmp_path)
    finished_run(tmp_path / "kd-cnn-t5" / "seed0", **KD)
    shutil.copytree(tmp_path / "kd-cnn-t5", tmp_path / "kd-cnn-t9")
    write_report(tmp_path)
    (line,) = lines(capsys)
    assert (
        f"{tmp_path}/kd-cnn-t5/seed0 and {tmp_path}/kd-cnn-t9/seed0 are the same run (hint: one is a copy" in line
    )


def test_equal_weights_under_two_seeds_are_named_and_the_other_rows_are_shown(tmp_path, capsys):
    for seed, weights in enumerate((HASHES[2], HASHES[3], HASHES[3])):
        change_json(student(tmp_path, seed).results, weights_sha256=weights)
        change_json(distilled(tmp_path, seed).results, weights_sha256=HASHES[4 + seed])
    rows, _ = read_table(tmp_path)
    assert [(row.name, sorted(row.tests)) for row in rows] == [("student-cnn", [0]), ("kd-cnn-t5", [0, 1, 2])]
    write_report(tmp_path)
    (line,) = lines(capsys)
    assert f"{tmp_path}/student-cnn/seed1 and {tmp_path}/student-cnn/seed2 have equal weights" in line
    assert f"move it out of {tmp_path}" in line


def test_two_methods_may_end_with_equal_weights_in_one_seed(tmp_path):
    for run in (student(tmp_path), distilled(tmp_path)):
        change_json(run.results, weights_sha256=HASHES[2])
    assert find_copies(read_runs(tmp_path)[0]) == []


def test_a_row_names_its_teacher_by_top_1_and_hash_and_the_teachers_row_has_the_same_hash(tmp_path):
    for seed in range(2):
        teacher(tmp_path, seed, HASHES[1 + seed])
        record = {"sha256": HASHES[1 + seed], "val_top1": 94.0 + seed, "note": ""}
        distilled(tmp_path, seed, taught_by=HASHES[1 + seed], record=record)
    rows = [line for line in write_report(tmp_path).read_text().splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in rows[0].split("|")[1:3]] == ["model", "teacher"]
    assert [cell.strip() for cell in rows[2].split("|")[1:3]] == ["teacher vgg (2 seeds)", "(111111, 222222)"]
    assert [cell.strip() for cell in rows[3].split("|")[1:3]] == [
        "student cnn, KD at T = 5 (2 seeds)",
        "vgg 94.50 ± 0.71 % (111111, 222222)",
    ]


def test_a_run_that_recorded_only_the_hash_of_its_teacher_is_named_by_it(tmp_path):
    distilled(tmp_path, taught_by=HASHES[1])
    teacher(tmp_path, weights=None)
    text = write_report(tmp_path).read_text()
    assert "| student cnn, KD at T = 5 | vgg (111111) |" in text
    assert "the first digits of its weights' SHA-256" in text


def test_a_student_of_a_teacher_that_was_trained_again_is_marked_for_the_seeds_where_that_is_so(tmp_path):
    for seed in range(2):
        teacher(tmp_path, seed, HASHES[1 + seed])
        distilled(tmp_path, seed, taught_by=HASHES[1 + seed])
    assert titles(tmp_path)[1] == "student cnn, KD at T = 5"
    change_json(tmp_path / "teacher-vgg/seed1/test.json", weights_sha256=HASHES[9])
    assert titles(tmp_path)[1] == "student cnn, KD at T = 5 (seed 1: taught by another teacher than the table's)"
    change_json(tmp_path / "teacher-vgg/seed0/test.json", weights_sha256=HASHES[8])
    assert titles(tmp_path)[1] == "student cnn, KD at T = 5 (taught by another teacher than the table's)"


def test_a_mark_says_in_what_the_recipe_of_the_other_teacher_differs(tmp_path):
    own = json.loads(teacher(tmp_path).config.read_text())["identity"]
    distilled(tmp_path, taught_by=HASHES[9], teacher_run={"identity": own | {"epochs": 1}})
    mark = "taught by another teacher than the table's: epochs 1 instead of 3"
    assert titles(tmp_path)[1] == f"student cnn, KD at T = 5 ({mark})"


def test_a_student_is_not_marked_where_the_hash_of_the_tables_teacher_is_unknown(tmp_path):
    teacher(tmp_path, weights=None)
    distilled(tmp_path, taught_by=HASHES[1])
    assert titles(tmp_path)[1] == "student cnn, KD at T = 5"


@pytest.mark.parametrize("note", ["unfinished: epoch 1 of 3", "of another program"])
def test_an_unfinished_or_foreign_teacher_is_marked_in_the_table(tmp_path, note):
    distilled(tmp_path, record={"sha256": HASHES[1], "val_top1": 50.0, "note": note})
    text = write_report(tmp_path).read_text()
    assert f"| student cnn, KD at T = 5 (teacher {note}) | vgg 50.00 % (111111) |" in text


def test_a_teacher_of_elsewhere_or_of_other_images_is_marked(tmp_path):
    run = {"identity": {"role": "teacher", "network": "vgg", "epochs": 3, "seed": 0, "data": "0" * 16}}
    distilled(tmp_path, taught_by=HASHES[1], data="f" * 16, teacher_run=run)
    assert titles(tmp_path) == ["student cnn, KD at T = 5 (teacher trained on other images)"]
    finished_run(tmp_path / "teacher-resnet" / "seed0", role="teacher", network="resnet", data="f" * 16)
    marks = "teacher trained on other images; teacher not in this table"
    assert titles(tmp_path)[1] == f"student cnn, KD at T = 5 ({marks})"


def test_seeds_whose_teachers_had_other_recipes_are_no_mean(tmp_path):
    for seed, epochs in enumerate((3, 3, 7)):
        identity = {"role": "teacher", "network": "vgg", "epochs": epochs, "seed": seed}
        distilled(tmp_path, seed, 80.0 + seed, HASHES[1 + seed], teacher_run={"identity": identity})
    rows, _ = read_table(tmp_path)
    assert [row.values("top1") for row in rows] == [[80.0, 81.0], [82.0]]
    assert rows[1].title == "student cnn, KD at T = 5 (teacher: epochs 7 instead of 3)"


NASTY = "<img src=x onerror=a>|`x`\n# y\x1b[2J ![z](http://z) **b**\udcff"


def test_no_text_of_a_run_becomes_markup_in_the_page(tmp_path):
    dataset = tmp_path / "a|<b>`c`"
    run = distilled(dataset, **{"method.beta": NASTY})
    name = 'kd-cnn-"<b>?'
    shutil.move(run.path.parent, dataset / name)
    config = dataset / name / "seed0" / "config.json"
    change_json(config, run=name, label=NASTY, objective=NASTY, device=NASTY, command=NASTY)
    change_json(config, teacher={"note": NASTY}, defaults={"method.beta": 1.0})
    student(dataset)
    page = write_report(dataset).read_text(encoding="utf-8")
    plain = NASTY.replace("\n", "\\n").replace("\x1b", "\\x1b").replace("\udcff", "\\udcff")
    assert f"Objective: `` {plain} ``. Measured on \\<img" in page
    assert f"\n    {plain}\n" in page
    rest = re.sub(r'<img src="[^"<>]*" width="49%" alt="[^"<>]*">', "", page.replace(plain, ""))
    assert not re.search(r"(?<!\\)<|(?<!\\)`x|(?<!\\)\[z|\n\\?# y|[\x1b\udcff]", rest)
    assert page.startswith("# Knowledge distillation on a\\|\\<b\\>\\`c\\`\n")
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert 'src="kd-cnn-%22%3Cb%3E%3F/seed0/accuracy.png"' in page
    alts = [part.split('"')[0] for part in page.split('alt="')[1:]]
    assert len(alts) == 4
    assert all("<" not in alt and ">" not in alt for alt in alts)


def test_a_mix_of_teachers_is_named_by_its_own_hash_and_a_method_without_a_teacher_by_none(tmp_path):
    teacher(tmp_path)
    distilled(tmp_path, taught_by=HASHES[9], teacher="vgg+cnn", teacher_mix="mean")
    run = finished_run(tmp_path / "tfkd-cnn" / "seed0", role="kd", method="tfkd")
    change_json(run.config, run="tfkd-cnn")
    cells = [(row.title, row.teacher_text) for row in read_table(tmp_path)[0]]
    assert cells[1:] == [("student cnn, KD at T = 5", "vgg+cnn (999999)"), ("student cnn, TFKD", "")]
