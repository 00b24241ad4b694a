"""benchmarks/tpu_plans.py: what it asks of the compiler is what T5X's figures are of."""

import importlib
from pathlib import Path

import made_up_plans
import pytest

from t5x_mini import config
from t5x_mini.plan import topologies
from t5x_mini.plan.figures import Plan

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("tpu_plans")


def test_every_row_is_a_run_that_t5x_was_measured_at(script):
    for row in script.ROWS.values():
        files = ["gin/runs/pretrain.gin", f"gin/models/t5_1_1/{row.size}.gin"]
        loaded = config.load(files, [*row.bindings, "MODEL_DIR=none"], [], training=True)
        assert loaded.feed.task_feature_lengths == {"inputs": 512, "targets": 114}
        assert (loaded.feed.batch_size, loaded.model.remat) == (row.rows, row.remat)
        assert (loaded.model.scan_layers, loaded.model.dropout_rate, loaded.model.dtype) == (row.scanned, 0, "bfloat16")
        assert type(loaded.optimizer).__name__ == "Adafactor"
        assert topologies.parse(row.topology).devices in (16, 64)


def test_a_line_has_both_figures_and_says_that_nothing_ran(script):
    made = Plan(**{**vars(made_up_plans.plan()), "cycles": 136_000_000})
    printed = script.line("base-unrolled", script.ROWS["base-unrolled"], made)
    assert printed["label"] == "compiled, not run"
    assert (printed["temporaries_gib"], printed["t5x_temporaries_gib"], printed["temporaries_to_t5x"]) == (
        5,
        4.51,
        1.109,
    )
    assert (printed["mega_cycles"], printed["t5x_mega_cycles"], printed["cycles_to_t5x"]) == (136, 170, 0.8)
    assert "cycles_to_t5x" not in script.line("xxl", script.ROWS["xxl"], made)
