import pytest
from made_up_checkpoints import make

from t5x_mini.checkpoint.locate import is_own, locate
from t5x_mini.errors import UserError


@pytest.fixture
def three_steps(tmp_path):
    for step in (5, 10, 100):
        make(tmp_path, step)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "step"),
    [("", 100), ("/", 100), ("/checkpoints", 100), ("/checkpoints/5", 5), ("/checkpoints/10/", 10)],
)
def test_locate(three_steps, path, step):
    assert locate(f"{three_steps}{path}") == (str(three_steps), step)


@pytest.mark.parametrize("path", ["", "/checkpoints", "/checkpoints/5"])
def test_locate_says_where_there_is_none(tmp_path, path):
    with pytest.raises(UserError) as error:
        locate(f"{tmp_path}{path}")
    assert str(error.value) == (
        f"There is no checkpoint in {tmp_path}{path}. Write a run's folder (runs/quickstart) or one of its "
        "checkpoints (runs/quickstart/checkpoints/1000)."
    )


def test_locate_says_which_steps_there_are(three_steps):
    with pytest.raises(UserError) as error:
        locate(f"{three_steps}/checkpoints/50")
    assert str(error.value) == (
        f"There is no checkpoint {three_steps}/checkpoints/50. {three_steps} has those of the steps 5, 10, 100."
    )


def test_a_run_without_a_metric_has_no_best_checkpoint(three_steps):
    with pytest.raises(UserError, match="has no best checkpoint: .* BEST_METRIC .* those of the steps 5, 10, 100"):
        locate(f"{three_steps}/checkpoints/best")


def test_the_best_is_located_by_its_metric(tmp_path):
    for step, loss in ((5, 2.0), (10, 1.0), (100, 3.0)):
        make(tmp_path, step, metrics={"loss": loss}, best_metric="loss")
    assert locate(f"{tmp_path}/checkpoints/best") == (str(tmp_path), 10)


def test_an_interrupted_one_is_said_to_be_that(three_steps, tmp_path):
    make(three_steps, 200, with_manifest=False)
    assert locate(str(three_steps)) == (str(three_steps), 100)
    with pytest.raises(UserError) as error:
        locate(f"{three_steps}/checkpoints/200")
    assert str(error.value) == (
        f"The checkpoint {three_steps}/checkpoints/200 is incomplete: saving or copying it was interrupted before its "
        f"manifest.json was written. {three_steps} has those of the steps 5, 10, 100."
    )


def test_what_is_ours(three_steps, tmp_path):
    assert is_own(three_steps) and is_own(three_steps / "checkpoints" / "5") and is_own(three_steps / "checkpoints")
    assert not is_own(tmp_path / "nothing")
