"""The notebook in docs/ runs from top to bottom, and says nothing of the machine that it was run on."""

import json
import pathlib
import pydoc_data.topics
import re

import notebooks
import pytest
import tiny_runs

from t5x_mini.tasks import installed_docs


@pytest.fixture(scope="module")
def notebook():
    return notebooks.read()


@pytest.fixture
def small_corpus(tmp_path, monkeypatch):
    """Some pages in place of the documentation of all packages, for the kernel too."""
    text = "\n".join(" ".join(topic.split()) for topic in pydoc_data.topics.topics.values())[:200_000]
    folder = tmp_path / "cache" / "t5x_mini" / "installed_docs" / installed_docs.fingerprint()
    folder.mkdir(parents=True)
    for split in installed_docs.SPLITS:
        (folder / f"{split}.txt").write_text(text)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_cell_runs_at_tiny_settings(notebook, tmp_path, small_corpus):
    quick = {name.upper(): str(value) for name, value in tiny_runs.QUICK.items()}
    one_device = {"XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    ran = notebooks.run(notebooks.at_tiny_settings(notebook), tmp_path, **quick, **one_device)
    assert "accuracy at step 2: " in notebooks.printed(ran, "accuracy")
    # What a model of two steps says may be anything, line feeds too.
    assert all(review in notebooks.printed(ran, "transformers") for review in ("bright .", "dull ."))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_learns_what_it_says_at_its_own_settings(notebook, tmp_path):
    ran = notebooks.run(notebooks.strict(notebook), tmp_path, JAX_PLATFORMS="cpu", XLA_FLAGS="")
    (accuracy,) = re.findall(r": ([\d.]+) %", notebooks.printed(ran, "accuracy"))
    assert float(accuracy) > 80
    ours, theirs = notebooks.printed(ran, "reviews"), notebooks.printed(ran, "transformers")
    assert ours == theirs and "positive" in ours and "negative" in ours


def test_any_python_3_may_run_it(notebook):
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


def test_it_names_no_folder_of_the_machine_it_was_run_on(notebook):
    text = json.dumps(notebook)
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|Users)\b[^\"]{,40}", text)
    assert not [folder for folder in (notebooks.ROOT, pathlib.Path.home()) if f"{folder}/" in text]


def test_it_is_small_enough_to_be_read_in_a_browser():
    assert notebooks.NOTEBOOK.stat().st_size < 500_000


def test_its_links_lead_somewhere(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!http)([^)#]+)", prose):
        assert (notebooks.NOTEBOOK.parent / target).exists(), target
