from PIL import Image
from toys import epoch_records

from utils.reporting.curves import plot_comparison, plot_run
from utils.runtime.run_dir import RunDir


def test_plots_are_images_with_and_without_validation(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "no-such-backend")
    for val in (True, False):
        run = RunDir(tmp_path)
        run.write_history(epoch_records(val=val))
        rows = run.read_history()
        plot_run("student-cnn", rows, run.accuracy, run.loss, {"top1": 80.0, "loss": 0.5})
        for path in (run.accuracy, run.loss):
            with Image.open(path) as plot:
                assert plot.size == (960, 600)
                assert len(plot.convert("RGB").getcolors(1 << 20)) > 10
        assert plot_comparison("shapes", {"student": [rows, rows]}, tmp_path / "comparison.png") is val
