import io
import itertools

import fake_servers
import pytest
from etils import epath

from t5x_mini.bucket_path import BucketPath
from t5x_mini.errors import UserError

_buckets = (f"paths-of-tests-{number}" for number in itertools.count())


@pytest.fixture
def files():
    return {}


@pytest.fixture
def root(files, monkeypatch):
    """A folder in a bucket of its own, as TensorStore keeps connections."""
    with fake_servers.serving(files) as (address, _):
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        yield BucketPath(f"gs://{next(_buckets)}/runs/one")


def test_what_is_written_is_read(root):
    (root / "a.txt").write_text("β\nb\n")
    assert (root / "a.txt").read_text() == "β\nb\n"
    assert (root / "a.txt").read_bytes() == "β\nb\n".encode()
    with (root / "a.txt").open(encoding="utf-8", errors="replace") as lines:
        assert list(lines) == ["β\n", "b\n"]
    (root / "latin").write_bytes(b"\xe9")
    assert (root / "latin").read_text(errors="replace") == "\ufffd"


def test_an_open_file_is_there_when_it_is_closed_and_not_if_writing_fails(root):
    with (root / "whole").open("wb") as file:
        file.write(b"ab")
        assert not (root / "whole").exists()
        file.write(b"c")
    assert (root / "whole").read_bytes() == b"abc"
    with pytest.raises(OSError, match="No space"), (root / "half").open("wb") as file:
        file.write(b"ab")
        raise OSError("No space left on device")
    assert not (root / "half").exists()


def test_nothing_is_added_to_an_object(root):
    with pytest.raises(io.UnsupportedOperation, match="written whole, not opened with 'ab'"):
        (root / "a").open("ab")


def test_a_folder_is_there_as_long_as_something_is_in_it(root):
    (root / "new").mkdir(parents=True)
    assert not (root / "new").exists()
    assert list((root / "new").iterdir()) == []
    (root / "new/x/deep").write_bytes(b"1")
    (root / "new/file").write_bytes(b"")
    (root / "newer").write_bytes(b"1")
    assert [str(path.relative_to(root)) for path in (root / "new").iterdir()] == ["new/file", "new/x"]
    assert (root / "new").is_dir() and not (root / "new").is_file()
    assert (root / "new/file").is_file() and not (root / "new/file").is_dir()
    assert (root / "new/x").stat().is_directory and (root / "newer").stat().length == 1
    with pytest.raises(FileExistsError):
        (root / "new").mkdir()
    (root / "new").rmtree()
    assert [path.name for path in root.iterdir()] == ["newer"]


def test_glob_finds_files_and_folders(root):
    for name in ("checkpoints/1/metrics/metrics", "checkpoints/2/state/d", "a.jsonl", "b.jsonl"):
        (root / name).write_bytes(b"1")
    assert [path.name for path in root.glob("*.jsonl")] == ["a.jsonl", "b.jsonl"]
    assert [path.name for path in root.glob("checkpoints/*")] == ["1", "2"]
    assert list(root.glob("checkpoints/*/metrics/metrics")) == [root / "checkpoints/1/metrics/metrics"]
    assert list(root.glob("no/*")) == []


def test_removing(root):
    (root / "a").write_bytes(b"1")
    (root / "a").unlink()
    assert not (root / "a").exists()
    (root / "a").unlink(missing_ok=True)
    for remove in ((root / "a").unlink, (root / "a").rmtree):
        with pytest.raises(FileNotFoundError, match=r"no file '.*/a'"):
            remove()


def test_another_name_takes_the_place_of_what_had_it(root):
    (root / "a").write_bytes(b"new")
    (root / "b").write_bytes(b"old")
    assert (root / "a").replace(root / "b") == root / "b"
    assert (root / "b").read_bytes() == b"new" and not (root / "a").exists()


def test_a_whole_bucket_is_not_removed(root, files):
    (root / "a").write_bytes(b"1")
    with pytest.raises(ValueError, match="is a whole bucket"):
        root.parents[-1].rmtree()
    assert list(files.values()) == [b"1"]


def test_it_is_what_orbax_and_jax_get(root):
    path = epath.Path(str(root))
    assert isinstance(path, BucketPath) and isinstance(path / "a", BucketPath)
    assert str(path / "a") == f"{root}/a"
    assert path.absolute() == path.resolve() == path.expanduser() == path
    with pytest.raises(NotImplementedError, match="can't be done in a bucket"):
        path.rename(path / "b")


def test_a_bucket_that_cannot_be_reached_says_what_it_takes(monkeypatch):
    monkeypatch.setattr("t5x_mini.remote._CONTEXT", None)
    path = BucketPath("gs://UPPER/x")
    with pytest.raises(UserError, match="cannot be reached.*gcloud auth application-default login"):
        path.exists()
