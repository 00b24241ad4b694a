"""Tests of t5x_mini/strangers.py."""

import pytest

from t5x_mini import strangers
from t5x_mini.errors import UserError


def test_a_small_file_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"a": 1}')
    assert strangers.read_bytes(tmp_path / "a.json", "a note", 8) == b'{"a": 1}'
    assert strangers.read_json(tmp_path / "a.json", "a note") == {"a": 1}


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(10 << 40)  # without a byte on the disk
    with pytest.raises(UserError, match=r"a\.json has 10,995,116,277,760 bytes, and a note has 16,777,216 at most"):
        strangers.read_json(path, "a note")


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        strangers.read_bytes(tmp_path / "a.json", "a note", 8)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match=r"can't be read as a note: Is a directory"):
        strangers.read_bytes(tmp_path, "a note", 1 << 20)


@pytest.mark.parametrize(
    "text, words",
    [("{", "it isn't JSON"), ("[" * 100_000, "nested too deep"), ("[1]", "it holds a list"), ("", "it isn't JSON")],
)
def test_what_is_no_object_is_refused(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=words):
        strangers.read_json(tmp_path / "a.json", "a note")
