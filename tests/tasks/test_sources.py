import gzip
import json
import os
import pickle
import subprocess
import sys

import fake_servers
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from t5x_mini.errors import UserError
from t5x_mini.tasks import files, formats, sources
from t5x_mini.tasks.definitions import PretrainingTask, TextToTextTask
from t5x_mini.tasks.sources import Skipped

TEXTS = [f"document {i} tells of {i * 13} things" + " and more" * (i % 7) for i in range(1000)]


def text_task(*paths, **settings):
    return PretrainingTask(name="my_text", files={"train": tuple(map(str, paths))}, **settings)


def pairs_task(*paths, **settings):
    return TextToTextTask(name="my_pairs", files={"train": tuple(map(str, paths))}, **settings)


def rows(definition, split="train", skipped=None):
    return [row for shard in sources.shards(definition, split) for row in sources.read(definition, shard, skipped)]


def texts(definition, skipped=None):
    return [row[definition.field] for row in rows(definition, skipped=skipped)]


def written(path, values):
    """A file of rows `{'text': value, 'id': i}` in the format of its suffix."""
    suffix, compression = files.suffixes(str(path))
    values = [{"text": value, "id": i} for i, value in enumerate(values)]
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), path, row_group_size=100)
        return path
    if suffix == ".txt":
        lines = [row["text"] for row in values]
    elif suffix == ".tsv":
        lines = ["text\tid", *(f"{row['text']}\t{row['id']}" for row in values)]
    else:
        lines = [json.dumps(row) for row in values]
    data = "".join(f"{line}\n" for line in lines).encode()
    codec = {".gz": "gzip", ".zst": "zstd"}.get(compression)
    path.write_bytes(pyarrow.compress(data, codec, asbytes=True) if codec else data)
    return path


FORMATS = [f"a{suffix}{packing}" for suffix in (".txt", ".tsv", ".jsonl", ".json") for packing in ("", ".gz", ".zst")]


@pytest.mark.parametrize("name", [*FORMATS, "a.parquet"])
def test_every_format_gives_its_rows_in_order(tmp_path, name):
    skipped = Skipped()
    assert texts(text_task(written(tmp_path / name, TEXTS)), skipped) == TEXTS
    assert not skipped


def test_what_a_row_holds(tmp_path):
    names = ("a.txt", "a.tsv", "a.jsonl", "a.parquet")
    found = [rows(pairs_task(written(tmp_path / name, ["one", "two"])))[1] for name in names]
    assert found == [{"text": "two"}, {"text": "two", "id": "1"}, {"text": "two", "id": 1}, {"text": "two", "id": 1}]


@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("shard_bytes", [1, 50, 1000, 5000])
def test_shards_hold_every_row_once_and_in_order(tmp_path, monkeypatch, name, shard_bytes):
    monkeypatch.setattr(formats, "_SHARD_BYTES", shard_bytes)
    path = written(tmp_path / name, TEXTS[:100])
    definition = text_task(path)
    shards = sources.shards(definition, "train")
    assert len({shard.name for shard in shards}) == len(shards)
    assert len(shards) > 1 or name == "a.parquet"
    if name != "a.parquet":
        assert sum(shard.size_bytes for shard in shards) == path.stat().st_size
    assert texts(definition) == TEXTS[:100]


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
@pytest.mark.parametrize("cut", range(1, 14))
def test_shards_are_cut_at_line_ends(tmp_path, monkeypatch, cut, end):
    path = tmp_path / "a.txt"
    path.write_text("ab\nc\n\ndefg" + end)
    monkeypatch.setattr(formats, "_SHARD_BYTES", cut)
    assert texts(text_task(path)) == ["ab", "c", "defg"]


def test_parquet_is_cut_at_row_groups(tmp_path, monkeypatch):
    definition = text_task(written(tmp_path / "a.parquet", TEXTS))
    assert len(sources.shards(definition, "train")) == 1
    monkeypatch.setattr(formats, "_SHARD_BYTES", 1)
    shards = sources.shards(definition, "train")
    assert [(shard.start, shard.end) for shard in shards] == [(i, i + 1) for i in range(10)]
    assert [row["text"] for row in sources.read(definition, shards[3])] == TEXTS[300:400]


def test_a_shard_is_read_in_a_fresh_process(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_SHARD_BYTES", 5000)
    definition = text_task(written(tmp_path / "a.txt", TEXTS))
    shard = sources.shards(definition, "train")[2]
    code = (
        "import pickle, sys; from t5x_mini.tasks import sources;"
        "definition, shard = pickle.load(sys.stdin.buffer);"
        "rows = list(sources.read(definition, shard));"
        "assert not {'tensorflow', 'seqio', 'jax', 'tensorstore'} & set(sys.modules);"
        "pickle.dump(rows, sys.stdout.buffer)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps((definition, shard)), capture_output=True, check=True
    )
    assert pickle.loads(done.stdout) == list(sources.read(definition, shard)) != []


def test_several_files_and_patterns(tmp_path):
    for name, text in (("b.txt", "b"), ("a.txt", "a"), ("c.jsonl", '{"text": "c"}')):
        (tmp_path / name).write_text(text)
    assert texts(text_task(tmp_path)) == ["a", "b", "c"]
    assert texts(text_task(tmp_path / "c.jsonl", tmp_path / "*.txt", tmp_path / "a.txt")) == ["c", "a", "b"]
    assert texts(PretrainingTask(name="x", files={"train": str(tmp_path / "?.txt")})) == ["a", "b"]


def test_from_a_bucket(monkeypatch):
    stored = {"sources-bucket/t/a.jsonl.gz": gzip.compress(b'{"text": "one"}\n') + gzip.compress(b'{"text": "two"}\n')}
    stored["sources-bucket/t/b.txt"] = b"three\nfour\n"
    with fake_servers.serving(stored) as (address, _):
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        monkeypatch.setattr(formats, "_SHARD_BYTES", 4)
        definition = text_task("gs://sources-bucket/t")
        assert texts(definition) == ["one", "two", "three", "four"]
        assert len(sources.shards(definition, "train")) == 4
        assert sources.fingerprint(definition, "train") == sources.fingerprint(definition, "train")


def test_parquet_from_the_web(tmp_path):
    data = written(tmp_path / "a.parquet", TEXTS).read_bytes()
    with fake_servers.serving({"a.parquet": data}) as (address, requests):
        assert texts(text_task(f"{address}/a.parquet")) == TEXTS
        assert all("bytes=" in request or request.startswith("HEAD") for request in requests)


# Bad input.


def test_what_is_skipped_is_counted_with_its_first_place(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n\nbro\xffken\n  \t\ntwo\r\n\xc3\nthree")
    skipped = Skipped()
    assert texts(text_task(path), skipped) == ["one", "two", "three"]
    assert skipped.counts == {"empty": 2, "invalid UTF-8": 2}
    assert str(skipped) == f"empty: 2, first at {path} line 2; invalid UTF-8: 2, first at {path} line 3"


def test_places_in_a_later_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_SHARD_BYTES", 10)
    path = tmp_path / "a.txt"
    path.write_bytes(b"0123456789\nfirst\n\xff\n")
    skipped = Skipped()
    assert texts(text_task(path), skipped) == ["0123456789", "first"]
    assert skipped.first == {"invalid UTF-8": f"{path} line 2 after byte 10"}


def test_counts_are_merged():
    first, second = Skipped({"empty": 2}, {"empty": "a"}), Skipped({"empty": 1, "cut": 1}, {"empty": "b", "cut": "c"})
    first.merge(second)
    assert first == Skipped({"empty": 3, "cut": 1}, {"empty": "a", "cut": "c"})
    assert first and not Skipped()
    assert pickle.loads(pickle.dumps(first)) == first


def test_broken_json_is_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        '{"text": "one"}',
        '{"text": "tw',
        "[1]",
        '"text"',
        '{"text": "\\ud800"}',
        "[" * 100_000,
        '{"text": "\\ud83d\\ude00"}',
    ]
    path.write_text("\n".join(lines))
    skipped = Skipped()
    assert texts(text_task(path), skipped) == ["one", "😀"]
    assert skipped == Skipped({"broken JSON": 5}, {"broken JSON": f"{path} line 2"})


def test_a_json_document_is_no_json_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "one"}], indent=1))
    with pytest.raises(UserError, match=r"No line of '.*a\.json' is a JSON object\. Write one object a line"):
        texts(text_task(path))


class DocumentTask(TextToTextTask):
    def parse_json(self, document):
        return ({"text": text} for text in document["texts"])


def test_a_definition_may_read_json_documents_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_SHARD_BYTES", 10)
    (tmp_path / "a.json").write_text(json.dumps({"texts": ["one", "two", "three"]}, indent=1))
    (tmp_path / "b.jsonl").write_text('{"text": "four"}')
    definition = DocumentTask(name="x", files={"train": str(tmp_path)})
    assert [row["text"] for row in rows(definition)] == ["one", "two", "three", "four"]
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json' is not a JSON document"):
        rows(definition)


def test_null_and_empty_texts_are_skipped(tmp_path):
    for name in ("a.jsonl", "a.parquet"):
        path = written(tmp_path / name, ["one", None, "", " ", "two"])
        skipped = Skipped()
        assert texts(text_task(path), skipped) == ["one", "two"]
        assert skipped == Skipped({"empty": 3}, {"empty": f"{path} line 2"} if name == "a.jsonl" else skipped.first)


@pytest.mark.parametrize("name", ["a.tsv", "a.jsonl", "a.parquet"])
def test_a_missing_field(tmp_path, name):
    path = written(tmp_path / name, ["one"])
    with pytest.raises(UserError, match=r"a\.\w+ .* has no field 'body'; it has 'text', 'id'\. Name .*PretrainingTask"):
        texts(text_task(path, field="body"))


def test_a_field_that_is_no_text(tmp_path):
    with pytest.raises(UserError, match=r"a\.jsonl line 1: field 'id' is 0, not text"):
        texts(text_task(written(tmp_path / "a.jsonl", ["one"]), field="id"))


def test_bytes_in_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["naïve".encode(), b"\xff"]}), path)
    skipped = Skipped()
    assert texts(text_task(path), skipped) == ["naïve"]
    assert skipped.counts == {"invalid UTF-8": 1}


def test_tsv_is_split_at_tabs_and_nowhere_else(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('\ufeffa\tb\n"one\tt"wo""\n\'\t\n\t"\n', encoding="utf-8")
    assert rows(pairs_task(path)) == [{"a": '"one', "b": 't"wo""'}, {"a": "'", "b": ""}, {"a": "", "b": '"'}]


def test_tsv_without_a_header(tmp_path, monkeypatch):
    path = tmp_path / "a.tsv"
    path.write_text("one\t1\ntwo\t2\n")
    definition = pairs_task(path, columns=("text", "label"))
    assert rows(definition) == [{"text": "one", "label": "1"}, {"text": "two", "label": "2"}]
    monkeypatch.setattr(formats, "_SHARD_BYTES", 3)
    assert rows(definition) == [{"text": "one", "label": "1"}, {"text": "two", "label": "2"}]


@pytest.mark.parametrize("line", ["only one", "one\ttwo\tthree"])
def test_a_first_row_with_too_many_or_too_few_columns(tmp_path, line):
    path = tmp_path / "a.tsv"
    path.write_text(f"a\tb\n\n{line}\nfine\tfine\n")
    number = line.count("\t") + 1
    with pytest.raises(
        UserError, match=rf"a\.tsv line 3 has {number} columns, not the 2 .*: a, b\. Found: '{line[:3]}"
    ):
        rows(pairs_task(path))


@pytest.mark.parametrize("shard_bytes", [3, 1000])
def test_later_rows_with_too_many_or_too_few_columns_are_skipped(tmp_path, monkeypatch, shard_bytes):
    monkeypatch.setattr(formats, "_SHARD_BYTES", shard_bytes)
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\nfine\t1\nonly one\none\ttwo\tthree\nfine\t2\n")
    skipped = Skipped()
    assert [row["b"] for row in rows(pairs_task(path), skipped=skipped)] == ["1", "2"]
    assert skipped.counts == {"wrong number of columns": 2}


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.zst"])
def test_an_incomplete_file_says_how_far_it_went(tmp_path, name):
    path = written(tmp_path / name, np.random.default_rng(0).bytes(2_000_000).hex("\n", 100).split("\n"))
    path.write_bytes(path.read_bytes()[:-100])
    read = []
    with pytest.raises(
        UserError, match=rf"{name}' is damaged or incomplete: after \d+ lines, .*Get the file again"
    ) as error:
        read.extend(sources.read(text_task(path), *sources.shards(text_task(path), "train")))
    assert f"after {len(read)} lines" in str(error.value)
    assert len(read) > 5000


def test_a_damaged_parquet_file(tmp_path):
    path = written(tmp_path / "a.parquet", TEXTS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"a\.parquet' cannot be read as Parquet"):
        sources.shards(text_task(path), "train")


def test_parquet_that_is_damaged_inside(tmp_path):
    path = written(tmp_path / "a.parquet", TEXTS)
    data = bytearray(path.read_bytes())
    data[4:3000] = bytes(2996)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.parquet' cannot be read as Parquet: .*damaged"):
        rows(text_task(path))


def test_a_text_is_not_parquet_and_not_gzip(tmp_path):
    for name in ("a.txt.gz", "a.jsonl.zst", "a.parquet"):
        (tmp_path / name).write_text("one\ntwo\n" * 100)
        with pytest.raises(UserError, match=r"a\.\w+(\.\w+)?' (is damaged|cannot be read as Parquet)"):
            rows(pairs_task(tmp_path / name))


# Long lines.


def test_a_long_document_is_cut_at_white_space(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "DOCUMENT_LIMIT", 100)
    long = " ".join(f"w{i}" for i in range(300))
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        path = written(tmp_path / name, ["before", long, "after"])
        skipped = Skipped()
        found = texts(text_task(path), skipped)
        assert (found[0], found[-1], "".join(found[1:-1])) == ("before", "after", long)
        assert all(len(text) <= 100 and (text[-1] == " " or text.endswith("w299")) for text in found[1:-1])
        assert skipped.counts == {"cut": 1} and "a." in skipped.first["cut"]


@pytest.mark.parametrize("length", [99, 100, 101, 199, 200, 201])
@pytest.mark.parametrize("unit", ["x", "é", "日", "😀", "a b ", "a\t"])
@pytest.mark.parametrize("end", ["", "\n", "\nnext\n"])
def test_cutting_loses_nothing(tmp_path, monkeypatch, unit, length, end):
    monkeypatch.setattr(formats, "DOCUMENT_LIMIT", 100)
    line = unit * (length // len(unit.encode()))
    (tmp_path / "a.txt").write_text(line + end)
    skipped = Skipped()
    found = texts(text_task(tmp_path / "a.txt"), skipped)
    assert "".join(found) == line + end.strip()
    assert set(skipped.counts) <= {"cut"}


def test_a_long_line_reaches_over_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "DOCUMENT_LIMIT", 100)
    monkeypatch.setattr(formats, "_SHARD_BYTES", 70)
    long = "ab " * 200
    (tmp_path / "a.txt").write_text(f"before\n{long}\nafter\nend\n")
    assert "".join(texts(text_task(tmp_path / "a.txt"))) == f"before{long}afterend"


def test_lines_that_have_to_be_whole_are_skipped_when_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "LINE_LIMIT", 1 << 20)
    long = "word " * (1 << 18)
    for name in ("a.txt", "a.tsv", "a.jsonl"):
        path = written(tmp_path / name, ["before", long, "after"])
        skipped = Skipped()
        assert [row["text"] for row in rows(pairs_task(path), skipped=skipped)] == ["before", "after"]
        line = 3 if name == "a.tsv" else 2
        assert skipped == Skipped({"longer than 1 MiB": 1}, {"longer than 1 MiB": f"{path} line {line}"})


MEMORY = """
import re, sys
from t5x_mini.tasks import sources, vocabularies
from t5x_mini.tasks.definitions import PretrainingTask
definition = PretrainingTask(name="x", files={"train": sys.argv[1]})
vocabulary = vocabularies.load("docs_8k")
tokens = 0
for shard in sources.shards(definition, "train"):
    batch = []
    for row in sources.read(definition, shard):
        batch.append(row["text"])
        if sum(map(len, batch)) > 1 << 20:
            tokens += len(vocabulary.encode_batch(batch)[0])
            batch = []
    if batch:
        tokens += len(vocabulary.encode_batch(batch)[0])
# getrusage would count the process that this one was forked from.
print(tokens, int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024)
"""


def tokens_and_mebibytes(path):
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    tokens, mebibytes = map(float, done.stdout.split())
    print(f"{path.name}: {tokens:.0f} tokens, {mebibytes:.0f} MiB")
    return tokens, mebibytes


on_linux = pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="how much memory was used is asked of Linux"
)


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl.zst", "a.parquet"])
def test_memory_does_not_grow_with_the_corpus(tmp_path, name):
    corpus = [" ".join(TEXTS[i % 900 : i % 900 + 60]) for i in range(1500)]
    tokens, small = tokens_and_mebibytes(written(tmp_path / name, corpus))
    more_tokens, large = tokens_and_mebibytes(written(tmp_path / name, corpus * 10))
    assert more_tokens == 10 * tokens > 5_000_000
    kept = 30 if name == "a.parquet" else 10  # Arrow gives little of its memory back
    assert large - small < kept  # the texts grew by 47 MiB
    assert large < 400


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_line_of_100_mb_is_read_in_bounded_memory(tmp_path, name):
    path = written(tmp_path / name, ["some words of a very long line " * 3_400_000])
    tokens, mebibytes = tokens_and_mebibytes(path)
    assert tokens > 20_000_000
    assert mebibytes < 400


# Definitions.


def test_fingerprints_are_of_content_and_names(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        written(tmp_path / folder / "a.txt", TEXTS)
    fingerprints = [sources.fingerprint(text_task(tmp_path / folder), "train") for folder in ("x", "y")]
    assert fingerprints[0] == fingerprints[1]
    written(tmp_path / "x" / "a.txt", [*TEXTS, "more"])
    written(tmp_path / "y" / "b.txt", ["more"])
    assert len({*fingerprints, *(sources.fingerprint(text_task(tmp_path / folder), "train") for folder in "xy")}) == 3


def test_counting(tmp_path):
    definition = text_task(written(tmp_path / "a.txt", [*TEXTS, "", "last"]))
    assert sources.count(definition, "train") == 1001
    assert sources.count(definition, "train", limit=10) == 10


def test_splits(tmp_path):
    definition = PretrainingTask(name="x", files={"train": str(tmp_path), "validation": str(tmp_path)})
    assert sources.splits(definition) == ("train", "validation")
    for ask in (sources.shards, sources.fingerprint, sources.count):
        with pytest.raises(
            UserError, match=r"'x' has no split 'valid'\. Did you mean 'validation'\? It has train, vali"
        ):
            ask(definition, "valid")


def test_no_source_and_two():
    with pytest.raises(UserError, match=r"'x' needs one source.*found none of them.*x/PretrainingTask\.files = "):
        sources.splits(PretrainingTask(name="x"))
    with pytest.raises(UserError, match=r"found files and tfds"):
        sources.splits(TextToTextTask(name="x", files={}, tfds="c4"))


def test_nothing_to_read(tmp_path):
    with pytest.raises(UserError, match=r"There are no files '.*/none\.txt'"):
        sources.shards(text_task(tmp_path / "none.txt"), "train")
    with pytest.raises(UserError, match="Split 'train' of 'none' names no files"):
        sources.shards(PretrainingTask(name="none", files={"train": ()}), "train")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match=r"Every file of split 'train' of 'my_text' is empty: .*empty\.txt"):
        sources.shards(text_task(tmp_path / "empty.txt"), "train")
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], "string")}), tmp_path / "empty.parquet")
    with pytest.raises(UserError, match="is empty"):
        sources.shards(text_task(tmp_path / "empty.parquet"), "train")
    (tmp_path / "a.doc").touch()
    with pytest.raises(UserError, match=r"a\.doc' holds isn't known from its name\. Known suffixes: \.txt, \.tsv"):
        sources.shards(text_task(tmp_path / "a.doc"), "train")


def test_the_error_for_a_split_without_rows():
    definition = text_task("a.txt")
    assert str(sources.nothing_read(definition, "train", Skipped())) == (
        "Split 'train' of 'my_text' has no rows: there is nothing in it."
    )
    error = sources.nothing_read(definition, "train", Skipped({"empty": 2}, {"empty": "a.txt line 1"}))
    assert "everything was skipped (empty: 2, first at a.txt line 1)" in str(error)
