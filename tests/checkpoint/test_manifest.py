import json
import math
import os
import random

import fake_servers
import pytest

from t5x_mini.checkpoint import manifest
from t5x_mini.checkpoint.manifest import Entry, Manifest, ManifestError
from t5x_mini.errors import UserError
from t5x_mini.storage import to_path

DAMAGE = pytest.mark.damage("A damaged checkpoint is found, and its files named, before anything is restored.")
LARGE = "state/d/0a"
FILES = {LARGE: bytes(range(256)) * 50, "run/metadata": b"{}", "state/empty": b"", "position/process_0-of-1": b"7"}
SIZES = {name: len(data) for name, data in FILES.items()}


def write(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.fixture(params=["folder", "bucket"])
def saved(request, tmp_path, monkeypatch):
    """A checkpoint of four files with its manifest, here and in a bucket."""
    if request.param == "folder":
        folder = tmp_path / "checkpoints" / "7"
        write(folder, FILES)
        yield complete(folder)
        return
    with fake_servers.serving({}) as (address, _):
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        folder = to_path(f"gs://manifests-{tmp_path.name}/run/checkpoints/7")
        write(folder, FILES)
        yield complete(folder)


def complete(folder):
    files = manifest.entries(folder, manifest.paths(folder))
    manifest.write(folder, Manifest(files, {"loss": 2.5, "bad": math.nan}, "loss", 1000.0))
    return folder


def problems(folder):
    return [str(problem) for problem in manifest.check(folder, manifest.read(folder))]


def test_a_manifest_is_read_as_it_was_written(saved):
    found = manifest.read(saved)
    assert {name: entry.size for name, entry in found.files.items()} == SIZES
    assert list(found.files) == sorted(FILES)
    assert (found.size, found.best_metric, found.saved_at) == (sum(SIZES.values()), "loss", 1000.0)
    assert found.metrics["loss"] == 2.5 and math.isnan(found.metrics["bad"])
    assert found.files["run/metadata"].sha256 == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert problems(saved) == []


def test_files_are_on_the_disk_before_they_are_vouched_for(tmp_path, monkeypatch):
    write(tmp_path, FILES)
    synced, fsync = set(), os.fsync

    def recorded(file):
        synced.add(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    monkeypatch.setattr(os, "fsync", recorded)
    manifest.entries(tmp_path, manifest.paths(tmp_path))
    assert {str(path) for path in tmp_path.rglob("*")} | {str(tmp_path)} <= synced


def test_none_where_there_is_none(tmp_path):
    assert manifest.read(tmp_path) is None
    manifest.require(tmp_path)


@DAMAGE
@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_is_named(saved, seed):
    rng = random.Random(seed)
    name = rng.choice([name for name, data in FILES.items() if data])
    data = bytearray(FILES[name])
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    (saved / name).write_bytes(bytes(data))
    assert problems(saved) == [f"{name} has other bytes than were written"]


@DAMAGE
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    assert problems(saved) == [f"{name} is missing"]


@DAMAGE
@pytest.mark.parametrize(("size", "what"), [(0, "has 0 bytes of 12,800"), (12799, "has 12,799 bytes of 12,800")])
def test_a_truncated_file_is_named(saved, size, what):
    (saved / LARGE).write_bytes(FILES[LARGE][:size])
    assert problems(saved) == [f"state/d/0a {what}"]


@DAMAGE
@pytest.mark.parametrize("name", [LARGE, "state/empty"])
def test_a_file_that_is_too_long_is_named(saved, name):
    (saved / name).write_bytes(FILES[name] + b"x")
    assert problems(saved) == [f"{name} has {len(FILES[name]) + 1:,} bytes, not {len(FILES[name]):,}"]


@DAMAGE
def test_what_cannot_be_read_to_its_end_is_no_file(tmp_path):
    write(tmp_path, FILES)
    complete(tmp_path)
    (tmp_path / LARGE).unlink()
    os.mkfifo(tmp_path / LARGE)
    (tmp_path / "run/metadata").unlink()
    (tmp_path / "run/metadata").mkdir()
    assert problems(tmp_path) == ["run/metadata is no file", "state/d/0a is no file"]


@DAMAGE
def test_every_flipped_bit_of_a_manifest_is_found(tmp_path, record_property):
    """Either the manifest itself is found damaged, or (in spaces between words) it says what it said."""
    write(tmp_path, FILES)
    complete(tmp_path)
    data = (tmp_path / manifest.NAME).read_bytes()
    whole = manifest.parse(data)
    record_property("trials", len(data))
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        try:
            assert manifest.parse(bytes(flipped)).files == whole.files
        except ManifestError:
            continue


def test_the_damage_is_said_in_a_few_lines(tmp_path):
    folder = tmp_path / "checkpoints" / "7"
    write(folder, {f"state/{number}": b"x" for number in range(300)})
    complete(folder)
    for number in range(300):
        (folder / f"state/{number}").unlink()
    (tmp_path / "checkpoints" / "5").mkdir()
    with pytest.raises(UserError) as error:
        manifest.require(folder)
    assert str(error.value).splitlines() == [
        f"The checkpoint {folder} is damaged:",
        *[f"    state/{name} is missing" for name in (0, 1, 10, 100, 101)],
        "    and 295 more files",
        f"Copy it once more from where it came from, or name another of this run's checkpoints (5): "
        f"{tmp_path}/checkpoints/STEP.",
    ]
    manifest.require(folder, ("position/",))  # which is as it was


def test_several_hosts_have_shares_of_about_the_same_size():
    files = {f"f{size}": Entry(size, "0" * 64) for size in (100, 60, 50, 40, 30, 0, 0)}
    shares = manifest.shares(Manifest(files), 3)
    assert sorted(name for share in shares for name in share) == sorted(files)
    loads = [sum(files[name].size for name in share) for share in shares]
    assert max(loads) <= 100
    assert manifest.shares(Manifest({}), 2) == [[], []]


def forged(**changes):
    """A manifest whose own checksum is right, whatever it says."""
    item = {"format": 1, "saved_at": 1.0, "metrics": {}, "best_metric": None, "files": {}} | changes
    return json.dumps(item | {"sha256": manifest._digest(item)}).encode()


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/../../b",
        "a//b",
        "",
        ".",
        "./a",
        "a/",
        "a\\..\\b",
        "C:/x",
        "a\0b",
        "gs://bucket/x",
        "..",
    ],
)
def test_a_path_cannot_leave_the_folder(path):
    with pytest.raises(ManifestError, match="no file of its own folder. Nothing of it is read"):
        manifest.parse(forged(files={path: [1, "0" * 64]}))


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b"{}", b'{"sha256": 3}', b"[" * 100_000),
        *(b'{"format": 1, "sha256": "0"}', b'{"sha256": {}, "format": 1e999}'),
        forged(files={"a": [-1, "0" * 64]}),
        forged(files={"a": [True, "0" * 64]}),
        forged(files={"a": [1.5, "0" * 64]}),
        forged(files={"a": [1, "0" * 63]}),
        forged(files={"a": [1, None]}),
        forged(files={"a": 3}),
        forged(files=None),
        forged(files=[["a", 1]]),
        forged(metrics={"a": "x"}),
        forged(metrics={"a": [1]}),
        forged(metrics=3),
        forged(saved_at="yesterday"),
        forged(saved_at=float("inf")),
        forged(saved_at=None),
    ],
)
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(ManifestError, match="is no manifest of a checkpoint|is damaged"):
        manifest.parse(data)


def test_a_manifest_of_a_newer_version_is_refused():
    with pytest.raises(ManifestError, match="has the format '2', and this version of t5x_mini reads 1"):
        manifest.parse(forged(format=2))


def test_a_folder_or_a_huge_file_is_no_manifest(tmp_path):
    with (tmp_path / manifest.NAME).open("wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(ManifestError, match="too large for a manifest"):
        manifest.read(tmp_path)
    (tmp_path / manifest.NAME).unlink()
    (tmp_path / manifest.NAME).mkdir()
    with pytest.raises(ManifestError, match="is a folder, and no manifest"):
        manifest.read(tmp_path)
