"""Which runs a command line names, what they are called, and what each is trained with."""

from dataclasses import replace
from pathlib import Path

import pytest
from command_lines import FLAGS, folders, parsed, resolve, rows, runs

from config import IDENTITY_DEFAULTS, RECIPE_FLAGS
from utils.data.sources import SOURCES


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
    assert parsed(f"{line} --kd").teacher_paths == (parsed(f"{line} --tto").run_dir / "last.pt",)
    assert parsed(f"{line} --kd --teacher-checkpoint t.pt").teacher_paths == (Path("t.pt"),)


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
    assert [str(*run.teacher_paths) for run in runs("--kd --seeds 1 5")] == [
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
