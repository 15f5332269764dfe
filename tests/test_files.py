"""Files that are whole or not there."""

import pytest

from hops.files import replacing


def test_replacing__is_there_once_it_is_whole_and_replaces_what_was(tmp_path):
    path = tmp_path / "a.txt"
    for words in ("one", "two"):
        with replacing(path) as file:
            assert file.parent == tmp_path
            file.write_text(words)
            assert [each.read_text() for each in tmp_path.glob("a.txt")] == ["one"] * (words == "two")
        assert path.read_text() == words
        assert list(tmp_path.iterdir()) == [path]


def test_replacing__leaves_what_was_there_where_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def write():
        with replacing(path) as file:
            file.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing__names_the_file_that_was_asked_for_where_it_cannot_be(tmp_path):
    path = tmp_path / "none" / "a.txt"
    with pytest.raises(FileNotFoundError) as told, replacing(path) as file:
        file.write_text("all of it")
    assert told.value.filename == str(path)
