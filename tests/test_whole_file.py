import threading
from concurrent.futures import ThreadPoolExecutor

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


def test_threads_that_write_the_same_file_are_not_in_one_anothers_way(tmp_path):
    path, meeting = tmp_path / "same", threading.Barrier(2)

    def parts():
        meeting.wait()  # both drafts are open
        yield "all of it"
        meeting.wait()

    with ThreadPoolExecutor(2) as pool:
        for written in [pool.submit(write_whole, path, parts()) for _ in range(2)]:
            written.result()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"same": "all of it"}
