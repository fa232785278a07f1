import pytest

from utils.runtime.errors import UserError
from utils.runtime.json_file import read_json


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"b\.json is missing"):
        read_json(tmp_path / "b.json")
    (tmp_path / "a.json").write_text('{"epoch": "3"}')
    with pytest.raises(UserError, match=r"no 'epoch'"):
        read_json(tmp_path / "a.json", epoch=int)
