"""The bytes of a data position, and its refusal of another stream."""

import dataclasses

import pytest

from t5x_mini.errors import UserError
from t5x_mini.feed.position import Position

POSITION = Position(
    fingerprint={"seed": 3, "pack": True, "task_feature_lengths": {"inputs": 8, "targets": 4}},
    snapshot=b"state\n\x00\xff with a line break",
    batches_after_snapshot=7,
)


@pytest.mark.parametrize("snapshot", [b"", b"\n", POSITION.snapshot])
def test_bytes_and_back(snapshot):
    position = dataclasses.replace(POSITION, snapshot=snapshot)
    assert Position.from_bytes(position.to_bytes()) == position


def test_bytes_say_what_they_are():
    assert POSITION.to_bytes().startswith(b"t5x_mini data position 1\n{")


def test_a_flipped_bit_is_noticed():
    data = bytearray(POSITION.to_bytes())
    data[-1] ^= 1
    with pytest.raises(UserError, match="damaged: .* checksum .*Resume from another checkpoint"):
        Position.from_bytes(bytes(data))


def test_a_lost_end_is_noticed():
    with pytest.raises(UserError, match="damaged: 5 bytes .* of the 26 that were saved"):
        Position.from_bytes(POSITION.to_bytes()[: 5 - len(POSITION.snapshot)])


def test_a_damaged_header_is_noticed():
    with pytest.raises(UserError, match="damaged header"):
        Position.from_bytes(POSITION.to_bytes().replace(b'"seed"', b"seed"))


def test_another_file_is_refused():
    with pytest.raises(UserError, match="not a saved data position: it starts with b'PK"):
        Position.from_bytes(b"PK\x03\x04")


def test_the_same_fingerprint_is_accepted():
    POSITION.check(dict(POSITION.fingerprint))


def test_each_difference_is_named_with_both_values():
    now = {"seed": 4, "pack": True, "task_feature_lengths": {"inputs": 8, "targets": 5}, "host_count": 2}
    with pytest.raises(UserError) as error:
        POSITION.check(now)
    text = str(error.value)
    assert "seed: 3 when it was saved, 4 now" in text
    assert "{'inputs': 8, 'targets': 4} when it was saved, {'inputs': 8, 'targets': 5} now" in text
    assert "host_count: absent when it was saved, 2 now" in text
    assert "pack" not in text
    assert "go back to the same values" in text and "MODEL_DIR" in text and "INITIAL_CHECKPOINT_PATH" in text
