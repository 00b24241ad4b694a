"""`t5x-mini glue` from a checkpoint to the table and a submission, on a few rows of two tasks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tiny_runs

from t5x_mini import resources
from t5x_mini.train import loop

SMALL = [
    "--gin_file=gin/hardware/cpu.gin",
    "--gin.BATCH_SIZE=16",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 16}",
    "--gin.TRAIN_STEPS_RELATIVE=4",
    "--gin.EVAL_PERIOD=2",
    "--gin.CHECKPOINT_PERIOD=2",
    "--gin.EVAL_STEPS=1",
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a pretrained run of a tiny model and a GLUE_DIR with CoLA and RTE."""
    folder = tmp_path_factory.mktemp("glue")
    tables = Path(resources.data_path("tiny_glue"))
    for name in ("CoLA", "RTE"):
        (folder / "data" / name).mkdir(parents=True)
        for split in ("train", "dev", "test"):
            lines = (tables / name / f"{split}.tsv").read_text().splitlines()[:25]
            (folder / "data" / name / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    with tiny_runs.tiny(folder) as tiny:
        assert tiny.run("train", MODEL_DIR=str(folder / "pretrained"), TRAIN_STEPS=2).code == 0
        yield folder


def glue(workplace, *arguments, output="results"):
    words = ["glue", f"--checkpoint={workplace / 'pretrained'}", f"--output={workplace / output}", *SMALL]
    return tiny_runs.run([*words, f"--gin.GLUE_DIR={workplace / 'data'}", *arguments])


@pytest.fixture(scope="module")
def finished(workplace):
    """The command, interrupted in its second run behind a checkpoint, and then run again."""
    with pytest.MonkeyPatch.context() as patch:
        whole, calls = loop._Training._evaluate, []

        def interrupted(self, *arguments):
            calls.append(arguments)
            if len(calls) == 4:  # the second evaluation of the second run
                raise KeyboardInterrupt
            return whole(self, *arguments)

        patch.setattr(loop._Training, "_evaluate", interrupted)
        first = glue(workplace, "--tasks=rte,cola", "--from_scratch")
    return first, glue(workplace, "--tasks=rte,cola", "--from_scratch")


def test_goes_on_where_it_was_interrupted(finished):
    first, second = finished
    assert first.code == 130
    assert "run 1 of 2: multi_task/pretrained-seed0" in first.out
    assert "run 2 of 2, about" in first.out
    assert second.code == 0, second.err
    assert "run 1 of 2: multi_task/pretrained-seed0 is finished already" in second.out
    assert "left: multi_task/scratch-seed0" in second.out
    assert "resuming from step 2 " in second.out


def test_prints_and_writes_the_table(finished, workplace):
    out = finished[1].out
    assert "validation split, per cent; chance is the best constant answer" in out
    table = [line.split() for line in out.splitlines()]
    header = table.index(["pretrained", "from", "scratch", "chance"])
    rows = {tuple(line[:2]): line[2:] for line in table[header + 1 : header + 3]}
    assert set(rows) == {("CoLA", "matthews_corrcoef"), ("RTE", "accuracy")}
    assert "pretrained - from scratch: " in out and "pretrained - chance: " in out
    page = (workplace / "results" / "table.md").read_text()
    assert f"| RTE | accuracy | {' | '.join(rows['RTE', 'accuracy'])} |" in page


def test_the_table_has_the_best_checkpoints_scores(finished, workplace):
    found = json.loads((workplace / "results" / "results.json").read_text())
    for run in found["runs"]:
        rows = (workplace / "results" / run["run"] / "inference_eval" / "glue_rte_v002-metrics.jsonl").read_text()
        by_step = {row["step"]: row["accuracy"] for row in map(json.loads, rows.splitlines())}
        assert run["scores"]["glue_rte_v002"] == {"accuracy": by_step[run["step"]]}
    column = {run["start"]: run["scores"]["glue_rte_v002"]["accuracy"] for run in found["runs"]}
    (row,) = [row for row in found["table"] if row["task"] == "RTE"]
    assert (row["pretrained"]["mean"], row["from scratch"]["mean"]) == (column["pretrained"], column["scratch"])


def test_both_start_from_the_same_model_and_one_from_the_checkpoint(finished, workplace):
    configs = {
        start: (workplace / "results" / "multi_task" / f"{start}-seed0" / "config.gin").read_text()
        for start in ("pretrained", "scratch")
    }
    for text in configs.values():
        assert "emb_dim = 32" in text and "dropout_rate = %DROPOUT_RATE" in text and "DROPOUT_RATE = 0.1" in text
    assert f"INITIAL_CHECKPOINT_PATH = '{workplace}/pretrained/checkpoints/2'" in configs["pretrained"]
    assert "INITIAL_CHECKPOINT_PATH = None" in configs["scratch"]


def test_writes_the_submission_of_the_tasks_that_are_here(finished, workplace):
    folder = workplace / "results" / "submission"
    assert {path.name for path in folder.glob("*.tsv")} == {"CoLA.tsv", "RTE.tsv"}
    lines = [line.split("\t") for line in (folder / "RTE.tsv").read_text().splitlines()]
    assert lines[0] == ["index", "prediction"] and [index for index, _ in lines[1:]] == [str(i) for i in range(24)]
    assert {label for _, label in lines[1:]} <= {"entailment", "not_entailment"}
    assert {line.split("\t")[1] for line in (folder / "CoLA.tsv").read_text().splitlines()[1:]} <= {"0", "1"}
    assert "SST-2.tsv, MRPC.tsv" in finished[1].out and "are missing" in finished[1].out


def test_done_is_done(finished, workplace):
    again = glue(workplace, "--tasks=rte,cola", "--from_scratch")
    assert again.code == 0 and again.out.count("is finished already") == 2
    assert "answering" not in again.out


def test_refuses_to_go_on_with_other_settings(finished, workplace):
    other = glue(workplace, "--tasks=rte,cola", "--gin.TRAIN_STEPS_RELATIVE=6")
    assert other.code == 1
    assert "multi_task/pretrained-seed0 was begun with other settings" in other.err
    assert "TrainConfig.train_steps_relative: 4 then, 6 now" in other.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"The data of sst2, mrpc, stsb, qqp, mnli, qnli can't be read: .*SST-2.*\nWrite --tasks=cola,rte"),
        (["--tasks=cola", "--gin.MODEL_DIR=x"], "sets MODEL_DIR itself: leave out --gin.MODEL_DIR.*--output=runs/glue"),
        (
            ["--tasks=cola", "--gin.EVAL_PERIOD=0", "--gin.BEST_METRIC=None"],
            "EVAL_PERIOD is 0, but the table is made of evaluations",
        ),
        (["--tasks=colla"], "GLUE has no task 'colla'; did you mean cola"),
    ],
)
def test_says_what_is_wrong_before_it_trains(arguments, message, workplace):
    refused = glue(workplace, *arguments, output="refused")
    assert refused.code == 1
    assert re.search(message, refused.err, re.DOTALL), refused.err
    assert not (workplace / "refused" / "multi_task").exists()


def test_asks_for_a_checkpoint(workplace):
    refused = tiny_runs.run(["glue"])
    assert refused.code == 1 and "Which model is to be finetuned? Write --checkpoint=" in refused.err
