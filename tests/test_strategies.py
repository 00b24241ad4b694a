"""Multi-task training by T5's strategies: the rates that gin/strategies give, and runs on both feeds."""

import pydoc_data.topics
import shlex

import numpy as np
import pytest
import tiny_runs
from tiny_runs import evaluation_rows, training_rows

from t5x_mini import cli, config
from t5x_mini.errors import UserError
from t5x_mini.feed import feeds
from t5x_mini.tasks import installed_docs, registry, vocabularies

TINY = shlex.split(
    "--gin.TransformerConfig.emb_dim=16 --gin.TransformerConfig.num_heads=2 --gin.TransformerConfig.head_dim=8 "
    "--gin.TransformerConfig.mlp_dim=16 --gin.TransformerConfig.num_encoder_layers=1 "
    "--gin.TransformerConfig.num_decoder_layers=1 --gin.Cosine.warmup_steps=1 --gin.BATCH_SIZE=16 "
    "--gin.CHECKPOINT_PERIOD=2 --gin.EVAL_STEPS=1"
)
STRATEGIES = (
    *("multi_task", "multi_task_temperature", "multi_task_equal"),
    *("supervised_multi_task", "leave_one_out"),
)
# Numbers of training examples, as TensorFlow Datasets has them.
EXAMPLES = {
    "c4_span_corruption": 364_868_892,
    "glue_cola_v002": 8551,
    "glue_sst2_v002": 67_349,
    "glue_mrpc_v002": 3668,
    "glue_qqp_v002": 363_849,
    "glue_stsb_v002": 5749,
    "glue_mnli_v002": 392_702,
    "glue_qnli_v002": 104_743,
    "glue_rte_v002": 2490,
    "super_glue_boolq_v102": 9427,
    "super_glue_cb_v102": 250,
    "super_glue_copa_v102": 400,
    "super_glue_wic_v102": 5428,
    "squad_v010_allanswers": 87_599,
    "cnn_dailymail_v002": 287_113,
    "wmt_t2t_ende_v003": 4_592_289,
    "wmt15_enfr_v003": 40_853_137,
    "wmt16_enro_v003": 610_320,
}
EVALUATED_ALONE = {"glue_mnli_matched_v002", "glue_mnli_mismatched_v002"}
# In the mixture of these, rows of both kinds are soon met.
FEW = "--gin.TASKS=['installed_docs_span_corruption', 'cola', 'mnli_with_dev']"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder whose documentation is that of Python's language."""
    folder = tmp_path_factory.mktemp("strategies")
    text = "\n".join(" ".join(topic.split()) for topic in pydoc_data.topics.topics.values())[:100_000]
    cache = folder / "cache" / "t5x_mini" / "installed_docs" / installed_docs.fingerprint()
    cache.mkdir(parents=True)
    for split in ("train", "validation"):
        (cache / f"{split}.txt").write_text(text)
    with pytest.MonkeyPatch.context() as patch, tiny_runs.quick_compilation(folder):
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.chdir(folder)
        yield folder


def train(strategy, run, *arguments):
    files = ["--gin_file=gin/quickstart.gin", f"--gin_file=gin/strategies/{strategy}.gin"]
    return tiny_runs.run(["train", *files, *TINY, f"--gin.MODEL_DIR={run}", *arguments])


def shares(strategy, *bindings):
    """Of T5's tasks, by name."""
    files = ["gin/runs/pretrain.gin", f"gin/strategies/{strategy}.gin", "gin/strategies/tasks_of_t5.gin"]
    feed = config.load(files, ["MODEL_DIR=x", *bindings]).feed
    rates = registry.components(feed.mixture_or_task_name, feed, count=EXAMPLES.__getitem__)
    total = sum(rates.values())
    return {task: rate / total for task, rate in rates.items()}


def proportions(limit, temperature=1.0, without=()):
    """The paper's formula: min(examples, limit), to the power of 1 / temperature."""
    rates = {
        task: min(count, limit) ** (1 / temperature) for task, count in EXAMPLES.items() if task not in without
    } | dict.fromkeys(EVALUATED_ALONE, 0.0)
    return {task: rate / sum(rates.values()) for task, rate in rates.items()}


# Rates


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("multi_task", proportions(2**19)),
        ("multi_task_temperature", proportions(2**19, temperature=2.0)),
        ("supervised_multi_task", proportions(2**19, without=("c4_span_corruption",))),
        ("leave_one_out", proportions(2**19, without=("glue_cola_v002",))),
    ],
)
def test_tasks_are_mixed_as_in_the_paper(strategy, expected):
    assert shares(strategy) == pytest.approx(expected, rel=1e-12)


def test_equal_mixing_is_equal():
    found = shares("multi_task_equal")
    assert {task for task, share in found.items() if not share} == EVALUATED_ALONE
    assert [share for share in found.values() if share] == pytest.approx([1 / 18] * 18, rel=1e-4)


def test_the_limit_and_the_temperature_are_one_setting_each():
    bindings = ("MIXING_LIMIT=2097152", "MIXING_TEMPERATURE=4.0")
    assert shares("multi_task", *bindings) == pytest.approx(proportions(2**21, temperature=4.0), rel=1e-12)


@pytest.mark.parametrize(
    ("left_out", "gone"),
    [
        ("['squad']", {"squad_v010_allanswers"}),
        ("['mnli_with_dev']", {"glue_mnli_v002", *EVALUATED_ALONE}),
        ("['cola', 'rte']", {"glue_cola_v002", "glue_rte_v002"}),
        ("['glue']", {task for task in (*EXAMPLES, *EVALUATED_ALONE) if task.startswith("glue_")}),
    ],
)
def test_a_task_several_tasks_or_a_benchmark_are_left_out(left_out, gone):
    kept = shares("leave_one_out", f"LEFT_OUT={left_out}")
    assert set(kept) == {*EXAMPLES, *EVALUATED_ALONE} - gone
    assert sum(kept.values()) == pytest.approx(1.0)


def test_what_the_mixture_does_not_hold_cannot_be_left_out():
    with pytest.raises(UserError, match="multi_task/Mixture.without names 'wnli', which the mixture doesn't hold"):
        shares("leave_one_out", "LEFT_OUT=['wnli']")


# Runs


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_dry_run_prints_the_strategy(workplace, strategy):
    finished = train(strategy, "runs/dry", "--gin.TRAIN_STEPS=2", "--dry_run")
    assert finished.code == 0, finished.err
    assert "without = %LEFT_OUT" in finished.out and "would train to step 2 in runs/dry" in finished.out
    assert not (workplace / "runs" / "dry").exists()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_steps(workplace, strategy):
    finished = train(strategy, f"runs/{strategy}", "--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=0")
    assert finished.code == 0, finished.err
    assert [row["step"] for row in training_rows(workplace / "runs" / strategy)] == [1, 2]


def test_t5s_tasks_are_asked_of_tensorflow_datasets_with_their_vocabulary(workplace):
    finished = tiny_runs.run(
        ["train", "--gin_file=gin/runs/pretrain.gin", "--gin_file=gin/strategies/multi_task.gin"]
        + ["--gin_file=gin/strategies/tasks_of_t5.gin", "--gin.TransformerConfig.vocab_size=32128"]
        + ["--gin.MODEL_DIR=runs/t5", "--dry_run"]
    )
    assert finished.code == 0, finished.err
    assert "would train to step 524,288" in finished.out


@pytest.mark.parametrize("data_feed", ["seqio", "tokens"])
def test_rows_of_both_kinds_share_batches(workplace, data_feed):
    files = ["gin/quickstart.gin", "gin/strategies/multi_task.gin"]
    bindings = [FEW.removeprefix("--gin."), "MODEL_DIR=x", "BATCH_SIZE=128", f"DATA_FEED={data_feed}"]
    run = config.load(files, bindings)
    if data_feed == "tokens":
        arguments = [f"--gin_file={name}" for name in files]
        assert cli.main(["tokenize", "--task=multi_task", *arguments, FEW]) == 0
    batch = next(feeds.make_feed(run.feed, "encoder_decoder"))
    vocabulary = vocabularies.load(run.feed.vocabulary, run.feed.extra_ids)
    targets = batch["decoder_target_tokens"]
    sentinels = targets[:, 0] == vocabulary.vocab_size - 1
    words = {vocabulary.decode(row[row > 1].tolist()) for row in targets[~sentinels]}
    assert words == {"acceptable", "unacceptable", "entailment", "neutral", "contradiction"}
    # 100,000 characters of documentation are fewer documents than the limit; CoLA has 1000 rows and MNLI more.
    rates = registry.components("multi_task", run.feed)
    expected = rates["installed_docs_span_corruption"] / sum(rates.values())
    assert abs(np.mean(sentinels) - expected) < 0.1


@pytest.mark.slow
def test_pretraining_tasks_get_losses_and_glue_tasks_scores_too(workplace):
    folder = workplace / "runs" / "evaluated"
    finished = train("multi_task", folder, FEW, "--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=2", "--gin.EVAL_LIMIT=16")
    assert finished.code == 0, finished.err
    (row,) = evaluations(folder)
    tasks = {"installed_docs_span_corruption", "glue_cola_v002", *EVALUATED_ALONE}
    assert {name.split("/")[1] for name in row if name.startswith("eval/")} == tasks
    assert {name for name in row if name.startswith("inference_eval/")} == {
        "inference_eval/glue_cola_v002/matthews_corrcoef",
        *(f"inference_eval/{task}/accuracy" for task in EVALUATED_ALONE),
        "inference_eval/average",
    }


@pytest.mark.slow
def test_multi_task_then_finetune(workplace):
    pretrained = train("leave_one_out", "runs/multi_task", "--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=0")
    assert pretrained.code == 0, pretrained.err
    settings = ["TRAIN_STEPS_RELATIVE=2", "EVAL_PERIOD=2", "CHECKPOINT_PERIOD=2", "EVAL_STEPS=1", "EVAL_LIMIT=16"]
    finished = tiny_runs.run(
        ["train", "--gin_file=gin/strategies/multi_task_then_finetune.gin", "--gin.MIXTURE_OR_TASK_NAME=cola"]
        + [f"--gin.{setting}" for setting in (*settings, "MODEL_DIR=runs/then_cola")]
    )
    assert finished.code == 0, finished.err
    assert [row["step"] for row in training_rows(workplace / "runs" / "then_cola")] == [3, 4]
    (row,) = evaluations(workplace / "runs" / "then_cola")
    assert -100 <= row["inference_eval/glue_cola_v002/matthews_corrcoef"] <= 100


def evaluations(folder):
    """One row an evaluation, of the rows that `metrics.jsonl` has."""
    by_step = {}
    for row in evaluation_rows(folder):
        by_step.setdefault(row["step"], {}).update(row)
    return list(by_step.values())
