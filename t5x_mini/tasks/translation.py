"""WMT's translation tasks as text, under T5's names, scored in BLEU."""

from __future__ import annotations

from t5x_mini.tasks.definitions import TextToTextTask

# T5's name, the TensorFlow Datasets builder, and the languages from which and to which to translate.
_TASKS = (
    ("wmt_t2t_ende_v003", "wmt_t2t_translate/de-en:1.0.0", "en", "de"),
    ("wmt14_ende_v003", "wmt14_translate/de-en:1.0.0", "en", "de"),
    ("wmt14_enfr_v003", "wmt14_translate/fr-en:1.0.0", "en", "fr"),
    ("wmt15_enfr_v003", "wmt15_translate/fr-en:1.0.0", "en", "fr"),
    ("wmt16_enro_v003", "wmt16_translate/ro-en:1.0.0", "en", "ro"),
)
_LANGUAGES = {"de": "German", "en": "English", "fr": "French", "ro": "Romanian"}

ALIASES = {"ende": "wmt_t2t_ende_v003", "enfr": "wmt15_enfr_v003", "enro": "wmt16_enro_v003"}
"""Short names, and what T5 calls them."""


def definitions() -> list[TextToTextTask]:
    """The tasks, read from TensorFlow Datasets: `'translate English to German: ...'`."""
    return [
        TextToTextTask(
            name=name,
            tfds=builder,
            inputs=f"translate {_LANGUAGES[source]} to {_LANGUAGES[target]}: {{{source}}}",
            targets=f"{{{target}}}",
            metrics=("bleu",),
        )
        for name, builder, source, target in _TASKS
    ]
