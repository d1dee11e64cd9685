"""What was measured batch by batch is found again, unless it is of something else."""

import torch

from quantlab.run.batch_files import BatchFiles, batches_of


def test_batches_are_found_again_and_read_in_order(tmp_path):
    batches = batches_of(5, 2)
    assert batches == [slice(0, 2), slice(2, 4), slice(4, 5)]
    files = BatchFiles(tmp_path, "ranges only", {"seed": 1, "pair": (1, 2)}, batches)
    for rows in reversed(batches):
        assert not files.holds(rows)
        own = {"value": torch.arange(rows.start, rows.stop)} | ({"first": torch.ones(1)} if rows.start == 0 else {})
        files.save(rows, own)
    again = BatchFiles(tmp_path, "ranges only", {"seed": 1, "pair": [1, 2]}, batches)
    assert all(map(again.holds, batches))
    assert again.whole("value").tolist() == [0, 1, 2, 3, 4] and len([*again.read("first")]) == 1
    assert not any(map(BatchFiles(tmp_path, "ranges only", {"seed": 2}, batches).holds, batches))
    assert not any(map(BatchFiles(tmp_path, "uncorrected", files.facts, batches).holds, batches))
    assert not BatchFiles(tmp_path, "ranges only", files.facts, batches_of(6, 3)).holds(slice(0, 3))
    next(tmp_path.glob("*00000002.safetensors")).write_bytes(b"torn")
    assert [again.holds(rows) for rows in batches] == [True, False, True]
