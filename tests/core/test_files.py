"""Files are whole or absent."""

import pytest

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError


def test_a_failed_write_leaves_the_old_file(tmp_path):
    """A run that dies while it writes must not destroy what was there, nor leave half a file."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.write_atomically(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_folders_are_replaced_whole(tmp_path):
    """A bundle of an earlier run is replaced, not mixed with the new one."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "stale").write_text("x")
    with files.write_atomically(tmp_path / "b") as draft:
        draft.mkdir()
        (draft / "fresh").write_text("y")
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["fresh"]


def test_checksum_of_a_folder_sees_names_and_contents(tmp_path):
    """A renamed or changed file inside a SavedModel changes its checksum."""
    (tmp_path / "a").write_text("1")
    first = files.sha256(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = files.sha256(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, files.sha256(tmp_path)}) == 3
    assert files.compute_size(tmp_path) == 1


def test_unwritable_folder(tmp_path):
    """The message names the folder and why; a file in the way is the case that root meets too."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"The work folder cannot be written: .*taken/x"):
        files.make_writable_folder(tmp_path / "taken" / "x", "work folder")
