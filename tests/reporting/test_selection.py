import pytest
from toys import finished_run

from utils.reporting.selection import choose_runs, only_folder
from utils.runtime.errors import UsageError, UserError
from utils.runtime.json_file import read_json, write_json


def test_the_only_folder_with_finished_runs_is_found_whatever_else_lies_there(tmp_path):
    assert only_folder(tmp_path / "none") is None
    (tmp_path / "cifar10/student-cnn/seed0").mkdir(parents=True)  # not finished
    finished_run(tmp_path / "reference/shapes/student-cnn/seed0")
    assert only_folder(tmp_path) is None
    finished_run(tmp_path / "shapes/student-cnn/seed0")
    finished_run(tmp_path / "shapes/student-cnn/seed1")
    assert only_folder(tmp_path) == tmp_path / "shapes"


def test_several_folders_are_listed_with_the_flags_that_name_each(tmp_path):
    finished_run(tmp_path / "cifar10/student-cnn/seed0", dataset="cifar10")
    run = finished_run(tmp_path / "cats/student-cnn/seed0", dataset="folder")
    finished_run(tmp_path / "cats/student-cnn/seed1", dataset="folder")
    for name in ("seed0", "seed1"):
        config = run.config.parents[1] / name / "config.json"
        write_json(config, read_json(config) | {"data_dir": "my images/cats"})
    (finished_run(tmp_path / "odd/student-cnn/seed0").config).write_text("{")
    with pytest.raises(UsageError) as caught:
        only_folder(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds results of cats (2 runs), cifar10 (1 run), odd (1 run) (hint: name one: "
        "--dataset folder --data-dir 'my images/cats' or --dataset cifar10 or --dataset odd)"
    )


def test_results_of_images_that_are_elsewhere_ask_for_their_folder(tmp_path):
    run = finished_run(tmp_path / "cats/student-cnn/seed0", dataset="folder")
    write_json(run.config, read_json(run.config) | {"data_dir": "my images/cats"})
    with pytest.raises(UsageError, match="name them: --dataset folder --data-dir 'my images/cats'"):
        only_folder(tmp_path, "data")
    assert only_folder(tmp_path, "my images/cats") == only_folder(tmp_path) == tmp_path / "cats"


@pytest.fixture
def runs(tmp_path):
    kd = {"role": "kd", "method": "kd"}
    return [
        finished_run(tmp_path / "teacher-vgg11_bn/seed0", role="teacher", network="vgg11_bn"),
        finished_run(tmp_path / "teacher-cnn/seed0", role="teacher", network="cnn"),
        finished_run(tmp_path / "student-cnn/seed0"),
        finished_run(tmp_path / "student-cnn_tiny/seed0", network="cnn_tiny"),
        finished_run(tmp_path / "kd-cnn/seed0", **kd, teacher="vgg11_bn"),
        finished_run(tmp_path / "kd-cnn_tiny/seed0", **kd, network="cnn_tiny", teacher="cnn"),
    ]


@pytest.mark.parametrize(
    ("networks", "names"),
    [
        ({}, "teacher-vgg11_bn teacher-cnn student-cnn student-cnn_tiny kd-cnn kd-cnn_tiny"),
        ({"teacher": "cnn"}, "teacher-cnn student-cnn student-cnn_tiny kd-cnn_tiny"),
        ({"student": "cnn"}, "teacher-vgg11_bn teacher-cnn student-cnn kd-cnn"),
        ({"teacher": "cnn", "student": "cnn_tiny"}, "teacher-cnn student-cnn_tiny kd-cnn_tiny"),
    ],
)
def test_a_teacher_chooses_itself_and_its_students_and_a_student_itself_with_and_without_kd(runs, networks, names):
    assert [run.path.parent.name for run in choose_runs(runs, networks)] == names.split()


def test_a_network_that_no_run_has_is_answered_with_those_that_there_are(runs):
    with pytest.raises(UserError, match=r"run has the teacher vgg19_bn \(hint: there are teacher-vgg11_bn, "):
        choose_runs(runs, {"teacher": "vgg19_bn"})
    with pytest.raises(UserError, match="no finished run has the student vgg11_bn"):
        choose_runs(runs, {"student": "vgg11_bn"})


def test_a_damaged_run_is_never_passed_over(runs):
    runs[3].config.write_text("{")
    assert runs[3] in choose_runs(runs, {"student": "cnn"})
