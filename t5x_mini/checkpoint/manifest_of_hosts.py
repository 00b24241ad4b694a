"""Writing and comparing manifests with several hosts, each of which reads a part of the files."""

from __future__ import annotations

import contextlib
import json
import pathlib

import jax
from jax._src import distributed  # JAX's own services have no public word for what hosts tell one another

from t5x_mini.checkpoint import manifest
from t5x_mini.checkpoint.manifest import Entry, Problem
from t5x_mini.errors import UserError
from t5x_mini.parallel.hosts import gather, say

_DAY_MS = 24 * 60 * 60 * 1000


def entries(folder: pathlib.Path, number: int) -> dict[str, Entry]:
    """Size and checksum of every file of the checkpoint in `folder`, on the first host; on the others nothing.

    All hosts call it together, each perhaps in a thread beside the steps: nothing goes through the devices. What a host
    can't read, because the others' files haven't come to it yet, the first one reads.

    Args:
        number: of this call, counted from 0.

    Raises:
        OSError, UserError: the first host can't read a file; the others learn of it by `outcome`.
    """
    if jax.process_count() == 1:
        return manifest.entries(folder, manifest.paths(folder))
    name = _key(number)
    client, index, count = distributed.global_state.client, jax.process_index(), jax.process_count()
    if index > 0:
        names = json.loads(client.blocking_key_value_get(f"{name}/files", _DAY_MS))
        client.key_value_set(f"{name}/{index}", json.dumps(_readable(folder, names[index::count])))
        return {}
    try:
        names = manifest.paths(folder)
    except (OSError, UserError):
        client.key_value_set(f"{name}/files", "[]")
        raise
    client.key_value_set(f"{name}/files", json.dumps(names))
    found = manifest.entries(folder, names[::count])
    for other in range(1, count):
        told = json.loads(client.blocking_key_value_get(f"{name}/{other}", _DAY_MS))
        found |= {path: Entry(*pair) for path, pair in told.items()}
    if number:
        client.key_value_delete(_key(number - 1))  # who takes part in this call has read the outcome of the last one
    found |= manifest.entries(folder, [path for path in names if path not in found])
    return {path: found[path] for path in names}


def outcome(number: int, problem: str) -> str:
    """What the first host says is wrong, on all of them; empty, where nothing is. All call it together, or in a thread.

    Args:
        number: as for `entries`.
    """
    if jax.process_count() == 1:
        return problem
    client = distributed.global_state.client
    if jax.process_index() == 0:
        client.key_value_set(f"{_key(number)}/outcome", problem or "well")
        return problem
    told = client.blocking_key_value_get(f"{_key(number)}/outcome", _DAY_MS)
    return "" if told == "well" else told


def problems(folder: pathlib.Path) -> list[Problem] | None:
    """What is wrong with the checkpoint in `folder`, the same on all hosts, which call it together; None where it has
    no manifest to compare with. Reads all bytes.

    Raises:
        UserError: on all hosts, where one of them cannot reach the bucket.
    """
    found: list[Problem] | None = None
    error = ""
    try:
        known = manifest.read(folder)
        if known is not None:
            share = manifest.shares(known, jax.process_count())[jax.process_index()]
            size = sum(known.files[name].size for name in share)
            with manifest.progress_bar(size, f"verifying {folder.name}", shown=jax.process_index() == 0) as bar:
                found = manifest.check(folder, known, share, bar.update)
    except manifest.ManifestError as broken:
        found = [Problem(manifest.NAME, f"cannot be read: {broken}")]
    except UserError as raised:
        error = str(raised)
    told = gather([error, None if found is None else [[one.path, one.what] for one in found]])
    errors = [text for text, _ in told if text]
    if errors:
        raise UserError(errors[0])
    if all(part is None for _, part in told):
        return None
    return sorted({Problem(*pair) for _, part in told for pair in part or []}, key=str)


def require(folder: pathlib.Path) -> None:
    """Raises UserError, on all hosts, where the checkpoint in `folder` is damaged; all call it together."""
    found = problems(folder)
    if found:
        raise UserError(f"{manifest.damage(folder, found)}\n{manifest.remedy(folder)}")
    if found is None:
        say(unverified(folder))


def unverified(folder: pathlib.Path) -> str:
    """What is said of a checkpoint without a manifest."""
    return f"{folder} was saved by an earlier version, without checksums: its bytes are not verified"


def _key(number: int) -> str:
    return f"t5x_mini/manifest/{number}"


def _readable(folder: pathlib.Path, names: list[str]) -> dict[str, list]:
    found = {}
    for name in names:
        with contextlib.suppress(OSError, UserError):
            found |= {name: [one.size, one.sha256] for name, one in manifest.entries(folder, [name]).items()}
    return found
