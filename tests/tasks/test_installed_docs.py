import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import tqdm  # noqa: F401  (before a test takes sys.path away)
from packaging import requirements, utils  # noqa: F401

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


def install(site, name, docstrings=(), version="1.0", requires=(), extras=()):
    """A distribution as pip leaves it: a package of one module, its metadata, and the list of its files."""
    module = write_package(site, f"{name.lower().replace('-', '_')}/module.py", docstrings)
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {required}" for required in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    files = [module.relative_to(site), info.relative_to(site) / "METADATA", info.relative_to(site) / "RECORD"]
    (info / "RECORD").write_text("".join(f"{file.as_posix()},,\n" for file in files))


def also_lists(site, name, *files):
    (record,) = site.glob(f"{name}-*.dist-info/RECORD")
    record.write_text(record.read_text() + "".join(f"{file},,\n" for file in files))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty folder of packages, and an empty standard library, in place of this Python's."""
    (tmp_path / "site").mkdir()
    (tmp_path / "stdlib").mkdir()
    monkeypatch.setattr(installed_docs, "standard_library", lambda: tmp_path / "stdlib")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    return tmp_path / "site"


@pytest.fixture
def packages(site):
    """A small standard library and one small package that t5x-mini needs."""
    write_package(site.parent, "stdlib/a.py", numbered_docstrings("a", 300))
    write_package(site.parent, "stdlib/site-packages/not_listed.py", numbered_docstrings("other", 5))
    install(site, "second", [*numbered_docstrings("b", 300), "too short"])
    write_package(site, "second/copy.py", numbered_docstrings("b", 300))
    write_package(site, "second/tests/c.py", numbered_docstrings("test", 5))
    write_package(site, "second/test_d.py", numbered_docstrings("test", 5))
    write_package(site, "second/not_listed.py", numbered_docstrings("other", 5))
    (site / "second/broken.py").write_text("def f(:")
    also_lists(site, "second", *(f"second/{name}.py" for name in ("copy", "tests/c", "test_d", "broken")))
    install(site, "t5x-mini", numbered_docstrings("own", 5), requires=["second"])
    return site


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
    topics = installed_docs.standard_library() / "pydoc_data/topics.py"
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


def test_corpus_is_the_same_after_an_extra_was_installed(site, tmp_path):
    extra = ["tester>=1; extra == 'dev'", "needed[fast]; extra == 'dev'"]
    install(site, "T5X-Mini", requires=["Needed_by.us>=1", *extra], extras=["dev"])
    install(site, "needed-by-us", numbered_docstrings("a", 200), requires=["needed"])
    install(site, "needed", numbered_docstrings("b", 200), requires=["faster; extra == 'fast'"], extras=["fast"])
    before = installed_docs.ensure(tmp_path / "before")

    install(site, "tester", numbered_docstrings("c", 200), requires=["pip"])
    install(site, "faster", numbered_docstrings("d", 200))
    install(site, "unrelated", numbered_docstrings("e", 200), requires=["needed"])
    after = installed_docs.ensure(tmp_path / "after")

    assert list(installed_docs.needed_distributions()) == ["needed", "needed-by-us"]
    for split in installed_docs.SPLITS:
        assert before[split].parent.name == after[split].parent.name
        assert before[split].read_bytes() == after[split].read_bytes()
    both = "".join(path.read_text() for path in after.values())
    assert both.count("\n") == 400
    assert not any(f"{letter}0word0 " in both for letter in "cde")


def test_needed_packages_are_followed_through_extras_markers_and_circles(site):
    install(site, "t5x-mini", requires=["first[fast]>=1", "not-here", "old; python_version < '3'", "pip"])
    install(site, "first", requires=["second", "third; extra == 'fast'", "fourth; extra == 'slow'"])
    install(site, "second", requires=["first", "t5x-mini[dev]"])
    for name in ("old", "third", "fourth", "pip"):
        install(site, name)
    assert list(installed_docs.needed_distributions()) == ["first", "second", "third"]


def test_everything_installed_counts_when_t5x_mini_is_not_installed(site):
    install(site, "One", numbered_docstrings("a", 2))
    install(site, "two")
    install(site, "setuptools")
    (site / "leftover.dist-info").mkdir()
    assert list(installed_docs.needed_distributions()) == ["one", "two"]
    assert installed_docs.source_files() == [site / "one/module.py", site / "two/module.py"]


def test_packages_without_a_list_of_files_add_nothing(site):
    install(site, "t5x-mini", requires=["first", "second"])
    install(site, "first")
    install(site, "second")
    (site / "first-1.0.dist-info/RECORD").unlink()
    assert installed_docs.source_files() == [site / "second/module.py"]


def test_fingerprint_follows_the_versions_of_needed_packages_alone(tmp_path, monkeypatch):
    def fingerprint_of(**versions):
        site = tmp_path / str(len(list(tmp_path.iterdir())))
        monkeypatch.setattr(sys, "path", [str(site)])
        for name, version in versions.items():
            requires = ["jax", "numpy"] if name == "T5X-mini" else []
            install(site, name, version=version, requires=requires)
        return installed_docs.fingerprint()

    first = fingerprint_of(**{"T5X-mini": "0.1", "numpy": "2.0", "jax": "0.10"})
    assert first == fingerprint_of(**{"jax": "0.10", "numpy": "2.0", "T5X-mini": "0.2", "pytest": "9.0"})
    assert first != fingerprint_of(**{"T5X-mini": "0.1", "numpy": "2.1", "jax": "0.10"})


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
