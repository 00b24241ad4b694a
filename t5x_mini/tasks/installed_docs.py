"""A corpus that is already on the machine: the documentation of Python and of the packages that t5x-mini needs.

Every docstring of the standard library and of those packages becomes one document, and so does every topic of `help()`.
What else is installed makes no difference, not even t5x-mini's own extras. The source files are parsed with `ast` and
never imported. White space is collapsed to single spaces, as T5's SentencePiece normaliser would do anyway, so that one
document a line loses nothing.

    python -m t5x_mini.tasks.installed_docs

makes the corpus by hand and prints where it is.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

SPLITS = ("train", "validation")

# Part of the cache folder's name: raise it when the same packages would give another corpus.
_FORMAT = 2
# Below this a docstring is a label ("See base class.") with nothing to fill in a masked span from.
_MIN_CHARACTERS = 50
# Drawn for validation; a quarter of it is then given back as too close to the rest.
_VALIDATION_PERCENT = 2
# Wrappers copy the docstring of what they wrap, and change a little. A document is not held out when more than half of
# its runs of this many words stand in the training split too.
_RUN_WORDS = 8
_MOST_SEEN_RUNS = 0.5
# Tests hold a third of the files and 3 % of the documentation.
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "testdata"}
_OWN_NAME = "t5x-mini"
# Some packages require them, but their versions are Python's or pip's choice, which pins don't cover.
_INSTALLERS = {"pip", "setuptools", "wheel"}
_FILES_PER_JOB = 64


def ensure(cache_root: str | os.PathLike | None = None) -> dict[str, Path]:
    """The corpus of this Python environment, made on the first call and read from the cache afterwards.

    Args:
      cache_root: folder that holds one sub-folder for each environment. By default `installed_docs` in
        `$XDG_CACHE_HOME/t5x_mini`, or in `~/.cache/t5x_mini`.

    Returns:
      `{'train': path, 'validation': path}`: UTF-8 text, one document a line. The order of the documents and the split
      depend on Python's version and the needed packages' alone. The order is that of the documents' hashes: the first
      pages of the corpus are then as mixed as the whole, for a short run or a held-out loss over a few batches.

    Several processes may call this at once: each finds a complete corpus, the first one's.
    """
    from t5x_mini.tasks import made_corpora  # not for the workers, which have nothing of this package

    folder = Path(cache_root or default_cache_root()) / fingerprint()
    made_corpora.make(folder, _write)
    return {name: folder / f"{name}.txt" for name in SPLITS}


def default_cache_root() -> Path:
    from t5x_mini.tasks import made_corpora

    return made_corpora.cache_root("installed_docs")


def folder() -> Path:
    """Where the corpus of this environment is, or will be."""
    return default_cache_root() / fingerprint()


def fingerprint() -> str:
    """A name for this environment: a hash of Python's version and of each needed distribution's name and version."""
    versions = [f"{name}=={distribution.version}" for name, distribution in needed_distributions().items()]
    return _digest(json.dumps([_FORMAT, sys.version, versions]))[:16]


def needed_distributions() -> dict[str, metadata.Distribution]:
    """What t5x-mini requires to run and what that requires in turn, by normalised name, sorted; not t5x-mini itself.

    Extras count where a requirement names them (`etils[epath]`). Where t5x-mini is not installed, as when it runs from
    a checkout on PYTHONPATH, nothing says what it requires: everything installed counts then.
    """
    from packaging.requirements import Requirement  # not needed by the workers
    from packaging.utils import canonicalize_name

    found: dict[str, metadata.Distribution] = {}
    seen = set()
    pending = [(_OWN_NAME, "")]
    if _find(_OWN_NAME) is None:
        names = {distribution.metadata["Name"] for distribution in metadata.distributions()}
        pending = [(canonicalize_name(name), "") for name in names if name]  # none: what a broken removal left behind
    while pending:
        name, extra = pending.pop()
        distribution = _find(name)
        if distribution is None or (name, extra) in seen:
            continue
        seen.add((name, extra))
        found[name] = distribution
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                pending += [(canonicalize_name(requirement.name), asked) for asked in ("", *requirement.extras)]
    return {name: found[name] for name in sorted(found.keys() - {_OWN_NAME, *_INSTALLERS})}


def _find(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def source_files() -> list[Path]:
    """All Python files of the standard library and of the needed distributions, except tests, sorted."""
    return sorted({*_files_of_python(), *_files_of_packages()})


def standard_library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _files_of_python() -> Iterator[Path]:
    for folder, subfolders, names in os.walk(standard_library()):
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED_FOLDERS]
        yield from (Path(folder, name) for name in names if _is_documentation(name))


def _files_of_packages() -> Iterator[Path]:
    for distribution in needed_distributions().values():
        for file in distribution.files or ():  # None: installed without a list, by a system's package manager
            if _is_documentation(file.name) and _SKIPPED_FOLDERS.isdisjoint(file.parent.parts):
                yield Path(distribution.locate_file(file))


def _is_documentation(name: str) -> bool:
    return name.endswith(".py") and not name.startswith("test_") and not name.endswith("_test.py")


def documents(source: bytes) -> Iterator[str]:
    """The docstrings of a module, its classes and its functions, and the values of a module-level `topics = {...}`.

    White space is collapsed. Statements inside functions are not searched.

    Raises:
      SyntaxError, ValueError, RecursionError, MemoryError: what `ast.parse` raises for a file that it cannot read.
    """
    with warnings.catch_warnings():  # about escapes in other people's strings
        warnings.simplefilter("ignore")
        module = ast.parse(source)
    for text in _texts(module):
        # A lone surrogate, legal in a Python string, is not in UTF-8.
        yield " ".join(text.split()).encode("utf-8", "replace").decode()


def _texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        yield ast.get_docstring(node, clean=False) or ""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return
    if isinstance(node, ast.Assign):
        yield from _topics(node)
    for block in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, block, ()):
            yield from _texts(child)


def _topics(assignment: ast.Assign) -> Iterator[str]:
    """`pydoc_data/topics.py`, the language reference behind `help()`, is one dictionary of strings of this name."""
    names = [target.id for target in assignment.targets if isinstance(target, ast.Name)]
    if names == ["topics"] and isinstance(assignment.value, ast.Dict):
        for value in assignment.value.values:
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value


def split_documents(lines: Mapping[str, str]) -> dict[str, list[str]]:
    """Documents by digest to `{'train': [...], 'validation': [...]}`, each in the order of the digests.

    2 % is drawn by digest for validation, of which near-copies of training documents are given back.
    """
    drawn: dict[bool, list[str]] = {True: [], False: []}
    for digest in sorted(lines):
        drawn[int(digest[-8:], 16) % 100 < _VALIDATION_PERCENT].append(digest)
    sought = {run for digest in drawn[True] for run in _runs(lines[digest])}
    seen = {run for digest in drawn[False] for run in _runs(lines[digest]) if run in sought}
    held_out = [digest for digest in drawn[True] if _share_seen(lines[digest], seen) <= _MOST_SEEN_RUNS]
    train = sorted(lines.keys() - set(held_out))
    return {"train": [lines[digest] for digest in train], "validation": [lines[digest] for digest in held_out]}


def _runs(document: str) -> list[str]:
    words = document.split(" ")
    return [" ".join(words[start : start + _RUN_WORDS]) for start in range(len(words) - _RUN_WORDS + 1)]


def _share_seen(document: str, seen: set[str]) -> float:
    runs = _runs(document)
    return sum(run in seen for run in runs) / max(len(runs), 1)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write(folder: Path) -> None:
    files = source_files()
    lines: dict[str, str] = {}  # by digest, which removes exact copies
    unreadable = 0
    for found, failed in _extract(files):
        unreadable += failed
        lines.update((_digest(document), document) for document in found if len(document) >= _MIN_CHARACTERS)
    splits = split_documents(lines)
    for name in SPLITS:
        (folder / f"{name}.txt").write_bytes("".join(f"{document}\n" for document in splits[name]).encode())
    print(
        f"Documentation of the installed packages: {len(splits['train'])} documents to train on, "
        f"{len(splits['validation'])} held out; {len(files)} files, {unreadable} of which could not be parsed.",
        file=sys.stderr,
    )


def _extract(files: Sequence[Path]) -> Iterator[tuple[list[str], int]]:
    """(documents, number of files that could not be parsed) of each job, in the order of `files`."""
    from tqdm import tqdm  # not needed by the workers

    jobs = [files[start : start + _FILES_PER_JOB] for start in range(0, len(files), _FILES_PER_JOB)]
    title = "Reading the documentation of the installed packages"
    every = 0.1 if sys.stderr.isatty() else 5.0  # seconds: in a log file, each is a line to scroll past
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(desc=title, total=len(files), unit=" files", mininterval=every, maxinterval=every) as progress,
    ):
        try:
            for job, result in zip(jobs, pool.map(_run_worker, jobs), strict=True):
                progress.update(len(job))
                yield result
        except BaseException:  # Ctrl-C should not wait for the jobs that have not begun
            pool.shutdown(cancel_futures=True)
            raise


def _run_worker(files: Sequence[Path]) -> tuple[list[str], int]:
    """Reads `files` in a Python of its own.

    Not `multiprocessing`: forking a parent that holds TensorFlow's and JAX's threads can hang, and its other start
    methods run the parent's main module again.
    """
    names = json.dumps([str(file) for file in files])
    command = [sys.executable, "-I", __file__, "--worker"]
    done = subprocess.run(command, input=names, stdout=subprocess.PIPE, check=True, encoding="ascii")
    found, failed = json.loads(done.stdout)
    return found, failed


def _worker() -> None:
    found, failed = [], 0
    for name in json.load(sys.stdin):
        try:
            found += documents(Path(name).read_bytes())
        except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
            failed += 1
    json.dump([found, failed], sys.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m t5x_mini.tasks.installed_docs",
        description="Makes the quickstart's corpus, the documentation of Python and of the packages that t5x-mini "
        "needs, and prints where it is. A corpus that was made before is found again and left as it is.",
    )
    parser.add_argument("--cache_root", type=Path, help=f"folder for the corpora (default: {default_cache_root()})")
    for name, path in ensure(parser.parse_args().cache_root).items():
        print(f"{name}: {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    if sys.argv[1:] == ["--worker"]:
        _worker()
    else:
        main()
