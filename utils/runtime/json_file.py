"""JSON files of runs: written whole, and checked when they are read."""

import json
from pathlib import Path
from typing import Any

from utils.runtime.errors import DamagedFile, UserError, reading
from utils.runtime.files import write_text
from utils.runtime.regular_file import read_regular
from utils.runtime.schema import bounded, fits

AGAIN = "--overwrite makes that run again"


def read_json(path: Path, **required: Any) -> dict[str, Any]:
    """Read a JSON object that has the keys of `required`, of these kinds (see `fits`), and only finite numbers.

    Raises DamagedFile for anything else, OSError for what cannot be read.
    """
    try:
        data = read_regular(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing", AGAIN) from None
    with reading(path, AGAIN):
        content = json.loads(
            data.decode(errors="surrogateescape"),
            parse_int=lambda text: bounded(int(text)),
            parse_float=lambda text: bounded(float(text)),
            parse_constant=lambda text: bounded(float(text)),
        )
        json.dumps(content, ensure_ascii=False).encode(errors="surrogateescape")  # so that it can be written again
        if not isinstance(content, dict):
            raise ValueError("it is no object with keys")
    for key, kind in required.items():
        if not fits(content.get(key), kind):
            raise DamagedFile(f"{path} is damaged (no {key!r} that it should have)", AGAIN)
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
