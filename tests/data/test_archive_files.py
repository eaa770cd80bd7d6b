import io
import tarfile

import numpy as np
import pytest

from igpt.data.sources.archive_files import open_member, read_rows


def test_rows_of_a_member_are_those_of_the_array(tmp_path, monkeypatch):
    array = np.random.default_rng(1).integers(0, 256, (1000, 7), dtype=np.uint8)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name, content in (("folder/other", b"x" * 999), ("folder/rows", b"head" + array.tobytes())):
            information = tarfile.TarInfo(name)
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))
    monkeypatch.setattr("igpt.data.sources.archive_files.BLOCK_SIZE", 640)  # blocks of 91 rows
    rows = np.sort(np.random.default_rng(2).choice(1000, 200, replace=False))
    with open_member(tmp_path / "a.tar.gz", "rows") as file:
        for wanted in (rows, rows[100:], rows[:3], rows[:0]):  # backwards too
            np.testing.assert_array_equal(read_rows(file, wanted, 7, offset=4), array[wanted])
        with pytest.raises(ValueError, match="reshape"):
            read_rows(file, np.array([1000]), 7, offset=4)
    with pytest.raises(KeyError, match="no absent"):
        open_member(tmp_path / "a.tar.gz", "absent")
