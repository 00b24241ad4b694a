"""Our own parsers, given what tests/fuzz.py makes up: a short run of it, and what long ones found."""

import fuzz
import pytest

PROMISE = "Our parsers read what anybody wrote, or refuse it with an error; no input makes them do anything else."
INPUTS = 400
_MANIFEST = fuzz.PARSERS["checkpoint_manifest"].examples[0]
_POSITION = fuzz.PARSERS["position"].examples[0]

# (parser, input), as they were found.
FOUND = [
    ("position", _POSITION.replace(b"fingerprint", b"finger")),
    ("position", _POSITION.replace(b"batches_after", b"batches_a%Xfter")),
    ("position", _POSITION.replace(b"snapshot_sha256", b"finot_sha256")),
    ("position", _POSITION.replace(b"snapshot_bytes", b"snapshot_byte1_000s")),
    ("position", _POSITION.replace(b'{"inputs"', b"[" * 3000)),
    ("checkpoint_manifest", _MANIFEST.replace(b"state/d/1", b"state/\\ud800/1")),
    ("metrics", b"[1, 2]\n"),
    ("metrics", b'{"step": "one", "loss": "low"}\n'),
    ("metrics", b"[" * 100_000),
    ("gin", b"BATCH_SIZE = " + b"[" * 100_000),
    ("template", b"{a.__class__}"),
    ("template", b"{a:>1000000000}"),
    ("token_manifest", fuzz.PARSERS["token_manifest"].examples[0].replace(b"00000-of", b"../00000-of")),
    ("token_manifest", fuzz.PARSERS["token_manifest"].examples[0].replace(b"uint16", b"object")),
    ("safetensors", (10 << 30).to_bytes(8, "little") + b"{}"),
]


@pytest.mark.damage(PROMISE)
@pytest.mark.parametrize("name", fuzz.PARSERS)
def test_damaged_inputs_are_read_or_refused(name, tmp_path, record_property):
    record_property("trials", INPUTS)
    assert fuzz.fuzz(name, 1, lambda inputs: inputs < INPUTS, tmp_path) == (INPUTS, 0)


@pytest.mark.damage(PROMISE)
@pytest.mark.parametrize("name, data", FOUND, ids=[f"{name}_{number}" for number, (name, _) in enumerate(FOUND)])
def test_what_was_found_stays_mended(name, data, tmp_path):
    assert fuzz.problem(fuzz.PARSERS[name], data, tmp_path) is None


@pytest.mark.parametrize("name", fuzz.PARSERS)
def test_what_is_right_is_read(name, tmp_path):
    for example in fuzz.PARSERS[name].examples:
        assert fuzz.PARSERS[name].read(example, tmp_path)


def test_a_parser_that_fails_is_found(tmp_path):
    def read(data, folder):
        return bool(data[0])

    assert "IndexError" in fuzz.problem(fuzz.Parser((b"a",), read), b"", tmp_path)
    assert fuzz.problem(fuzz.Parser((b"a",), read), b"\0", tmp_path) == "a value that can't be"
