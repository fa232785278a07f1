import os
from pathlib import Path

import numpy as np
import pytest
from image_files import make_tree

from utils.data.sources import folder


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    return make_tree(tmp_path / "images")


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded, as they are."""
    names, decode = [], folder.decode_image

    def counted(path: Path, size: int) -> np.ndarray:
        names.append(f"{path.parent.parent.name}/{path.parent.name}/{path.name}")
        return decode(path, size)

    monkeypatch.setattr(folder, "decode_image", counted)
    return names
