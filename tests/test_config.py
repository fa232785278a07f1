import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from config import IDENTITY_DEFAULTS, OBJECTIVE, RECIPE_FLAGS, Config, number, parse
from models import MODELS
from utils.data.sources import SOURCES

ROOT = Path(__file__).parents[1]
METHODS = {  # the settings of each and their defaults
    "kd": {"temperature": 5.0, "alpha": 0.9},
    "dkd": {"temperature": 4.0, "alpha": 1.0, "beta": 8.0},
    "fitnet": {"weight": 100.0},
}
FLAGS = {
    "train.py": """help tto kd all sweep teacher student pair dataset data-dir image-size limit skip-bad-images
        drop-duplicates val-size method list-methods temp alpha teacher-checkpoint teacher-mean teacher-std
        teacher-mix views teacher-cache teacher-cache-limit recipe epochs batch-size optimizer lr momentum
        weight-decay warmup schedule label-smoothing ema cutout padding flip eval-every seed seeds device precision
        cuda-graph compile results-dir tensorboard resume overwrite debug""",
    "test.py": """help tto kd all checkpoint teacher student pair dataset data-dir image-size limit skip-bad-images
        val-size method temp alpha teacher-mean teacher-std seed device precision results-dir
        predict csv export debug""",
}
BOOLEANS = "tto kd all sweep skip-bad-images drop-duplicates list-methods flip compile tensorboard".split()
BOOLEANS += "resume overwrite debug".split()


def parsed(line: str) -> Config:
    """Of a line such as `train.py --kd` or, for short, `--kd`."""
    program, argv = "train.py", shlex.split(line.removeprefix("python "))
    if argv and argv[0] in FLAGS:
        program, *argv = argv
    return parse(program, argv, MODELS, SOURCES, METHODS)


def rows(text: str) -> list[list[str]]:
    """The rows of a table whose columns are set apart by `=>`."""
    return [[cell.strip() for cell in line.split("=>")] for line in text.strip().splitlines()]


@dataclass(frozen=True)
class FakeMethod:
    """What `runs` asks of a method."""

    name: str
    settings: dict

    def texts(self, *always: str) -> list[str]:
        default = METHODS[self.name]
        return [f"{k}={number(v)}" for k, v in self.settings.items() if k in always or v != default[k]]

    @property
    def folder(self) -> str:
        return self.name

    @property
    def spec(self) -> str:
        return ":".join(filter(None, (self.name, ",".join(self.texts()))))

    def slug(self, *always: str) -> str:
        texts = self.texts(*always, *["temperature"] * (self.name == "kd"))
        return "-".join(t.replace("temperature=", "t").replace("alpha=", "a").replace("=", "") for t in texts)


def resolve(spec: str, **overrides: float) -> FakeMethod:
    name, _, rest = spec.partition(":")
    own = {key: float(value) for key, value in (word.split("=") for word in rest.split(",") if word)}
    defaults = METHODS[name]
    return FakeMethod(name, defaults | {k: v for k, v in overrides.items() if k in defaults} | own)


def runs(line: str) -> list[Config]:
    return parsed(line).runs(resolve)


def folders(line: str) -> list[str]:
    return [str(run.run_dir).removeprefix("results/cifar10/").removesuffix("/seed0") for run in runs(line)]


@pytest.fixture
def problem(capsys):
    """What a command line is refused with."""

    def refuse(line: str) -> str:
        with pytest.raises(SystemExit) as ending:
            parsed(line)
        assert ending.value.code == 2
        out, err = capsys.readouterr()
        error, hint = err.splitlines()
        program = "test.py" if line.startswith("test.py") else "train.py"
        assert (out, hint) == ("", f"hint: python {program} --help")
        assert error.startswith("error: ")
        return error.removeprefix("error: ")

    return refuse


# How flags are written.


def test_boolean_flags_mean_what_they_say():
    for role, lines in rows("""
        kd => --kd|--kd True|--kd=true|--kd TRUE|--kd 1|--kd=yes|--no-tto --kd|--no-kd --kd|--kd --tto=no
        student => |--kd False|--kd=false|--kd 0|--kd no|--no-kd|--no_kd|--tto=False|--no-tto|--kd --no-kd
        teacher => --tto|--tto True|--kd=false --tto True
        all => --all|--all True
        sweep => --sweep
    """):
        for line in lines.split("|"):
            assert parsed(line).role == role, line


@pytest.mark.parametrize("flag", BOOLEANS[4:])
def test_every_other_boolean_flag_has_the_same_forms(flag):
    name = flag.replace("-", "_")
    assert getattr(parsed(""), name) is (None if flag == "flip" else False)
    for line in (f"--{flag}", f"--{flag} True", f"--{flag}=no", f"--no-{flag}"):
        config = parsed(line)
        assert getattr(config, name) is ("no" not in line)
        assert name in config.explicit


def test_a_bare_boolean_leaves_the_next_flag_alone():
    config = parsed("--kd --seed 3 --temp 4")
    assert (config.role, config.seed, config.temps) == ("kd", 3, (4.0,))


def test_flags_take_underscores_for_hyphens_and_leave_values_as_they_are():
    line = (
        "--kd --batch-size 64 --weight-decay=0.001 --data-dir my_own-images --results-dir=a_b-c --no-list-methods"
    )
    underscored = re.sub(r"--[a-z-]+", lambda flag: "--" + flag[0][2:].replace("-", "_"), line)
    assert "--no_list_methods" in underscored
    assert parsed(underscored) == parsed(line)
    assert (parsed(line).data_dir, parsed(line).results_dir) == ("my_own-images", "a_b-c")


def test_what_people_type_from_habit_is_the_flag_that_they_mean():
    for habit, flag in rows("""
        --learning-rate 0.3 => --lr 0.3
        --learning_rate=0.3 => --lr=0.3
        --data images => --data-dir images
        --kd --temperature 3 => --kd --temp 3
        --output-dir=out => --results-dir=out
        --gpu => --device cuda
        --gpu 1 => --device cuda:1
        test.py --gpu=0 --kd => test.py --device=cuda:0 --kd
    """):
        assert replace(parsed(habit), command_line="") == replace(parsed(flag), command_line="")


def test_workers_are_taken_with_a_note_that_none_are_needed(capsys):
    parsed("")
    assert capsys.readouterr().err == ""
    for line in ("--workers 4", "--num-workers=0", "test.py --num_workers 2"):
        assert parsed(line).role == "student"
        assert capsys.readouterr().err == "note: no --workers are needed: all images are one tensor\n"


# What is refused.


@pytest.mark.parametrize(
    ("flag", "values", "complaint"),
    rows("""
        --temp => 0 -1 0.001 1e5 nan inf -inf 1e999 five => is not a number from 0.01 to 10000
        --lr => 0 -0.1 nan inf x => is not a number above 0
        --alpha => 1.5 -0.1 nan inf x => is not a number from 0 to 1
        --momentum => 1 -0.1 nan x => is not a number from 0 to below 1
        --warmup => 1 -0.1 nan x => is not a number from 0 to below 1
        --label-smoothing => 1 -0.1 nan x => is not a number from 0 to below 1
        --ema => 1 -0.1 nan x => is not a number from 0 to below 1
        --weight-decay => -0.1 nan inf x => is not a number of at least 0
        --epochs => 0 -1 1.5 1e3 x => is not a whole number of at least 1
        --batch-size => 0 -1 1.5 x => is not a whole number of at least 1
        --limit => 1 0 -5 x => is not a whole number of at least 2
        --val-size => -1 0.1 x => is not a whole number of at least 0
        --seed => -1 0.5 x 99999999999999999999 => is not a whole number of at least 0
        --cutout => -1 1.5 x => is not a whole number of at least 0
        --padding => -1 1.5 x => is not a whole number of at least 0
        --views => -1 1.5 x => is not a whole number of at least 0
        --gpu => -1 x => is not a whole number of at least 0
        --eval-every => 0 -1 1.5 x => is not a whole number of at least 1
        --teacher-cache-limit => 0 -1 nan x => is not a number above 0
        --image-size => 31 0 -1 x => is not a whole number of at least 32
        --device => gpu cuda: cuda:x cpu:0 tpu => is not auto, cpu, cuda or cuda:N
        --recipe => short => is unknown; known: default, long, crd-cifar100
        --cuda-graph => on True => is unknown; known: auto, off
        --precision => fp16 FP32 => is unknown; known: auto, bf16, fp32
        --schedule => cosin steps => is unknown; known: linear, cosine, step
        --optimizer => adam SGD => is unknown; known: sgd, adamw
        --dataset => imagenet => is unknown; known: cifar10, cifar100, folder, shapes
        --resume => nope 2 on => is neither True nor False
    """),
)
def test_a_value_out_of_range_is_refused_with_the_range(problem, flag, values, complaint):
    for value in values.split():
        assert problem(f"--kd {flag}={value}") == f"{flag} {value!r} {complaint}"


def test_values_at_the_edge_of_their_range_are_taken():
    config = parsed(
        "--kd --alpha 0 --temp 0.01 --momentum 0 --warmup 0 --weight-decay 0 --label-smoothing 0.999 --ema 0.9999 "
        "--epochs 1 --batch-size 1 --limit 2 --val-size 0 --seed 0 --cutout 0 --padding 0 --device cuda:1 "
        "--dataset folder --image-size 32"
    )
    assert (config.alphas, config.temps, config.momentum, config.warmup) == ((0,), (0.01,), 0, 0)
    assert (config.weight_decay, config.label_smoothing, config.ema) == (0, 0.999, 0.9999)
    assert (config.epochs, config.batch_size, config.limit, config.val_size, config.seed) == (1, 1, 2, 0, 0)
    assert (config.cutout, config.padding, config.device, config.image_size) == (0, 0, "cuda:1", 32)
    assert (parsed("--kd --alpha 1").alphas, parsed("--kd --temp 10000").temps) == ((1,), (10_000,))


def test_the_normalisation_of_a_network_of_another_program_is_three_numbers_each():
    flags = "--teacher-mean 0.4914,0.4822,0.4465 --teacher-std 0.2470,0.2435,0.2616"
    expected = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    for line in ("--kd --teacher-checkpoint w.pt", "test.py --checkpoint w.pt"):
        assert parsed(f"{line} {flags}").teacher_normalisation == expected
        assert parsed(line).teacher_normalisation is None


def test_a_file_holds_the_network_that_one_of_teacher_and_student_names():
    line = "test.py --checkpoint w.pt"
    assert parsed(line).named_network is None
    assert parsed(f"{line} --teacher cnn").named_network == "cnn"
    assert parsed(f"{line} --student cnn").named_network == "cnn"
    assert parsed(f"{line} --teacher cnn --student cnn").named_network == "cnn"
    assert parsed(f"{line} --teacher vgg11_bn --student cnn").named_network is None


@pytest.mark.parametrize("flag", ["data-dir", "results-dir", "teacher-checkpoint", "teacher-cache"])
def test_a_path_may_be_anything_but_empty(problem, flag):
    assert problem(f"--kd --{flag}=") == f"--{flag} '' is not a path"
    value = getattr(parsed(f"--kd --{flag} 'a\n b'"), flag.replace("-", "_"))
    assert value == (("a\n b",) if flag == "teacher-checkpoint" else "a\n b")


def test_an_unknown_name_is_answered_with_the_nearest_known_one_or_all_of_them(problem):
    for name, nearest in rows("""
        vgg19-bn => vgg19_bn
        ResNet56 => resnet56
        MobileNetV2 => mobilenetv2
        ShuffleV1 => shufflenetv1
        wrn-40-2 => wrn_40_2
        resnet32X4 => resnet32x4
    """):
        assert problem(f"--teacher {name}") == f"--teacher '{name}' is unknown, did you mean {nearest}?"
    assert problem("--student qqqq") == f"--student 'qqqq' is unknown; known: {', '.join(MODELS)}"
    for line in ("--kd --method dkdd:beta=2", "--all --method kd dkdd", "test.py --kd --method dkdd"):
        assert problem(line) == "--method 'dkdd' is unknown, did you mean dkd?"


def test_an_unknown_flag_is_answered_with_one_that_is_nearly_the_same(problem):
    for flag, nearest in rows("""
        --batchsize => --batch-size
        --epoch => --epochs
        --data-sets => --dataset
        --weight-decy => --weight-decay
        --learn-rate => --learning-rate
        -kd => --kd
        --ttoo => --tto
        --gpus => --gpu
    """):
        assert problem(f"{flag} 5") == problem(f"{flag}=5") == f"unknown flag {flag}, did you mean {nearest}?"


def test_what_destroys_is_never_suggested_and_nor_is_what_is_not_near(problem):
    for flag in "--overwirte --overwrit --over-write --no-overwrit --override --rate --lern --x".split():
        assert problem(flag) == f"unknown flag {flag}"


def test_abbreviations_are_refused(problem):
    for line in ("--epo 3", "--tea vgg11_bn", "--res", "--overw", "--he", "--label 0.1", "--k"):
        assert problem(line).startswith(f"unknown flag {line.split()[0]}")


@pytest.mark.parametrize("name", sorted({*FLAGS["train.py"].split()} - {"help", *BOOLEANS}))
def test_a_missing_value_is_named(problem, name):
    assert problem(f"--kd --{name}") == problem(f"--{name} --kd") == f"--{name} needs a value"


def test_a_flag_of_the_other_program_is_said_to_be_one(problem):
    for name in {*FLAGS["train.py"].split()} - {*FLAGS["test.py"].split()}:
        assert problem(f"test.py --{name} 1") == f"unknown flag --{name}: only train.py has it"
    assert problem("test.py --no-resume") == "unknown flag --no-resume: only train.py has it"
    assert problem("--export x") == "unknown flag --export: only test.py has it"


@pytest.mark.parametrize(
    ("line", "expected"),
    rows("""
        cifar10 => unexpected 'cifar10': every value belongs to a flag
        --kd True 5 => unexpected '5': every value belongs to a flag
        --kd= => --kd '' is neither True nor False
        --no-kd=True => --no-kd takes no value
        --lr -1 => --lr '-1' is not a number above 0
        --tto --kd => --tto and --kd exclude each other
        --tto True --kd True --all => --tto and --kd and --all exclude each other
        --sweep --all => --all and --sweep exclude each other
        --temp 5 => --temp needs --kd True, --all or --sweep
        --tto --temp 5 => --temp needs --kd True, --all or --sweep
        --alpha 0.5 => --alpha needs --kd True, --all or --sweep
        --method dkd => --method needs --kd True, --all or --sweep
        --teacher-checkpoint t.pt => --teacher-checkpoint needs --kd True, --all or --sweep
        --teacher-cache off => --teacher-cache needs --kd True, --all or --sweep
        --teacher-cache-limit 1 => --teacher-cache-limit needs --kd True, --all or --sweep
        --kd --temp 5 20 => several --temp values need train.py --all or --sweep
        --kd --method kd dkd => several --method values need train.py --all or --sweep
        --kd --alpha 0.5 0.9 => several --alpha values need train.py --sweep
        --all --alpha 0.5 0.9 => several --alpha values need train.py --sweep
        --sweep --val-size 0 => --sweep ranks by validation, and --val-size 0 leaves no images for it
        --all --teacher-checkpoint t => --teacher-checkpoint and --all exclude each other: --all trains a teacher
        --kd --teacher-mean .5,.5,.5 => --teacher-mean and --teacher-std belong together
        --teacher-std 1,1,1 --teacher-mean 1,1,1 => --teacher-mean needs a --teacher-checkpoint of another program
        test.py --teacher-std 1,1,1 --teacher-mean 1,1,1 => --teacher-mean needs a --checkpoint of another program
        --kd --teacher-mean .5,.5 => --teacher-mean '.5,.5' is not three numbers with commas between: R,G,B
        --kd --teacher-mean 125,123,114 => --teacher-mean '125' is not a number from 0 to 1
        --kd --teacher-std .2,.2,0 => --teacher-std '0' is not a number above 0 and up to 1
        --tto --views 4 => --views is for students: a teacher sees every image anew in each epoch
        --optimizer adamw --momentum 0.9 => --momentum is of SGD, and --optimizer adamw has none
        --resume --overwrite => --resume and --overwrite exclude each other
        --seed 1 --seeds 3 => --seed and --seeds exclude each other
        --seeds 0 => --seeds N is how many, from 1 to 1000; --seed names a single one
        --seeds 999999999 => --seeds N is how many, from 1 to 1000; --seed names a single one
        --seeds 3 4 3 => --seeds names a seed twice
        --image-size 64 => --image-size needs --dataset folder: the other datasets have a size of their own
        test.py --tto --kd => --tto and --kd exclude each other
        test.py --kd --checkpoint a.pt => --kd and --checkpoint exclude each other
        test.py --all --export x => --export and --all exclude each other: --all is every finished run as it is
        test.py --all --seed 1 => --seed and --all exclude each other: --all is every finished run as it is
        test.py --predict a --all => --all and --predict exclude each other: --predict has its own images
        test.py --predict a --limit 9 => --limit and --predict exclude each other: --predict has its own images
        test.py --csv a.csv => --csv needs --predict
        test.py --predict a --csv a.txt => --csv 'a.txt' is not a path that ends in .csv
        test.py --all --temp 5 => --temp needs --kd True
        test.py --all --method kd => --method needs --kd True
        test.py --kd --temp 5 20 => several --temp values need train.py --all or --sweep
        test.py --kd --method kd dkd => several --method values need train.py --all or --sweep
    """),
)
def test_words_and_flags_that_do_not_fit_together_are_refused(problem, line, expected):
    assert problem(line) == expected


def test_flags_that_fit_together_are_taken():
    for line in ("--tto --kd=false", "--resume --no-overwrite", "--sweep --method kd dkd --alpha 0.5 1"):
        parsed(line)
    config = parsed("test.py --all --teacher vgg11_bn --student cnn_tiny")
    assert {"teacher", "student"} <= {*config.explicit}
    assert "dataset" not in config.explicit


def test_an_error_is_one_line_whatever_was_given(problem):
    assert problem("'--a\nb\x1b[31m'") == r"unknown flag --a\nb\x1b[31m"
    assert problem("--recipe 'a\nb'") == r"--recipe 'a\nb' is unknown; known: default, long, crd-cifar100"


# Which runs there are, and what they are called.


@pytest.mark.parametrize(
    ("line", "run_dir"),
    rows("""
        --tto True => cifar10/teacher-vgg19_bn/seed0
        --no-kd => cifar10/student-cnn/seed0
        --kd => cifar10/kd-cnn-t5/seed0
        --kd True --temp 5 --alpha 0.5 => cifar10/kd-cnn-t5-a0.5/seed0
        --kd --temp 2.50 --seed 3 --student cnn_tiny => cifar10/kd-cnn_tiny-t2.5/seed3
        --kd --method kd:temperature=3 => cifar10/kd-cnn-t3/seed0
        --kd --method dkd:beta=2 => cifar10/dkd-cnn-beta2/seed0
        --kd --method dkd --temp 2 => cifar10/dkd-cnn-t2/seed0
        --kd --method fitnet => cifar10/fitnet-cnn/seed0
        --tto --dataset cifar100 --teacher vgg16_bn --seed 12 => cifar100/teacher-vgg16_bn/seed12
    """),
)
def test_a_run_is_named_after_what_is_trained_and_test_py_finds_it(line, run_dir):
    for program in FLAGS:
        assert [run.run_dir for run in runs(f"{program} {line}")] == [Path("results", run_dir)]
        [elsewhere] = runs(f"{program} {line} --results-dir /else/where")
        assert elsewhere.run_dir == Path("/else/where", run_dir)


def test_results_of_one_s_own_images_are_named_after_their_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("pets", target_is_directory=True)
    for data_dir, name in rows(f"""
        data/cifar10-jpeg => cifar10-jpeg
        some/pets/ => pets
        link => pets
        . => {tmp_path.name}
        data/shapes => folder-shapes
        my/folder => folder-folder
        / => folder-
    """):
        config = parsed(f"--dataset folder --data-dir {data_dir}")
        assert config.dataset_dir == Path("results", name)
        assert config.legacy_dataset_dir == Path("results/folder")
    assert parsed("--data-dir some/pets").dataset_dir == Path("results/cifar10")
    assert parsed("").legacy_dataset_dir is None


def test_the_teacher_of_a_student_is_the_one_that_the_same_command_with_tto_trains():
    line = "--dataset shapes --seed 4 --results-dir elsewhere --teacher vgg13_bn"
    assert parsed(f"{line} --kd").teacher_path == parsed(f"{line} --tto").run_dir / "last.pt"
    assert parsed(f"{line} --kd --teacher-checkpoint t.pt").teacher_path == Path("t.pt")


def test_all_is_teacher_student_and_a_student_for_each_method_and_temperature_once():
    for line, distilled in rows("""
        --all => kd-cnn-t5 kd-cnn-t20
        --all --temp 5 20 1 5 => kd-cnn-t5 kd-cnn-t20 kd-cnn-t1
        --all --temp 5 --alpha 0.5 => kd-cnn-t5-a0.5
        --all --temp 5 5.0000001 1234.567 => kd-cnn-t5 kd-cnn-t5.0000001 kd-cnn-t1234.567
        --all --method kd => kd-cnn-t5
        --all --method kd dkd:beta=2 fitnet => kd-cnn-t5 dkd-cnn-beta2 fitnet-cnn
        --all --method kd fitnet --temp 5 20 => kd-cnn-t5 kd-cnn-t20 fitnet-cnn
        --all --method kd kd:temperature=5 dkd:beta=8 dkd => kd-cnn-t5 dkd-cnn
    """):
        assert folders(line) == ["teacher-vgg19_bn", "student-cnn", *distilled.split()]


def test_a_sweep_is_a_student_for_each_method_temperature_and_alpha_in_a_folder_of_its_own():
    points = "t2-a0.9 t2-a1 t5-a0.9 t5-a1".split()
    assert folders("--sweep --temp 2 5 --alpha 0.9 1") == [f"sweep/kd-cnn-{point}" for point in points]
    two = folders("--sweep --method kd dkd --temp 4 --alpha 1")
    assert two == ["sweep/kd-cnn-t4-a1", "sweep/dkd-cnn-t4-a1"]
    settings = [{"temperature": t, "alpha": a} for t in (1, 2, 5, 10, 20) for a in (0.5, 0.9, 1)]
    assert [(run.role, run.method.settings) for run in runs("--sweep")] == [("kd", each) for each in settings]


def test_a_temperature_or_alpha_that_no_method_takes_is_refused():
    for line, expected in rows("""
        --kd --method fitnet --temp 5 => --temp: fitnet has no temperature
        --sweep --method kd fitnet => --sweep varies temperature and alpha, and fitnet has neither
        --all --method fitnet --alpha 0.5 => --alpha: fitnet has no alpha
        --kd --method dkd:alpha=2 --alpha 0.5 => --alpha: --method sets it
    """):
        with pytest.raises(ValueError, match=f"^{expected}$"):
            runs(line)


def test_seeds_are_a_number_of_them_or_a_list_and_repeat_every_row():
    seeds = [parsed(line).seeds for line in ("--seeds 3", "--seeds 4 2", "--seed 7", "")]
    assert seeds == [(0, 1, 2), (4, 2), (7,), (0,)]
    single = [run for seed in (4, 2) for run in runs(f"--all --seed {seed}")]
    assert [run.run_dir for run in runs("--all --seeds 4 2")] == [run.run_dir for run in single]
    assert [run.identity() for run in runs("--all --seeds 4 2")] == [run.identity() for run in single]
    assert [str(run.teacher_path) for run in runs("--kd --seeds 1 5")] == [
        f"results/cifar10/teacher-vgg19_bn/seed{seed}/last.pt" for seed in (1, 5)
    ]


def test_all_trains_the_runs_that_the_single_commands_train():
    shared, kd = "--dataset shapes --epochs 3 --lr 0.02 --seed 2", "--alpha 0.5 --temp 4"
    single = [f"{shared} --tto", shared, f"{shared} --kd {kd}", f"{shared} --kd {kd} --method dkd"]
    single = [run for line in single for run in runs(line)]
    together = runs(f"{shared} --all {kd} --method kd dkd")
    assert [run.identity() for run in together] == [run.identity() for run in single]
    assert [run.run_dir for run in together] == [run.run_dir for run in single]


# The recipe, and what makes a run the same run.


def test_each_role_has_its_own_recipe_under_explicit_flags():
    usual = runs("--all --dataset shapes")
    assert [run.epochs for run in usual] == [20, 12, 12, 12]
    changed = runs("--all --dataset shapes --epochs 20 --cutout 8")
    assert [(run.epochs, run.cutout) for run in changed] == [(20, 8)] * 4
    for name in {*RECIPE_FLAGS} - {"epochs", "cutout"}:
        assert [getattr(run, name) for run in changed] == [getattr(run, name) for run in usual]


def test_the_long_recipe_has_four_times_the_epochs_of_either_role_and_nothing_else():
    for role in ("--tto", "", "--kd"):
        short, longer = parsed(role), parsed(f"{role} --recipe long")
        assert (short.epochs, longer.epochs) == (40, 160)
        assert all(getattr(short, name) == getattr(longer, name) for name in RECIPE_FLAGS if name != "epochs")
    assert [run.epochs for run in runs("--all --dataset shapes --recipe long")] == [80, 48, 48, 48]
    assert parsed("--recipe long --epochs 7").epochs == 7


def test_the_protocol_of_the_published_tables_is_a_recipe_of_both_roles_with_a_smaller_rate_for_light_networks():
    line = "--all --dataset cifar100 --recipe crd-cifar100"
    for config in runs(f"{line} --pair resnet32x4-resnet8x4"):
        assert (config.epochs, config.batch_size, config.lr, config.weight_decay) == (240, 64, 0.05, 5e-4)
        assert (config.schedule, config.warmup, config.momentum) == ("step", 0.0, 0.9)
    rates = [run.lr for run in runs(f"{line} --pair vgg13-mobilenetv2")]
    assert rates == [0.05, 0.01, 0.01, 0.01]
    assert parsed("--recipe crd-cifar100 --student shufflenetv1 --lr 0.02").lr == 0.02


def test_a_pair_names_teacher_and_student_also_in_commands_to_paste(problem):
    config = parsed("--kd --pair wrn_40_2-vgg8")
    assert (config.teacher, config.student) == ("wrn_40_2", "vgg8")
    assert config.command("teacher") == "python train.py --tto True --teacher wrn_40_2"
    assert problem("--pair vgg13") == "--pair 'vgg13' is not two networks joined by a hyphen"
    assert problem("--pair vgg13-vgg88").startswith("--pair 'vgg88' is unknown, did you mean vgg8?")
    assert problem("--pair vgg13-vgg8 --student cnn") == "--pair and --student exclude each other"


def test_adamw_has_a_learning_rate_and_weight_decay_of_its_own():
    for role in ("--tto", ""):
        config = parsed(f"{role} --optimizer adamw")
        assert (config.optimizer, config.lr, config.weight_decay) == ("adamw", 1e-3, 0.05)
        assert parsed(f"{role} --optimizer adamw --lr 0.01").lr == 0.01
    assert (parsed("--optimizer sgd").lr, parsed("").optimizer) == (0.1, "sgd")


def test_the_recipe_s_text_names_the_optimizer():
    sgd = "40 epochs of batches of 128; SGD with Nesterov momentum 0.9, weight decay 0.0005; lr 0.1, "
    assert parsed("--cutout 8").recipe_text() == f"{sgd}20% warm-up, linear decay; cutout 8"
    assert "; AdamW, weight decay 0.05; lr 0.001, " in parsed("--optimizer adamw").recipe_text()


@pytest.mark.parametrize("dataset", SOURCES)
@pytest.mark.parametrize("explicit", ["", "--epochs 7 --lr 0.3 --schedule cosine --ema 0.99 --flip no"])
def test_the_student_has_the_same_recipe_with_and_without_a_teacher(dataset, explicit):
    [baseline] = runs(f"--dataset {dataset} {explicit}")
    [distilled] = runs(f"--dataset {dataset} {explicit} --kd --temp 20 --alpha 0.5")
    assert {*RECIPE_FLAGS, "padding", "flip"} <= {*baseline.identity()}
    method = {"role": "kd", "method": "kd", "settings": {"temperature": 20.0, "alpha": 0.5}}
    assert distilled.identity() == baseline.identity() | method


def test_identity_changes_with_everything_that_decides_a_result_and_nothing_else():
    [usual] = runs("--kd")
    for change in (
        "--dataset shapes|--dataset folder --image-size 64|--limit 100|--val-size 0|--student cnn_tiny|--seed 1|"
        "--temp 6|--alpha 0.3|--method dkd|--epochs 3|--batch-size 3|--lr 0.3|--momentum 0.3|--weight-decay 0.3|"
        "--warmup 0.3|--schedule cosine|--label-smoothing 0.3|--ema 0.3|--cutout 3|--padding 2|--no-flip|"
        "--drop-duplicates True"
    ).split("|"):
        assert runs(f"--kd {change}")[0].identity() != usual.identity(), change
    assert replace(usual, optimizer="adamw").identity() != usual.identity()
    for same in ("--resume", "--overwrite", "--debug", "--device cpu", "--results-dir x", "--method kd:alpha=0.9"):
        assert runs(f"--kd {same}")[0].identity() == usual.identity(), same


def test_a_setting_that_a_run_does_not_record_was_what_every_run_had_before_there_was_a_choice():
    assert IDENTITY_DEFAULTS == {"optimizer": "sgd", "padding": 4, "flip": True, "drop_duplicates": False}


# Commands for people to paste.


@pytest.mark.parametrize("role", ["teacher", "student", "kd"])
@pytest.mark.parametrize(
    "line",
    [
        "--kd --temp 2.5 --dataset shapes --seed 3 --limit 100 --val-size 0 --device cpu --precision fp32",
        '--kd --dataset folder --data-dir \'my images; $(x) "é"\' --image-size 64 --results-dir "it\'s here"',
        "--kd --temp 0.0125 --alpha 0.25 --method dkd:beta=2 --teacher vgg11_bn --student cnn_tiny",
        "--kd --method fitnet --recipe long --drop-duplicates True",
        "--all --temp 20 --dataset=shapes --seed=8",
        "--kd --temp 5.0000001",
        "--data-dir=-images",
    ],
)
def test_the_command_for_a_role_is_parsed_to_that_role_of_the_same_experiment(line, role):
    config = parsed(line)
    [again], [expected] = runs(config.command(role)), config.as_role(role).runs(resolve)
    assert (again.run_dir, again.identity()) == (expected.run_dir, expected.identity())
    assert (again.data_dir, again.device, again.precision) == (config.data_dir, config.device, config.precision)


def test_the_command_of_each_run_of_a_table_trains_that_run():
    for run in runs("--all --method kd dkd:beta=2 fitnet --temp 5 20 --seeds 2"):
        assert [each.run_dir for each in runs(run.command(run.role))] == [run.run_dir]


def test_the_command_for_a_role_repeats_explicit_flags_and_no_defaults():
    for line, role, command in rows("""
        --kd => teacher => --tto True
        --kd --seed 0 => student => --seed 0
        --tto => kd => --kd True
        test.py --kd --temp 20 => kd => --kd True --temp 20
        --kd --alpha 0.5 --temp 4 => kd => --kd True --temp 4 --alpha 0.5
        --kd --method dkd:beta=2 => kd => --kd True --method dkd:beta=2
        --kd --method dkd:beta=2 => teacher => --tto True
        --kd --seeds 3 7 => teacher => --tto True --seeds 3 7
        --kd --seeds 1 => teacher => --tto True --seed 0
        --kd --recipe long => all => --all --recipe long
    """):
        assert parsed(line).command(role) == f"python train.py {command}"


def test_the_command_line_that_a_run_records_is_parsed_to_the_same_config():
    for line in ("", "--kd=true --temp 20", "--all --temp 5 20 --data_dir 'a b' --learning-rate=1"):
        assert parsed(parsed(line).command_line) == parsed(line)


# Help.


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


@pytest.mark.parametrize(
    ("line", "expected"),
    rows("""
        train.py --help => ended with 0
        test.py --help => ended with 0
        train.py --epochs => ended with 2
        test.py --limit => ended with 2
        test.py --tto --results-dir nowhere => train it first: python train.py --tto True
    """),
)
def test_what_needs_no_network_is_answered_without_importing_torch(line, expected, tmp_path):
    check = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.argv = {line.split()!r}\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / line.split()[0])!r}, run_name='__main__')\n"
        "except SystemExit as ending:\n"
        "    print('ended with', ending.code)\n"
        "print('heavy:', sorted({'torch', 'torchvision', 'numpy', 'matplotlib'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", check]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy: []\n")
    assert expected in done.stdout + done.stderr
