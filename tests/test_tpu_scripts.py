"""The scripts of `tpu_scripts/`, against a gcloud that rents out folders of this machine (`fake_gcloud.py`)."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import fake_gcloud
import pytest
import tiny_runs

from t5x_mini.commands.parser import make_parser

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "tpu_scripts"
PLACE = ("--name=t5", "--zone=us-central2-b")
SPOT = (*PLACE, "--type=v4-32", "--spot")
RUN = "gs://my-bucket/t5"

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is what keeps training alive")

# What set-up finds in place of uv: nothing is fetched here, but it must be asked for the versions of constraints.txt.
UV = """#!/bin/bash
case "$*" in
  venv*--python=3.11*) mkdir -p .venv/bin && touch .venv/bin/python ;;
  "pip install"*"-c constraints.txt .[tpu]") grep -q ^jax== constraints.txt && cp "$FAKE_CLOUD/t5x-mini" .venv/bin/ ;;
  *) echo "uv: not understood: $*" >&2; exit 2 ;;
esac
"""

# In place of t5x-mini: counts to ten in its run's folder, and goes on from where it was.
COUNT = """#!/bin/bash
for word; do case $word in --gin.MODEL_DIR=*) folder=${word#*=} ;; esac; done
folder=$FAKE_CLOUD/buckets/${folder#gs://}
mkdir -p "$folder"
echo "from step $(ls "$folder" | wc -l)"
while [ "$(ls "$folder" | wc -l)" -lt 10 ]; do sleep 0.05; touch "$folder/$(ls "$folder" | wc -l)"; done
echo '{"step": 10, "total_steps": 10}' > "$folder/complete.json"
"""


@pytest.fixture
def cloud(monkeypatch):
    # tmux's socket lies in a worker's home, and a socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="cloud-"))
    (folder / "bin").mkdir()
    (folder / "worker_bin").mkdir()
    monkeypatch.setenv("FAKE_CLOUD", str(folder))
    monkeypatch.setenv("FAKE_PATH", os.environ["PATH"])
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("TMUX", raising=False)
    executable(folder / "bin" / "gcloud", f'#!/bin/sh\nexec {sys.executable} -I {fake_gcloud.__file__} "$@"\n')
    executable(folder / "worker_bin" / "uv", UV)
    executable(folder / "t5x-mini", COUNT)
    cloud = fake_gcloud.Cloud(folder)
    yield cloud
    cloud.switch_all_off()
    shutil.rmtree(folder)


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)


def script(name, *arguments):
    return subprocess.run(
        [SCRIPTS / name, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )


def done(name, *arguments):
    finished = script(name, *arguments)
    assert finished.returncode == 0, finished.stderr + finished.stdout
    return finished.stdout


def refused(name, *arguments):
    finished = script(name, *arguments)
    assert finished.returncode == 1
    return finished.stderr


def up(cloud, *flags, workers=1):
    """A slice that is there and set up."""
    cloud.set(workers=workers)
    done("create.sh", *PLACE, "--type=v4-32", "--yes", *flags)
    for _ in range(3):
        done("status.sh", *PLACE, *(flag for flag in flags if flag == "--direct"))


def workers(cloud):
    return [home for node in cloud.homes("t5") for home in node]


def wait_until(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come"
        time.sleep(0.02)


# The scripts as texts.


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say():
    names = sorted(path.name for path in SCRIPTS.glob("*.sh"))
    checked = subprocess.run(["shellcheck", "-x", *names], cwd=SCRIPTS, capture_output=True, text=True)
    assert checked.stdout == ""


@pytest.mark.parametrize("name", ["babysit", "create", "delete", "logs", "setup", "status", "train"])
def test_help_is_what_the_file_begins_with(name):
    shown = done(f"{name}.sh", "--help")
    assert f"tpu_scripts/{name}.sh --name=t5" in shown and "parse_options" not in shown


def test_the_commands_of_the_page_are_right(cloud):
    """What docs/tpu.md types: the scripts by their dry runs, gcloud by its flags."""
    (*blocks,) = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "tpu.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for line in "".join(blocks).replace("\\\n", " ").splitlines()]
    assert {words[0] for words in commands} == {"gcloud"} | {
        f"tpu_scripts/{name}.sh" for name in ("babysit", "create", "delete", "logs", "setup", "status", "train")
    }
    for program, *words in commands:
        if program == "gcloud":
            fake_gcloud.parse(words)
            continue
        done(Path(program).name, "--dry-run", *words)
        if "--" in words:
            trained = [word for word in words[words.index("--") + 1 :] if not word.startswith("--gin.")]
            options = make_parser()[0].parse_args(["train", *trained])
            assert all((ROOT / file).exists() for file in options.gin_file)


# The fake is as strict as gcloud.


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("compute tpus tpu-vm ssh t5 --node=all", "unrecognized arguments: --node=all"),
        ("compute tpus queued-resources create t5 --zone=z --spott", "unrecognized arguments: --spott"),
        ("compute tpus queued-resources create t5 --zone=z --accelerator-type=v4-8", "--runtime-version: Must be"),
        ("compute tpus tpu-vm delete t5 --force", "unrecognized arguments: --force"),
        ("compute tpus vm create t5", "Invalid choice"),
    ],
)
def test_gcloud_refuses_what_its_reference_does_not_have(command, words):
    with pytest.raises(fake_gcloud.Refused, match=words):
        fake_gcloud.parse(command.split())


# Creating.


@pytest.mark.parametrize(
    ("flags", "created"),
    [
        (
            ("--type=v4-32", "--spot"),
            "queued-resources create t5 --zone=us-central2-b --accelerator-type=v4-32 --spot"
            " --runtime-version=tpu-ubuntu2204-base --node-id=t5 --quiet",
        ),
        (
            ("--type=v5litepod-256", "--slices=2", "--reserved", "--project=p"),
            "queued-resources create t5 --zone=us-central2-b --project=p --accelerator-type=v5litepod-256 --reserved"
            " --runtime-version=v2-alpha-tpuv5-lite --node-count=2 --node-prefix=t5 --quiet",
        ),
        (
            ("--type=v6e-8", "--direct", "--network=n", "--subnetwork=s", "--service-account=a@b"),
            "tpu-vm create t5 --zone=us-central2-b --accelerator-type=v6e-8 --network=n --subnetwork=s"
            " --service-account=a@b --version=v2-alpha-tpuv6e --quiet",
        ),
        (
            ("--type=v5p-16", "--runtime=my-runtime"),
            "queued-resources create t5 --zone=us-central2-b --accelerator-type=v5p-16 --runtime-version=my-runtime"
            " --node-id=t5 --quiet",
        ),
    ],
    ids=["spot", "reserved slices", "direct", "another runtime"],
)
def test_create_asks_for_what_was_wanted(cloud, flags, created):
    done("create.sh", *PLACE, *flags, "--yes")
    assert (cloud.folder / "calls").read_text() == json.dumps(["compute", "tpus", *created.split()]) + "\n"


@pytest.mark.parametrize(
    ("flags", "cost"),
    [
        ("--type=v4-32", "v4-32 x 1: 16 chips on 4 host(s) at $3.22 a chip-hour (on demand): $51.52 an hour, $1236.48"),
        ("--type=v5litepod-8 --price=0.5", "8 chips on 1 host(s) at $0.50 a chip-hour (your price): $4.00 an hour"),
        ("--type=v5litepod-256 --slices=2 --spot", "512 chips on 128 host(s) at $1.20 a chip-hour (spot; the list"),
        ("--type=v5p-8", "4 chips on 1 host(s) at $4.20"),
        ("--type=v6e-16 --reserved", "16 chips on 4 host(s) at $2.70 a chip-hour (reserved; the list price"),
    ],
)
def test_the_cost_is_said_before_anything_is_created(cloud, flags, cost):
    finished = script("create.sh", *PLACE, *flags.split())  # and nobody says yes
    assert cost in finished.stdout
    assert (finished.returncode, cloud.calls()) == (1, [])
    assert "nothing was done; --yes does it without asking" in finished.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--zone=z",), "which slice? Write --name=my-slice"),
        (("--name=a",), "where? Write --zone=us-central2-b"),
        (PLACE, "which TPU? Write --type=v4-32"),
        ((*PLACE, "--type=v5e-16"), "gcloud's name for 'v5e-16' is v5litepod-16"),
        ((*PLACE, "--type=v4-1"), "v4 and v5p names count TensorCores, two a chip; the smallest is v4-8"),
        ((*PLACE, "--type=h100-8"), "'h100-8' is none of v4-N and v5p-N"),
        ((*PLACE, "--type=v4-8", "--spott"), "'--spott' is not an option of create.sh; it takes --name= --zone="),
        ((*PLACE, "--type=v4-8", "--spot", "--reserved"), "--spot or --reserved, not both"),
        ((*PLACE, "--type=v4-8", "--direct", "--slices=2"), "several slices come as a queued resource"),
        ((*PLACE, "--type=v4-8", "--slices=two"), "--slices=two: write a number from 1"),
        ((*PLACE, "v4-8"), "'v4-8' is not an option: options are written --name=value"),
    ],
)
def test_mistakes_are_explained(cloud, flags, words):
    assert words in refused("create.sh", *flags)
    assert cloud.calls() == []


@pytest.mark.parametrize(
    "flags", [SPOT, (*SPOT, "--slices=2"), (*SPOT, "--direct")], ids=["queued", "slices", "direct"]
)
def test_a_dry_run_prints_every_command_and_runs_none(cloud, flags):
    shown = done("babysit.sh", *flags, "--dry-run", "--", "--gin_file=a b.gin", f"--gin.MODEL_DIR='{RUN}'")
    printed = [shlex.split(line)[1:] for line in shown.splitlines() if line.startswith("gcloud ")]
    verbs = [fake_gcloud.parse(words).command.split()[-1] for words in printed]
    assert verbs == ["create", "scp", "ssh", "ssh", "cat", "delete"]
    assert not (cloud.folder / "calls").exists()


# A slice that is up.


def test_set_up_reaches_every_worker_of_every_slice(cloud, tmp_path):
    up(cloud, "--slices=2", workers=3)
    done("setup.sh", *PLACE, "--files=tests/fake_gcloud.py")
    assert len(workers(cloud)) == 6
    for home in workers(cloud):
        checkout = home / "t5x_mini"
        assert (checkout / "installed").exists() and (checkout / ".venv" / "bin" / "t5x-mini").exists()
        assert (checkout / "gin" / "defaults.gin").read_text() == (ROOT / "gin" / "defaults.gin").read_text()
        assert (checkout / "tests" / "fake_gcloud.py").exists()
    assert "6 worker(s) stopped" in done("status.sh", *PLACE)


@pytest.mark.parametrize("direct", [False, True], ids=["queued", "direct"])
def test_training_runs_on_all_workers_and_outlives_the_connection(cloud, direct):
    flags = ["--direct"] if direct else []
    up(cloud, *flags, workers=2)
    assert "2 worker(s) bare" in done("status.sh", *PLACE, *flags)
    done("setup.sh", *PLACE, *flags)
    awkward = "--gin.NAME=('a b', \"c\", $HOME; exit)"
    executable(workers(cloud)[0] / "t5x_mini/.venv/bin/t5x-mini", '#!/bin/sh\nprintf "<%s>\\n" "$@"; exec sleep 60\n')
    executable(workers(cloud)[1] / "t5x_mini/.venv/bin/t5x-mini", "#!/bin/sh\nexec sleep 60\n")
    done("train.sh", *PLACE, *flags, "--", "--gin_file=a.gin", awkward)
    assert "2 worker(s) running" in done("status.sh", *PLACE, *flags)
    wait_until(lambda: f"<{awkward}>" in done("logs.sh", *PLACE, *flags))
    assert f"<train>\n<--gin_file=a.gin>\n<{awkward}>" in done("logs.sh", *PLACE, *flags)
    assert len(done("logs.sh", *PLACE, *flags, "--worker=all", "--lines=1").splitlines()) == 2

    again = script("train.sh", *PLACE, *flags, "--", "--gin_file=a.gin")
    assert again.returncode == 1 and "it runs already: --restart" in again.stderr
    done("train.sh", *PLACE, *flags, "--restart", "--", "--gin_file=b.gin")
    wait_until(lambda: "<--gin_file=b.gin>" in done("logs.sh", *PLACE, *flags))

    assert "nothing was done" in refused("delete.sh", *PLACE, *flags)
    done("delete.sh", *PLACE, *flags, "--yes")
    assert done("status.sh", *PLACE, *flags) == "t5: ABSENT\n"


# Babysitting.


@pytest.fixture
def babysit(cloud):
    """Runs it to its end; gives its exit status and what it said."""
    started = []

    def run(*arguments, folder=RUN, seconds=240):
        command = [SCRIPTS / "babysit.sh", *SPOT, "--yes", "--poll=0", *arguments, f"--gin.MODEL_DIR={folder}"]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output

    yield run
    for process in started:
        process.kill()
        process.wait()


def preempt_when(cloud, paths):
    """Takes the slice away as soon as each of the paths is there."""

    def play():
        for path in paths:
            wait_until(path.exists, seconds=1200)
            cloud.preempt("t5")

    player = threading.Thread(target=play, daemon=True)  # it may wait for what never comes
    player.start()
    return player


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), id="queued"),
        pytest.param(("--slices=2",), id="slices", marks=pytest.mark.slow),
        pytest.param(("--direct",), id="direct", marks=pytest.mark.slow),
    ],
)
def test_babysit_goes_through_preemptions_to_completion(cloud, babysit, flags):
    run = cloud.folder / "buckets" / RUN.removeprefix("gs://")
    player = preempt_when(cloud, [run / "2", run / "5"])
    status, output = babysit(*flags, "--")
    player.join()
    assert status == 0, output
    assert cloud.count("create") == cloud.count("delete") == 3
    assert output.count("t5 is SUSPENDED" if "--direct" not in flags else "t5 is PREEMPTED") == 2
    assert 'the run is complete: {"step": 10, "total_steps": 10}' in output


def test_an_exit_status_of_0_does_not_end_it(cloud, babysit):
    executable(
        cloud.folder / "t5x-mini",
        COUNT.replace("echo '", "[ -e $FAKE_CLOUD/again ] || { touch $FAKE_CLOUD/again; exit 0; }\necho '"),
    )
    status, output = babysit("--keep", "--")
    assert status == 0, output
    assert "ended with status 0" in output and "training ended before the run was complete (1 of 5)" in output
    assert (cloud.count("create"), cloud.count("delete")) == (1, 0)


def test_it_gives_up_on_a_run_that_only_fails(cloud, babysit):
    executable(cloud.folder / "t5x-mini", "#!/bin/sh\necho no such gin file; exit 1\n")
    status, output = babysit("--max-failures=2", "--")
    assert status == 1
    assert "no such gin file" in output and "training ended 2 times and the run is not complete" in output
    assert (cloud.count("create"), cloud.count("delete")) == (1, 1)


def test_it_waits_where_there_is_no_capacity_and_does_not_mistake_silence_for_absence(cloud, babysit):
    cloud.set(refusals={"create": 2, "describe": 3, "scp": 1})
    status, output = babysit("--")
    assert status == 0, output
    assert output.count("t5 is UNKNOWN") == 3
    assert output.count("t5 was not created; next try in 0 s") == 2 and "the set-up failed" in output
    assert cloud.count("create") == 3 and cloud.count("delete") == 1


def test_started_again_it_goes_on_with_what_there_is(cloud, babysit):
    up(cloud)
    done("setup.sh", *PLACE)
    done("train.sh", *PLACE, "--", f"--gin.MODEL_DIR={RUN}")
    status, output = babysit("--")
    assert status == 0, output
    assert cloud.count("create") == cloud.count("scp") == 1
    assert "training" not in output


def test_it_wants_to_know_where_the_run_goes(cloud):
    assert "--gin.MODEL_DIR=gs://my-bucket/t5 after --" in refused(
        "babysit.sh", *SPOT, "--yes", "--", "--gin_file=a.gin"
    )


@pytest.mark.slow
def test_babysit_takes_the_real_trainer_through_two_preemptions(cloud, babysit, tmp_path):
    run = tmp_path / "run"
    with tiny_runs.tiny(tmp_path) as tiny:
        variables = {**tiny.environment(), "JAX_PLATFORMS": "cpu"}
        kept = {name: value for name, value in variables.items() if name.startswith(("JAX_", "PYTHONPATH"))}
        exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in kept.items())
        executable(cloud.folder / "t5x-mini", f'#!/bin/bash\n{exports}\nexec {sys.executable} -m t5x_mini "$@"\n')
        words = tiny.arguments("train", TRAIN_STEPS=100, CHECKPOINT_PERIOD=5)[1:]
        player = preempt_when(cloud, [run / "checkpoints" / "10", run / "checkpoints" / "30"])
        status, output = babysit("--poll=1", "--", *words, folder=run, seconds=1500)
        player.join()
    assert status == 0, output
    assert output.count("t5 is SUSPENDED") == 2 and cloud.count("create") == 3
    assert f"warning: {run} is lost with the slice unless it lies elsewhere" in output
    assert json.loads((run / "complete.json").read_text()) == {"step": 100, "total_steps": 100}
    # Each life went on from a checkpoint of the one before: no step is missing, and none was counted twice.
    assert [row["step"] for row in tiny_runs.training_rows(run)] == list(range(1, 101))
