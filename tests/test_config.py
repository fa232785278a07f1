import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from config import OBJECTIVE, RECIPE_FLAGS, Config, parse
from models import MODELS
from utils.data.sources import SOURCES

ROOT = Path(__file__).parents[1]

TRAIN_FLAGS = """
    help tto kd all sweep teacher student
    dataset data-dir image-size limit skip-bad-images val-size
    temp alpha teacher-checkpoint views teacher-cache teacher-cache-limit
    recipe epochs batch-size lr momentum weight-decay warmup schedule label-smoothing ema cutout eval-every
    seed seeds device precision cuda-graph compile results-dir tensorboard resume overwrite debug
"""
TEST_FLAGS = """
    help tto kd all checkpoint teacher student
    dataset data-dir image-size limit skip-bad-images val-size
    temp alpha
    seed device precision results-dir export debug
"""
BOOLEANS = ("sweep", "tensorboard", "compile", "tto", "kd", "all", "resume", "overwrite", "debug")


def train(line: str = "") -> Config:
    return parse("train.py", shlex.split(line), MODELS, SOURCES)


def evaluate(line: str = "") -> Config:
    return parse("test.py", shlex.split(line), MODELS, SOURCES)


def reparsed(command: str) -> Config:
    python, program, *argv = shlex.split(command)
    assert (python, program) == ("python", "train.py")
    return parse(program, argv, MODELS, SOURCES)


@pytest.fixture
def problems(capsys):
    """The problems that a command line is refused with, all of them."""

    def refuse(line: str, program: str = "train.py") -> list[str]:
        with pytest.raises(SystemExit) as ending:
            parse(program, shlex.split(line), MODELS, SOURCES)
        assert ending.value.code == 2
        out, err = capsys.readouterr()
        *errors, hint = err.splitlines()
        assert (out, hint) == ("", f"hint: python {program} --help")
        assert all(error.startswith("error: ") for error in errors)
        return [error.removeprefix("error: ") for error in errors]

    return refuse


@pytest.mark.parametrize(
    ("line", "role"),
    [
        ("", "student"),
        ("--kd", "kd"),
        ("--kd True", "kd"),
        ("--kd=true", "kd"),
        ("--kd TRUE", "kd"),
        ("--kd 1", "kd"),
        ("--kd=yes", "kd"),
        ("--kd on", "kd"),
        ("--kd False", "student"),
        ("--kd=false", "student"),
        ("--kd 0", "student"),
        ("--kd no", "student"),
        ("--kd=off", "student"),
        ("--no-kd", "student"),
        ("--no_kd", "student"),
        ("--tto True", "teacher"),
        ("--tto", "teacher"),
        ("--tto=False", "student"),
        ("--no-tto", "student"),
        ("--all", "all"),
        ("--all True", "all"),
        ("--no-all", "student"),
        ("--kd=false --tto True", "teacher"),
        ("--no-tto --kd", "kd"),
    ],
)
def test_boolean_flags_mean_what_they_say(line, role):
    assert train(line).role == role


@pytest.mark.parametrize("name", ["resume", "overwrite", "debug"])
def test_every_other_boolean_flag_has_the_same_forms(name):
    for line, value in [
        ("", False),
        (f"--{name}", True),
        (f"--{name} True", True),
        (f"--{name}=false", False),
        (f"--no-{name}", False),
    ]:
        assert getattr(train(line), name) is value


def test_the_last_of_two_boolean_forms_wins():
    assert train("--kd --no-kd").role == "student"
    assert train("--no-kd --kd").role == "kd"


def test_a_bare_boolean_leaves_the_next_flag_alone():
    config = train("--kd --seed 3 --temp 4")
    assert (config.role, config.seed, config.temp) == ("kd", 3, 4.0)


@pytest.mark.parametrize("form", ["--kd maybe", "--kd=2", "--kd=", "--resume nope"])
def test_a_boolean_that_is_neither_is_refused(problems, form):
    (problem,) = problems(form)
    assert "is neither True nor False" in problem
    assert problem.startswith(re.split("[ =]", form)[0])


@pytest.mark.parametrize(
    "line",
    [
        "--batch-size 64",
        "--batch-size=64",
        "--weight-decay 0.001",
        "--label-smoothing=0.1",
        "--val-size 10",
        "--data-dir my_own-images",
        "--results-dir=some_where",
        "--kd --teacher-checkpoint a_b.pt",
        "--dataset folder --image-size 64",
    ],
)
def test_flags_take_underscores_for_hyphens_and_leave_values_as_they_are(line):
    underscored = re.sub(r"--[a-z-]+", lambda flag: "--" + flag[0][2:].replace("-", "_"), line)
    assert underscored != line
    assert train(underscored) == train(line)


def test_underscores_within_values_survive():
    config = train("--data_dir my_own-images --results-dir=some_where --teacher vgg13_bn")
    assert (config.data_dir, config.results_dir, config.teacher) == ("my_own-images", "some_where", "vgg13_bn")


def test_all_problems_are_reported_at_once(problems):
    found = problems(
        "--tto maybe --kd --all --temp 0 nan --alpha 1.5 --epochs 0 --lr inf --teacher vgg19 --student= "
        "--dataset cifar --epoch 3 --momentun 0.9 --seed --resume --overwrite --image-size 64"
    )
    starts = (
        "unknown flag --epoch, did you mean --epochs?",
        "unknown flag --momentun, did you mean --momentum?",
        "--tto 'maybe' ",
        "--kd and --all exclude each other",
        "--temp '0' ",
        "--temp 'nan' ",
        "--alpha '1.5' ",
        "--epochs '0' ",
        "--lr 'inf' ",
        "--teacher 'vgg19' is unknown, did you mean vgg19_bn?",
        "--student '' is unknown",
        "--dataset 'cifar' is unknown, did you mean cifar10?",
        "--seed needs a value",
        "--resume and --overwrite exclude each other",
    )
    for start in starts:
        assert sum(problem.startswith(start) for problem in found) == 1, start


@pytest.mark.parametrize(
    ("flag", "values", "complaint"),
    [
        ("--temp", "0 -1 0.001 1e5 nan inf -inf 1e999 five", "is not a number from 0.01 to 10000"),
        ("--lr", "0 -0.1 nan inf x", "is not a number above 0"),
        ("--alpha", "1.5 -0.1 nan inf x", "is not a number from 0 to 1"),
        ("--momentum", "1 -0.1 nan x", "is not a number from 0 to below 1"),
        ("--warmup", "1 -0.1 nan x", "is not a number from 0 to below 1"),
        ("--label-smoothing", "1 -0.1 nan x", "is not a number from 0 to below 1"),
        ("--ema", "1 -0.1 nan x", "is not a number from 0 to below 1"),
        ("--weight-decay", "-0.1 nan inf x", "is not a number of at least 0"),
        ("--epochs", "0 -1 1.5 1e3 x", "is not a whole number of at least 1"),
        ("--batch-size", "0 -1 1.5 x", "is not a whole number of at least 1"),
        ("--limit", "1 0 -5 x", "is not a whole number of at least 2"),
        ("--val-size", "-1 0.1 x", "is not a whole number of at least 0"),
        ("--seed", "-1 0.5 x 99999999999999999999", "is not a whole number of at least 0"),
        ("--cutout", "-1 1.5 x", "is not a whole number of at least 0"),
        ("--views", "-1 1.5 x", "is not a whole number of at least 0"),
        ("--eval-every", "0 -1 1.5 x", "is not a whole number of at least 1"),
        ("--teacher-cache-limit", "0 -1 nan x", "is not a number above 0"),
        ("--cuda-graph", "on True", "is unknown"),
        ("--recipe", "short", "is unknown"),
        ("--image-size", "31 0 -1 x", "is not a whole number of at least 32"),
        ("--device", "gpu cuda: cuda:x cpu:0 tpu", "is not auto, cpu, cuda or cuda:N"),
        ("--precision", "fp16 FP32", "is unknown"),
        ("--schedule", "cosin step", "is unknown"),
        ("--dataset", "imagenet", "is unknown; known: cifar10, cifar100, folder, shapes"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range(problems, flag, values, complaint):
    for value in values.split():
        found = problems(
            f"--kd {flag}={value}" if flag in ("--temp", "--alpha", "--teacher-cache-limit") else f"{flag}={value}"
        )
        assert [p for p in found if p.startswith(f"{flag} '{value}' ")] == [p for p in found if complaint in p]
        assert any(complaint in p for p in found), value


def test_the_long_recipe_has_four_times_the_epochs_of_either_role_and_nothing_else():
    for role, default, long in zip(("--tto", "", "--kd"), (40, 40, 40), (160, 160, 160), strict=True):
        short, longer = train(role), train(f"{role} --recipe long")
        assert (short.epochs, longer.epochs) == (default, long)
        assert all(getattr(short, n) == getattr(longer, n) for n in RECIPE_FLAGS if n != "epochs")
    assert [run.epochs for run in train("--all --dataset shapes --recipe long").runs()] == [80, 48, 48, 48]
    assert train("--recipe long --epochs 7").epochs == 7
    assert "--recipe long" in train("--kd --recipe long").command("teacher")


def test_a_command_for_another_role_repeats_the_seeds():
    assert train("--kd --seeds 3 7").command("teacher") == "python train.py --tto True --seeds 3 7"
    assert train("--kd --seeds 1").command("teacher") == "python train.py --tto True --seed 0"
    assert evaluate("--kd --alpha 0.5 --temp 4").command("kd") == "python train.py --kd True --temp 4 --alpha 0.5"


def test_a_flag_of_the_other_program_is_said_to_be_one(problems):
    assert problems("--sweep", "test.py") == ["unknown flag --sweep: only train.py has it"]
    assert problems("--export x") == ["unknown flag --export: only test.py has it"]


def test_seeds_are_a_number_of_them_or_a_list_and_repeat_every_row():
    assert train("--seeds 3").seeds == (0, 1, 2)
    assert train("--seeds 4 2").seeds == (4, 2)
    assert train("--seed 7").seeds == (7,)
    assert train().seeds == (0,)
    runs = [(run.role, run.seed, run.temp) for run in train("--all --seeds 2 --temp 5 20").runs()]
    rows = [("teacher", 5.0), ("student", 5.0), ("kd", 5.0), ("kd", 20.0)]
    assert runs == [(role, seed, temp) for seed in (0, 1) for role, temp in rows]
    assert [str(run.teacher_path) for run in train("--kd --seeds 1 5").runs()] == [
        f"results/cifar10/teacher-vgg19_bn/seed{seed}/last.pt" for seed in (1, 5)
    ]


def test_a_sweep_is_a_taught_student_for_each_point_of_the_grid_in_a_folder_of_its_own():
    runs = train("--sweep --temp 2 5 --alpha 0.5 1 --seeds 2").runs()
    assert len(runs) == 8
    assert {run.role for run in runs} == {"kd"}
    assert [str(run.run_dir) for run in runs[:2]] == [
        "results/cifar10/sweep/kd-cnn-t2-a0.5/seed0",
        "results/cifar10/sweep/kd-cnn-t2-a1/seed0",
    ]
    assert [(run.identity()["temp"], run.identity()["alpha"]) for run in runs[:4]] == [
        (2, 0.5), (2, 1), (5, 0.5), (5, 1)
    ]  # fmt: skip
    assert {run.teacher_path for run in runs} == {train(f"--kd --seed {seed}").teacher_path for seed in (0, 1)}
    default = train("--sweep")
    assert (default.temps, default.alphas) == ((1, 2, 5, 10, 20), (0.5, 0.9, 1))
    assert (train("--kd").alphas, train("--all").alphas) == ((0.9,), (0.9,))


def test_views_and_kept_answers_are_of_students(problems):
    assert problems("--tto --views 4") == [
        "--views is for students: a teacher sees every image anew in each epoch"
    ]
    for flag in ("--teacher-cache off", "--teacher-cache-limit 1"):
        assert problems(flag) == [f"{flag.split()[0]} needs --kd True, --all or --sweep"]
    assert train("--views 4").views == train("--kd --views 4 --teacher-cache off").views == 4


def test_negative_numbers_are_values_and_not_flags(problems):
    assert problems("--lr -1 --epochs -3 --weight-decay -0.5") == [
        "--epochs '-3' is not a whole number of at least 1",
        "--lr '-1' is not a number above 0",
        "--weight-decay '-0.5' is not a number of at least 0",
    ]


def test_values_at_the_edge_of_their_range_are_taken():
    config = train(
        "--kd --alpha 0 --temp 0.5 --momentum 0 --warmup 0 --weight-decay 0 --label-smoothing 0.999 --ema 0.9999 "
        "--epochs 1 --batch-size 1 --limit 2 --val-size 0 --seed 0 --cutout 0 --device cuda:1 "
        "--dataset folder --image-size 32"
    )
    assert (config.alpha, config.temp, config.momentum, config.warmup, config.weight_decay) == (0, 0.5, 0, 0, 0)
    assert (config.label_smoothing, config.ema) == (0.999, 0.9999)
    assert (config.epochs, config.batch_size, config.limit, config.val_size, config.seed) == (1, 1, 2, 0, 0)
    assert (config.cutout, config.device, config.image_size) == (0, "cuda:1", 32)
    assert train("--kd --alpha 1").alpha == 1


@pytest.mark.parametrize("flag", ["--teacher", "--student"])
def test_an_unknown_network_is_answered_with_the_nearest_known_one_and_all_of_them(problems, flag):
    (problem,) = problems(f"{flag} vgg19-bn")
    assert problem.startswith(f"{flag} 'vgg19-bn' is unknown, did you mean vgg19_bn?; known: ")
    assert problem.endswith(", ".join(MODELS))


def test_a_network_that_is_like_no_other_is_answered_without_a_guess(problems):
    (problem,) = problems("--student qqqq")
    assert problem == f"--student 'qqqq' is unknown; known: {', '.join(MODELS)}"


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("--temperature", "--temp"),
        ("--batchsize", "--batch-size"),
        ("--epoch", "--epochs"),
        ("--data_set", "--dataset"),
        ("--weight_decy", "--weight-decay"),
        ("-kd", "--kd"),
        ("--ttoo", "--tto"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_nearest_known_one(problems, word, known):
    spelled = word.replace("_", "-")
    assert problems(f"{word} 5") == [f"unknown flag {spelled}, did you mean {known}?"]
    assert problems(f"{word}=5") == [f"unknown flag {spelled}, did you mean {known}?"]


def test_a_word_that_belongs_to_no_flag_is_refused(problems):
    assert problems("cifar10") == ["unexpected 'cifar10': every value belongs to a flag"]
    assert problems("--kd True 5") == ["unexpected '5': every value belongs to a flag"]


@pytest.mark.parametrize("name", sorted(set(TRAIN_FLAGS.split()) - {"help", *BOOLEANS}))
def test_a_missing_value_is_named(problems, name):
    assert f"--{name} needs a value" in problems(f"--kd --{name}")
    assert f"--{name} needs a value" in problems(f"--{name} --kd")


@pytest.mark.parametrize("word", ["--epo 3", "--tea vgg11_bn", "--res", "--overw", "--he", "--label 0.1", "--k"])
def test_abbreviations_are_refused(problems, word):
    (problem,) = problems(word)
    assert problem.startswith(f"unknown flag {word.split()[0]}")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--tto --kd", "--tto and --kd exclude each other"),
        ("--tto --all", "--tto and --all exclude each other"),
        ("--kd --all", "--kd and --all exclude each other"),
        ("--tto True --kd True --all", "--tto and --kd and --all exclude each other"),
        ("--kd --temp 5 20", "several --temp values need train.py --all or --sweep"),
        ("--temp 5", "--temp needs --kd True, --all or --sweep"),
        ("--tto --temp 5", "--temp needs --kd True, --all or --sweep"),
        ("--alpha 0.5", "--alpha needs --kd True, --all or --sweep"),
        ("--teacher-checkpoint t.pt", "--teacher-checkpoint needs --kd True, --all or --sweep"),
        (
            "--all --teacher-checkpoint t.pt",
            "--teacher-checkpoint and --all exclude each other: --all trains its own teacher",
        ),
        ("--resume --overwrite", "--resume and --overwrite exclude each other"),
        ("--kd --alpha 0.5 0.9", "several --alpha values need train.py --sweep"),
        ("--sweep --all", "--all and --sweep exclude each other"),
        ("--sweep --val-size 0", "--sweep ranks by validation, and --val-size 0 leaves no images for it"),
        ("--seed 1 --seeds 3", "--seed and --seeds exclude each other"),
        ("--seeds 0", "--seeds N is how many, from 1 to 1000; --seed names a single one"),
        ("--seeds 999999999", "--seeds N is how many, from 1 to 1000; --seed names a single one"),
        ("--seeds 3 4 3", "--seeds names a seed twice"),
        ("--image-size 64", "--image-size needs --dataset folder: the other datasets have a size of their own"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(problems, line, problem):
    assert problems(line) == [problem]


@pytest.mark.parametrize(
    "line",
    ["--tto --kd=false", "--resume --no-overwrite", "--all --temp 5 20", "--kd --temp 5 --alpha 0.5 --resume"],
)
def test_flags_that_are_switched_off_contradict_nothing(line):
    train(line)


def test_test_py_takes_one_network_only(problems):
    assert problems("--tto --kd", "test.py") == ["--tto and --kd exclude each other"]
    assert problems("--kd --checkpoint a.pt", "test.py") == ["--kd and --checkpoint exclude each other"]
    assert problems("--all --export x", "test.py") == [
        "--export and --all exclude each other: --all is every finished run as it is"
    ]
    assert problems("--all --seed 1", "test.py") == [
        "--seed and --all exclude each other: --all is every finished run as it is"
    ]
    assert problems("--all --temp 5", "test.py") == ["--temp needs --kd True"]
    assert problems("--kd --temp 5 20", "test.py") == ["several --temp values need train.py --all or --sweep"]


@pytest.mark.parametrize("name", sorted(set(TRAIN_FLAGS.split()) - set(TEST_FLAGS.split())))
def test_test_py_knows_no_flags_of_training(problems, name):
    assert any(problem.startswith(f"unknown flag --{name}") for problem in problems(f"--{name} 1", "test.py"))


@pytest.mark.parametrize(
    ("line", "run_dir"),
    [
        ("--tto True", "results/cifar10/teacher-vgg19_bn/seed0"),
        ("", "results/cifar10/student-cnn/seed0"),
        ("--kd True --temp 5", "results/cifar10/kd-cnn-t5/seed0"),
        ("--kd True --temp 5 --alpha 0.5", "results/cifar10/kd-cnn-t5-a0.5/seed0"),
        ("--kd", "results/cifar10/kd-cnn-t5/seed0"),
        ("--kd --temp 2.50", "results/cifar10/kd-cnn-t2.5/seed0"),
        ("--kd --temp 20 --seed 3 --student cnn_tiny", "results/cifar10/kd-cnn_tiny-t20/seed3"),
        ("--tto --dataset shapes --teacher vgg11_bn", "results/shapes/teacher-vgg11_bn/seed0"),
        ("--tto --dataset cifar100 --teacher vgg16_bn --seed 12", "results/cifar100/teacher-vgg16_bn/seed12"),
        ("--dataset folder --results-dir /else/where --student cnn", "/else/where/folder/student-cnn/seed0"),
    ],
)
def test_a_run_is_named_after_what_is_trained_and_test_py_finds_it(line, run_dir):
    assert train(line).run_dir == Path(run_dir)
    assert evaluate(line).run_dir == Path(run_dir)


def test_temperatures_that_differ_have_folders_that_differ():
    temps = ("5", "5.0000001", "5.1", "50", "0.5", "0.01", "1234.567", "1234.568")
    runs = train(f"--all --temp {' '.join(temps)}").runs()
    assert len({run.run_dir for run in runs}) == 2 + len(temps)


def test_the_teacher_of_a_student_is_the_one_that_the_same_command_with_tto_trains():
    line = "--dataset shapes --seed 4 --results-dir elsewhere --teacher vgg13_bn"
    assert train(f"{line} --kd").teacher_path == train(f"{line} --tto").run_dir / "last.pt"
    assert train(f"{line} --kd --teacher-checkpoint t.pt").teacher_path == Path("t.pt")


def test_all_trains_teacher_student_and_a_taught_student_for_each_temperature():
    runs = train("--all --temp 5 20 1 5").runs()
    assert [(run.role, run.network, run.run_dir.parent.name) for run in runs] == [
        ("teacher", "vgg19_bn", "teacher-vgg19_bn"),
        ("student", "cnn", "student-cnn"),
        ("kd", "cnn", "kd-cnn-t5"),
        ("kd", "cnn", "kd-cnn-t20"),
        ("kd", "cnn", "kd-cnn-t1"),
    ]
    assert [run.temp for run in train("--all").runs()[2:]] == [5, 20]


def test_all_trains_the_runs_that_the_single_commands_train():
    shared = "--dataset shapes --epochs 3 --lr 0.02 --seed 2 --alpha 0.5"
    single = [
        train(f"{shared.replace('--alpha 0.5', '')} --tto"),
        train(f"{shared.replace('--alpha 0.5', '')}"),
        train(f"{shared} --kd --temp 4"),
    ]
    together = train(f"{shared} --all --temp 4").runs()
    assert [run.identity() for run in together] == [run.identity() for run in single]
    assert [run.run_dir for run in together] == [run.run_dir for run in single]


def test_each_role_has_its_own_recipe_under_the_flags_that_were_typed():
    teacher, student, *taught = train("--all --dataset shapes").runs()
    assert teacher.epochs != student.epochs
    assert all(run.epochs == student.epochs for run in taught)
    teacher, student, *taught = train("--all --dataset shapes --epochs 3 --cutout 8").runs()
    assert all((run.epochs, run.cutout) == (3, 8) for run in (teacher, student, *taught))
    usual = train("--all --dataset shapes").runs()
    for name in set(RECIPE_FLAGS) - {"epochs", "cutout"}:
        assert getattr(teacher, name) == getattr(usual[0], name)
        assert getattr(student, name) == getattr(usual[1], name)


def test_a_typed_flag_that_equals_one_role_s_default_holds_for_every_role():
    usual = train("--all --dataset shapes").runs()[0]
    runs = train(f"--all --dataset shapes --epochs {usual.epochs}").runs()
    assert {run.epochs for run in runs} == {usual.epochs}


@pytest.mark.parametrize("dataset", SOURCES)
@pytest.mark.parametrize("explicit", ["", "--epochs 7 --lr 0.3 --schedule cosine --ema 0.99 --warmup 0"])
def test_the_student_has_the_same_recipe_with_and_without_a_teacher(dataset, explicit):
    alone = train(f"--dataset {dataset} {explicit}").identity()
    taught = train(f"--dataset {dataset} {explicit} --kd --temp 20 --alpha 0.5").identity()
    assert set(RECIPE_FLAGS) <= set(alone)
    assert taught == alone | {"role": "kd", "temp": 20.0, "alpha": 0.5}


@pytest.mark.parametrize(
    "change",
    [
        {"role": "teacher"},
        {"dataset": "cifar100"},
        {"image_size": 64},
        {"limit": 100},
        {"val_size": 0},
        {"student": "cnn_tiny"},
        {"seed": 1},
        {"temps": (6.0,)},
        {"alphas": (0.3,)},
        {"epochs": 3},
        {"batch_size": 3},
        {"lr": 0.3},
        {"momentum": 0.3},
        {"weight_decay": 0.3},
        {"warmup": 0.3},
        {"schedule": "cosine"},
        {"label_smoothing": 0.3},
        {"ema": 0.3},
        {"cutout": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_identity_changes_with_everything_that_decides_a_result(change):
    config = train("--kd --temp 5")
    assert replace(config, **change).identity() != config.identity()


@pytest.mark.parametrize("line", ["--resume", "--overwrite", "--debug", "--device cpu", "--results-dir x"])
def test_identity_ignores_how_and_where_a_run_is_made(line):
    assert train(f"--kd {line}").identity() == train("--kd").identity()


@pytest.mark.parametrize("role", ["teacher", "student", "kd"])
@pytest.mark.parametrize(
    "line",
    [
        "--kd --temp 5",
        "--kd --temp 2.5 --dataset shapes --seed 3 --limit 100 --val-size 0 --device cpu --precision fp32",
        '--kd --dataset folder --data-dir \'my images; $(x) "é"\' --image-size 64 --results-dir "it\'s here"',
        "--kd --temp 0.0125 --teacher vgg11_bn --student cnn_tiny",
        "--all --temp 20 --dataset=shapes --seed=8",
        "--kd --temp 5.0000001",
        "--data-dir=-images",
    ],
)
def test_the_command_for_a_role_is_parsed_to_that_role_of_the_same_experiment(line, role):
    config = train(line)
    again = reparsed(config.command(role))
    expected = config.as_role(role)
    assert again.role == role
    assert again.run_dir == expected.run_dir
    assert role != "kd" or again.temp == expected.temp
    for name in (
        "dataset",
        "data_dir",
        "image_size",
        "limit",
        "val_size",
        "network",
        "seed",
        "device",
        "precision",
    ):
        assert getattr(again, name) == getattr(expected, name)


def test_the_command_for_a_role_repeats_no_default():
    assert train("--kd").command("teacher") == "python train.py --tto True"
    assert train("--kd --seed 0").command("student") == "python train.py --seed 0"
    assert train("--tto").command("kd") == "python train.py --kd True --temp 5"
    assert evaluate("--kd --temp 20").command("kd") == "python train.py --kd True --temp 20"


@pytest.mark.parametrize("line", ["", "--kd=true --temp 20", "--all --temp 5 20 --data_dir 'a b' --batch_size=64"])
def test_the_command_line_that_a_run_keeps_is_parsed_to_the_same_config(line):
    config = train(line)
    assert reparsed(config.command_line) == config


def help_text(program: str) -> str:
    done = subprocess.run(
        [sys.executable, program, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
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


@pytest.mark.parametrize(("program", "flags"), [("train.py", TRAIN_FLAGS), ("test.py", TEST_FLAGS)])
def test_the_set_of_flags_is_the_one_that_users_know(program, flags):
    assert list(help_entries(program)) == flags.split()


def test_help_shows_what_a_flag_is_when_it_is_not_typed():
    entries = help_entries("train.py")
    for name in ("dataset", "data_dir", "image_size", "alpha", "seed", "device", "precision", "results_dir"):
        assert f"(default: {getattr(train(), name)}" in entries[name.replace("_", "-")]
    assert f"(default: {train('--kd').temp:g}" in entries["temp"]
    assert " ".join(f"{temp:g}" for temp in train("--all").temps) in entries["temp"]
    for name in ("limit", "val-size", "teacher-checkpoint"):
        assert "(default: " in entries[name]


@pytest.mark.parametrize("dataset", SOURCES)
def test_help_shows_the_defaults_of_teacher_and_student_on_each_dataset(dataset):
    entries = help_entries("train.py")
    teacher, student = train(f"--all --dataset {dataset}").runs()[:2]
    for name in ("teacher", "student", *RECIPE_FLAGS):
        usual, *others = entries[name.replace("_", "-")].rpartition("(default: ")[2].rstrip(")").split("; ")
        own = dict(text.split(": ") for text in others).get(dataset, usual)
        for value in (getattr(teacher, name), getattr(student, name)):
            assert str(value) in own.replace(",", "").split(), name


def test_help_shows_the_objective_with_alpha_as_the_weight_of_the_distillation_term():
    text = help_text("train.py")
    assert OBJECTIVE in text
    assert re.search(r"\(1 - alpha\) \* CE\(.*\) \+ alpha \* T\^2 \* KL\(", text)


@pytest.mark.parametrize("program", ["train.py", "test.py"])
def test_the_examples_of_the_help_can_be_typed(program):
    lines = re.findall(rf"^  (python {re.escape(program)}.*)$", help_text(program), re.MULTILINE)
    roles = [parse(program, re.split(r" {2,}", line)[0].split()[2:], MODELS, SOURCES).role for line in lines]
    expected = {"teacher", "student", "kd", "all"} | ({"sweep"} if program == "train.py" else set())
    assert set(roles) == expected


@pytest.mark.parametrize("program", ["train.py", "test.py"])
@pytest.mark.parametrize(("line", "code"), [("--help", 0), ("--epochs", 2), ("--kd --results-dir nowhere", None)])
def test_what_needs_no_network_is_answered_without_importing_torch(program, line, code, tmp_path):
    check = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.argv = {[program, *line.split()]!r}\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / program)!r}, run_name='__main__')\n"
        "except SystemExit as ending:\n"
        "    print('ended with', ending.code)\n"
        "print('heavy:', sorted({'torch', 'torchvision', 'numpy', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy: []\n")
    if code is None:
        assert "train it first: python train.py" in done.stderr
    else:
        assert f"ended with {code}\n" in done.stdout
