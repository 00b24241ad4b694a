"""Records what T5's own code makes of hand-written rows: texts, labels, rates, lengths, postprocessors, metrics.

Run where `t5` is installed (pip install t5), not in the tests, which only read the JSON it writes:

    python tests/golden/record_t5_tasks.py

It wrote the files here with t5 0.9.4 and seqio 0.0.20. The rows are built to go wrong: quotes, tabs, several spaces,
Unicode, line ends, format characters, label -1, similarity scores between two fifths.
"""

import itertools
import json
import math
import pathlib
import re

import numpy as np
import seqio
import t5.data.mixtures  # registers tasks and mixtures
import t5.evaluation.eval_utils
import t5.evaluation.metrics
import tensorflow as tf
from t5.data import postprocessors

FOLDER = pathlib.Path(__file__).parent
GIN = pathlib.Path(t5.__file__).parent / "models/gin/sequence_lengths"

TEXTS = (
    "The sailors rode the breeze clear of the rocks.",
    'He said "no", "never" and \'not now\'',
    "two\ttabs\tand  several   spaces ",
    "Ça va — 東京の天気は? naïve 🙂 ß İ \u00a0nbsp \u2028 x",
    "{braces} %s \\n <br> $1 \\1 __under__ a_b",
    "",
    " leading, trailing; (brackets) [1] it's 50% of $3.50 -- no?! ",
    "line\nend\r\nand\x0bvertical",
    "null <unk> </s> <extra_id_0> a:b sentence2: x",
)
SCORES = (
    0.0,
    0.1,
    0.3,
    0.5,
    0.7,
    0.9,
    1.25,
    1.5,
    1.7,
    2.1,
    2.3,
    2.5,
    2.6,
    2.7,
    3.3,
    3.5,
    3.8,
    4.1,
    4.75,
    4.9,
    5.0,
    -1.0,
)

GLUE = {
    "cola": (("sentence",), 2),
    "sst2": (("sentence",), 2),
    "mrpc": (("sentence1", "sentence2"), 2),
    "qqp": (("question1", "question2"), 2),
    "stsb": (("sentence1", "sentence2"), 0),
    "mnli": (("premise", "hypothesis"), 3),
    "mnli_mismatched": (("premise", "hypothesis"), 3),
    "mnli_matched": (("premise", "hypothesis"), 3),
    "qnli": (("question", "sentence"), 2),
    "rte": (("sentence1", "sentence2"), 2),
    "wnli": (("sentence1", "sentence2"), 2),
    "ax": (("premise", "hypothesis"), 3),
}
SUPER_GLUE = {
    "boolq": (("question", "passage"), 2),
    "cb": (("premise", "hypothesis"), 3),
    "copa": (("premise", "choice1", "choice2", "question"), 2),
    "rte": (("premise", "hypothesis"), 2),
    "wic": (("word", "sentence1", "sentence2"), 2),
}
PAIRS = {
    "wmt_t2t_ende_v003": ("en", "de"),
    "wmt14_ende_v003": ("en", "de"),
    "wmt14_enfr_v003": ("en", "fr"),
    "wmt15_enfr_v003": ("en", "fr"),
    "wmt16_enro_v003": ("en", "ro"),
    "cnn_dailymail_v002": ("article", "highlights"),
}
LENGTHS = (
    "glue_v002_proportional",
    "super_glue_v102_proportional",
    "squad_v010_allanswers",
    "cnn_dailymail_v002",
    "wmt_t2t_ende_v003",
    "wmt15_enfr_v003",
    "wmt16_enro_v003",
)


def rows_of(features, classes):
    labels = SCORES if classes == 0 else (*range(classes), -1)
    texts = itertools.cycle(TEXTS)
    for number, label in zip(range(max(len(TEXTS), len(labels))), itertools.cycle(labels)):
        row = {feature: next(texts) for feature in features}
        yield row | {"label": label, "idx": number}
        next(texts) if len(features) > 1 else None


def as_tensors(row):
    def convert(value):
        if isinstance(value, dict):
            return {key: convert(part) for key, part in value.items()}
        kind = type(value[0] if isinstance(value, list) else value)
        return tf.constant(value, {int: tf.int64, float: tf.float32, str: tf.string}[kind])

    return convert(row)


def as_python(value):
    return value.decode() if isinstance(value, bytes) else value


def written(task_name, row):
    """What the task's own preprocessors before tokenisation make of a row."""
    dataset = tf.data.Dataset.from_tensors(as_tensors(row))
    for preprocessor in seqio.TaskRegistry.get(task_name).preprocessors:
        if preprocessor is seqio.preprocessors.tokenize:
            break
        dataset = preprocessor(dataset)
    (example,) = dataset.as_numpy_iterator()
    return example


def record_task(name, rows):
    task = seqio.TaskRegistry.get(name)
    recorded = []
    for row in rows:
        example = written(name, row)
        texts = {key: as_python(example[key]) for key in ("inputs", "targets")}
        target = task.postprocess_fn(texts["targets"], example=example, is_target=True)
        recorded.append({"row": row, **texts, "target": target})
    return {
        "tfds": task.source.tfds_dataset.name.rpartition(":")[0],
        "splits": list(task.source._splits) if getattr(task.source, "_splits", None) else None,
        "metrics": metric_names(task),
        "rows": recorded,
    }


def metric_names(task):
    """Names of the numbers that the task's metrics give, on answers that all of them take."""
    numbers = {}
    for metric in task.metric_fns:
        answers = {"squad": ([["a"], ["b c"]], ["a", "c"])}.get(getattr(metric, "__name__", ""), None)
        for targets, predictions in (answers,) if answers else (([0, 1, 1], [0, 1, 0]), (["a b c d e"], ["a b c d e"])):
            try:
                numbers |= metric(targets, predictions)
                break
            except (AttributeError, TypeError):
                continue
    return list(numbers)


def squad_rows():
    answers = (["Denver Broncos", "the Denver Broncos", "Denver  Broncos!"], ["U.S."], ['"x", y', "ß-東京", ""])
    for number, (question, context) in enumerate(itertools.product(TEXTS[:4], TEXTS[3:])):
        found = answers[number % len(answers)]
        yield {
            "id": str(number),
            "title": "T",
            "context": context,
            "question": question,
            "answers": {"text": found, "answer_start": [0] * len(found)},
        }
    yield {
        "id": "all",
        "title": "",
        "context": "".join(map(chr, range(1, 128))),
        "question": "~",
        "answers": {"text": ["`"], "answer_start": [0]},
    }


CLASSES = {
    "right": ([0, 1, 1, 0], [0, 1, 1, 0]),
    "mixed": ([0, 1, 1, 0, 1, 0, 1, 1], [0, 1, 0, 1, 1, 0, 1, 0]),
    "invalid": ([0, 1, 1, 0, 1, 0], [-1, 1, -1, 0, 1, 1]),
    "all invalid": ([0, 1, 1], [-1, -1, -1]),
    "constant predictions": ([0, 1, 1, 0], [1, 1, 1, 1]),
    "constant targets": ([1, 1, 1], [1, 0, 1]),
    "no positive": ([0, 0, 0], [0, 0, 0]),
    "no positive, all invalid": ([0, 0], [-1, -1]),
    "constant and invalid": ([1, 1, 1, 1], [1, -1, 1, -1]),
    "a single example": ([1], [1]),
    "a single wrong example": ([0], [1]),
    "a single invalid example": ([1], [-1]),
    "other classes": ([0, 1, 1, 0], [2, 3, 1, 0]),
}
THREE = {
    "three": ([0, 1, 2, 0, 1, 2, 2], [0, 2, 2, 1, 1, 0, 2]),
    "a class without rows": ([0, 1, 1, 0], [0, 1, 0, 0]),
    "three, invalid": ([0, 1, 2, 0], [0, -1, 2, -1]),
    "three, all invalid": ([0, 1, 2], [-1, -1, -1]),
    "three, constant predictions": ([0, 1, 2, 2], [2, 2, 2, 2]),
    "three, constant targets": ([1, 1, 1], [0, 1, 2]),
}
NUMBERS = {
    "close": ([0.0, 1.2, 2.4, 5.0, 3.4], [0.2, 1.0, 2.6, 4.4, 3.6]),
    "ties and invalid": ([0.0, 1.2, 2.4, 5.0, 3.4], [-1.0, 1.0, 1.0, 4.4, -1.0]),
    "constant predictions": ([0.0, 1.2, 2.4], [1.0, 1.0, 1.0]),
    "opposite": ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]),
    "constant targets": ([2.4, 2.4, 2.4], [1.0, 2.0, 3.0]),
    "all unreadable": ([0.0, 1.2, 2.4], [-1.0, -1.0, -1.0]),
    "two examples": ([0.0, 1.2], [3.0, 2.0]),
    "not a number": ([0.0, 1.2, 2.4], [0.0, math.nan, 2.4]),
}
SENTENCES = {
    "same": (
        ["The cat sat on the mat, quietly.", "Zweiter Satz hier: ja."],
        ["The cat sat on the mat, quietly.", "Zweiter Satz hier: ja."],
    ),
    "close": (
        ["Das Haus ist sehr groß, und der Garten auch.", 'Er sagte: "Nein!" und ging.', "1,5 % — 東京"],
        ["Das Haus ist groß und der Garten ist es auch.", "Er sagte: “Nein!” und ging dann.", "1.5 % - 東京"],
    ),
    "case": (["The Cat Sat On The Mat"], ["the cat sat on the mat"]),
    "short": (["ja", "nein danke"], ["ja", "nein"]),
    "empty": (["a b c d e"], [""]),
    "sentences": (
        ["the cat sat . the dog ran away . it was late .", "one two three . four five"],
        ["the dog ran . the cat sat down . late it was .", "four five . one two"],
    ),
}
QUESTIONS = {
    "best of several": ([["Denver Broncos", "the Denver Broncos won"], ["U . S . "]], ["The Denver Broncos!", "US"]),
    "word overlap": ([["in the late 1990s", "1990s"], ["a cat"]], ["late 1990s", "the dog"]),
    "empty": ([["a"], ["the", "x y"]], ["", "x"]),
    "unicode": ([["naïve — ß"]], ["naïve ß"]),
}


def score(metric, cases):
    recorded = []
    for name, (targets, predictions) in cases.items():
        values = metric(targets, list(predictions))
        values = {key: None if math.isnan(value) else float(value) for key, value in values.items()}
        recorded.append({"case": name, "targets": targets, "predictions": predictions, "values": values})
    return recorded


def rouge_mean(targets, predictions):
    """T5's `rouge` without its bootstrap, which is random: same scorer, same preparation, plain mean."""

    class Mean:
        def __init__(self):
            self.scores = []

        def add_scores(self, scores):
            self.scores.append(scores)

        def aggregate(self):
            from rouge_score import scoring

            means = {key: np.mean([row[key].fmeasure for row in self.scores]) for key in self.scores[0]}
            scores = {key: scoring.Score(0, 0, value) for key, value in means.items()}
            return {key: scoring.AggregateScore(low=value, mid=value, high=value) for key, value in scores.items()}

    metrics = t5.evaluation.metrics
    original, metrics.scoring.BootstrapAggregator = metrics.scoring.BootstrapAggregator, Mean
    try:
        return metrics.rouge(targets, predictions)
    finally:
        metrics.scoring.BootstrapAggregator = original


def record_metrics():
    metrics = t5.evaluation.metrics
    matthews = metrics.sklearn_metrics_wrapper("matthews_corrcoef", metric_post_process_fn=lambda x: 100 * x)
    return {
        "accuracy": score(metrics.accuracy, CLASSES | THREE),
        "exact_match": [
            {**case, "values": {"exact_match": case["values"]["sequence_accuracy"]}}
            for case in score(metrics.sequence_accuracy, SENTENCES)
        ],
        "f1_with_invalid": score(metrics.f1_score_with_invalid, CLASSES),
        "mean_3class_f1": score(metrics.mean_multiclass_f1(num_classes=3), THREE),
        "matthews": score(matthews, CLASSES | THREE),
        "pearson": score(metrics.pearson_corrcoef, NUMBERS),
        "spearman": score(metrics.spearman_corrcoef, NUMBERS),
        "bleu": score(metrics.bleu, SENTENCES),
        "rouge": score(rouge_mean, SENTENCES),
        "squad": score(metrics.squad, QUESTIONS),
    }


def record_postprocessors():
    numbers = (
        "2.4",
        " 3.0 ",
        "5",
        "1e1",
        "",
        "four",
        "3,2",
        "-0.2",
        "0.0.1",
        "1_0",
        "٣.٥",
        "0x1",
        "3.2.",
        "3. 2",
        "+3.",
    )
    words = ("yes", "no", "maybe", "Yes", " yes", "", "<unk>")
    texts = ("ÄB c", "", "İstanbul")
    return {
        "float": [[text, postprocessors.string_to_float(text)] for text in numbers],
        "label": [[text, postprocessors.string_label_to_class_id(text, ["no", "yes", "maybe"])] for text in words],
        "lower": [[text, postprocessors.lower_text(text)] for text in texts],
    }


def record_average():
    """T5's average over a table in which every metric has another value."""
    import pandas

    names = t5.evaluation.eval_utils.METRIC_NAMES
    tags = [tag for tag in names if tag.startswith("glue_") and "/" in tag]
    scores = {tag: 50 + 3.7 * number for number, tag in enumerate(tags)}
    table = pandas.DataFrame({names[tag].name: [value] for tag, value in scores.items()})
    average = t5.evaluation.eval_utils.compute_avg_glue(table)["Average GLUE Score"][0]
    return {"scores": scores, "average": float(average)}


def rates(mixture):
    return {
        task.name: seqio.MixtureRegistry.get(mixture).get_rate(task)
        for task in seqio.MixtureRegistry.get(mixture).tasks
    }


def lengths(name):
    return json.loads(re.search(r"= (\{.*\})", (GIN / f"{name}.gin").read_text())[1].replace("'", '"'))


def save(name, recorded):
    path = FOLDER / name
    path.write_text(json.dumps(recorded, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(path, path.stat().st_size)


def main():
    tasks = {f"glue_{name}_v002": record_task(f"glue_{name}_v002", rows_of(*spec)) for name, spec in GLUE.items()}
    for name, spec in SUPER_GLUE.items():
        tasks[f"super_glue_{name}_v102"] = record_task(f"super_glue_{name}_v102", rows_of(*spec))
    for name, features in PAIRS.items():
        rows = ({feature: TEXTS[(n + k) % len(TEXTS)] for k, feature in enumerate(features)} for n in range(len(TEXTS)))
        tasks[name] = record_task(name, rows)
    tasks["squad_v010_allanswers"] = record_task("squad_v010_allanswers", squad_rows())
    mixtures = {name: rates(name) for name in ("glue_v002_proportional", "glue_mnli_and_dev_v002")}
    save("t5_tasks.json", {"tasks": tasks, "rates": mixtures, "lengths": {name: lengths(name) for name in LENGTHS}})
    save(
        "t5_metrics.json",
        {"metrics": record_metrics(), "postprocessors": record_postprocessors(), "glue_average": record_average()},
    )


if __name__ == "__main__":
    main()
