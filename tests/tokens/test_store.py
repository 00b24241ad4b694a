"""Tokens on disk: what is written is read, over the borders of shards, and what does not fit is refused with words."""

import dataclasses
import functools
import json
import uuid

import numpy as np
import pytest

from t5x_mini.errors import UserError
from t5x_mini.tasks import files
from t5x_mini.tasks.definitions import PretrainingTask, TextToTextTask
from t5x_mini.tasks.objectives import SpanCorruption
from t5x_mini.tokens import store
from t5x_mini.tokens.manifest import CHUNK_BYTES, Contents, Manifest, stored_definition, token_dtype
from t5x_mini.tokens.store import TokenStore, pad_examples
from t5x_mini.tokens.writer import ShardWriter, write_store

VOCABULARY = {"library": "sentencepiece", "version": "0.2.3", "sha256": "abc", "vocab_size": 32100, "extra_ids": 100}
STREAM = Contents(
    task="toy",
    split="train",
    kind="stream",
    features=("targets",),
    eos=(),
    dtype="uint16",
    definition={"field": "text", "eos_between_documents": False},
    vocabulary=VOCABULARY,
    source="0123",
)
EXAMPLES = dataclasses.replace(
    STREAM, kind="examples", features=("inputs", "targets"), eos=("inputs", "targets"), definition={}
)
STREAM_SHARDS = [[[[5, 6, 7]], [[8]]], [], [[[9, 65535]], [[]], [[10]]]]
EXAMPLE_SHARDS = [[[[5, 6, 7], [8]], [[], [9, 10]]], [[[11], [12, 13, 14, 15]]]]


@pytest.fixture
def stream(tmp_path):
    write_store(tmp_path, STREAM, STREAM_SHARDS)
    return tmp_path


def test_tokens_are_one_stream_over_all_shards(stream):
    store = TokenStore(stream)
    whole = [5, 6, 7, 8, 9, 65535, 10]
    assert (store.num_tokens, store.num_documents) == (7, 5)
    for start in range(8):
        for stop in range(start, 8):
            tokens = store.tokens(start, stop)
            assert tokens.dtype == np.uint16 and tokens.tolist() == whole[start:stop]


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 8), (4, 3)])
def test_tokens_outside_the_split_are_a_bug_of_the_caller(stream, start, stop):
    with pytest.raises(IndexError):
        TokenStore(stream).tokens(start, stop)


def test_lengths_and_documents(stream):
    store = TokenStore(stream)
    assert store.lengths().tolist() == [[3], [1], [2], [0], [1]]
    assert store.lengths(1, 3).tolist() == [[1], [2]]
    tokens, lengths = store.documents(1, 5)
    assert tokens.tolist() == [8, 9, 65535, 10] and lengths.tolist() == [[1], [2], [0], [1]]
    tokens, lengths = store.documents(5, 5)
    assert tokens.shape == (0,) and lengths.shape == (0, 1)


def test_uint32_for_large_vocabularies(tmp_path):
    assert (token_dtype(65536), token_dtype(65537)) == ("uint16", "uint32")
    write_store(tmp_path, dataclasses.replace(STREAM, dtype="uint32"), [[[[70000, 3]]]])
    tokens = TokenStore(tmp_path).tokens(0, 2)
    assert tokens.dtype == np.uint32 and tokens.tolist() == [70000, 3]


def test_examples_are_cut_ended_and_padded(tmp_path):
    write_store(tmp_path, EXAMPLES, EXAMPLE_SHARDS)
    examples = TokenStore(tmp_path).examples([2, 0, 1, 0], {"inputs": 3, "targets": 4})
    assert examples["inputs"].dtype == np.int32
    assert examples["inputs"].tolist() == [[11, 1, 0], [5, 6, 1], [1, 0, 0], [5, 6, 1]]
    assert examples["targets"].tolist() == [[12, 13, 14, 1], [8, 1, 0, 0], [9, 10, 1, 0], [8, 1, 0, 0]]


def test_features_without_eos_fill_their_room(tmp_path):
    write_store(tmp_path, dataclasses.replace(EXAMPLES, eos=("targets",)), EXAMPLE_SHARDS)
    store = TokenStore(tmp_path)
    assert store.examples([0], {"inputs": 2, "targets": 2})["inputs"].tolist() == [[5, 6]]
    assert store.examples([], {"inputs": 2, "targets": 2})["targets"].shape == (0, 2)


def test_a_block_of_examples_padded_at_once_equals_them_one_by_one(tmp_path):
    rng = np.random.default_rng(0)
    shards = [
        [[rng.integers(3, 99, n).tolist() for n in rng.integers(0, 9, 2)] for _ in range(size)] for size in (7, 1, 12)
    ]
    write_store(tmp_path, EXAMPLES, shards)
    store = TokenStore(tmp_path)
    lengths = {"inputs": 5, "targets": 3}
    block = pad_examples(*store.documents(2, 19), store.manifest.contents, lengths)
    single = store.examples(range(2, 19), lengths)
    for feature in lengths:
        np.testing.assert_array_equal(block[feature], single[feature])


def test_chunks_written_in_pieces_are_checked_one_by_one(tmp_path):
    """Files of several chunks, written with borders that are not the chunks'; a flipped bit spoils its chunk alone."""
    tokens = np.arange(CHUNK_BYTES + 12345, dtype=np.uint32).astype(np.uint16)  # a little over two chunks
    writer = ShardWriter(tmp_path, "00000-of-00001", STREAM)
    for piece in np.array_split(tokens, 7):
        writer.add(piece, np.array([[len(piece)]]), text_bytes=1)
    manifest = Manifest(contents=STREAM, shards=(writer.finish(),), skipped={})
    (tmp_path / "manifest.json").write_text(manifest.to_json())
    assert len(manifest.shards[0].tokens_crc32) == 3 * 8 and manifest.text_bytes == 7
    np.testing.assert_array_equal(TokenStore(tmp_path).tokens(0, len(tokens)), tokens)

    flip_bit(tmp_path / "tokens-00000-of-00001.bin", CHUNK_BYTES + 3)
    store = TokenStore(tmp_path)
    assert store.tokens(0, CHUNK_BYTES // 2).tolist() == tokens[: CHUNK_BYTES // 2].tolist()
    with pytest.raises(UserError, match=rf"damaged: bytes {CHUNK_BYTES} to {2 * CHUNK_BYTES} have the checksum"):
        store.tokens(CHUNK_BYTES // 2, CHUNK_BYTES // 2 + 1)


@pytest.mark.parametrize("name", ["tokens-00002-of-00003.bin", "lengths-00002-of-00003.bin"])
def test_a_flipped_bit_is_refused_with_the_way_out(stream, name):
    flip_bit(stream / name, 0)
    with pytest.raises(UserError, match=rf"{name} .* is damaged: .* delete part-00002-of-00003.json there and run"):
        TokenStore(stream).documents(0, 5)


@pytest.mark.parametrize("name", ["tokens-00000-of-00003.bin", "lengths-00002-of-00003.bin"])
def test_a_missing_or_cut_file_is_refused_on_opening(stream, name):
    size = (stream / name).stat().st_size
    with open(stream / name, "ab") as file:
        file.truncate(size - 1)
    with pytest.raises(UserError, match=f"{name} .* has {size - 1} bytes, and {size} were written. .*made anew"):
        TokenStore(stream)
    (stream / name).unlink()
    with pytest.raises(UserError, match=f"{name} .* is missing"):
        TokenStore(stream)


def test_no_store_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="no token store in .*tokenize --task=NAME.*TOKENS_DIR"):
        TokenStore(tmp_path)


def test_an_unfinished_store_says_how_far_it_is(tmp_path):
    for part in range(7):
        (tmp_path / f"part-{part:05d}-of-00008.json").write_text("{}")
    with pytest.raises(UserError, match="not finished: 7 of 8 parts are there.*again: it goes on"):
        TokenStore(tmp_path)


def test_another_format_is_refused(stream):
    manifest = json.loads((stream / "manifest.json").read_text()) | {"format": 2}
    (stream / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="has format 2; this version of t5x_mini reads format 1"):
        TokenStore(stream)


@pytest.mark.parametrize("text", ["", "[]", "{}", "\x00", '{"format": 1}'])
def test_a_manifest_that_is_none_is_refused(stream, text):
    (stream / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="is not the manifest of a token store"):
        TokenStore(stream)


def test_the_manifest_survives_its_file(stream):
    store = TokenStore(stream)
    assert Manifest.from_json(store.manifest.to_json(), "") == store.manifest
    assert store.manifest.contents == STREAM


def test_check_accepts_the_run_that_fits(stream):
    task = PretrainingTask(name="toy", files={"train": "elsewhere.txt"}, objective=SpanCorruption(mean_span=5.0))
    TokenStore(stream).check(vocabulary=dict(VOCABULARY), definition=task)


def test_check_names_each_difference_of_the_vocabulary(stream):
    now = VOCABULARY | {"version": "0.2.1", "vocab_size": 8100}
    with pytest.raises(UserError) as error:
        TokenStore(stream).check(vocabulary=now)
    text = str(error.value)
    assert "The tokens of 'toy', split 'train'" in text and "made with another vocabulary" in text
    assert "version: '0.2.3' in the store, '0.2.1' now" in text and "vocab_size: 32100 in the store, 8100 now" in text
    assert "sha256" not in text and "another --output" in text


def test_check_names_each_difference_of_the_definition(stream):
    task = PretrainingTask(name="toy", files={}, field="body", eos_between_documents=True)
    with pytest.raises(
        UserError,
        match="(?s)another definition.*eos_between_documents: False in .* field: 'text' in the store, 'body' now",
    ):
        TokenStore(stream).check(definition=task)


def test_stored_definition_of_supervised_tasks():
    task = TextToTextTask(name="pairs", files={"train": "a.tsv"}, inputs="say {a}", targets="{b}")
    assert stored_definition(task) == {"inputs": "say {a}", "targets": "{b}"}
    task = dataclasses.replace(task, write=flip_bit)
    assert stored_definition(task) == {"write": f"{__name__}.flip_bit"}
    task = dataclasses.replace(task, write=functools.partial(flip_bit, "a"))
    assert stored_definition(task) == {"write": f"{__name__}.flip_bit"}


def test_a_remote_store_reads_no_more_than_it_needs(stream, monkeypatch):
    remote, asked = in_a_bucket(stream, monkeypatch)
    store = TokenStore(remote)
    assert asked == []
    assert store.tokens(2, 5).tolist() == [7, 8, 9]
    # Chunks are checked whole when they are first read; after that, ranges are read as they are.
    assert asked == [("tokens-00000-of-00003.bin", 0, 8), ("tokens-00002-of-00003.bin", 0, 6)]
    assert store.tokens(1, 2).tolist() == [6]
    assert asked[2:] == [("tokens-00000-of-00003.bin", 2, 4)]
    assert store.documents(0, 5)[0].tolist() == [5, 6, 7, 8, 9, 65535, 10]


def test_a_remote_store_that_is_damaged_is_refused(stream, monkeypatch):
    flip_bit(stream / "tokens-00002-of-00003.bin", 1)
    (stream / "tokens-00000-of-00003.bin").unlink()
    with open(stream / "lengths-00000-of-00003.bin", "ab") as file:
        file.truncate(5)
    store = TokenStore(in_a_bucket(stream, monkeypatch)[0])
    with pytest.raises(UserError, match="tokens-00002-of-00003.bin .* is damaged"):
        store.tokens(4, 7)
    with pytest.raises(UserError, match="tokens-00000-of-00003.bin .* is missing"):
        store.tokens(0, 1)
    with pytest.raises(UserError, match="lengths-00000-of-00003.bin .* has less than the 8 bytes"):
        store.lengths(0, 1)


def test_a_remote_folder_without_a_store(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="There is no token store in memory://"):
        TokenStore(in_a_bucket(tmp_path, monkeypatch)[0])


def in_a_bucket(folder, monkeypatch):
    """The folder's files copied to an object store in memory, and a list of the ranges that are read from there on."""
    remote = f"memory://{uuid.uuid4().hex}/store"
    for path in folder.iterdir():
        files.write_bytes(f"{remote}/{path.name}", path.read_bytes())
    asked = []

    def read_range(path, start, end, read=files.read_range):
        asked.append((path.rpartition("/")[2], start, end))
        return read(path, start, end)

    monkeypatch.setattr(store.files, "read_range", read_range)
    return remote, asked


def flip_bit(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
