"""Metrics of a task's answers by name, in per cent, as T5 reports them.

Each takes a list of targets and one of predictions, as the task's postprocessor left them, and returns its numbers by
name: `{'f1': 87.5}`. Correlations are times 100 too. scikit-learn, SciPy, sacrebleu and rouge-score do the work; they
are imported where they are used, since most commands score nothing.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import re
import string
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from t5x_mini import config_checks
from t5x_mini.errors import UserError

Metric = Callable[[Sequence, Sequence], dict[str, float]]


def by_name(name: str) -> Metric:
    """The metric of that name: a key of `METRICS`.

    Raises:
      UserError: there is none.
    """
    if name not in METRICS:
        hint = config_checks.closest(name, METRICS)
        raise UserError(f"There is no metric {name!r}{hint} There are {', '.join(METRICS)}.")
    return METRICS[name]


def accuracy(targets: Sequence, predictions: Sequence) -> dict[str, float]:
    """Share of predictions that equal their targets: class ids, or texts."""
    return {"accuracy": _share_equal(targets, predictions)}


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Share of texts that equal their targets to the letter; T5 calls it `sequence_accuracy`."""
    return {"exact_match": _share_equal(targets, predictions)}


def f1_with_invalid(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """F1 of class 1; a prediction that is neither 0 nor 1 counts as the wrong one of them.

    Raises:
      UserError: a target is neither 0 nor 1.
    """
    import sklearn.metrics

    targets, predictions = np.asarray(targets), np.asarray(predictions)
    if not np.isin(targets, (0, 1)).all():
        found = ", ".join(map(str, np.unique(targets)))
        raise UserError(
            f"The metric f1 is for two classes, 0 and 1, but the targets are {found}. For more classes there are "
            "'accuracy' and 'mean_3class_f1'; rows without a label (-1) can't be scored."
        )
    valid = np.where(np.isin(predictions, (0, 1)), predictions, 1 - targets)
    return {"f1": 100 * float(sklearn.metrics.f1_score(targets, valid, zero_division=0.0))}


def mean_multiclass_f1(targets: Sequence[int], predictions: Sequence[int], *, classes: int) -> dict[str, float]:
    """Mean of the F1 of each class, all weighing the same."""
    import sklearn.metrics

    f1 = sklearn.metrics.f1_score(targets, predictions, labels=range(classes), average="macro", zero_division=0.0)
    return {f"mean_{classes}class_f1": 100 * float(f1)}


def matthews(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """Matthews correlation; 0 if all predictions are the same. An invalid answer, -1, is a class of its own."""
    import sklearn.metrics

    with _quiet():
        return {"matthews_corrcoef": 100 * float(sklearn.metrics.matthews_corrcoef(targets, predictions))}


def pearson(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Pearson correlation; NaN if all predictions, or all targets, are the same."""
    import scipy.stats

    return {"pearson_corrcoef": _correlation(scipy.stats.pearsonr, targets, predictions)}


def spearman(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Spearman rank correlation; NaN if all predictions, or all targets, are the same."""
    import scipy.stats

    return {"spearman_corrcoef": _correlation(scipy.stats.spearmanr, targets, predictions)}


def bleu(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU with sacrebleu's international tokeniser, cased, exponential smoothing."""
    import sacrebleu

    score = sacrebleu.corpus_bleu(
        list(predictions),
        [list(targets)],
        smooth_method="exp",
        smooth_value=0.0,
        force=False,
        lowercase=False,
        tokenize="intl",
        use_effective_order=False,
    )
    return {"bleu": score.score}


_ROUGE = ("rouge1", "rouge2", "rougeLsum")


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Mean F-measures of ROUGE-1, ROUGE-2 and ROUGE-Lsum, without stemming; sentences end at `' . '`.

    T5 reports the median of the means of 1000 random resamples, which differs in the second decimal from run to run.
    That is an estimate of the mean, and the mean itself is the same each time.
    """
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(rouge_types=_ROUGE)
    scores = [
        scorer.score(target=_lines(target), prediction=_lines(prediction))
        for target, prediction in zip(targets, predictions, strict=True)
    ]
    return {name: 100 * float(np.mean([score[name].fmeasure for score in scores])) for name in _ROUGE}


def squad(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """SQuAD's exact match (`em`) and word `f1`, each the best over a question's answers.

    Case, punctuation, articles and white space don't count.
    """
    em, f1 = [], []
    for answers, prediction in zip(targets, predictions, strict=True):
        answers, prediction = [_normalized(answer) for answer in answers], _normalized(prediction)
        em.append(max(float(answer == prediction) for answer in answers))
        f1.append(max(_word_f1(answer, prediction) for answer in answers))
    return {"em": 100 * float(np.mean(em)), "f1": 100 * float(np.mean(f1))}


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "exact_match": exact_match,
    "f1": f1_with_invalid,
    "f1_with_invalid": f1_with_invalid,
    "f1_score_with_invalid": f1_with_invalid,
    "mean_3class_f1": functools.partial(mean_multiclass_f1, classes=3),
    "matthews": matthews,
    "matthews_corrcoef": matthews,
    "pearson": pearson,
    "pearson_corrcoef": pearson,
    "spearman": spearman,
    "spearman_corrcoef": spearman,
    "bleu": bleu,
    "rouge": rouge,
    "squad": squad,
}
"""By the names that `TextToTextTask.metrics` takes: this project's, and T5's for the same ones."""


_GLUE_GROUPS = (
    ("glue_cola_v002/matthews_corrcoef",),
    ("glue_sst2_v002/accuracy",),
    ("glue_mrpc_v002/f1", "glue_mrpc_v002/accuracy"),
    ("glue_stsb_v002/pearson_corrcoef", "glue_stsb_v002/spearman_corrcoef"),
    ("glue_qqp_v002/f1", "glue_qqp_v002/accuracy"),
    ("glue_mnli_matched_v002/accuracy", "glue_mnli_mismatched_v002/accuracy"),
    ("glue_qnli_v002/accuracy",),
    ("glue_rte_v002/accuracy",),
)


def glue_average(results: dict[str, dict[str, float]]) -> float | None:
    """GLUE's average as T5 takes it of `{task: {metric: per cent}}`: the mean over eight groups of their mean metrics.

    A group is a task, but for MNLI, which is its matched and mismatched sets; WNLI and AX don't count. None unless
    every metric is there.
    """
    values = {f"{task}/{metric}": value for task, row in results.items() for metric, value in row.items()}
    if not all(key in values for group in _GLUE_GROUPS for key in group):
        return None
    return float(np.mean([np.mean([values[key] for key in group]) for group in _GLUE_GROUPS]))


def _share_equal(targets: Sequence, predictions: Sequence) -> float:
    return 100 * float(np.mean([a == b for a, b in zip(targets, predictions, strict=True)]))


def _correlation(function: Callable, targets: Sequence[float], predictions: Sequence[float]) -> float:
    if len(targets) < 2:
        return float("nan")
    with _quiet():
        return 100 * float(function(targets, predictions)[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings about answers that are all the same: the 0 or NaN says it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _lines(summary: str) -> str:
    return summary.replace(" . ", " .\n")


_REMOVED = str.maketrans("", "", string.punctuation)


def _normalized(answer: str) -> str:
    words = re.sub(r"\b(a|an|the)\b", " ", answer.lower().translate(_REMOVED))
    return " ".join(words.split())


def _word_f1(answer: str, prediction: str) -> float:
    wanted, written = answer.split(), prediction.split()
    same = sum((collections.Counter(wanted) & collections.Counter(written)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(written), same / len(wanted)
    return 2 * precision * recall / (precision + recall)
