import re
import subprocess
import sys
from dataclasses import replace

import pytest
from command_lines import FLAGS, ROOT, parsed, rows

from models import MODELS

BOOLEANS = "tto kd all sweep skip-bad-images drop-duplicates list-methods flip compile tensorboard".split()
BOOLEANS += "resume overwrite debug".split()


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


def test_a_pair_names_teacher_and_student_also_in_commands_to_paste(problem):
    config = parsed("--kd --pair wrn_40_2-vgg8")
    assert (config.teacher, config.student) == ("wrn_40_2", "vgg8")
    assert config.command("teacher") == "python train.py --tto True --teacher wrn_40_2"
    assert problem("--pair vgg13") == "--pair 'vgg13' is not two networks joined by a hyphen"
    assert problem("--pair vgg13-vgg88").startswith("--pair 'vgg88' is unknown, did you mean vgg8?")
    assert problem("--pair vgg13-vgg8 --student cnn") == "--pair and --student exclude each other"


def test_an_error_is_one_line_whatever_was_given(problem):
    assert problem("'--a\nb\x1b[31m'") == r"unknown flag --a\nb\x1b[31m"
    assert problem("--recipe 'a\nb'") == r"--recipe 'a\nb' is unknown; known: default, long, crd-cifar100"


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
