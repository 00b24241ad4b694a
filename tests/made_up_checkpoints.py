"""Checkpoints as far as their files go: a small one for the arrays, Orbax's metadata, and the manifest."""

import dataclasses
import json

from t5x_mini.checkpoint import manifest, steps
from t5x_mini.checkpoint.manifest import Manifest

METADATA = "_CHECKPOINT_METADATA"
ARRAYS = b"arrays"


def make(run_dir, step, *, finished=True, marked=True, with_manifest=True, best=None, **known):
    """One of a run's; by default as this version saves it, with what is `known` of it in its manifest."""
    folder = run_dir / steps.FOLDER / str(step)
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "data").write_bytes(ARRAYS)
    metadata = {"commit_timestamp_nsecs": 5 if finished else None, "custom_metadata": steps.MARK if marked else {}}
    (folder / METADATA).write_text(json.dumps(metadata))
    if best is not None:
        (folder / "metrics").mkdir()
        (folder / "metrics" / "metrics").write_text(json.dumps({"metric": "average", "value": best, "rank": best}))
    if with_manifest:
        files = manifest.entries(folder, manifest.paths(folder))
        manifest.write(folder, Manifest(files, **known))
    return folder


def earlier(run_dir, step, **changes):
    """As versions without manifests saved it."""
    return make(run_dir, step, marked=False, with_manifest=False, **changes)


def seal(checkpoint):
    """Writes the manifest of a checkpoint anew that a test has changed on purpose."""
    files = manifest.entries(checkpoint, manifest.paths(checkpoint))
    manifest.write(checkpoint, dataclasses.replace(manifest.read(checkpoint), files=files))
