import gzip
import hashlib
import itertools
import subprocess
import sys

import fake_servers
import pyarrow
import pytest

from t5x_mini import remote
from t5x_mini.errors import UserError
from t5x_mini.tasks import files, installed_docs

TEXT = "".join(f"document {i} tells of {i * i} things, naïvely\n" for i in range(5000)).encode()
NAMES = [
    "a.txt",
    "b.txt.gz",
    "c.md",
    "deep/d.jsonl",
    "deep/er/e.json.zst",
    "deep/.hidden.txt",
    ".hidden/g.txt",
    "[x].parquet",
    "f.TSV",
]

_buckets = (f"bucket-{i}" for i in itertools.count())


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return str(tmp_path / "corpus")


@pytest.fixture
def bucket(monkeypatch):
    """(gs:// address, the server's files, its requests); a new bucket, as TensorStore keeps connections."""
    name, stored = next(_buckets), {}
    with fake_servers.serving(stored) as (address, requests):
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        yield f"gs://{name}", name, stored, requests


@pytest.fixture
def memory():
    """A folder in TensorStore's memory with the same names as `folder`."""
    root = f"memory://{next(_buckets)}"
    for name in NAMES:
        files.write_bytes(f"{root}/{name}", name.encode())
    return root


def names(paths, root):
    return [path.removeprefix(f"{root}/") for path in paths]


PATTERNS = {
    "a.txt": ["a.txt"],
    "": ["[x].parquet", "a.txt", "b.txt.gz", "deep/d.jsonl", "deep/er/e.json.zst", "f.TSV"],
    "/": ["[x].parquet", "a.txt", "b.txt.gz", "deep/d.jsonl", "deep/er/e.json.zst", "f.TSV"],
    "deep": ["deep/d.jsonl", "deep/er/e.json.zst"],
    "*.txt": ["a.txt"],
    "*.txt*": ["a.txt", "b.txt.gz"],
    "?.txt": ["a.txt"],
    "*/*.jsonl": ["deep/d.jsonl"],
    "**/*.jsonl": ["deep/d.jsonl"],
    "**/*.zst": ["deep/er/e.json.zst"],
    "[ab].txt*": ["a.txt", "b.txt.gz"],
    "[!a].txt*": ["b.txt.gz"],
    "c.md": ["c.md"],
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("place", ["folder", "memory"])
def test_patterns_mean_the_same_here_and_in_a_bucket(place, pattern, request):
    root = request.getfixturevalue(place)
    path = root + pattern if pattern == "/" else f"{root}/{pattern}" if pattern else root
    assert names(files.expand(path), root) == PATTERNS[pattern]


def test_folders_that_are_links_are_read(folder, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link").symlink_to(f"{folder}/deep", target_is_directory=True)
    found = ["link/d.jsonl", "link/er/e.json.zst"]
    assert names(files.expand(str(tmp_path / "other")), str(tmp_path / "other")) == found


def test_home_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", folder)
    assert names(files.expand("~/a.*"), folder) == ["a.txt"]


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_nothing_there(place, request):
    root = request.getfixturevalue(place)
    with pytest.raises(UserError, match=r"There are no files '.*/\*\.text'"):
        files.expand(f"{root}/*.text")
    with pytest.raises(UserError, match=r"There are no files '.*/none'"):
        files.expand(f"{root}/none")


def test_nothing_there_says_what_is(folder, tmp_path):
    with pytest.raises(UserError, match=r"corpus' holds \[x\]\.parquet, a\.txt, .*or a pattern such as 'text/\*\.txt'"):
        files.expand(f"{folder}/none/*.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"The folder has no file with a known suffix\. Known suffixes: \.txt"):
        files.expand(str(tmp_path / "empty"))


def test_installed_docs(monkeypatch):
    monkeypatch.setattr(installed_docs, "ensure", lambda: {"train": "/t.txt", "validation": "/v.txt"})
    assert files.expand("installed_docs://validation") == ["/v.txt"]
    with pytest.raises(UserError, match=r"no 'installed_docs://test'.*installed_docs://train or .*validation"):
        files.expand("installed_docs://test")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.txt", (".txt", "")),
        ("x/b.JSON.GZ", (".json", ".gz")),
        ("gs://b/c.tsv.zst", (".tsv", ".zst")),
        ("https://h/d.jsonl?download=true", (".jsonl", "")),
        ("e", ("", "")),
        ("v1.2/f.gz", ("", ".gz")),
    ],
)
def test_suffixes(path, expected):
    assert files.suffixes(path) == expected


def compressed(suffix, data):
    if not suffix:
        return data
    return pyarrow.compress(data, {".gz": "gzip", ".zst": "zstd"}[suffix], asbytes=True)


def read_all(path):
    with files.open_stream(path) as stream:
        return stream.read()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_content_is_decompressed(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(compressed(suffix, TEXT))
    assert read_all(str(path)) == TEXT
    with files.open_stream(str(path)) as stream:
        assert list(stream) == TEXT.splitlines(keepends=True)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_members_one_after_the_other_are_one_file(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(compressed(suffix, TEXT) + compressed(suffix, b"") + compressed(suffix, TEXT[::-1]))
    assert read_all(str(path)) == TEXT + TEXT[::-1]


@pytest.mark.parametrize("cut", [1, 9, 1000])
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_an_incomplete_file_is_an_error(tmp_path, suffix, cut):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(compressed(suffix, TEXT)[:-cut])
    with pytest.raises((OSError, EOFError)):
        read_all(str(path))


def test_writing_and_reading_a_local_file(tmp_path):
    path = str(tmp_path / "new" / "folder" / "a.bin")
    assert not files.exists(path)
    files.write_bytes(path, b"0123456789")
    files.write_bytes(path, b"abcdefghij")
    assert files.exists(path) and files.size(path) == 10
    assert files.read_bytes(path) == b"abcdefghij"
    assert files.read_range(path, 3, 5) == b"de" and files.read_range(path, 10, 10) == b""
    assert [entry.name for entry in (tmp_path / "new" / "folder").iterdir()] == ["a.bin"]
    with pytest.raises(ValueError, match=r"a\.bin has no bytes 5 to 11"):
        files.read_range(path, 5, 11)


def test_a_version_is_of_the_content_alone(tmp_path):
    contents = [b"", b"a", b"b", b"a" * 200_000, b"a" * 199_999, b"b" + b"a" * 199_999, b"a" * 199_999 + b"b"]
    for i, content in enumerate(contents):
        for copy in "xy":
            (tmp_path / f"{i}{copy}").write_bytes(content)
    versions = [files.version(str(tmp_path / f"{i}x")) for i in range(len(contents))]
    assert len(set(versions)) == len(contents)
    assert versions == [files.version(str(tmp_path / f"{i}y")) for i in range(len(contents))]


@pytest.mark.parametrize("size", [0, 1, 2, 1023, 1024, 1025, 4096, 5000, 123_457])
def test_the_size_of_a_file_in_a_bucket_is_found(size):
    path = f"memory://sizes/{size}"
    files.write_bytes(path, bytes(size))
    assert files.size(path) == size


def test_a_bucket(bucket):
    root, name, stored, _ = bucket
    stored[f"{name}/t/ü.txt.gz"] = compressed(".gz", TEXT)
    stored[f"{name}/t/b.txt"] = b""
    stored[f"{name}/tt/c.txt"] = b"c"
    stored["another/t/d.txt"] = b"d"
    files.write_bytes(f"{root}/t/new.txt", b"new")
    assert names(files.expand(f"{root}/t/*.txt*"), root) == ["t/b.txt", "t/new.txt", "t/ü.txt.gz"]
    assert names(files.expand(f"{root}/t"), root) == ["t/b.txt", "t/new.txt", "t/ü.txt.gz"]
    assert names(files.expand(root), root) == ["t/b.txt", "t/new.txt", "t/ü.txt.gz", "tt/c.txt"]
    assert read_all(f"{root}/t/ü.txt.gz") == TEXT
    assert files.read_bytes(f"{root}/t/new.txt") == b"new" and read_all(f"{root}/t/b.txt") == b""
    assert files.exists(f"{root}/t/new.txt") and not files.exists(f"{root}/t/none.txt")
    assert files.read_range(f"{root}/tt/c.txt", 0, 1) == b"c"
    with pytest.raises(FileNotFoundError):
        files.read_bytes(f"{root}/t/none.txt")
    assert files.version(f"{root}/t/b.txt") == files.version(f"{root}/t/b.txt") != ""


def test_a_file_in_a_bucket_is_swapped_only_for_what_it_was(bucket):
    root, name, stored, _ = bucket
    path = f"{root}/lock"
    assert not remote.swap(path, b"old", b"new") and not stored
    assert remote.swap(path, None, b"one")
    assert not remote.swap(path, None, b"two") and not remote.swap(path, b"two", None)
    assert stored == {f"{name}/lock": b"one"}
    assert remote.swap(path, b"one", b"two") and stored == {f"{name}/lock": b"two"}
    assert remote.swap(path, b"two", None) and not stored


def test_a_remote_file_is_read_in_blocks(bucket, monkeypatch):
    root, name, stored, requests = bucket
    block = 1 << 17
    lines = [f"{i} {hashlib.sha256(str(i).encode()).hexdigest()}\n".encode() for i in range(60_000)]
    stored[f"{name}/a.txt.gz"] = data = compressed(".gz", b"".join(lines))
    monkeypatch.setattr(files, "_BLOCK", block)
    with files.open_stream(f"{root}/a.txt.gz") as stream:
        requests.clear()
        assert list(itertools.islice(stream, 100)) == lines[:100]
        assert len(requests) * block < len(data) / 2
        assert list(stream) == lines[100:]
    ranges = [[int(x) for x in request.split("bytes=")[1].split("-")] for request in requests]
    assert len(ranges) <= len(data) / block + 1
    assert all(0 < end - start + 1 <= block for start, end in ranges)


def test_seeking_in_a_remote_file():
    files.write_bytes("memory://seek", bytes(range(100)))
    with files.open_raw("memory://seek") as file:
        assert file.seek(-10, 2) == 90 and file.read() == bytes(range(90, 100))
        assert file.seek(5) == 5 and file.read(3) == b"\5\6\7" and file.tell() == 8


def test_the_web():
    with fake_servers.serving({"t/a.txt.gz": compressed(".gz", TEXT)}) as (address, _):
        url = f"{address}/t/a.txt.gz"
        assert files.expand(url) == [url]
        assert read_all(url) == TEXT
        assert files.size(url) == len(compressed(".gz", TEXT))
        assert files.read_range(url, 0, 2) == b"\x1f\x8b"
        assert not files.exists(f"{address}/none")
        with pytest.raises(UserError, match=r"There are no files 'http.*none\.txt'"):
            files.expand(f"{address}/none.txt")
        for pattern in ("/t/*.txt", "/t/"):
            with pytest.raises(UserError, match=r"cannot be listed.*Write the address of each file"):
                files.expand(address + pattern)
        with pytest.raises(UserError, match="web server, which cannot be written to"):
            files.write_bytes(url, b"")


def test_a_web_server_without_ranges(monkeypatch):
    with fake_servers.serving({"a.txt": TEXT}, with_ranges=False) as (address, _):
        assert read_all(f"{address}/a.txt") == TEXT
        monkeypatch.setattr(files, "_BLOCK", 4096)
        with pytest.raises(UserError, match="only as a whole. Download the file"):
            list(files.open_stream(f"{address}/a.txt"))


def test_a_web_server_that_fails_once_is_asked_again(monkeypatch):
    send, failures = fake_servers.Handler.send_file, iter([True])
    failing = lambda self, path: self.send(503) if next(failures, False) else send(self, path)  # noqa: E731
    monkeypatch.setattr(fake_servers.Handler, "send_file", failing)
    monkeypatch.setattr(remote, "_WEB_PAUSES", (0,))
    with fake_servers.serving({"a.txt": b"a"}) as (address, requests):
        assert files.read_bytes(f"{address}/a.txt") == b"a"
        assert len(requests) == 2
        failures = itertools.repeat(True)
        with pytest.raises(UserError, match=r"a\.txt' cannot be read: the server answers 503"):
            files.read_bytes(f"{address}/a.txt")


def test_out_of_reach(monkeypatch):
    monkeypatch.setattr(remote, "_WEB_PAUSES", ())
    with pytest.raises(UserError, match=r"'http://127\.0\.0\.1:1/a\.txt' cannot be reached: .*It needs the network"):
        files.size("http://127.0.0.1:1/a.txt")
    monkeypatch.setitem(remote._RETRIES, "max_retries", 1)
    context = remote.ts.Context({"gcs_request_retries": {"max_retries": 1, "initial_delay": "1ms"}})
    monkeypatch.setattr(remote, "_CONTEXT", context)
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://127.0.0.1:1")
    path = f"gs://{next(_buckets)}/a.txt"
    for ask in (files.size, files.expand, files.read_bytes, files.version):
        with pytest.raises(UserError, match=rf"'{path}' cannot be reached: .*needs the network.*gcloud auth"):
            ask(path)


@pytest.mark.parametrize(
    ("path", "words"),
    [("hdfs://x/a.txt", r"start with hdfs://.*Use gs://, s3:// or https://"), ("gs:///a.txt", "names no bucket")],
)
def test_other_addresses_are_refused(path, words):
    for ask in (files.expand, files.size, files.open_stream):
        with pytest.raises(UserError, match=words):
            ask(path)


def test_local_files_need_neither_tensorstore_nor_pyarrow(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    code = (
        "import sys; from t5x_mini.tasks import files;"
        f"files.open_stream(*files.expand({str(tmp_path)!r})).read();"
        "assert not {'tensorstore', 'pyarrow', 'tensorflow', 'numpy'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_gzip_of_the_standard_library(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(TEXT))
    assert read_all(str(tmp_path / "a.txt.gz")) == TEXT
