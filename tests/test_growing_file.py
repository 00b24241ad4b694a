import threading

import pytest

from t5x_mini.errors import UserError
from t5x_mini.growing_file import GrowingFile


class Remote:
    """A path in a bucket, as far as a growing file uses it."""

    def __init__(self, data=None):
        self.data, self.copies, self.fails = data, 0, False
        self.written = threading.Event()

    def __fspath__(self):
        return "gs://bucket/file"

    def exists(self):
        return self.data is not None

    def read_bytes(self):
        return self.data

    def write_bytes(self, data):
        try:
            if self.fails:
                raise UserError("'gs://bucket/file' cannot be reached.")
            self.data, self.copies = data, self.copies + 1
        finally:
            self.written.set()


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


def test_here_all_is_on_the_disk_at_once(tmp_path):
    path = tmp_path / "new/file"
    file = GrowingFile(path, b"a")
    file.write(b"b")
    assert path.read_bytes() == b"ab"
    file.close()
    file = GrowingFile(path, None)
    file.write(b"c")
    assert path.read_bytes() == b"abc"
    file.close()
    GrowingFile(path, b"").close()
    assert path.read_bytes() == b""


def test_in_a_bucket_all_is_written_again_every_half_minute():
    path, clock = Remote(b"old"), Clock()
    file = GrowingFile(path, b"a", now=clock)
    assert path.data == b"a"
    clock.seconds = 29
    file.write(b"b")
    assert path.data == b"a"
    path.written.clear()
    clock.seconds = 30
    file.write(b"c")
    assert path.written.wait(10)
    file.sync()
    assert (path.data, path.copies) == (b"abc", 2)  # nothing new to write
    clock.seconds = 59
    file.write(b"d")
    assert path.data == b"abc"
    file.close()
    assert path.data == b"abcd"


def test_in_a_bucket_it_goes_on_behind_what_is_there():
    path = Remote(b"old")
    file = GrowingFile(path, None)
    file.write(b"new")
    file.close()
    assert path.data == b"oldnew"


def test_a_copy_that_takes_long_is_made_less_often():
    path, clock = Remote(), Clock()
    file = GrowingFile(path, b"", now=clock)
    copy = path.write_bytes

    def slowly(data):
        clock.seconds += 10
        copy(data)

    path.write_bytes = slowly
    file.write(b"a")
    file.sync()
    copies = path.copies
    clock.seconds += 199
    file.write(b"b")
    file._copying and file._copying.join()
    assert path.copies == copies
    path.written.clear()
    clock.seconds += 1
    file.write(b"c")
    assert path.written.wait(10)
    file.close()
    assert path.data == b"abc"


def test_a_bucket_out_of_reach_stops_no_run_before_its_end(caplog):
    path, clock = Remote(), Clock()
    file = GrowingFile(path, b"", now=clock)
    path.fails = True
    path.written.clear()
    clock.seconds = 30
    file.write(b"a")
    assert path.written.wait(10)
    with pytest.raises(UserError, match="cannot be reached"):
        file.sync()
    assert "cannot be reached. It is tried again; the run goes on." in caplog.text
    path.fails = False
    file.close()
    assert path.data == b"a"
