"""What a disk's or a bucket's errors mean, and what helps."""

from __future__ import annotations

import errno
import re

_GONE = "it is not there any more: mount it again, or make the folder again"
_SILENT = "the disk, or the way to it over the network, doesn't answer as it should: look at its mount and at dmesg"
_CAUSES = {
    errno.ENOSPC: "the disk is full (df -h, and df -i for the number of files): remove what isn't needed there",
    errno.EDQUOT: "the quota is used up (quota -s): remove what isn't needed there, or have it raised",
    errno.EFBIG: "the file is larger than is allowed there (ulimit -f)",
    errno.EROFS: "the file system is read-only: mount it for writing again (dmesg says why it isn't)",
    errno.EACCES: "this user may not write there: chmod or chown it",
    errno.EPERM: "this user may not write there: chmod or chown it",
    errno.ENOENT: _GONE,
    errno.ENOTDIR: _GONE,
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ENOTCONN, errno.EHOSTDOWN), _SILENT),
    **dict.fromkeys((errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EREMOTEIO), _SILENT),
}
# What mostly is wrong where a command can't use a path that was given to it.
_OF_A_PATH = {
    errno.ENOENT: "there is no such file or folder: correct the path",
    errno.ENOTDIR: "a part of the path is a file, where a folder would have to be: correct the path",
    errno.EISDIR: "it is a folder, and a file is wanted: write the path of a file",
    errno.EEXIST: "there is something of that name already: move it away, or write another name",
    errno.ENAMETOOLONG: "the name is longer than the file system allows: write a shorter one",
    errno.ELOOP: "it is a link that leads back to itself: correct the link",
    errno.EACCES: "this user may not read or write there: chmod or chown it, or write another path",
    errno.EPERM: "this user may not read or write there: chmod or chown it, or write another path",
}
# Of the disk itself, whatever was done: a missing file or a lacking permission mostly is a mistake in a path.
_OF_THE_DISK = _CAUSES.keys() - {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM}
_LONGEST = 300


def in_words(error: BaseException) -> str:
    """The cause and what helps, `the disk is full: remove what isn't needed there`; or else the error's own words.

    TensorStore hands on what the system said as `[OS error 28: ENOSPC No space left on device]` or, in other places,
    `[os_error_code='28']`.
    """
    number = error.errno if isinstance(error, OSError) else _number_in(str(error))
    if number in _CAUSES:
        return _CAUSES[number]
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ..."


def is_of_the_disk(error: OSError) -> bool:
    """Whether it says that a disk is full, read-only or out of reach, rather than that a path is wrong."""
    return error.errno in _OF_THE_DISK


def is_of_a_path(error: OSError) -> bool:
    """Whether it names a path, and says what is wrong with that one."""
    return error.filename is not None and error.errno in _OF_A_PATH


def of_a_command(error: OSError) -> str:
    """The cause and what helps, for who gave the path to a command."""
    return _OF_A_PATH[error.errno] if is_of_a_path(error) else in_words(error)


def _number_in(text: str) -> int | None:
    found = re.search(r"\[OS error (\d+)|os_error_code='(\d+)'", text)
    return int(found[1] or found[2]) if found else None
