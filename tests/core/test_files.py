"""Files are written completely or not at all."""

import pytest

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError


def test_a_failed_write_leaves_the_old_file(tmp_path):
    """A process that fails while it writes leaves the old file and no incomplete file."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.write_atomically(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_folders_are_replaced_completely(tmp_path):
    """The new folder has no files of the old folder."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("x")
    with files.write_atomically(tmp_path / "b") as draft:
        draft.mkdir()
        (draft / "new").write_text("y")
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["new"]


def test_checksum_of_a_folder_depends_on_names_and_contents(tmp_path):
    """A renamed or changed file inside a SavedModel changes its checksum."""
    (tmp_path / "a").write_text("1")
    first = files.sha256(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = files.sha256(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, files.sha256(tmp_path)}) == 3
    assert files.compute_size(tmp_path) == 1


def test_unwritable_folder(tmp_path):
    """The message names the folder and the reason; root as well cannot create a folder inside a file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"The work folder cannot be written: .*file/x"):
        files.make_writable_folder(tmp_path / "file" / "x", "work folder")
