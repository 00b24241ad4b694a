"""CNN/Daily Mail's summaries as text, under T5's name, scored in ROUGE."""

from __future__ import annotations

from t5x_mini.tasks.definitions import TextToTextTask

ALIASES = {"cnn_dailymail": "cnn_dailymail_v002"}
"""Short names, and what T5 calls them."""


def definitions() -> list[TextToTextTask]:
    """CNN/Daily Mail, read from TensorFlow Datasets: `'summarize: ...'`."""
    return [
        TextToTextTask(
            name="cnn_dailymail_v002",
            tfds="cnn_dailymail:3.4.0",
            inputs="summarize: {article}",
            targets="{highlights}",
            metrics=("rouge",),
        )
    ]
