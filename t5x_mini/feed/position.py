"""Where a stream of batches stands: what a checkpoint keeps of the data, one file a host."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from t5x_mini.errors import UserError

_MAGIC = b"t5x_mini data position 1\n"


@dataclasses.dataclass(frozen=True)
class Position:
    """The place in a stream right after one of its batches.

    Attributes:
        fingerprint: everything that decides what the stream holds; a position means nothing in another stream.
        snapshot: the state of the stream's iterator after some earlier batch; empty: the start of the stream.
        batches_after_snapshot: batches read since the snapshot, to be read again on the way back.
    """

    fingerprint: Mapping[str, str | int | bool | Mapping[str, int]]
    snapshot: bytes
    batches_after_snapshot: int

    def to_bytes(self) -> bytes:
        """One line that names the format, one line of JSON, then the snapshot."""
        header = {
            "fingerprint": self.fingerprint,
            "batches_after_snapshot": self.batches_after_snapshot,
            "snapshot_bytes": len(self.snapshot),
            "snapshot_sha256": hashlib.sha256(self.snapshot).hexdigest(),
        }
        return _MAGIC + json.dumps(header, sort_keys=True).encode() + b"\n" + self.snapshot

    @classmethod
    def from_bytes(cls, data: bytes) -> Position:
        """The inverse of `to_bytes`. Raises UserError for anything else, a damaged snapshot included."""
        if not data.startswith(_MAGIC):
            raise UserError(
                f"This is not a saved data position: it starts with {data[: len(_MAGIC)]!r}, not {_MAGIC!r}. "
                "Resume from another checkpoint."
            )
        line, _, snapshot = data[len(_MAGIC) :].partition(b"\n")
        try:
            header = json.loads(line)
            checksum, saved = header["snapshot_sha256"], header["snapshot_bytes"]
            fingerprint, batches = header["fingerprint"], header["batches_after_snapshot"]
            if not isinstance(fingerprint, dict) or type(batches) is not int or batches < 0:
                raise ValueError("no position is so")
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError("The saved data position has a damaged header. Resume from another checkpoint.") from None
        if hashlib.sha256(snapshot).hexdigest() != checksum:
            raise UserError(
                f"The saved data position is damaged: {len(snapshot)} bytes of iterator state that do not have the "
                f"checksum of the {saved} that were saved. Resume from another checkpoint."
            )
        return cls(fingerprint, snapshot, batches)

    def check(self, fingerprint: Mapping[str, str | int | bool | Mapping[str, int]]) -> None:
        """Raises UserError unless this position belongs to the stream with that fingerprint.

        tf.data does not check: a state from another batch size hangs or crashes, one from another seed or another
        number of hosts silently repeats data. The token feed's fingerprint knows nothing of hosts.
        """
        absent = "absent"
        differences = [
            f"    {name}: {self.fingerprint.get(name, absent)} when it was saved, {fingerprint.get(name, absent)} now"
            for name in dict.fromkeys([*fingerprint, *self.fingerprint])
            if self.fingerprint.get(name, absent) != fingerprint.get(name, absent)
        ]
        if differences:
            hosts = {stream.get("host_count", absent) for stream in (self.fingerprint, fingerprint)}
            tokens = ""
            if len(hosts) > 1 and absent not in hosts:
                tokens = " Only a run with DATA_FEED = 'tokens' can go on with another number of hosts."
            raise UserError(
                "The saved data position belongs to another stream of batches:\n"
                + "\n".join(differences)
                + f"\nTo continue that run, go back to the same values.{tokens} To read the data from its start, set a "
                "new MODEL_DIR; INITIAL_CHECKPOINT_PATH = the old checkpoint keeps its parameters."
            )
