"""An evaluation of several kinds of tasks: what it measures, and the files that it leaves."""

import json

import pytest
import seqio
import tiny_runs

from t5x_mini import config
from t5x_mini.evaluate.evaluator import Evaluator
from t5x_mini.train.run import assemble

WORDS = ("left", "right", "up", "down")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny


def _rows(folder, name, rows):
    file = folder / f"{name}.tsv"
    file.write_text("".join(f"{text}\t{target}\n" for text, target in [("text", "target"), *rows]))
    return {"train": str(file), "validation": str(file)}


def _run(tiny, *settings, architecture="encoder_decoder", **macros):
    """A mixture of one ranked task, one that is written freely, one without labels, and text without metrics."""
    folder = tiny.folder
    ranked = [(f"turn {word} {number}", ("no", "yes")[number % 2]) for number in range(9) for word in WORDS]
    files = {
        "ranked": _rows(folder, "ranked", ranked),
        "free": _rows(folder, "free", [(word, word) for word in WORDS]),
        "unlabelled": _rows(folder, "unlabelled", [(word, "<unk>") for word in WORDS]),
        "plain": _rows(folder, "plain", [(word, word) for word in WORDS]),
    }
    options = {"ranked": ("label", ["accuracy", "f1"]), "unlabelled": ("label", ["accuracy"])}
    bindings = ["MIXTURE_OR_TASK_MODULE=None", "MIXTURE_OR_TASK_NAME=mixed", f"VOCABULARY={folder}/tiny.model"]
    bindings += [f"mixed/Mixture.tasks={ ({name: float(name != 'free') for name in files})!r}"]
    for name, paths in files.items():
        postprocessor, metrics = options.get(name, (None, [] if name == "plain" else ["exact_match"]))
        fields = dict(files=paths, inputs="{text}", targets="{target}", metrics=metrics, postprocessor=postprocessor)
        fields |= {"labels": ["no", "yes", "perhaps"]} if postprocessor else {}
        bindings += [f"{name}/TextToTextTask.{field}={value!r}" for field, value in fields.items()]
    bindings += [f"MODEL_DIR={folder}/run", f"ARCHITECTURE={architecture}", *settings]
    bindings += [f"{name}={value!r}" for name, value in macros.items()]
    return assemble(config.load([str(folder / "tiny.gin")], bindings))


def _lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("architecture", "pack"),
    [
        ("encoder_decoder", False),
        pytest.param("prefix_lm", True, marks=pytest.mark.slow),
        pytest.param("causal_lm", False, marks=pytest.mark.slow),
    ],
)
def test_every_task_of_a_mixture_is_measured(tiny, tmp_path, architecture, pack):
    run = _run(tiny, architecture=architecture, PACK=pack, EVAL_LIMIT=20)
    evaluator = Evaluator(run, folder=tmp_path)
    assert list(evaluator.unscored) == ["unlabelled"] and "have no labels" in evaluator.unscored["unlabelled"]
    assert set(evaluator.scored) == {"ranked", "free"}
    params = run.create_state().params
    results = evaluator.measure(params, 3)
    assert set(results.losses) == {"ranked", "free", "unlabelled", "plain"}  # those of rate 0 too
    assert set(results.scores) == {"ranked", "free"}
    folder = tmp_path / "inference_eval"
    names = {f"{task}-{kind}.jsonl" for task in results.scores for kind in ("3", "metrics")}
    assert {path.name for path in folder.iterdir()} == names
    rows = _lines(folder / "ranked-3.jsonl")
    assert len(rows) == 20
    for row in rows:
        assert row["prediction"] == max(row["scores"], key=row["scores"].get)
        assert list(row["scores"]) == ["no", "yes", "perhaps"] and max(row["scores"].values()) < 0
        assert row["correct"] == (row["prediction"] == row["targets"])
    right = 100 * sum(row["correct"] for row in rows) / len(rows)
    assert _lines(folder / "ranked-metrics.jsonl") == [{"step": 3, **results.scores["ranked"]}]
    assert results.scores["ranked"]["accuracy"] == pytest.approx(right)
    assert "scores" not in _lines(folder / "free-3.jsonl")[0]
    assert evaluator.measure(params, 3) == results


def test_without_rank_classification_labels_are_written(tiny, tmp_path):
    run = _run(tiny, RANK_CLASSIFICATION=False)
    results = Evaluator(run, folder=tmp_path).measure(run.create_state().params, 0)
    rows = _lines(tmp_path / "inference_eval" / "ranked-0.jsonl")
    assert len(rows) == 36 and "scores" not in rows[0]
    assert results.scores["ranked"]["accuracy"] < 100


def test_no_files_without_a_folder_and_no_batches_without_the_split(tiny, tmp_path):
    assert Evaluator(_run(tiny), "test", folder=None).held_out.batches == {}


def _count(targets, predictions):
    return {
        "words": 100.0 * sum(len(text.split()) > 1 for text in targets) / len(targets),
        "rows": seqio.metrics.Scalar(len(predictions)),
        "first": seqio.metrics.Text(predictions[0]),
        "lower": float(predictions == [text.lower() for text in predictions]),
    }


def _likelihood(targets, scores):
    return {"log_likelihood": sum(scores) / len(targets)}


def _with_scores(targets, predictions, aux_values):
    return {"decoding": sum(aux_values["scores"])}


@pytest.mark.parametrize("architecture", ["encoder_decoder", pytest.param("causal_lm", marks=pytest.mark.slow)])
def test_tasks_of_seqio_are_scored_by_their_own_functions(tiny, tmp_path, capsys, architecture):
    from t5x_mini.tasks import vocabularies

    feature = seqio.Feature(vocabularies.load(tiny.folder / "tiny.model").seqio())
    name = f"own_metrics_{architecture}"
    file = tmp_path / "rows.txt"
    file.write_text("".join(f"Turn {word} {number}\n" for number in range(7) for word in WORDS))
    seqio.TaskRegistry.add(
        name,
        source=seqio.TextLineDataSource({"train": str(file), "validation": str(file)}),
        preprocessors=[
            seqio.map_over_dataset(lambda row: {"inputs": row, "targets": row}),
            seqio.preprocessors.tokenize_and_append_eos,
        ],
        output_features={"inputs": feature, "targets": feature},
        postprocess_fn=lambda text, example=None, is_target=False: text if is_target else text.lower(),
        metric_fns=[_count, _likelihood, _with_scores],
    )
    try:
        bindings = [f"MODEL_DIR={tmp_path}/run", f"MIXTURE_OR_TASK_NAME={name}", f"ARCHITECTURE={architecture}"]
        run = assemble(config.load([str(tiny.folder / "tiny.gin")], [*bindings, "EVAL_LIMIT=20"]))
        evaluator = Evaluator(run, folder=tmp_path)
        params = run.create_state().params
        results = evaluator.measure(params, 1)
        assert evaluator.measure(params, 2).scores == results.scores
    finally:
        seqio.TaskRegistry.remove(name)
    scores = results.scores[name]
    assert set(scores) == {"words", "rows", "lower", "log_likelihood", "decoding"}
    assert (scores["words"], scores["rows"], scores["lower"]) == (100.0, 20.0, 1.0)
    assert capsys.readouterr().out.count("first is no number, but of type Text, and is left out.") == 1
    rows = _lines(tmp_path / "inference_eval" / f"{name}-1.jsonl")
    assert [row["targets"] for row in rows] == file.read_text().splitlines()[:20]
    assert scores["log_likelihood"] == pytest.approx(sum(row["score"] for row in rows) / 20)
    assert _lines(tmp_path / "inference_eval" / f"{name}-metrics.jsonl")[0]["step"] == 1
