import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from t5x_mini.tasks import installed_docs

MODULE = '''
"""What the module is for, in more than fifty characters of text."""

if True:
    class Thing:
        """A class   with
        odd	white space, and a wide one: \u3000."""

        async def method(self):
            """The documentation of a method."""
            def helper():
                """Not public."""

topics = {"assert": "The assert\\n  statement", "number": 3}
other = {"assert": "Not a topic"}
x = "Not a docstring"
'''


def write_package(root, name, docstrings):
    functions = "".join(f'def f{i}():\n    """{text}"""\n' for i, text in enumerate(docstrings))
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(functions, encoding="utf-8")
    return path


def numbered_docstrings(prefix, count):
    return [" ".join(f"{prefix}{i}word{j}" for j in range(20)) for i in range(count)]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two small packages in place of the installed ones."""
    root = tmp_path / "packages"
    write_package(root, "first/a.py", numbered_docstrings("a", 300))
    write_package(root, "second/b.py", [*numbered_docstrings("b", 300), "too short"])
    write_package(root, "second/copy.py", numbered_docstrings("b", 300))
    write_package(root, "second/tests/c.py", numbered_docstrings("test", 5))
    write_package(root, "second/test_d.py", numbered_docstrings("test", 5))
    (root / "second/broken.py").write_text("def f(:")
    monkeypatch.setattr(installed_docs, "source_roots", lambda: [root])
    return root


def test_documents_are_docstrings_and_topics():
    assert list(filter(None, installed_docs.documents(MODULE.encode()))) == [
        "What the module is for, in more than fifty characters of text.",
        "A class with odd white space, and a wide one: .",
        "The documentation of a method.",
        "The assert statement",
    ]


def test_documents_are_always_utf8_and_one_line():
    source = '"""A lone surrogate \\ud800 and separators \\u2028 \\x85 \\x0b here."""'
    assert list(installed_docs.documents(source.encode())) == ["A lone surrogate ? and separators here."]


def test_help_topics_of_this_python_are_found():
    topics = installed_docs.source_roots()[0] / "pydoc_data/topics.py"
    assert any("assert statements are a convenient way" in text.lower() for text in _documents_of(topics))


def _documents_of(path):
    return list(installed_docs.documents(path.read_bytes()))


def test_corpus_holds_every_document_once(packages, tmp_path, capfd):
    corpus = installed_docs.ensure(tmp_path / "cache")
    lines = {name: path.read_text(encoding="utf-8").splitlines() for name, path in corpus.items()}
    expected = numbered_docstrings("a", 300) + numbered_docstrings("b", 300)
    assert sorted(lines["train"] + lines["validation"]) == sorted(expected)
    assert 0 < len(lines["validation"]) < 40
    said = capfd.readouterr().err
    assert f"{len(lines['train'])} documents to train on, {len(lines['validation'])} held out" in said
    assert "4 files, 1 of which could not be parsed" in said
    assert "4/4" in said


def test_corpus_is_made_once_and_is_the_same_elsewhere(packages, tmp_path, monkeypatch):
    corpus = installed_docs.ensure(tmp_path / "cache")
    again = installed_docs.ensure(tmp_path / "other")
    assert {name: path.read_bytes() for name, path in corpus.items()} == {
        name: path.read_bytes() for name, path in again.items()
    }
    monkeypatch.setattr(installed_docs, "_extract", lambda files: pytest.fail("read again"))
    assert installed_docs.ensure(tmp_path / "cache") == corpus


def test_documents_are_mixed_across_packages(packages, tmp_path):
    first = installed_docs.ensure(tmp_path)["train"].read_text().splitlines()[:100]
    assert 20 < sum(line.startswith("a") for line in first) < 80


def test_near_copies_of_training_documents_are_not_held_out():
    documents = numbered_docstrings("a", 1000)
    near_copies = [f"{text} and one more word" for text in documents]
    splits = installed_docs.split_documents({installed_docs._digest(text): text for text in documents + near_copies})
    assert len(splits["train"] + splits["validation"]) == 2000
    # Both of a pair are drawn together once in 2500 times; else the one that was drawn is given back.
    assert len(splits["validation"]) <= 10
    assert len(installed_docs.split_documents({installed_docs._digest(t): t for t in documents})["validation"]) > 10


def test_parallel_processes_find_one_corpus(packages, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: installed_docs.ensure(tmp_path / "cache"), range(4)))
    assert all(corpus == found[0] for corpus in found)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [installed_docs.fingerprint()]


def test_an_interrupted_build_leaves_nothing(packages, tmp_path, monkeypatch):
    def interrupted(files):
        yield numbered_docstrings("a", 3), 0
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(installed_docs, "_extract", interrupted)
        with pytest.raises(KeyboardInterrupt):
            installed_docs.ensure(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert installed_docs.ensure(tmp_path / "cache")["train"].stat().st_size > 0


def test_fingerprint_follows_the_installed_versions_but_not_this_project(monkeypatch):
    class Distribution:
        def __init__(self, name, version):
            self.metadata = {"Name": name}
            self.version = version

    def fingerprint_of(**versions):
        distributions = [Distribution(name, version) for name, version in versions.items()]
        monkeypatch.setattr(installed_docs.metadata, "distributions", lambda: distributions)
        return installed_docs.fingerprint()

    assert fingerprint_of(numpy="2.0", jax="0.10") == fingerprint_of(jax="0.10", numpy="2.0")
    assert fingerprint_of(numpy="2.0") != fingerprint_of(numpy="2.1")
    assert fingerprint_of(numpy="2.0") == fingerprint_of(**{"numpy": "2.0", "T5X-mini": "0.1"})


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert installed_docs.default_cache_root() == tmp_path / "t5x_mini/installed_docs"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert installed_docs.default_cache_root() == tmp_path / ".cache/t5x_mini/installed_docs"


def test_command_prints_where_the_files_are(packages, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["installed_docs", "--cache_root", str(tmp_path / "cache")])
    installed_docs.main()
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in printed] == ["train", "validation"]
    assert all(str(tmp_path / "cache") in line and line.endswith(" MB)") for line in printed)


def test_neither_the_module_nor_its_workers_import_anything_heavy():
    code = (
        "import json, sys; import t5x_mini.tasks.installed_docs; "
        "print(json.dumps([m for m in ('numpy', 'jax', 'tensorflow', 'seqio') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
