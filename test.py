"""Measure a trained network on the test images.

python test.py --tto True                  # the teacher
python test.py                             # the student alone
python test.py --kd True --temp 5          # the student with knowledge distillation
python test.py --all                       # every finished run, then the page report.html
python test.py --predict photos            # class and confidence of the images in a folder, or of files
python test.py --checkpoint FILE           # the network in this file; of another program: --teacher NAME
"""

import json
import sys
from pathlib import Path

from config import parse
from models import MODELS, build_model
from utils.data.sources import SOURCES
from utils.losses import METHODS, resolve_method
from utils.runtime.errors import UsageError, UserError
from utils.runtime.program import run


def main(argv: list[str]) -> None:
    config = parse("test.py", argv, MODELS, SOURCES, METHODS)
    try:
        run_dir = config.locate(config.runs(resolve_method)[0].run_dir)
    except ValueError as error:
        raise UsageError(str(error), "python train.py --list-methods") from None
    path = Path(config.checkpoint or run_dir / "last.pt")
    if config.role != "all" and not path.exists():
        hint = "check the path" if config.checkpoint else f"train it first: {config.command(config.role)}"
        raise UserError(f"there is no checkpoint {path}", hint)

    # Only now: importing torch takes seconds, and a mistyped command is answered at once.
    from utils.evaluation.export import export, require_ready
    from utils.evaluation.networks import Foreign, Networks
    from utils.evaluation.summary import brief
    from utils.predict_run import choose_table, predict_files
    from utils.reporting.page import write_page
    from utils.reporting.selection import choose_runs, only_folder
    from utils.reporting.table import finished_runs, read_rows, terminal_table
    from utils.runtime.device import Compute
    from utils.runtime.run_dir import RunDir
    from utils.test_run import Evaluator
    from utils.training.progress import print_header

    if config.export:
        require_ready(Path(config.export))
    table = choose_table(config.csv, Path() if config.checkpoint else run_dir) if config.predict else None
    compute = Compute.choose(config.device, config.precision)
    names = ("dataset", "data_dir", "image_size", "limit", "skip_bad_images")
    images = {name: getattr(config, name) for name in names}
    explicit = {name: value for name, value in images.items() if name in (*config.explicit, "data_dir")}
    foreign = Foreign(config.named_network, config.teacher_normalisation, images) if config.checkpoint else None
    networks = Networks(explicit, compute, build_model, foreign)
    evaluator = Evaluator(networks)
    if config.role == "all":
        data_dir = None if "data_dir" in config.explicit else config.data_dir
        named = "dataset" in config.explicit
        only = None if named else only_folder(Path(config.results_dir), data_dir)
        folder = only or config.locate(config.dataset_dir)
        chosen = {role: getattr(config, role) for role in ("teacher", "student") if role in config.explicit}
        runs = choose_runs(finished_runs(folder, config.command("all")), chosen)
        results, failed = evaluator.evaluate_all(runs)
        page, names = write_page(folder), {run.path.parent.name for run in runs}
        print(*terminal_table([row for row in read_rows(folder) if row.name in names]), sep="\n")
        print(f"page: {page}")
        if failed:
            count = len(results) + len(failed)
            raise UserError(f"{len(failed)} of {count} runs could not be measured", "see above")
    elif config.predict:
        checkpoint, model = networks.restore(path)
        print_header(str(path), {"network": checkpoint["model_name"], "device": str(compute)})
        predictions = predict_files(config.predict, checkpoint, model, compute)
        saved = predictions.save(table, title=str(path))
        print(f"written to {saved['table']} and {saved['plot']}")
        results = {"images": len(predictions.all), "unreadable": predictions.unreadable} | saved
    else:
        results = brief(evaluator.evaluate(path, None if config.checkpoint else RunDir(run_dir)))
        if config.export:
            network = networks.network(path)
            export(network.model, network.checkpoint, network.test, compute, config.export)
    print(json.dumps(results))


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
