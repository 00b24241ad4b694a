"""From text to tokens on disk: what is stored, that it is the same however it was made, and what a user is told."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import sources, vocabularies
from t5x_mini.tasks.definitions import Mixture, PretrainingTask, TextToTextTask
from t5x_mini.tokens import pool
from t5x_mini.tokens import tokenize as module
from t5x_mini.tokens.store import TokenStore
from t5x_mini.tokens.tokenize import plan_parts, tokenize
from t5x_mini.tokens.worker import Job, Part, _laid_out, batches

VOCABULARY = vocabularies.load("docs_8k")
WORDS = (
    "a function returns the number of tokens which were read from this file or None if there is nothing left".split()
)
MIB = 1 << 20


def feed(*tasks, **changes):
    fixed = dict(task_feature_lengths={"inputs": 16, "targets": 16}, batch_size=4)
    return FeedConfig(mixture_or_task_name="unused", tasks=tasks, **fixed, **changes)


def text(documents, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 40))) for _ in range(documents)]


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def stream(tmp_path, monkeypatch):
    """A task of six files, each of which is a part, and its documents in order."""
    monkeypatch.setattr(module, "_PART_BYTES", 1)
    documents = [text(20, seed) for seed in range(6)]
    for index, lines in enumerate(documents):
        write_lines(tmp_path / f"text/{index}.txt", lines)
    return PretrainingTask(name="toy", files={"train": f"{tmp_path}/text/*.txt"}), sum(documents, [])


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_stream_is_every_document_in_order(stream, tmp_path, capsys):
    task, documents = stream
    [folder] = tokenize(feed(task), "toy", output=str(tmp_path / "tokens"))
    assert folder == f"{tmp_path}/tokens/toy/train"
    store = TokenStore(folder)
    ids = [VOCABULARY.encode(document) for document in documents]
    assert store.tokens(0, store.num_tokens).tolist() == [token for row in ids for token in row]
    assert store.lengths().tolist() == [[len(row)] for row in ids]
    assert store.manifest.text_bytes == sum(len(document.encode()) for document in documents)
    assert len(store.manifest.shards) == 6 and not sources.Skipped(**store.manifest.skipped)
    store.check(vocabulary=VOCABULARY.fingerprint(), definition=task)
    contents = store.manifest.contents
    assert (contents.kind, contents.features, contents.eos, contents.dtype) == ("stream", ("targets",), (), "uint16")
    printed = capsys.readouterr().out
    assert "120 documents" in printed and "bytes a token" in printed
    assert f"DATA_FEED = 'tokens' and TOKENS_DIR = '{tmp_path}/tokens'" in printed


def test_the_bytes_do_not_depend_on_processes_jobs_or_where_it_lies(stream, tmp_path, capsys):
    task, _ = stream
    [whole] = tokenize(feed(task, tokens_dir=str(tmp_path / "whole")), "toy", workers=1)
    expected = bytes_of(tmp_path / "whole/toy/train")
    assert "manifest.json" in expected and len(expected) == 1 + 3 * 6
    tokenize(feed(task), "toy", workers=3, output=str(tmp_path / "three"))
    assert bytes_of(tmp_path / "three/toy/train") == expected
    capsys.readouterr()
    for job in (1, 0):
        assert not (tmp_path / "jobs/toy/train/manifest.json").exists()
        tokenize(feed(task), "toy", workers=1, shard=(job, 2), output=str(tmp_path / "jobs"))
    printed = capsys.readouterr().out
    assert "3 of 6 parts are there" in printed and printed.count("To train on it") == 1
    assert bytes_of(tmp_path / "jobs/toy/train") == expected
    # Two jobs that do the same parts at the same time are a waste, and do no harm.
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(tokenize, feed(task), "toy", workers=1, output=str(tmp_path / "both")) for _ in range(2)]
    assert [future.result() for future in both] == [[f"{tmp_path}/both/toy/train"]] * 2
    assert bytes_of(tmp_path / "both/toy/train") == expected


def test_eos_between_documents(tmp_path):
    write_lines(tmp_path / "a.txt", ["a file", "nothing left"])
    task = PretrainingTask(name="toy", files={"train": f"{tmp_path}/a.txt"}, eos_between_documents=True)
    store = TokenStore(*tokenize(feed(task), "toy", output=str(tmp_path)))
    ids = [[*VOCABULARY.encode(line), 1] for line in ("a file", "nothing left")]
    assert store.tokens(0, store.num_tokens).tolist() == sum(ids, [])
    assert store.lengths().tolist() == [[len(row)] for row in ids]


def test_padding_is_taken_out_of_running_text(stream, tmp_path):
    task, _ = stream
    [plan] = module._plans(feed(task), "toy", None, tmp_path)
    tokens, lengths = np.array([5, 0, 6, 0, 7, 8]), np.array([3, 1, 0, 2])
    job = Job(folder="", contents=plan.contents, definition=task, feed=feed())
    flat, rows = _laid_out(job, tokens, lengths)
    assert flat.tolist() == [5, 6, 7, 8] and rows.tolist() == [[2], [0], [0], [2]]
    job = dataclasses.replace(job, definition=dataclasses.replace(task, eos_between_documents=True))
    flat, rows = _laid_out(job, tokens, lengths)
    assert flat.tolist() == [5, 6, 1, 1, 1, 7, 8, 1] and rows.tolist() == [[3], [1], [1], [3]]


def test_supervised_rows_through_templates_bytes_and_a_mixture(tmp_path):
    write_lines(tmp_path / "pairs.tsv", ["en\tde", "a file\tein „Blatt“", "\tleer"])
    write_lines(tmp_path / "text.txt", ["nothing left"])
    pairs = TextToTextTask(
        name="pairs", files={"validation": f"{tmp_path}/pairs.tsv"}, inputs="translate: {en}", targets="{de}"
    )
    plain = PretrainingTask(name="plain", files={"train": f"{tmp_path}/text.txt", "validation": f"{tmp_path}/text.txt"})
    mixture = Mixture(name="both", tasks={"plain": 0.9, "pairs": 0.1})
    config = feed(pairs, plain, mixture, vocabulary="bytes")
    folders = tokenize(config, "both", output=str(tmp_path))
    assert folders == [f"{tmp_path}/{name}" for name in ("plain/train", "plain/validation", "pairs/validation")]
    store = TokenStore(folders[-1])
    contents = store.manifest.contents
    assert (contents.kind, contents.features, contents.eos) == (
        "examples",
        ("inputs", "targets"),
        ("inputs", "targets"),
    )
    encode = vocabularies.load("bytes").encode
    for row, (inputs, targets) in enumerate([("translate: a file", "ein „Blatt“"), ("translate: ", "leer")]):
        example = store.examples([row], {"inputs": 40, "targets": 40})
        for feature, written in (("inputs", inputs), ("targets", targets)):
            ids = [*encode(written), 1]
            assert example[feature][0].tolist() == ids + [0] * (40 - len(ids))
    assert tokenize(config, "both", splits=("train",), output=str(tmp_path / "again")) == [
        f"{tmp_path}/again/plain/train"
    ]


def test_what_is_left_out_is_counted_with_its_first_place(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\n\nbad \xff\ngood\nbad \xfe\n")
    task = PretrainingTask(name="toy", files={"train": str(path)})
    store = TokenStore(*tokenize(feed(task), "toy", output=str(tmp_path)))
    skipped = sources.Skipped(**store.manifest.skipped)
    assert skipped.counts["invalid UTF-8"] == 2 and skipped.first["invalid UTF-8"].endswith("a.txt line 3")
    assert store.num_documents == 2
    assert "invalid UTF-8: 2, first at" in capsys.readouterr().out


def user_module(folder, monkeypatch, body):
    """A task whose `write` is a user's own function, which the workers have to find as this process does."""
    name = f"user_{folder.name}"
    (folder / f"{name}.py").write_text("import os, time\n" + textwrap.dedent(body))
    monkeypatch.syspath_prepend(str(folder))
    return __import__(name)


def test_a_users_own_function_writes_rows_or_leaves_them_out(tmp_path, monkeypatch):
    body = "def write(row):\n    return None if row['a'] == 'x' else {'inputs': row['a'], 'targets': 'file'}"
    write = user_module(tmp_path, monkeypatch, body).write
    write_lines(tmp_path / "rows.jsonl", ['{"a": "number"}', '{"a": "x"}', '{"a": "tokens"}'])
    task = TextToTextTask(name="toy", files={"train": f"{tmp_path}/rows.jsonl"}, write=write)
    store = TokenStore(*tokenize(feed(task), "toy", output=str(tmp_path / "tokens")))
    assert store.num_documents == 2
    assert sources.Skipped(**store.manifest.skipped).counts == {"left out by the task": 1}
    assert "rows.jsonl row 2" in str(sources.Skipped(**store.manifest.skipped))


def test_examples_of_any_length_are_kept_short_enough_to_tokenise(tmp_path):
    write_lines(tmp_path / "rows.jsonl", [json.dumps({"a": "x" * (3 * MIB), "b": "y"})])
    task = TextToTextTask(name="toy", files={"train": f"{tmp_path}/rows.jsonl"}, inputs="{a}", targets="{b}")
    store = TokenStore(*tokenize(feed(task, vocabulary="bytes"), "toy", output=str(tmp_path)))
    assert store.lengths().tolist() == [[MIB, 1]]
    assert sources.Skipped(**store.manifest.skipped).counts == {"cut": 1}


def test_killed_with_its_workers_it_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    """Part 2 of 4 waits half done until the kill, so that what is there is known: parts 0 and 1, and a half one."""
    body = """
        def write(row):
            while row['text'] == 'wait' and not os.path.exists(os.environ['GO_ON']):
                time.sleep(0.02)
            return {'inputs': row['text'], 'targets': 'file'}
    """
    write = user_module(tmp_path, monkeypatch, body).write
    documents = [text(5, seed) for seed in range(4)]
    documents[2] += ["wait" if number == 3000 else "number of tokens " * 20 for number in range(4000)]
    for index, lines in enumerate(documents):
        write_lines(tmp_path / f"text/{index}.txt", lines)
    script = f"""
        from {write.__module__} import write
        from t5x_mini.tokens import tokenize
        from t5x_mini.feed.config import FeedConfig
        from t5x_mini.tasks.definitions import TextToTextTask
        tokenize._PART_BYTES = 1
        task = TextToTextTask(name="toy", files={{"train": "{tmp_path}/text/*.txt"}}, write=write)
        lengths = {{"inputs": 16, "targets": 16}}
        feed = FeedConfig(mixture_or_task_name="toy", tasks=(task,), task_feature_lengths=lengths, batch_size=4)
        tokenize.tokenize(feed, "toy", workers=1, output="{tmp_path}/killed")
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "GO_ON": str(tmp_path / "go_on")}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    folder = tmp_path / "killed/toy/train"
    half = lambda: [path for path in folder.glob(".tokens-00002-*") if path.stat().st_size]  # noqa: E731
    until = time.monotonic() + 120
    while not half():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = sorted(path.name for path in folder.glob("part-*"))
    assert finished == ["part-00000-of-00004.json", "part-00001-of-00004.json"]
    with pytest.raises(UserError, match="is not finished: 2 of 4 parts are there"):
        TokenStore(folder)
    kept = {name: (folder / name).stat().st_mtime_ns for name in finished}

    write_lines(tmp_path / "go_on", [])
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    assert {name: (folder / name).stat().st_mtime_ns for name in finished} == kept
    whole = TextToTextTask(name="toy", files={"train": f"{tmp_path}/text/*.txt"}, write=write)
    monkeypatch.setenv("GO_ON", environment["GO_ON"])
    monkeypatch.setattr(module, "_PART_BYTES", 1)
    tokenize(feed(whole), "toy", output=str(tmp_path / "whole"))
    assert bytes_of(folder) == bytes_of(tmp_path / "whole/toy/train")  # no half-written file is left either


def test_a_finished_store_is_left_alone_and_a_lost_part_is_made_anew(stream, tmp_path, capsys):
    task, _ = stream
    [folder] = tokenize(feed(task), "toy", output=str(tmp_path / "tokens"))
    folder = tmp_path / "tokens/toy/train"
    expected = bytes_of(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.glob("tokens-*")}
    tokenize(feed(task), "toy", output=str(tmp_path / "tokens"))
    assert "it was there already" in capsys.readouterr().out
    # What the errors of the store advise: delete a part's file for a damaged one; nothing for a missing or cut one.
    (folder / "part-00001-of-00006.json").unlink()
    (folder / "tokens-00003-of-00006.bin").unlink()
    with open(folder / "lengths-00004-of-00006.bin", "ab") as file:
        file.truncate(7)
    (folder / "part-00005-of-00006.json").write_text("half a fi")
    tokenize(feed(task), "toy", output=str(tmp_path / "tokens"))
    assert bytes_of(folder) == expected
    remade = [path.name[7:12] for path, written in times.items() if path.stat().st_mtime_ns != written]
    assert sorted(remade) == ["00001", "00003", "00004", "00005"]


@pytest.mark.parametrize("half", [True, False])
def test_tokens_of_something_else_are_not_touched(stream, tmp_path, half):
    task, _ = stream
    run = dict(output=str(tmp_path / "tokens"), shard=(0, 2) if half else None)
    tokenize(feed(task), "toy", **run)
    before = bytes_of(tmp_path / "tokens/toy/train")
    with pytest.raises(UserError, match="(?s)something else.*vocabulary: .*now\nWrite another --output, or delete"):
        tokenize(feed(task, extra_ids=7), "toy", **run)
    with pytest.raises(UserError, match="(?s)something else.*definition: .*'eos_between_documents': False"):
        tokenize(feed(dataclasses.replace(task, eos_between_documents=True)), "toy", **run)
    write_lines(tmp_path / "text/6.txt", ["one more"])
    with pytest.raises(UserError, match="(?s)something else.*source: .*parts: 00006 when it was begun, 00007 now"):
        tokenize(feed(task), "toy", **run)
    assert bytes_of(tmp_path / "tokens/toy/train") == before


def test_mistakes_are_named_before_any_work(stream, tmp_path):
    task, _ = stream
    with pytest.raises(UserError, match="'toy' has no split 'test'; it has train. Write --split with"):
        tokenize(feed(task), "toy", splits=("test",), output=str(tmp_path))
    with pytest.raises(UserError, match="local folder; found 'gs://bucket/tokens'.*cp -r FOLDER gs://bucket/tokens"):
        tokenize(feed(task), "toy", output="gs://bucket/tokens")
    for wrong in (dict(shard=(2, 2)), dict(shard=(-1, 2)), dict(workers=0)):
        with pytest.raises(UserError, match="There has to be a worker, and shards are counted from 0: --shard=0/4"):
            tokenize(feed(task), "toy", output=str(tmp_path), **wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_a_mistake_in_a_mixtures_last_task_is_named_before_its_first_is_read(stream, tmp_path):
    missing = PretrainingTask(name="missing", files={"train": f"{tmp_path}/nowhere.txt"})
    config = feed(stream[0], missing, Mixture(name="both", tasks={"toy": 1.0, "missing": 1.0}))
    with pytest.raises(UserError, match="nowhere.txt"):
        tokenize(config, "both", output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_function_that_no_other_process_can_import_is_refused(tmp_path):
    task = TextToTextTask(
        name="toy", files={"train": str(write_lines(tmp_path / "a.txt", ["x"]))}, write=lambda row: None
    )
    with pytest.raises(UserError, match="`write` function of 'toy' must stand at the top level .*; found <function"):
        tokenize(feed(task), "toy", output=str(tmp_path))


def test_a_source_without_text_is_refused(tmp_path):
    task = PretrainingTask(name="toy", files={"train": str(write_lines(tmp_path / "a.txt", ["", " "]))})
    with pytest.raises(UserError, match=r"'train' of 'toy' has no text: .* Left out were: empty: 2, first at"):
        tokenize(feed(task), "toy", output=str(tmp_path))
    assert not list(tmp_path.glob("toy/train/manifest.json"))


def test_a_mistake_that_a_worker_finds_reaches_the_user_as_words(tmp_path):
    task = PretrainingTask(name="toy", files={"train": str(write_lines(tmp_path / "a.jsonl", ['{"body": "x"}']))})
    with pytest.raises(UserError, match="no field 'text'; it has 'body'"):
        tokenize(feed(task), "toy", output=str(tmp_path))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.kill(os.getpid(), 9)", "part 0 of 1 .*a.txt.* was ended by signal 9. .* memory .* fewer --workers"),
        ("raise ValueError('my bug')", "part 0 of 1 .* failed; its own message is above"),
    ],
)
def test_a_worker_that_dies_is_reported(tmp_path, monkeypatch, capfd, body, message):
    write = user_module(tmp_path, monkeypatch, f"def write(row):\n    {body}").write
    task = TextToTextTask(name="toy", files={"train": str(write_lines(tmp_path / "a.txt", ["x"]))}, write=write)
    with pytest.raises(UserError, match=message):
        tokenize(feed(task), "toy", output=str(tmp_path))
    assert ("my bug" in capfd.readouterr().err) == ("my bug" in body)


def test_parts_join_small_shards_and_keep_their_order():
    sizes = [10 * MIB, 10 * MIB, 13 * MIB, 40 * MIB, None, None, MIB, MIB]
    shards = [sources.Shard(name=str(i), path=str(i), size_bytes=size) for i, size in enumerate(sizes)]
    parts = plan_parts(shards)
    assert [[shard.name for shard in part.shards] for part in parts] == [
        ["0", "1"],
        ["2"],
        ["3"],
        ["4"],
        ["5"],
        ["6", "7"],
    ]
    assert [part.size_bytes for part in parts] == [20 * MIB, 13 * MIB, 40 * MIB, None, None, 2 * MIB]
    assert parts[4].file == "part-00004-of-00006.json"


def test_batches_hold_all_documents_once():
    documents = [("x" * length,) for length in (0, 5, 600_000, 1, 400_000, 200_000, 3)]
    found = list(batches(iter(documents)))
    assert sum(found, []) == documents and len(found) == 3


def test_no_process_imports_tensorflow_or_jax(stream, tmp_path):
    task, _ = stream
    script = f"""
        import sys
        from t5x_mini.tokens import pool, tokenize
        from t5x_mini.feed.config import FeedConfig
        from t5x_mini.tasks.definitions import PretrainingTask
        seen = []
        write = pool._write
        pool._write = lambda *arguments: seen.append(write(*arguments)) or seen[-1]
        task = PretrainingTask(name="toy", files={{"train": "{tmp_path}/text/*.txt"}})
        lengths = {{"inputs": 16, "targets": 16}}
        feed = FeedConfig(mixture_or_task_name="toy", tasks=(task,), task_feature_lengths=lengths, batch_size=4)
        tokenize.tokenize(feed, "toy", output="{tmp_path}/tokens")
        assert seen and not any(done.tensorflow for done in seen), seen
        assert not sys.modules.keys() & {{"tensorflow", "seqio", "jax"}}
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, env=os.environ | {"PYTHONPATH": "."})


def reports(monkeypatch):
    """A list of what the processes report from here on."""
    done = []

    def write(*arguments, write=pool._write):
        done.append(write(*arguments))
        return done[-1]

    monkeypatch.setattr(pool, "_write", write)
    return done


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch):
    """At most 400 MiB a process, and less than 10 % more for ten times the text; parts are small to have many."""
    monkeypatch.setattr(module, "_PART_BYTES", 4 * MIB)
    done = reports(monkeypatch)
    found = {}
    for times in (1, 10):
        for index in range(times):
            lines = [*text(20_000, seed=index), " ".join(text(9000, seed=index))]  # the last one is a document of 1 MB
            write_lines(tmp_path / f"{times}/{index}.txt", lines)
        task = PretrainingTask(name="toy", files={"train": str(tmp_path / str(times))})
        done.clear()
        tokenize(feed(task), "toy", workers=1, output=str(tmp_path / f"tokens_{times}"))
        assert len(done) == times
        found[times] = max(message.peak_bytes for message in done)
    assert found[10] <= 400 * MIB and found[10] < 1.1 * found[1], found


@pytest.mark.slow
def test_memory_stays_small_with_documents_that_are_hard_on_sentencepiece(tmp_path, monkeypatch):
    done = reports(monkeypatch)
    rng = random.Random(0)
    characters = "".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(2 * MIB))  # none is in the vocabulary
    lines = [characters, "x" * (20 * MIB), "y " * (3 * MIB)]
    task = PretrainingTask(name="toy", files={"train": str(write_lines(tmp_path / "a.txt", lines))})
    tokenize(feed(task), "toy", workers=2, output=str(tmp_path))
    assert max(message.peak_bytes for message in done) <= 400 * MIB


def test_part_names_sort_in_their_order():
    assert Part(index=7, count=12).name == "00007-of-00012"
