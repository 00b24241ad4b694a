import math

import pytest

from t5x_mini.errors import UserError
from t5x_mini.evaluate.results import Results
from t5x_mini.train.best import Best, check_training, is_of_training, measured, value_of

LOSS = "loss_per_nonpadding_target_token"


def results(step, accuracy=50.0, loss=2.0):
    losses = {"glue_sst2_v002": {LOSS: loss}, "docs": {LOSS: 4.0}}
    return Results(step, "validation", losses, {"glue_sst2_v002": {"accuracy": accuracy}})


def test_the_best_is_the_highest_score_and_the_first_of_equals():
    best = Best("average", None, 10)
    assert [best.add(results(step, score)) for step, score in ((10, 50), (20, 60), (30, 60), (40, 55))] == [
        *(True, True),
        *(False, False),
    ]
    assert (best.step, best.value) == (20, 60)
    assert str(best) == "the best average is 60, at step 20"
    assert not best.exhausted


def test_the_best_loss_is_the_lowest():
    best = Best("loss", None, 10)
    assert [best.add(results(step, loss=loss)) for step, loss in ((10, 2.0), (20, 3.0), (30, 1.0))] == [
        *(True, False, True),
    ]
    assert (best.step, best.value) == (30, 2.5)  # the mean of both tasks


def test_patience_counts_evaluations_without_a_better_one():
    best = Best("average", 2, 10)
    stops = []
    for step, score in ((10, 50), (20, 40), (30, 60), (40, 60), (50, 10)):
        best.add(results(step, score))
        stops.append(best.exhausted)
    assert stops == [False, False, False, False, True]


def test_a_resumed_run_knows_the_best_and_how_long_ago_it_was():
    best = Best("average", 2, 10)
    best.resume(45, [(30, 60.0), (10, 50.0)])
    assert (best.step, best.value, best.exhausted) == (30, 60.0, False)
    assert not best.add(results(50, 59))
    assert best.exhausted
    fresh = Best("average", 2, 10)
    fresh.resume(45, [])
    assert fresh.value is None


def test_the_best_few_are_kept_and_patience_waits_for_the_best_one():
    best = Best("average", 2, 10, keep=2)
    kept = [best.add(results(step, score)) for step, score in ((10, 50), (20, 40), (30, 45), (40, 40))]
    assert kept == [True, True, True, False]
    assert (best.step, best.value, best.exhausted) == (10, 50, True)
    resumed = Best("average", 9, 10, keep=2)
    resumed.resume(40, [(10, 50.0), (30, 45.0), (20, 40.0)])
    assert [resumed.add(results(step, score)) for step, score in ((50, 44), (60, 46), (70, 45))] == [False, True, False]


def test_a_score_that_is_not_a_number_is_never_better():
    best = Best("sst2/accuracy", None, 10)
    assert best.add(results(10, math.nan))  # there is no other yet
    assert best.add(results(20, 1.0))
    assert not best.add(results(30, math.nan))


def test_metrics_have_short_names():
    assert value_of(results(1, 70), "sst2/accuracy") == value_of(results(1, 70), "glue_sst2_v002/accuracy") == 70
    assert value_of(results(1, 70), "average") == 70
    assert value_of(results(1), "loss") == 3.0


def test_what_was_not_measured_is_refused():
    with pytest.raises(UserError, match="did you mean glue_sst2_v002/accuracy.*There are average, loss, glue_sst2"):
        value_of(results(1), "sst2/acuracy")
    with pytest.raises(UserError, match="'glue_average' is not among what was measured"):
        value_of(results(1), "glue_average")


def test_a_task_that_is_not_evaluated_is_refused_before_training():
    best = Best("sts2/accuracy", None, 10)
    with pytest.raises(UserError, match="a task that is not evaluated; did you mean sst2. There are docs, sst2"):
        best.check(["sst2", "docs"], ["sst2"])
    Best("cola/matthews_corrcoef", None, 10).check(["glue_cola_v002"], ["glue_cola_v002"])
    Best("average", None, 10).check(["docs", "sst2"], ["sst2"])
    Best("loss", None, 10).check(["docs"], [])


@pytest.mark.parametrize("metric", ["average", "glue_average", "docs/accuracy"])
def test_a_metric_of_answers_that_nobody_scores_is_refused_before_training(metric):
    with pytest.raises(UserError, match=r"docs ha(s|ve) none that are scored; write BEST_METRIC='loss'"):
        Best(metric, None, 10).check(["docs"], [])


def test_any_number_of_an_evaluation_can_be_chosen_by():
    assert value_of(results(1, loss=2.0), f"eval/glue_sst2_v002/{LOSS}") == 2.0
    assert value_of(results(1, 70), "inference_eval/average") == 70
    assert set(results(1).flat()) < set(measured(results(1)))
    best = Best(f"eval/docs/{LOSS}", None, 10)
    best.check(["docs"], [])
    assert best.add(results(10))
    Best("inference_eval/average", None, 10).check(["docs"], ["docs"])
    with pytest.raises(UserError, match="a task that is not evaluated; did you mean docs"):
        Best(f"eval/doc/{LOSS}", None, 10).check(["docs"], [])


def test_a_training_rows_metric_is_checked_before_training():
    assert is_of_training("train/loss") and not is_of_training("loss") and not is_of_training(None)
    check_training("train/loss_per_nonpadding_target_token")
    with pytest.raises(UserError, match="is not among what is logged of each step; did you mean train/accuracy"):
        check_training("train/acuracy")
