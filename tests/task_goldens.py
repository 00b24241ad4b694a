"""What T5's own code makes of hand-written rows (`tests/golden/t5_*.json`), and the comparison with ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from t5x_mini.evaluate import metrics, postprocessors
from t5x_mini.tasks.definitions import TextToTextTask
from t5x_mini.tasks.text_to_text import write_row

_FOLDER = Path(__file__).parent / "golden"
T5 = json.loads((_FOLDER / "t5_tasks.json").read_text(encoding="utf-8"))
T5_METRICS = json.loads((_FOLDER / "t5_metrics.json").read_text(encoding="utf-8"))


def assert_as_t5(definition: TextToTextTask) -> None:
    """Texts, postprocessed targets, builder and metrics are T5's for each recorded row."""
    golden = T5["tasks"][definition.name]
    assert definition.tfds.rpartition(":")[0] == golden["tfds"]
    assert reported(definition.metrics) == golden["metrics"]
    postprocess = postprocessors.by_name(definition.postprocessor)
    for recorded in golden["rows"]:
        texts = write_row(definition, recorded["row"])
        assert texts == {"inputs": recorded["inputs"], "targets": recorded["targets"]}
        assert postprocess(texts["targets"], recorded["row"], True, definition) == recorded["target"]


def reported(names: Sequence[str]) -> list[str]:
    """Names of the numbers that the metrics give."""
    classes, texts = ([0, 1, 1], [0, 1, 0]), (["a b"], ["a b"])
    answers = {"bleu": texts, "rouge": texts, "squad": ([["a"]], ["a"])}
    return [number for name in names for number in metrics.by_name(name)(*answers.get(name, classes))]
