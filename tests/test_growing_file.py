import errno
import os
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
    file._file._copying and file._file._copying.join()
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


class Disk:
    """What `os.write` and `os.fsync` do, until they are told to fail; half of what doesn't fit is written."""

    def __init__(self, monkeypatch):
        self.error, self.room = None, None
        self._write, self._fsync = os.write, os.fsync
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def write(self, file, data):
        if self.room == 0:
            raise OSError(self.error, os.strerror(self.error))
        written = self._write(file, data[: self.room])
        if self.room is not None:
            self.room -= written
        return written

    def fsync(self, file):
        if self.error and self.room is None:
            raise OSError(self.error, os.strerror(self.error))
        self._fsync(file)


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE])
def test_what_a_disk_refuses_is_kept_and_written_when_it_takes_it(tmp_path, caplog, disk, error):
    path, clock = tmp_path / "file", Clock()
    file = GrowingFile(path, b"", now=clock)
    file.write(b"first\n")
    disk.error, disk.room = error, 3
    for line in (b"second\n", b"third\n"):
        file.write(line)
    assert path.read_bytes() == b"first\nsec"
    (warning,) = caplog.messages  # one, not one a row
    assert warning.startswith(f"{path} can't be written: the ") and warning.endswith("the run goes on.")
    with pytest.raises(UserError, match="file can't be written: the "):
        file.sync()
    disk.room = None
    with pytest.raises(UserError):  # the system took it, and the disk did not
        file.sync()
    disk.error = None
    file.write(b"fourth\n")
    assert b"fourth" not in path.read_bytes()  # a disk that doesn't answer is not asked for every row
    clock.seconds += 1
    file.write(b"fifth\n")
    file.close()
    assert path.read_bytes() == b"first\nsecond\nthird\nfourth\nfifth\n"


def test_a_disk_that_fails_to_the_end_is_an_error_at_the_end(tmp_path, disk):
    file = GrowingFile(tmp_path / "file", b"kept\n")
    disk.error, disk.room = errno.ENOSPC, 0
    file.write(b"row\n")
    with pytest.raises(UserError, match=r"file can't be written: the disk is full \(df -h"):
        file.close()
    assert (tmp_path / "file").read_bytes() == b"kept\n"


def test_a_folder_that_vanishes_is_noticed_and_one_that_comes_back_is_written_to(tmp_path, caplog):
    folder, clock = tmp_path / "run", Clock()
    file = GrowingFile(folder / "file", b"", now=clock)
    file.write(b"first\n")
    file.sync()
    file.write(b"second\n")
    folder.rename(tmp_path / "away")
    file.write(b"third\n")  # the system takes it: the file is still open
    with pytest.raises(UserError, match="file can't be written: it is not there any more: mount it again"):
        file.sync()
    assert not folder.exists()
    (tmp_path / "away").rename(folder)
    file.sync()
    assert (folder / "file").read_bytes() == b"first\nsecond\nthird\n"
    (folder / "file").unlink()
    file.write(b"fourth\n")
    with pytest.raises(UserError, match="not there any more"):
        file.sync()
    file.close()
    assert (folder / "file").read_bytes() == b"fourth\n"
    assert "file had 19 bytes and has 0: it goes on behind those." in caplog.text


def test_what_the_disk_has_not_confirmed_does_not_pile_up(tmp_path, disk):
    file = GrowingFile(tmp_path / "file", b"")
    for _ in range(3):
        file.write(bytes(1 << 19))
    disk.error, disk.room = errno.ENOSPC, 0
    file.write(b"more")
    assert len(file._file._held) == (1 << 19) + 4
