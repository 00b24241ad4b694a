import errno
import os

import pytest

from t5x_mini import cli, storage_errors
from t5x_mini.storage_errors import in_words, is_of_the_disk


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full (df -h"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "this user may not write there"),
        (errno.ENOENT, "it is not there any more: mount it again"),
        (errno.ESTALE, "the way to it over the network, doesn't answer"),
        (errno.EIO, "look at its mount and at dmesg"),
    ],
)
def test_an_error_of_the_system_says_what_helps_however_it_is_handed_on(number, words):
    error = OSError(number, os.strerror(number))
    assert words in in_words(error)
    assert in_words(ValueError(f"Failed to write [OS error {number}: {errno.errorcode[number]} ...]")) == in_words(
        error
    )
    assert in_words(ValueError(f"No such luck [os_error_code='{number}']")) == in_words(error)


def test_other_errors_are_shown_and_long_ones_cut():
    assert in_words(ValueError("a\n  b")) == "a b"
    assert in_words(KeyError()) == "KeyError"
    assert len(in_words(ValueError("long " * 1000))) < 320


def test_a_wrong_path_is_no_trouble_of_the_disk():
    assert is_of_the_disk(OSError(errno.ENOSPC, ""))
    assert not is_of_the_disk(FileNotFoundError(errno.ENOENT, ""))


def test_the_command_line_says_it_without_a_traceback(monkeypatch, capsys):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/vocabulary.model")

    monkeypatch.setattr(cli, "_run", full)
    assert cli.main(["tasks"]) == 1
    assert capsys.readouterr().err == (
        f"t5x-mini: error: /data/vocabulary.model can't be written or read: {storage_errors._CAUSES[errno.ENOSPC]} "
        "(No space left on device).\n"
    )
