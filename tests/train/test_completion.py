import json

import pytest
import tiny_runs

from t5x_mini.train import completion


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny


@pytest.mark.slow
def test_a_run_says_when_it_is_over_and_takes_it_back_when_it_goes_on(tiny, tmp_path, monkeypatch):
    marker = tmp_path / "complete.json"

    def train(steps):
        assert tiny.run("train", MODEL_DIR=str(tmp_path), TRAIN_STEPS=steps).code == 0

    train(2)
    assert json.loads(marker.read_text()) == {"step": 2, "total_steps": 2}
    marker.unlink()  # as if it had been ended right after its last checkpoint
    train(2)
    assert json.loads(marker.read_text()) == {"step": 2, "total_steps": 2}
    with monkeypatch.context() as patch:
        patch.setattr(completion, "mark", lambda *_: None)
        train(3)
    assert not marker.exists()
