import json

import pytest
from processes import Processes, free_port

from t5x_mini.checkpoint import manifest, manifest_of_hosts
from t5x_mini.checkpoint.manifest import Manifest
from t5x_mini.errors import UserError

FILES = {f"state/d/{number}": bytes([number]) * (1000 * number) for number in range(7)}

# One of three hosts. What it reads is written down; the arguments are its number, the port and the checkpoint.
HOST = """
import json, sys, threading
import jax
number, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", num_processes=3, process_id=number)
import pathlib
from t5x_mini.checkpoint import manifest, manifest_of_hosts
from t5x_mini.checkpoint.manifest import Manifest
folder, read = pathlib.Path(folder), []
measured, compared = manifest._measured, manifest._compared

def fails(path):  # a file of another host that hasn't come to this one yet
    if number == 1 and path.name == "4":
        raise FileNotFoundError(path)
    read.append(path.name)
    return measured(path)

manifest._measured = fails
said = []
for count in range(2):
    entries = manifest_of_hosts.entries(folder, count)
    problem = "the disk is full" if number == 0 and count else ""
    said.append(manifest_of_hosts.outcome(count, problem))
if number == 0:
    manifest.write(folder, Manifest(entries))
measured_names, read = read, []
manifest._compared = lambda path, *rest: read.append(path.name) or compared(path, *rest)
from t5x_mini.parallel.hosts import wait_for_all
wait_for_all("the manifest")
found = manifest_of_hosts.problems(folder)
wait_for_all("the damage")
if number == 0:
    (folder / "state/d/3").write_bytes(b"x" * 3000)
    (folder / "state/d/6").unlink()
wait_for_all("the comparison")
damaged = manifest_of_hosts.problems(folder)
told = measured_names, read, said, found, [str(one) for one in damaged]
(folder.parent / f"{number}.json").write_text(json.dumps(told))
"""


@pytest.mark.damage("A damaged checkpoint is found, and its files named, before anything is restored.")
def test_three_hosts_share_the_reading(tmp_path):
    folder = tmp_path / "7"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (tmp_path / "host.py").write_text(HOST)
    port = free_port()
    commands = [[tmp_path / "host.py", number, port, folder] for number in range(3)]
    with Processes(commands, tmp_path, "host", 1) as hosts:
        hosts.succeed()
    told = [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(3)]
    measured, compared, said, found, damaged = zip(*told, strict=True)
    # Every file once, by someone, in each of the two saves; what host 1 couldn't read, by the first.
    assert sorted(sum(measured, [])) == sorted([*"0123456"] * 2)
    assert "4" in measured[0]
    assert all(said == ["", "the disk is full"] for said in said)
    assert found == ([], [], [])
    assert sorted(sum(compared, [])) == sorted([*"0123456"] * 2)
    assert all(len(part) > 1 for part in compared)
    assert damaged == (["state/d/3 has other bytes than were written", "state/d/6 is missing"],) * 3


def test_a_damaged_manifest_is_a_problem_by_itself(tmp_path):
    assert manifest_of_hosts.problems(tmp_path) is None
    (tmp_path / "manifest.json").write_text("[")
    (problem,) = manifest_of_hosts.problems(tmp_path)
    assert str(problem).startswith("manifest.json cannot be read: ")
    with pytest.raises(UserError, match="is damaged:"):
        manifest_of_hosts.require(tmp_path)


def test_a_checkpoint_without_a_manifest_is_said_not_to_be_verified(tmp_path, capsys):
    manifest_of_hosts.require(tmp_path)
    assert "was saved by an earlier version, without checksums" in capsys.readouterr().out
    manifest.write(tmp_path, Manifest({}))
    manifest_of_hosts.require(tmp_path)
    assert capsys.readouterr().out == ""
