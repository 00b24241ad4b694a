import pytest

from t5x_mini.whole_file import write_whole


def test_text_and_its_parts_are_the_same_file(tmp_path):
    write_whole(tmp_path / "new/one", "a\nb\n")
    write_whole(tmp_path / "new/two", iter(("a\n", "b\n")))
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == {
        "one": b"a\nb\n",
        "two": b"a\nb\n",
    }


def test_what_was_there_stays_where_writing_fails(tmp_path):
    def parts():
        yield "half"
        raise OSError("No space left on device")

    path = tmp_path / "kept"
    path.write_text("all of it")
    with pytest.raises(OSError, match="No space"):
        write_whole(path, parts())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"kept": "all of it"}
