"""Measure a trained network on the test images.

python test.py --tto True                  # the teacher
python test.py                             # the student alone
python test.py --kd True --temp 5          # the student, taught by the teacher
python test.py --checkpoint FILE           # the network in this file
"""

import json
import sys
from pathlib import Path

from config import parse
from models import MODELS, build_model
from utils.data.sources import SOURCES
from utils.errors import UserError
from utils.program import run


def main(argv: list[str]) -> None:
    config = parse("test.py", argv, MODELS, SOURCES)
    path = Path(config.checkpoint) if config.checkpoint else config.run_dir / "last.pt"
    if not path.exists():
        hint = "check the path" if config.checkpoint else f"train it first: {config.command(config.role)}"
        raise UserError(f"there is no checkpoint {path}", hint)

    # Only now: importing torch takes seconds, and a mistyped command is answered at once.
    from utils.device import Compute
    from utils.run import test_checkpoint

    compute = Compute.choose(config.device, config.precision)
    typed = {
        name: getattr(config, name)
        for name in ("dataset", "data_dir", "image_size", "limit")
        if name in config.typed
    }
    own_run = None if config.checkpoint else config.run_dir
    result = test_checkpoint(path, typed, compute, build_model, own_run)
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
