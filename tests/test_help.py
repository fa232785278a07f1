import re
import subprocess
import sys

import pytest
from command_lines import FLAGS, METHODS, ROOT, parsed, runs

from config import OBJECTIVE, RECIPE_FLAGS
from utils.data.sources import SOURCES


def help_text(program: str) -> str:
    command = [sys.executable, program, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def help_entries(program: str) -> dict[str, str]:
    """Flag name -> its help on one line."""
    entries, name = {}, ""
    for line in help_text(program).partition("examples:")[0].splitlines():
        if match := re.match(r"  (?:-h, )?--([a-z-]+)", line):
            name = match[1]
            entries[name] = ""
        if name and line.startswith("  "):
            entries[name] += " " + line.strip()
    return entries


@pytest.mark.parametrize("program", FLAGS)
def test_the_set_of_flags_is_the_one_that_users_know(program):
    assert list(help_entries(program)) == FLAGS[program].split()


def test_help_shows_every_default():
    entries = help_entries("train.py")
    for name in ("dataset", "data_dir", "image_size", "seed", "device", "precision", "results_dir", "recipe"):
        assert f"(default: {getattr(parsed(''), name)})" in entries[name.replace("_", "-")]
    for name, setting in (("temp", "temperature"), ("alpha", "alpha")):
        swept = " ".join(f"{value:g}" for value in getattr(parsed("--sweep"), f"{name}s"))
        assert f"{METHODS['kd'][setting]:g} of kd" in entries[name]
        assert f"--sweep: {swept})" in entries[name]
    for name in ("limit", "val-size", "method", "teacher-checkpoint", "teacher-mean", "views", "padding", "flip"):
        assert "(default: " in entries[name]


def test_help_shows_the_defaults_of_teacher_and_student_on_each_dataset():
    entries = help_entries("train.py")
    for dataset in SOURCES:
        teacher, student = runs(f"--all --dataset {dataset}")[:2]
        for name in ("teacher", "student", *RECIPE_FLAGS):
            usual, *others = entries[name.replace("_", "-")].rpartition("(default: ")[2].rstrip(")").split("; ")
            own = dict(text.split(": ") for text in others).get(dataset, usual)
            for value in (getattr(teacher, name), getattr(student, name)):
                assert str(value) in own.replace(",", "").split(), name


def test_help_shows_the_objective_with_alpha_as_the_weight_of_the_distillation_term():
    assert OBJECTIVE in help_text("train.py")
    assert re.search(r"\(1 - alpha\) \* CE\(.*\) \+ alpha \* T\^2 \* KL\(", OBJECTIVE)


@pytest.mark.parametrize("program", FLAGS)
def test_the_examples_of_the_help_are_parsed_to_their_roles(program):
    lines = re.findall(rf"^  python ({re.escape(program)}.*)$", help_text(program), re.MULTILINE)
    roles = {parsed(re.split(r" {2,}", line)[0]).role for line in lines}
    assert roles == {"teacher", "student", "kd", "all", *["sweep"] * (program == "train.py")}
