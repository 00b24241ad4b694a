"""A mixture some of whose files are missing says which, and what to write."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from t5x_mini import config, resources
from t5x_mini.errors import UserError
from t5x_mini.feed import feeds, missing_files

GLUE = ["MIXTURE_OR_TASK_NAME=glue", "TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 8}", "BATCH_SIZE=1"]


@pytest.fixture
def glue_dir(tmp_path):
    """CoLA, RTE and MNLI without its mismatched set."""
    for task in ("CoLA", "RTE", "MNLI"):
        shutil.copytree(Path(resources.data_path("tiny_glue")) / task, tmp_path / task)
    (tmp_path / "MNLI" / "dev_mismatched.tsv").unlink()
    return tmp_path


def feed_config(glue_dir, *bindings):
    return config.load_feed([], [*GLUE, f"GLUE_DIR={glue_dir}", *bindings])[0]


def test_all_that_is_missing_is_named_at_once_with_a_mixture_of_the_rest(glue_dir):
    with pytest.raises(UserError) as error:
        feeds.make_feed(feed_config(glue_dir), "encoder_decoder")
    message = str(error.value)
    assert re.search(
        r"needs files of the split 'train' that are not there: glue_sst2_v002 \(.*SST-2/train.tsv\), ", message
    )
    assert "Those of glue_cola_v002, glue_rte_v002 are there." in message
    written = [word.removeprefix("--gin.") for word in shlex.split(message) if word.startswith("--gin.")]
    feed = feed_config(glue_dir, *written)
    (mixture,) = feed.tasks
    assert mixture.tasks == {"glue_cola_v002": 8551.0, "glue_rte_v002": 2490.0, "glue_mnli_matched_v002": 0.0}
    missing_files.check(feed, "train", training=True)
    missing_files.check(feed, "validation", training=False)


def test_evaluation_asks_for_the_files_of_its_split(glue_dir):
    mixture = "two/Mixture.tasks={'cola': 1.0, 'mnli_mismatched': 0.0}"
    feed = feed_config(glue_dir, mixture, "MIXTURE_OR_TASK_NAME=two")
    missing_files.check(feed, "train", training=True)
    with pytest.raises(
        UserError, match=r"'validation' that are not there: glue_mnli_mismatched_v002 \(.*dev_mismatched"
    ):
        feeds.tasks_with_split(feed, "validation")


def test_a_folder_with_nothing_in_it_is_another_folder(tmp_path):
    with pytest.raises(UserError, match="None of its tasks has its files there: is it another folder"):
        missing_files.check(feed_config(tmp_path), "train", training=True)


def test_a_task_alone_and_files_on_a_network_are_left_to_who_reads_them(tmp_path):
    missing_files.check(feed_config(tmp_path, "MIXTURE_OR_TASK_NAME=sst2"), "train", training=True)
    remote = ["far/PretrainingTask.files={'train': 'gs://nobody/x.txt'}", "far_alone/Mixture.tasks=['far']"]
    missing_files.check(feed_config(tmp_path, *remote, "MIXTURE_OR_TASK_NAME=far_alone"), "train", training=True)
