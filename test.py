"""Measure a trained network on the test images.

python test.py --tto True                  # the teacher
python test.py                             # the student alone
python test.py --kd True --temp 5          # the student, taught by the teacher
python test.py --all                       # every finished run, then the page report.html
python test.py --checkpoint FILE           # the network in this file
"""

import json
import sys
from pathlib import Path

from config import parse
from models import MODELS, build_model
from utils.data.sources import SOURCES
from utils.runtime.errors import UserError
from utils.runtime.program import run


def main(argv: list[str]) -> None:
    config = parse("test.py", argv, MODELS, SOURCES)
    path = Path(config.checkpoint) if config.checkpoint else config.run_dir / "last.pt"
    if config.role != "all" and not path.exists():
        hint = "check the path" if config.checkpoint else f"train it first: {config.command(config.role)}"
        raise UserError(f"there is no checkpoint {path}", hint)

    # Only now: importing torch takes seconds, and a mistyped command is answered at once.
    from utils.evaluation.export import export, require_ready
    from utils.reporting.page import write_page
    from utils.reporting.table import finished_runs
    from utils.runtime.device import Compute
    from utils.runtime.run_dir import RunDir
    from utils.test_run import Evaluator, brief

    if config.export:
        require_ready(Path(config.export))
    compute = Compute.choose(config.device, config.precision)
    places = ("dataset", "data_dir", "image_size", "limit", "skip_bad_images")
    explicit = {name: getattr(config, name) for name in places if name in config.explicit}
    evaluator = Evaluator(explicit, compute, build_model)
    if config.role == "all":
        found, missed = evaluator.evaluate_all(finished_runs(config.dataset_dir, config.command("all")))
        print(f"page: {write_page(config.dataset_dir)}")
        if missed:
            raise UserError(f"{len(missed)} of {len(found) + len(missed)} runs could not be measured", "see above")
    else:
        found = brief(evaluator.evaluate(path, None if config.checkpoint else RunDir(config.run_dir)))
        if config.export:
            network = evaluator.network(path)
            export(network.model, network.kept, network.test, compute, config.export)
    print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
