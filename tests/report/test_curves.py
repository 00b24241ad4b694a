"""Tests of t5x_mini/report/curves.py: what is drawn, and what thinning keeps."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import LOSS, training_row, write_lines, write_run

from t5x_mini.report import curves
from t5x_mini.report.run_data import read_run, read_runs

VALUES = st.lists(st.floats(width=32) | st.integers(-5, 5).map(float), min_size=1, max_size=300)


@given(VALUES, st.integers(4, 40))
def test_thinning_keeps_the_extremes_and_the_ends(values, limit):
    series = list(enumerate(values))
    thinned = curves.thin(series, limit)
    assert len(thinned) <= max(limit, 2)
    steps = [step for step, _ in thinned]
    assert steps == sorted(set(steps)) and (steps[0], steps[-1]) == (0, len(values) - 1)
    finite = [value for value in values if math.isfinite(value)]
    kept = [value for _, value in thinned if value is not None]
    if finite:
        for extreme in (min, max):
            assert math.isclose(extreme(kept), extreme(finite), rel_tol=1e-4, abs_tol=1e-30)


def test_short_curves_stay_whole():
    assert curves.thin([(1, 2.0), (2, math.nan), (5, math.inf)], 3) == [(1, 2.0), (2, None), (5, None)]


def test_means_are_over_the_finite_values():
    series = [(0, 1.0), (1, 3.0), (2, math.nan), (3, 5.0), (4, math.inf), (5, math.nan)]
    assert curves.means(series, 3) == [(0, 2.0), (2, 5.0), (4, None)]


def test_a_long_run_is_thinned_and_a_spike_is_kept(tmp_path):
    losses = np.full(20_000, 2.0)
    losses[12_345] = 50.0
    write_lines(tmp_path / "metrics.jsonl", [{"step": i + 1, LOSS: loss} for i, loss in enumerate(losses)])
    (chart,) = curves.charts([read_run(tmp_path)])
    (curve,) = chart.curves
    assert len(curve.raw) <= curves.POINTS and (12_346, 50.0) in curve.raw
    assert len(curve.mean) == curves.POINTS // 2


def test_runs_share_charts(tmp_path):
    runs = read_runs([str(write_run(tmp_path / name)) for name in ("one", "two")])
    by_title = {chart.title: chart for chart in curves.charts(runs)}
    labels = [curve.label for curve in by_title["Loss"].curves]
    assert labels == ["one", "one, held out", "two", "two, held out"]
    assert [curve.marks for curve in by_title["Loss"].curves] == [False, True, False, True]
    assert [curve.run for curve in by_title["Learning rate"].curves] == [0, 1]
    assert "Model FLOPs utilisation" not in by_title  # not known on a CPU
    assert [chart.unit for chart in curves.charts(runs) if chart.section == "evaluation"] == [
        "held-out loss (nats per token)",
        "held-out tokens right",
    ]


def test_blocks_have_a_chart_a_run_in_the_model_s_order(tmp_path):
    names = ["encoder/layers_10", "token_embedder", "encoder/layers_9", "encoder/layers_1"]
    rows = [training_row(1, **{f"grad_rms/{name}": 0.1 for name in names}, **{"update_ratio/encoder/layers_1": 0.2})]
    write_lines(tmp_path / "metrics.jsonl", rows)
    blocks = [chart for chart in curves.charts([read_run(tmp_path)]) if chart.section == "blocks"]
    assert [chart.title for chart in blocks] == ["Gradient RMS by block", "Update RMS / parameter RMS by block"]
    assert [curve.label for curve in blocks[0].curves] == [
        "encoder/layers_1",
        "encoder/layers_9",
        "encoder/layers_10",
        "token_embedder",
    ]


def test_many_held_out_tasks_are_one_curve_in_the_loss_chart(tmp_path):
    rows = [{"step": step, **{f"eval/t{i}/{LOSS}": float(i) for i in range(5)}} for step in (1, 2)]
    write_lines(tmp_path / "metrics.jsonl", rows)
    loss = next(chart for chart in curves.charts([read_run(tmp_path)]) if chart.section == "loss")
    (curve,) = loss.curves
    assert curve.label.endswith("held out: mean of 5 tasks") and curve.raw == [(1, 2.0), (2, 2.0)]


def test_what_was_never_finite_is_not_drawn(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, LOSS: "NaN"}])
    assert curves.charts([read_run(tmp_path)]) == []
