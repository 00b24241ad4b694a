"""A gcloud that rents out folders: `tests/test_tpu_scripts.py` puts it on the PATH.

It takes the flags of gcloud's published reference and refuses any other, as gcloud does:
https://cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources (create, delete, describe, scp, ssh)
https://cloud.google.com/sdk/gcloud/reference/compute/tpus/tpu-vm           (the same five)
https://cloud.google.com/sdk/gcloud/reference/storage/cat
https://cloud.google.com/sdk/gcloud/reference                               (flags of every command)

A worker is a folder that is its HOME. States, and what may be deleted in which, are those of
https://cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.queuedResources.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

EVERYWHERE = "access-token-file= account= billing-project= configuration= flags-file= flatten= format= help "
EVERYWHERE += "impersonate-service-account= log-http project= quiet trace-token= user-output-enabled verbosity="
_CREATE = "accelerator-type= async boot-disk= data-disk= description= internal-ips labels= metadata= "
_CREATE += "metadata-from-file= network= range= reserved scopes= service-account= shielded-secure-boot spot "
_CREATE += "subnetwork= tags= topology= type= zone= "
_VALID = "valid-after-duration= valid-after-time= valid-until-duration= valid-until-time= "
_RESERVATION = "reservation-host-folder= reservation-host-organization= reservation-host-project= "
_KEYS = "dry-run force-key-file-overwrite internal-ip plain ssh-key-file= strict-host-key-checking= worker= zone= "
_KEYS += "ssh-key-expiration= ssh-key-expire-after= "
_QUEUED, _DIRECT = "compute tpus queued-resources", "compute tpus tpu-vm"
FLAGS = {
    f"{_QUEUED} create": _CREATE + _VALID + _RESERVATION + "guaranteed node-count= node-id= node-prefix= "
    "runtime-version=",
    f"{_QUEUED} delete": "async force zone=",
    f"{_QUEUED} describe": "zone=",
    f"{_QUEUED} scp": _KEYS + "batch-size= compress node= recurse scp-flag= tunnel-through-iap",
    f"{_QUEUED} ssh": _KEYS + "batch-size= command= node= output-directory= ssh-flag= tunnel-through-iap",
    f"{_DIRECT} create": _CREATE + "preemptible queue-count= version=",
    f"{_DIRECT} delete": "async zone=",
    f"{_DIRECT} describe": "zone=",
    f"{_DIRECT} scp": _KEYS + "compress recurse scp-flag=",
    f"{_DIRECT} ssh": _KEYS + "command= output-directory= ssh-flag=",
    "storage cat": "additional-headers= decryption-keys= display-url range=",
    # Not acted on, and with those flags alone that docs/tpu.md uses.
    "auth application-default login": "",
    "auth login": "",
    "config set": "",
    "iam service-accounts create": "",
    "services enable": "",
    "storage buckets add-iam-policy-binding": "member= role=",
    "storage buckets create": "location= uniform-bucket-level-access",
    "storage cp": "recursive",
}
REQUIRED = {
    f"{_QUEUED} create": ("zone", "runtime-version", "accelerator-type"),
    f"{_DIRECT} create": ("zone", "version"),
}
# A queued resource can be deleted in these without --force.
IDLE = ("ACCEPTED", "FAILED", "SUSPENDED")


class Refused(Exception):
    """What gcloud would print, and its exit status."""

    def __init__(self, text: str, status: int = 1):
        super().__init__(text)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Call:
    """A command line that gcloud would take: `compute tpus tpu-vm ssh`, its positional words, its flags."""

    command: str
    words: list[str]
    flags: dict[str, str]


def parse(arguments: list[str]) -> Call:
    """Raises: Refused, for what the reference does not have."""
    command = next((name for name in FLAGS if arguments[: len(name.split())] == name.split()), None)
    if command is None:
        raise Refused(f"Invalid choice: {' '.join(arguments[:4])!r}.", 2)
    words, flags = [], {}
    known = (FLAGS[command] + " " + EVERYWHERE).split()
    for argument in arguments[len(command.split()) :]:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("-"):
            words.append(argument)
        elif name + equals not in known or not argument.startswith("--"):
            raise Refused(f"unrecognized arguments: {argument}", 2)
        else:
            flags[name] = value
    for name in REQUIRED.get(command, ()):
        if name not in flags:
            raise Refused(f"argument --{name}: Must be specified.", 2)
    if command == f"{_QUEUED} create" and ("node-id" in flags) == ("node-count" in flags):
        raise Refused("Exactly one of (--node-id | --node-count --node-prefix) must be specified.", 2)
    if not words and not command.startswith("auth "):
        raise Refused("argument must be specified.", 2)
    return Call(command, words, flags)


class Cloud:
    """All that there is, in a folder: `slices/`, the workers' home folders, buckets, and the calls that were made."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def settings(self) -> dict:
        """`workers` a slice, and `refusals`: how often each verb is to be refused yet."""
        path = self.folder / "settings.json"
        return {"workers": 1, "refusals": {}} | (json.loads(path.read_text()) if path.exists() else {})

    def set(self, **settings) -> None:
        (self.folder / "settings.json").write_text(json.dumps(self.settings() | settings))

    def calls(self) -> list[Call]:
        """Those that were taken, oldest first."""
        path = self.folder / "calls"
        return [parse(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def count(self, verb: str) -> int:
        """How often `create`, for one, was called."""
        return sum(call.command.endswith(verb) for call in self.calls())

    def find(self, name: str) -> dict:
        path = self.folder / "slices" / f"{name}.json"
        if not path.exists():
            raise Refused(f"NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/{name}' was not found")
        return json.loads(path.read_text())

    def homes(self, name: str) -> list[list[Path]]:
        """The home folders of a slice's workers, for each node."""
        made = self.find(name)
        life = self.folder / f"{name}{made['life']}"
        return [[life / f"{node}-{w}" for w in range(made["workers"])] for node in range(made["nodes"])]

    def preempt(self, name: str) -> None:
        """Takes the machines away, in the middle of what they do."""
        made = self.find(name)
        self._put(name, made | {"coming": ["SUSPENDED" if made["queued"] else "PREEMPTED"]})
        self._switch_off(name)

    def switch_all_off(self) -> None:
        for path in (self.folder / "slices").glob("*.json"):
            self._switch_off(path.stem)

    def answer(self, arguments: list[str]) -> int:
        """Does what is asked, and gives the exit status."""
        call = parse(arguments)
        with (self.folder / "calls").open("a") as file:
            file.write(json.dumps(arguments) + "\n")
        verb = call.command.split()[-1]
        refusals = self.settings()["refusals"]
        if refusals.get(verb, 0):
            self.set(refusals=refusals | {verb: refusals[verb] - 1})
            raise Refused("RESOURCE_EXHAUSTED: There is no more capacity in the zone; UNAVAILABLE")
        return getattr(self, f"_{verb}")(call) or 0

    def _put(self, name: str, made: dict) -> None:
        path = self.folder / "slices" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(made))

    def _create(self, call: Call) -> None:
        name, queued = call.words[0], "queued" in call.command
        if (self.folder / "slices" / f"{name}.json").exists():
            raise Refused(f"ALREADY_EXISTS: Resource '{name}' already exists")
        made = {
            "queued": queued,
            "nodes": int(call.flags.get("node-count", 1)),
            "workers": self.settings()["workers"],
            "coming": ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"] if queued else ["READY"],
            "life": self.count(" create"),
        }
        self._put(name, made)
        for node in self.homes(name):
            for home in node:
                home.mkdir(parents=True)

    def _delete(self, call: Call) -> None:
        name = call.words[0]
        made = self.find(name)
        if made["queued"] and "force" not in call.flags and made["coming"][0] not in IDLE:
            raise Refused(f"FAILED_PRECONDITION: {name} has nodes: delete them first, or use --force")
        self._switch_off(name)
        shutil.rmtree(self.homes(name)[0][0].parent)
        (self.folder / "slices" / f"{name}.json").unlink()

    def _describe(self, call: Call) -> None:
        name = call.words[0]
        made = self.find(name)
        field = "value(state.state)" if made["queued"] else "value(state)"
        if call.flags.get("format") != field:
            raise Refused(f"{name} is described with --format={field} here")
        print(made["coming"][0])
        if made["coming"][1:]:  # otherwise nothing is written: it may be preempted at this moment
            self._put(name, made | {"coming": made["coming"][1:]})

    def _ssh(self, call: Call) -> int:
        statuses = [
            subprocess.run(
                ["bash", "-c", call.flags["command"]], cwd=home, env=self._environment(home), stdin=subprocess.DEVNULL
            ).returncode
            for home in self._reached(call.words[0], call)
        ]
        print("Completed execution in 1.0 seconds", file=sys.stderr)
        return next((status for status in statuses if status), 0)

    def _scp(self, call: Call) -> None:
        *sources, target = call.words
        name, _, path = target.partition(":")
        for home in self._reached(name, call):
            for source in sources:
                shutil.copy(source, home / path)

    def _cat(self, call: Call) -> None:
        path = self.folder / "buckets" / call.words[0].removeprefix("gs://")
        if not path.exists():
            raise Refused(f"The following URLs matched no objects or files:\n{call.words[0]}")
        print(path.read_text(), end="")

    def _reached(self, name: str, call: Call) -> list[Path]:
        made = self.find(name)
        if made["coming"] not in (["ACTIVE"], ["READY"]):
            raise Refused(f"{name} is in state {made['coming'][0]}, and cannot be reached", 255)
        nodes = _chosen(self.homes(name), call.flags.get("node", "0"))
        return [home for node in nodes for home in _chosen(node, call.flags.get("worker", "0"))]

    def _environment(self, home: Path) -> dict[str, str]:
        path = f"{self.folder / 'worker_bin'}:{os.environ['FAKE_PATH']}"
        return {
            "HOME": str(home),
            "PATH": path,
            "TMUX_TMPDIR": str(home),
            "FAKE_CLOUD": str(self.folder),
            "TERM": "xterm",
        }

    def _switch_off(self, name: str) -> None:
        for home in (home for node in self.homes(name) for home in node):
            panes = self._tmux(home, "list-panes", "-a", "-F", "#{pane_pid}").split()
            for pane in panes:  # the leader of its session
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(pane), signal.SIGKILL)
            self._tmux(home, "kill-server")

    def _tmux(self, home: Path, *words: str) -> str:
        return subprocess.run(["tmux", *words], env=self._environment(home), capture_output=True, text=True).stdout


def _chosen(items: list, which: str) -> list:
    return items if which == "all" else [items[int(which)]]


def main() -> int:
    try:
        return Cloud(Path(os.environ["FAKE_CLOUD"])).answer(sys.argv[1:])
    except Refused as refused:
        print(f"ERROR: (gcloud) {refused}", file=sys.stderr)
        return refused.status


if __name__ == "__main__":
    sys.exit(main())
