"""What a finished run reached, read from its files."""

import json

from made_up_checkpoints import make

from t5x_mini.glue import results
from t5x_mini.glue.benchmark import PARTS
from t5x_mini.glue.plan import Finetuning


def test_a_correlation_that_is_not_there_counts_nothing(tmp_path):
    part = PARTS["stsb"]
    run = Finetuning("multi_task", (part,), "pretrained", 0)
    make(tmp_path, 5)
    (tmp_path / "inference_eval").mkdir()
    row = {"step": 5, "pearson_corrcoef": None, "spearman_corrcoef": 3.5}
    (tmp_path / "inference_eval" / f"{part.scored[0]}-metrics.jsonl").write_text(json.dumps(row) + "\n")
    outcome = results.measured(run, tmp_path, 1.0)
    assert outcome.scores[part.scored[0]]["pearson_corrcoef"] == 0.0
    results.write_outcome(outcome, tmp_path)
    assert results.read_outcome(run, tmp_path) == outcome
