"""`t5x-mini tokenize`: a task's text to tokens on disk, once, in parallel, and again from where it stopped.

The source is divided into parts, the same ones for any number of processes and jobs. Each part becomes one shard of the
store (`manifest.py`) and is finished when its `part-….json` is there. Whoever finds all of them there writes the
manifest. So a command that was interrupted is simply run again, and jobs on many machines that share a folder need not
know of one another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import files, registry, sources, vocabularies
from t5x_mini.tasks.definitions import PretrainingTask, TextToTextTask
from t5x_mini.tokens.manifest import (
    MANIFEST,
    Contents,
    Manifest,
    Shard,
    checked_shard,
    contents_from,
    differences,
    stored_definition,
    token_dtype,
)
from t5x_mini.tokens.pool import WorkerPool
from t5x_mini.tokens.progress import TokenProgress
from t5x_mini.tokens.worker import Job, Part

# Small shards of a source are joined until a part has this many bytes: enough for some seconds of work.
_PART_BYTES = 32 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A split of a task, and the parts that it is tokenised in."""

    folder: Path
    contents: Contents
    definition: PretrainingTask | TextToTextTask | None
    parts: tuple[Part, ...]


def tokenize(
    feed: FeedConfig,
    task: str,
    *,
    splits: Sequence[str] | None = None,
    workers: int | None = None,
    shard: tuple[int, int] | None = None,
    output: str | None = None,
) -> list[str]:
    """Writes the tokens of a task, or of every task of a mixture, to `<output>/<task>/<split>`.

    The bytes written depend on the source, the definition and the vocabulary alone.

    Args:
      feed: has the vocabulary, the definitions and the folder.
      task: name of a task or mixture.
      splits: to tokenise; None: all that there are.
      workers: processor cores to use; None: all. There are as many processes, or fewer with more threads each where
        the source has fewer parts.
      shard: (i, n): do every n-th part from the i-th, counted from 0; other jobs do the others.
      output: in place of `feed.tokens_dir`; a local folder.

    Returns:
      The folders of the stores.

    Raises:
      UserError: the task or split doesn't exist, the source cannot be read or gives no token, or the folder holds
        tokens of something else.
    """
    workers = _cores() if workers is None else workers
    index, count = shard or (0, 1)
    if workers < 1 or not 0 <= index < count:
        raise UserError(
            f"--workers is {workers} and --shard {index}/{count}. There has to be a worker, and shards are counted "
            "from 0: --shard=0/4, 1/4, 2/4 and 3/4 make one whole."
        )
    output = feed.tokens_dir if output is None else output
    if files.is_remote(output):
        raise UserError(
            f"Tokens are written to a local folder; found {output!r}. Write --output=FOLDER and copy it, for example "
            f"with `gcloud storage cp -r FOLDER {output}`. TOKENS_DIR may then be {output!r}: reading works from there."
        )
    plans = list(_plans(feed, task, splits, Path(output)))  # a mistake in the last task shows before the first is read
    with WorkerPool(workers) as pool:
        complete = {str(plan.folder): _tokenize_split(plan, feed, pool, index, count) for plan in plans}
    if all(complete.values()):
        print(f"To train on it: DATA_FEED = 'tokens' and TOKENS_DIR = {output!r}")
    return list(complete)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _plans(feed: FeedConfig, name: str, splits: Sequence[str] | None, output: Path) -> Iterator[Plan]:
    if not registry.is_defined(name, feed):
        from t5x_mini.tokens import seqio_reader

        for contents, part_count in seqio_reader.plans(feed, name, splits):
            parts = tuple(Part(index=index, count=part_count) for index in range(part_count))
            yield Plan(folder=_folder(output, contents), contents=contents, definition=None, parts=parts)
        return
    definitions = [registry.find(task, feed) for task in registry.components(name, feed)]
    of_task = {definition.name: sources.splits(definition) for definition in definitions}
    wanted = wanted_splits(name, of_task, splits)
    vocabulary = vocabularies.load(feed.vocabulary, feed.extra_ids)
    for definition in definitions:
        _check_importable(definition)
        for split in (split for split in of_task[definition.name] if split in wanted):
            contents = _contents(definition, split, vocabulary)
            parts = plan_parts(sources.shards(definition, split))
            yield Plan(folder=_folder(output, contents), contents=contents, definition=definition, parts=parts)


def wanted_splits(name: str, splits: dict[str, Sequence[str]], wanted: Sequence[str] | None) -> Sequence[str]:
    """Raises UserError where none of the tasks, given with their splits, has one that is wanted."""
    known = list(dict.fromkeys(split for found in splits.values() for split in found))
    for split in wanted or ():
        if split not in known:
            raise UserError(f"{name!r} has no split {split!r}; it has {', '.join(known)}. Write --split with these.")
    return wanted or known


def plan_parts(shards: Sequence[sources.Shard]) -> tuple[Part, ...]:
    """Shards of a source, in their order, in parts of about 32 MB. One whose size isn't known is a part alone."""
    groups: list[list[sources.Shard]] = []
    room = 0
    for shard in shards:
        size = _PART_BYTES if shard.size_bytes is None else shard.size_bytes
        if not groups or size > room:
            groups.append([])
            room = _PART_BYTES
        groups[-1].append(shard)
        room -= size
    return tuple(
        Part(
            index=index,
            count=len(groups),
            shards=tuple(group),
            size_bytes=None if group[0].size_bytes is None else sum(shard.size_bytes for shard in group),
        )
        for index, group in enumerate(groups)
    )


def _check_importable(definition: PretrainingTask | TextToTextTask) -> None:
    """Raises UserError if worker processes could not find the definition's function."""
    try:
        pickled = pickle.dumps(getattr(definition, "write", None))
    except (pickle.PicklingError, AttributeError, TypeError):
        pickled = b"__main__"
    if b"__main__" in pickled:
        raise UserError(
            f"The `write` function of {definition.name!r} must stand at the top level of a module that other processes "
            f"can import; found {definition.write}. Put it into a file of its own and import it from there."
        )


def _folder(output: Path, contents: Contents) -> Path:
    return output / contents.task / contents.split


def _contents(
    definition: PretrainingTask | TextToTextTask, split: str, vocabulary: vocabularies.Vocabulary
) -> Contents:
    stream = isinstance(definition, PretrainingTask)
    return Contents(
        task=definition.name,
        split=split,
        kind="stream" if stream else "examples",
        features=("targets",) if stream else ("inputs", "targets"),
        eos=() if stream else ("inputs", "targets"),
        dtype=token_dtype(vocabulary.vocab_size),
        definition=stored_definition(definition),
        vocabulary=vocabulary.fingerprint(),
        source=sources.fingerprint(definition, split),
    )


def _tokenize_split(plan: Plan, feed: FeedConfig, pool: WorkerPool, index: int, count: int) -> bool:
    """Does every `count`-th part from part `index`. Returns whether all parts are there now."""
    made = [folder for folder in (plan.folder, *plan.folder.parents) if not folder.exists()]
    plan.folder.mkdir(parents=True, exist_ok=True)
    try:
        return _write_parts(plan, feed, pool, index, count)
    except UserError:
        for part in plan.parts[index::count]:  # finished parts stay, drafts have no use
            for draft in plan.folder.glob(f".*-{part.name}.bin.*"):
                draft.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is something in it
            for folder in made:
                folder.rmdir()
        raise


def _write_parts(plan: Plan, feed: FeedConfig, pool: WorkerPool, index: int, count: int) -> bool:
    _refuse_other_tokens(plan)
    own = [part for part in plan.parts[index::count] if _finished(plan, part) is None]
    started = time.monotonic()
    with TokenProgress(f"{plan.contents.task}, {plan.contents.split}", own) as progress:
        if plan.definition is not None:
            feed = dataclasses.replace(feed, tasks=())  # the others need not be fit for another process
        job = Job(folder=str(plan.folder), contents=plan.contents, definition=plan.definition, feed=feed)
        done = pool.run(job, own, lambda part: _finished(plan, part) is not None, progress)
    finished = [_finished(plan, part) for part in plan.parts]
    missing = finished.count(None)
    if missing:
        print(
            f"{plan.folder}: {len(finished) - missing} of {len(finished)} parts are there. The job that finishes the "
            "last one writes the manifest."
        )
        return False
    manifest = _manifest(plan, finished)
    files.write_bytes(str(plan.folder / MANIFEST), manifest.to_json().encode())
    speed = f"{progress.tokens / (time.monotonic() - started) / 1e6:.2f} M tokens/s"
    memory = max((message.peak_bytes for message in done), default=0) / 2**20
    _print_summary(plan.folder, manifest, f"{speed}, {memory:.0f} MiB a process" if done else "it was there already")
    return True


def _refuse_other_tokens(plan: Plan) -> None:
    """Raises UserError if the folder was begun for something else."""
    expected = {part.file for part in plan.parts}
    for path in sorted(plan.folder.glob("part-*.json")):
        found = _read_part(path)
        if found is None:
            continue
        then, now = (json.loads(json.dumps(dataclasses.asdict(contents))) for contents in (found[0], plan.contents))
        changed = differences(then, now, "when it was begun")
        if path.name not in expected:
            changed.append(f"    parts: {path.stem.rpartition('-')[2]} when it was begun, {len(expected):05d} now")
        if changed:
            raise UserError(
                f"{plan.folder} holds tokens of something else:\n"
                + "\n".join(changed)
                + "\nWrite another --output, or delete that folder if these tokens are no longer needed."
            )


def _read_part(path: Path) -> tuple[Contents, Shard, sources.Skipped] | None:
    """None: it isn't there, or was left half written by a machine that went down."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        contents = contents_from(fields["contents"])
        return contents, checked_shard(Shard(**fields["shard"]), contents), sources.Skipped(**fields["skipped"])
    except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _finished(plan: Plan, part: Part) -> tuple[Shard, sources.Skipped] | None:
    """What is known of a finished part; None if it has to be made."""
    found = _read_part(plan.folder / part.file)
    if found is None:
        return None
    _, shard, skipped = found
    tokens, lengths = shard.tokens_bytes(plan.contents), shard.lengths_bytes(plan.contents)
    whole = (tokens, lengths) == (_size(plan.folder / shard.tokens_file), _size(plan.folder / shard.lengths_file))
    return (shard, skipped) if whole else None


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _manifest(plan: Plan, finished: Sequence[tuple[Shard, sources.Skipped]]) -> Manifest:
    skipped = sources.Skipped()
    for _, part_skipped in finished:
        skipped.merge(part_skipped)
    manifest = Manifest(
        contents=plan.contents, shards=tuple(shard for shard, _ in finished), skipped=dataclasses.asdict(skipped)
    )
    if not manifest.num_tokens:
        for part, shard in zip(plan.parts, manifest.shards, strict=True):
            for name in (part.file, shard.tokens_file, shard.lengths_file):
                (plan.folder / name).unlink(missing_ok=True)
        left_out = f" Left out were: {skipped}." if skipped else ""
        raise UserError(
            f"Split {plan.contents.split!r} of {plan.contents.task!r} has no text: its source gave "
            f"{manifest.num_documents} documents without a token.{left_out} Look at the files, or leave the split "
            "out of --split."
        )
    return manifest


def _print_summary(folder: Path, manifest: Manifest, how: str) -> None:
    per_token = f", {manifest.text_bytes / manifest.num_tokens:.2f} bytes a token" if manifest.text_bytes else ""
    print(f"{folder}: {manifest.num_documents:,} documents, {manifest.num_tokens:,} tokens{per_token}; {how}")
    if skipped := sources.Skipped(**manifest.skipped):
        print(f"    left out or changed: {skipped}")
