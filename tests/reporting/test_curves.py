from itertools import groupby

from PIL import Image
from toys import epoch_records

from utils.reporting.curves import Curves, plot_comparison, plot_heat_map, plot_run
from utils.reporting.style import OF_ROLE
from utils.runtime.history import write_history
from utils.runtime.run_dir import RunDir


def history(tmp_path, **more) -> list[dict]:
    run = RunDir(tmp_path)
    write_history(run.history, epoch_records(**more))
    return run.read_history()


def test_plots_are_images_with_and_without_validation(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "no-such-backend")
    for val in (True, False):
        run, rows = RunDir(tmp_path), history(tmp_path, val=val)
        plot_run("student-cnn", "student", rows, run.accuracy, run.loss, {"top1": 80.0, "loss": 0.5})
        for path in (run.accuracy, run.loss):
            with Image.open(path) as plot:
                assert plot.size == (920, 680)
                assert len(plot.getcolors(1 << 20)) > 10
        row = Curves("student", "student", [rows, rows])
        assert plot_comparison("shapes", [row], tmp_path / "comparison.png") is val


def test_plots_stand_on_whatever_is_behind_them(tmp_path):
    run, rows = RunDir(tmp_path), history(tmp_path)
    plot_run("student-cnn", "student", rows, run.accuracy, run.loss, None)
    plot_comparison("shapes", [Curves("student", "student", [rows])], tmp_path / "comparison.png")
    plot_heat_map("shapes", {(1, 0.5): 80.0, (2, 0.9): 90.0}, tmp_path / "heatmap.png")
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as plot:
            corners = {plot.getpixel((x, y))[3] for x in (0, plot.width - 1) for y in (0, plot.height - 1)}
            assert corners == {0}, path


def test_the_objective_and_the_cross_entropy_have_axes_of_their_own(tmp_path, figures):
    rows = history(tmp_path)
    plot_run("kd-cnn-t5", "kd", rows, tmp_path / "a.png", tmp_path / "l.png", {"top1": 80.0, "loss": 0.5})
    upper, lower = figures[1].axes
    assert [list(line.get_ydata()) for line in lower.lines] == [[row["train_loss"] for row in rows]]
    assert [list(line.get_ydata()) for line in upper.lines] == [[row["val_loss"] for row in rows], [0.5]]
    assert upper.get_title("left") == "validation cross-entropy (nats)"
    assert lower.get_title("left") == "training objective"


def test_a_colour_belongs_to_a_role_whatever_other_rows_there_are(tmp_path, figures):
    rows, path = [history(tmp_path)], tmp_path / "comparison.png"
    roles = ["teacher", "teacher", "student", *["kd"] * 7]
    plot_comparison("all", [Curves(f"{role} {k}", role, rows) for k, role in enumerate(roles)], path)
    plot_comparison("two", [Curves("a", "student", rows), Curves("b", "kd", rows)], path)
    every, two = ([line for line in figure.axes[0].lines] for figure in figures)
    for role, line in zip([*roles, "student", "kd"], [*every, *two], strict=True):
        assert line.get_color() in OF_ROLE[role]
    assert (two[0].get_color(), two[1].get_color()) == (every[2].get_color(), every[3].get_color())
    looks = sorted((line.get_color(), line.get_marker(), line.get_linestyle()) for line in every)
    assert all(len(list(same)) == 1 for _, same in groupby(looks))
