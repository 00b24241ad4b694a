"""README.md of an exported model: what it is, what it was trained on and for how long, and how to load it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from t5x_mini.checkpoint.source import Origin
from t5x_mini.model.config import TransformerConfig
from t5x_mini.storage import to_path
from t5x_mini.train.metrics import LOSS, METRICS_FILE, read_metrics

_ARCHITECTURES = {"encoder_decoder": "encoder-decoder", "prefix_lm": "prefix LM", "causal_lm": "causal LM"}
# The macros of a run's config.gin that say what it was trained on.
_DATA = (
    "MIXTURE_OR_TASK_NAME",
    "TASK_FEATURE_LENGTHS",
    "BATCH_SIZE",
    "VOCABULARY",
    "EXTRA_IDS",
    "INITIAL_CHECKPOINT_PATH",
)
_SIZES = (
    "vocab_size",
    "emb_dim",
    "num_heads",
    "head_dim",
    "num_encoder_layers",
    "num_decoder_layers",
    "mlp_dim",
    "mlp_activations",
    "logits_via_embedding",
    "relpos_buckets",
    "relpos_max_distance",
    "relpos_bias_per_layer",
)
_TRAINING = {LOSS: "training loss, nats a token", "accuracy": "training accuracy"}


def write_card(
    folder: Path, name: str, origin: Origin, shapes: Mapping[str, tuple[int, ...]], *, has_tokenizer: bool
) -> None:
    """Writes README.md.

    Args:
        folder: of the model's other files.
        name: what to load it by: on the hub, or the folder's.
        origin: where it comes from; of a run of ours, its `config.gin` and `metrics.jsonl` are read.
        shapes: of the checkpoint's arrays.
        has_tokenizer: whether the folder has one.
    """
    parameters = sum(math.prod(shape) for array, shape in shapes.items() if array.startswith("params/"))
    run = to_path(origin.path).parent.parent if origin.kind == "t5x_mini" else None
    sections = [
        _front_matter(origin.model),
        f"# {name.rpartition('/')[2]}\n\n{_summary(origin, parameters)}",
        f"## Use\n\n{_use(name, origin.model, has_tokenizer)}",
        f"## Data\n\n{_data(run, origin)}",
        f"## Training\n\n{_training(run, origin)}",
        f"## Model\n\n{_table([(size, getattr(origin.model, size)) for size in _sizes(origin.model)])}",
    ]
    (folder / "README.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def tokens_seen(rows: Sequence[Mapping[str, float]], step: int) -> int:
    """Tokens in the batches of the steps up to `step`, padding aside, encoder's and decoder's together."""
    speed = "timing/tokens_per_second"
    return round(sum(row[speed] * row["timing/seconds"] for row in rows if speed in row and row["step"] <= step))


def _front_matter(model: TransformerConfig) -> str:
    tag = "text2text-generation" if model.has_encoder else "text-generation"
    return f"---\nlibrary_name: transformers\npipeline_tag: {tag}\ntags:\n- t5\n- t5x-mini\n---"


def _summary(origin: Origin, parameters: int) -> str:
    kind = _ARCHITECTURES[origin.model.architecture]
    article = "An" if kind[0] in "aeiou" else "A"
    steps = "" if origin.step is None else f", after {origin.step:,} steps"
    return f"{article} {kind} of {parameters:,} parameters{steps}. Written by t5x-mini."


def _use(name: str, model: TransformerConfig, has_tokenizer: bool) -> str:
    automatic, trust = ("AutoModelForSeq2SeqLM", "") if model.has_encoder else ("AutoModelForCausalLM", _TRUST)
    arguments = f"{json.dumps(name)}{trust}"
    lines = [f"from transformers import {automatic}, AutoTokenizer", ""]
    if has_tokenizer:
        lines += [f"tokenizer = AutoTokenizer.from_pretrained({arguments})"]
    lines += [f"model = {automatic}.from_pretrained({arguments})"]
    if has_tokenizer:
        text = "Thank you <extra_id_0> me to your party <extra_id_1> week." if model.has_encoder else "Thank you"
        lines += [
            f'inputs = tokenizer("{text}", return_tensors="pt")',
            "answer = model.generate(**inputs, max_new_tokens=20)[0]",
            "print(tokenizer.decode(answer))",
        ]
    code = "```python\n" + "\n".join(lines) + "\n```"
    if not model.has_encoder:
        return code + _PROMPTS
    return code + (_UMT5 if _is_scaled_by_mistake(model) else "")


_TRUST = ", trust_remote_code=True"
_PROMPTS = "\n\nThe tokenizer puts `<pad>`, id 0, in front of a prompt. Pad prompts of several lengths on the left."
_UMT5 = (
    "\n\ntransformers 5 divides the logits of every umT5 by the square root of its width, also where the head is not "
    "the embedding, as here. Greedy decoding is the same; for scores, sampling, beams and training set "
    "`model.config.tie_word_embeddings = False` after loading."
)


def _is_scaled_by_mistake(model: TransformerConfig) -> bool:
    return model.has_encoder and model.relpos_bias_per_layer and not model.logits_via_embedding


def _data(run: Path | None, origin: Origin) -> str:
    config = run / "config.gin" if run else None
    macros = dict(re.findall(r"^([A-Z_]+) = (.+)$", config.read_text(), re.M)) if config and config.is_file() else {}
    known = [(macro, macros[macro]) for macro in _DATA if macros.get(macro, "None") != "None"]
    if known:
        return _table(known)
    return f"Not known: the checkpoint ({origin.kind}) doesn't say."


def _training(run: Path | None, origin: Origin) -> str:
    metrics = run / METRICS_FILE if run else None
    if origin.step is None or metrics is None or not metrics.is_file():
        return "Not known: there are no metrics beside the checkpoint."
    rows = [row for row in read_metrics(metrics) if row["step"] <= origin.step]
    lines = [("steps", f"{origin.step:,}"), ("tokens seen", f"{tokens_seen(rows, origin.step):,}")]
    for row in rows[::-1]:
        if LOSS in row:
            lines += [(words, f"{row[name]:.4g}") for name, words in _TRAINING.items() if name in row]
            break
    return _table([*lines, *_newest_evaluations(rows)])


def _newest_evaluations(rows: Sequence[Mapping[str, float]]) -> list[tuple[str, str]]:
    """The loss and accuracy of every held-out task, as last measured."""
    newest = {name: (value, row["step"]) for row in rows for name, value in row.items() if name.startswith("eval/")}
    shown = {name: found for name, found in newest.items() if name.rpartition("/")[2] in _TRAINING}
    return [(name, f"{value:.4g} (step {step:,})") for name, (value, step) in sorted(shown.items())]


def _sizes(model: TransformerConfig) -> list[str]:
    return [size for size in _SIZES if model.has_encoder or size != "num_encoder_layers"]


def _table(rows: Sequence[tuple[str, object]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | `{value}` |" for name, value in rows)])
