import csv

import pytest
from toys import epoch_records

from utils.runtime.history import COLUMNS, write_history
from utils.runtime.run_dir import RunDir


def test_history_csv_has_the_promised_columns_and_reads_back(tmp_path):
    run = RunDir(tmp_path)
    write_history(run.history, [*epoch_records(1), *epoch_records(1, val=False)])
    with open(run.history, newline="", encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    promised = "epoch,lr,train_loss,train_top1,train_top5,val_loss,val_top1,val_top5,seconds"
    assert ",".join(first) == promised == ",".join(COLUMNS)
    rows = run.read_history()
    assert rows[0]["seconds"] == pytest.approx(12.345, abs=1e-3)
    assert rows[1]["val_top1"] is None
