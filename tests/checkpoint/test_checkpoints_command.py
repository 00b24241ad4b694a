import io
import sys
import time

import fake_servers
import pytest
from made_up_checkpoints import earlier, make

from t5x_mini import cli
from t5x_mini.checkpoint import steps
from t5x_mini.checkpoint.checkpoints_command import Found, checkpoints, listing
from t5x_mini.checkpoint.manifest import Manifest
from t5x_mini.errors import UserError
from t5x_mini.storage import to_path
from t5x_mini.train import run_lock

KEEPS = pytest.mark.damage("`checkpoints` deletes nothing in use, and the last good one only if told twice.")


@pytest.fixture
def run(tmp_path):
    """A run with three checkpoints, chosen by the held-out loss; that of step 200 is the best."""
    now = time.time()
    for step, loss, age in ((100, 3.0, 7200), (200, 2.0, 3600), (300, 2.5, 30)):
        metrics = {"loss": loss, "train/loss": loss + 1, "train/grad_norm": 0.1}
        make(tmp_path, step, metrics=metrics, best_metric="loss", saved_at=now - age)
    return tmp_path


def damage(run, step):
    (run / steps.FOLDER / str(step) / "state" / "data").write_bytes(b"arrayz")


def answer(monkeypatch, *lines):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def command(capsys, *arguments):
    """Exit status, lines of the output, and of the errors."""
    code = cli.main(["checkpoints", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def test_every_checkpoint_has_a_line(run, capsys):
    code, out, err = command(capsys, run)
    assert (code, err) == (0, [])
    assert [line.split() for line in out[:4]] == [
        [str(run)],
        ["step", "size", "age", "train/loss", "loss"],
        ["100", "78", "B", "2", "h", "0", "min", "ago", "4", "3", "complete"],
        ["200", "78", "B", "60", "min", "ago", "3", "2", "best;", "complete"],
    ]
    assert out[4].endswith("30 s ago         3.5   2.5  newest; complete")


def test_what_is_known_of_each_is_said(tmp_path):
    found = [
        Found(1, "good", Manifest({}, {"average": 50.0}, "average"), 12_345_678_901),
        Found(1000, "not verified", Manifest({}, saved_at=1000.0), None),
        Found(2000, "interrupted", Manifest({}), 0),
    ]
    first, second, third = listing(tmp_path, found, now=1300.0)[2:]
    assert first.split()[:5] == ["1", "12.3", "GB", "?", "50"]
    assert first.endswith("  best; good: every byte is as it was written")
    assert " 5 min" in second and second.split()[:2] == ["1,000", "?"]
    assert second.endswith("  newest; complete, of an earlier version: it has no checksums")
    assert third.endswith("  interrupted: not a checkpoint, and removed when the run goes on")


def test_a_folder_without_any_is_refused(tmp_path, capsys):
    code, out, err = command(capsys, tmp_path / "nothing")
    assert (code, out) == (1, [])
    assert err == [
        f"t5x-mini: error: There are no checkpoints in {tmp_path}/nothing. Write the MODEL_DIR of a run: "
        "runs/quickstart, say."
    ]


def test_the_folder_of_the_checkpoints_means_its_run(run, capsys):
    assert command(capsys, run / "checkpoints")[1] == command(capsys, run)[1]


@pytest.mark.damage("A damaged checkpoint is found, and its files named, before anything is restored.")
def test_verifying_names_what_is_damaged(run, capsys):
    damage(run, 200)
    (run / "checkpoints/300/manifest.json").write_text("{")
    make(run, 400, with_manifest=False)
    assert command(capsys, run)[0] == 1  # of the manifest alone
    code, out, err = command(capsys, run, "--verify")
    assert code == 1
    assert [line.rsplit("  ", 1)[1] for line in out[2:6]] == [
        "good: every byte is as it was written",
        "best; DAMAGED",
        "newest; DAMAGED",
        "interrupted: not a checkpoint, and removed when the run goes on",
    ]
    assert out[6:] == [
        f"The checkpoint {run}/checkpoints/200 is damaged:",
        "    state/data has other bytes than were written",
        f"The checkpoint {run}/checkpoints/300 is damaged:",
        "    manifest.json cannot be read",
    ]
    assert err == [
        f"t5x-mini: error: 2 of 4 checkpoints in {run} are damaged: 200, 300. A run that goes on there falls back to "
        "the newest good one. Copy the damaged ones once more from where they came from, or delete them: "
        "--delete=200,300"
    ]


def test_what_is_set_aside_is_listed(run, capsys):
    steps.set_aside(run, 300, steps.DAMAGED)
    assert command(capsys, run)[1][-1] == f"Set aside in {run}/damaged_checkpoints, damaged: 300"


@pytest.mark.parametrize(
    ("option", "left"),
    [
        ("--delete=100", [200, 300]),
        ("--delete=100,200", [300]),
        ("--keep=newest,best", [200, 300]),
        ("--keep=100,newest", [100, 300]),
    ],
)
@pytest.mark.parametrize("words", [["--yes"], []])
def test_what_is_not_wanted_is_deleted(run, capsys, monkeypatch, option, left, words):
    answer(monkeypatch, "y")
    code, out, _ = command(capsys, run, option, *words)
    assert (code, steps.numbered(run)) == (0, left)
    gone = ", ".join(str(step) for step in (100, 200, 300) if step not in left)
    assert out[-1].endswith(f"Deleted: {gone} ({78 * (3 - len(left))} B).")


@KEEPS
@pytest.mark.parametrize("lines", [[], ["n"], [""], ["nay"]])
def test_nothing_is_deleted_unless_somebody_agrees(run, capsys, monkeypatch, lines):
    answer(monkeypatch, *lines)
    code, _, err = command(capsys, run, "--delete=100")
    assert code == 1
    assert err == ["t5x-mini: error: Nothing was deleted. Answer y, or write --yes where nobody can."]
    assert steps.numbered(run) == [100, 200, 300]


@KEEPS
@pytest.mark.parametrize("lines", [["y"], ["y", "n"]])
def test_the_last_good_one_goes_only_if_that_is_said_twice(run, capsys, monkeypatch, lines):
    damage(run, 200)
    answer(monkeypatch, *lines)
    code, out, err = command(capsys, run, "--delete=100,300")
    assert code == 1
    assert "No good checkpoint would be left: the run could not go on" in " ".join(out)
    assert "To delete the last good checkpoint, say it twice: --yes --yes" in err[0]
    assert steps.numbered(run) == [100, 200, 300]
    assert command(capsys, run, "--delete=100,300", "--yes")[0] == 1
    assert steps.numbered(run) == [100, 200, 300]
    answer(monkeypatch, "y", "y")
    assert command(capsys, run, "--delete=100,300")[0] == 0
    assert steps.numbered(run) == [200]
    assert command(capsys, run, "--delete=200", "--yes", "--yes")[0] == 0
    assert steps.numbered(run) == []


@KEEPS
def test_nothing_is_deleted_while_the_run_is_alive(run, capsys):
    lock = run_lock.Lock(run)
    lock.acquire()
    try:
        code, _, err = command(capsys, run, "--delete=100", "--yes")
    finally:
        lock.release()
    assert code == 1
    assert f"A run is going on in {run}: process " in err[0] and "Nothing was deleted." in err[0]
    assert steps.numbered(run) == [100, 200, 300]
    assert command(capsys, run, "--delete=100", "--yes")[0] == 0


@KEEPS
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--delete=150"], "--delete: FOLDER has no checkpoint of step 150. There are 100, 200, 300."),
        (["--delete=best"], "--delete takes steps, separated by commas, and not 'best': 100, 200, 300."),
        (["--delete=-1"], "and not '-1'"),
        (["--delete=../100"], "and not '../100'"),
        (["--keep=oldest"], "--keep takes steps, separated by commas or newest and best, and not 'oldest'"),
        (["--keep=100", "--delete=200"], "--keep and --delete both say which checkpoints are to go"),
    ],
)
def test_what_makes_no_sense_is_refused(run, capsys, options, words):
    code, _, err = command(capsys, run, *options, "--yes", "--yes")
    assert code == 1
    assert words in "\n".join(err).replace(str(run), "FOLDER")
    assert steps.numbered(run) == [100, 200, 300]


def test_there_is_no_best_where_nothing_is_chosen_by(tmp_path):
    earlier(tmp_path, 100)
    with pytest.raises(UserError, match="--keep=best: there is no best one .BEST_METRIC."):
        checkpoints(str(tmp_path), keep=["best"], yes=2)


def test_a_run_in_a_bucket(monkeypatch, capsys):
    with fake_servers.serving({}) as (address, _):
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        run = to_path("gs://listed-checkpoints/run")
        for step in (100, 200, 300):
            make(run, step, saved_at=1.0)
        damage(run, 200)
        code, out, err = command(capsys, run, "--verify")
        assert code == 1
        assert "    state/data has other bytes than were written" in out
        assert command(capsys, run, "--delete=200", "--yes")[0] == 0
        assert steps.numbered(run) == [100, 300]
        assert command(capsys, run, "--verify")[0] == 0
