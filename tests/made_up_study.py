"""A study with its outcomes, made by hand: for what reads and draws them."""

from t5x_mini.study.cells import Cell
from t5x_mini.study.config import Study
from t5x_mini.study.outcomes import Outcome
from t5x_mini.study.report import Report

AXES = {
    "objective": {"denoising": (), "LM": ()},
    "architecture": {"enc-dec": (), "causal <LM>": ("ARCHITECTURE=causal_lm",)},
}
REFERENCE = {
    "denoising, enc-dec": {"GLUE": 83.28, "SQuAD": 80.88},
    "denoising, causal <LM>": {"GLUE": 74.7, "SQuAD": 61.14},
    "LM, enc-dec": {"GLUE": 79.56, "SQuAD": 76.02},
    "LM, causal <LM>": {"GLUE": 73.78, "SQuAD": 53.81},
}
# Averages of each cell's seeds: far apart, swapped, close, and one at chance.
AVERAGES = {
    "denoising, enc-dec": (80.0, 82.0, 81.0),
    "denoising, causal <LM>": (70.0, 71.0, 72.0),
    "LM, enc-dec": (90.0, 91.0, 92.0),
    "LM, causal <LM>": (24.0, 40.0, 26.0),
}


def report(**changes) -> Report:
    study = Study(
        title="Which & why",
        pretraining=("gin/quickstart.gin",),
        finetuning=("gin/runs/finetune.gin",),
        axes=AXES,
        reference=REFERENCE,
        reference_name="the paper",
        notes={"LM, enc-dec": "another thing there"},
    )
    cells = [
        Cell({"objective": one, "architecture": other}, ("gin/quickstart.gin",), 1000 + 7 * place, 2e9, 100 + place)
        for place, (one, other) in enumerate(
            (one, other) for one in AXES["objective"] for other in AXES["architecture"]
        )
    ]
    outcomes = [
        Outcome(cell.name, seed, 1.5 + seed / 10, 1.25, [(50, 3.0), (100, 1.5)], _scores(AVERAGES[cell.name][seed]))
        for seed in range(3)
        for cell in cells
    ]
    fields = {"study": study, "cells": cells, "outcomes": outcomes, "chance": {"cola": 0.0, "sst2": 50.0}}
    return Report(**fields | {"facts": {"finetuning": "glue, 240 steps"}} | changes)


def _scores(average: float) -> dict:
    return {"cola": {"matthews_corrcoef": average - 5}, "sst2": {"accuracy": average + 4, "f1": average + 6}}
