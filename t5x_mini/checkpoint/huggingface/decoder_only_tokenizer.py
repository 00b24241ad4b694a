"""Tokenizers of exported language models: T5's, with what T5's leaves to the decoder.

A row of a language model begins with 0, which is also padding. T5's decoder is given that 0 as its first input; here
the tokenizer puts it in front of the text, so that `generate` finds it there. Behind the inputs of a model that was
trained on inputs and targets it puts `</s>`, as our tasks do. A model of targets alone goes on with the text.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from t5x_mini.checkpoint.huggingface import tokenizer_files
from t5x_mini.checkpoint.source import Origin
from t5x_mini.feed.config import ends_inputs
from t5x_mini.tasks.vocabularies import EOS_ID, PAD_ID, UNK_ID, ByteVocabulary, Vocabulary

_SPECIAL = {"<pad>": PAD_ID, "</s>": EOS_ID, "<unk>": UNK_ID}


def write_tokenizer(folder: pathlib.Path, vocabulary: Vocabulary, origin: Origin) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`, and `spiece.model` where there is one.

    Args:
        folder: an existing folder.
        vocabulary: that the model was trained with.
        origin: the model, and what it was trained on.

    Raises:
        UserError: the `tokenizers` library cannot cut text as this SentencePiece model does.
    """
    if isinstance(vocabulary, ByteVocabulary):
        tokenizer = _byte_tokenizer(vocabulary)  # transformers' ByT5Tokenizer puts nothing in front
    else:
        tokenizer_files.write_tokenizer(folder, vocabulary)
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["post_processor"] = _template(ends_inputs(origin.model.architecture, origin.feature_lengths))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<pad>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "additional_special_tokens": list(_sentinels(vocabulary)),
        "extra_ids": vocabulary.extra_ids,
        "padding_side": "left",  # what is written stands right behind the prompt
        "clean_up_tokenization_spaces": False,
    }
    for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
        text = json.dumps(content, ensure_ascii=False, indent=2)
        (folder / name).write_text(text + "\n", encoding="utf-8")


def _template(ends_inputs: bool) -> dict[str, Any]:
    """What `tokenizer.json` puts around a text; of a pair, the second is what a language model goes on with."""
    start, text, end = _piece("<pad>"), {"Sequence": {"id": "A", "type_id": 0}}, _piece("</s>")
    single = [start, text, end] if ends_inputs else [start, text]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}, end],
        "special_tokens": {
            token: {"id": token, "ids": [_SPECIAL[token]], "tokens": [token]} for token in ("<pad>", "</s>")
        },
    }


def _piece(token: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": 0}}


def _byte_tokenizer(vocabulary: ByteVocabulary) -> dict[str, Any]:
    """`tokenizer.json` of a byte vocabulary: byte-pair encoding that never joins a pair."""
    added = _SPECIAL | dict(reversed(_sentinels(vocabulary).items()))
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    byte_ids = {character: byte + UNK_ID + 1 for byte, character in enumerate(_byte_characters())}
    return {
        "version": "1.0",
        "added_tokens": [{"id": token_id, "content": token, **flags} for token, token_id in added.items()],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": added | byte_ids, "merges": []},
    }


def _byte_characters() -> list[str]:
    """The characters that stand for the 256 bytes in ByteLevel, where none may be a space or unprintable (GPT-2)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _sentinels(vocabulary: Vocabulary) -> dict[str, int]:
    """The extra ids: the first is the last of all."""
    return {f"<extra_id_{i}>": vocabulary.vocab_size - 1 - i for i in range(vocabulary.extra_ids)}
