"""What was added to a data set comes back byte for byte, whatever its size and whether the store knew it."""

from __future__ import annotations

from pathlib import Path

from minipipe import Dataset
from minipipe.store.home import Store


def test_small_large_equal_and_changed_files_come_back_as_they_were(home: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    contents = {"small.txt": b"x" * 100, "large.bin": bytes(range(256)) * 400, "below/same.txt": b"x" * 100, "empty": b""}
    for name, data in contents.items():
        (source / name).write_bytes(data)

    made = Dataset.create(dataset_project="tests", dataset_name="content")
    assert made.add_files(source) == 4
    made.finalize()
    (source / "small.txt").write_bytes(b"changed")
    later = Dataset.create(dataset_project="tests", dataset_name="content", parent_datasets=[made])
    assert later.add_files(source) == 1
    later.finalize()

    for data_set, expected in ((made, contents), (later, {**contents, "small.txt": b"changed"})):
        folder = Path(Dataset.get(dataset_id=data_set.id).get_local_copy())
        assert {name: (folder / name).read_bytes() for name in expected} == expected
