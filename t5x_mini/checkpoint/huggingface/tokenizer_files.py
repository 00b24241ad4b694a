"""A vocabulary as Hugging Face's tokenizer files, and which of ours a folder's tokenizer is.

`spiece.model` is the SentencePiece model itself, which we read back. `tokenizer.json` is the same for the `tokenizers`
library, with the extra ids on top; transformers reads it through the class that `tokenizer_config.json` names.

Both give a text's ids, and EOS after them. They part over a text that spells a special token: transformers sees
`<extra_id_0>` and `</s>` wherever they stand, SentencePiece sees `<extra_id_0>` after a space.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from t5x_mini import config_checks, strangers
from t5x_mini.checkpoint.huggingface import decoder_only
from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import vocabularies
from t5x_mini.tasks.vocabularies import ByteVocabulary, SentencePieceVocabulary, Vocabulary

SPIECE, TOKENIZER, CONFIG = "spiece.model", "tokenizer.json", "tokenizer_config.json"
DEFAULT_EXTRA_IDS = {"T5Tokenizer": 100, "ByT5Tokenizer": 125}  # of transformers' classes

_EXTRA_ID = re.compile(r"▁?(<extra_id_\d+>)")
_SPECIAL = {"pad_token": 0, "eos_token": 1, "unk_token": 2}


def read_tokenizer(folder: Path, hf_config: Mapping[str, Any]) -> tuple[str | None, int]:
    """The vocabulary of a Hugging Face folder as `vocabularies.load` takes it, and its extra ids.

    (None, 0) where there is neither a `spiece.model` nor a tokenizer of bytes: a `tokenizer.json` alone is not a
    SentencePiece model any more.
    """
    path, spiece = folder / CONFIG, folder / SPIECE
    config = strangers.read_json(path, "the configuration of a tokenizer") if path.is_file() else {}
    kind = str(config.get("tokenizer_class") or hf_config.get("tokenizer_class") or "T5Tokenizer").removesuffix("Fast")
    extra_ids = config.get("extra_ids")
    extra_ids = DEFAULT_EXTRA_IDS.get(kind, 100) if extra_ids is None else extra_ids
    config_checks.check_fields(FeedConfig, {"extra_ids": extra_ids}, str(path))
    exported_bytes = hf_config.get("model_type") == decoder_only.MODEL_TYPE and config and not spiece.is_file()
    if kind == "ByT5Tokenizer" or exported_bytes:
        return "bytes", extra_ids
    if not spiece.is_file():
        return None, 0
    model = vocabularies.read_proto(str(spiece))
    held = sum(bool(_EXTRA_ID.fullmatch(piece.piece)) for piece in model.pieces)  # mT5's and umT5's models hold theirs
    return str(spiece), held or extra_ids


def write_tokenizer(folder: Path, vocabulary: Vocabulary) -> None:
    """Writes the files that `AutoTokenizer.from_pretrained(folder)` reads.

    Raises:
        UserError: the `tokenizers` library cannot cut text as this SentencePiece model does.
    """
    if isinstance(vocabulary, ByteVocabulary):
        _write_json(
            folder / CONFIG, _config("ByT5Tokenizer", vocabulary) | {"added_tokens_decoder": _added(vocabulary)}
        )
        return
    spiece = Path(vocabulary.path).read_bytes()
    _write_json(folder / TOKENIZER, tokenizer_json(vocabulary))
    _write_json(folder / CONFIG, _config("PreTrainedTokenizerFast", vocabulary))
    (folder / SPIECE).write_bytes(spiece)


def tokenizer_json(vocabulary: SentencePieceVocabulary) -> dict[str, Any]:
    """The content of tokenizer.json.

    Raises:
        UserError: as of `write_tokenizer`.
    """
    model = sentencepiece_model_pb2.ModelProto.FromString(Path(vocabulary.path).read_bytes())
    _check(model, vocabulary.path)
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}
    pieces = _pieces(model, vocabulary)
    eos = pieces[vocabulary.eos_id]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(model, pieces),
        "normalizer": _normalizer(model.normalizer_spec.precompiled_charsmap),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, spaces]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": eos, "type_id": 0}}],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": eos, "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
                {"SpecialToken": {"id": eos, "type_id": 0}},
            ],
            "special_tokens": {eos: {"id": eos, "ids": [vocabulary.eos_id], "tokens": [eos]}},
        },
        "decoder": _decoder(spaces, model.trainer_spec.byte_fallback),
        "model": _bpe(model, pieces) if _is_bpe(model) else _unigram(model, pieces),
    }


def _check(model: sentencepiece_model_pb2.ModelProto, path: str) -> None:
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    wanted = {
        "model_type": (trainer.model_type, (trainer.UNIGRAM, trainer.BPE)),
        "split_by_whitespace": (trainer.split_by_whitespace, (True,)),
        "treat_whitespace_as_suffix": (trainer.treat_whitespace_as_suffix, (False,)),
        "add_dummy_prefix": (normalizer.add_dummy_prefix, (True,)),
        "remove_extra_whitespaces": (normalizer.remove_extra_whitespaces, (True,)),
    }
    for name, (found, allowed) in wanted.items():
        if found not in allowed:
            raise UserError(
                f"The vocabulary {path!r} was made with {name} = {found}, where T5's have {allowed[0]}: a tokenizer of "
                "transformers would give other ids than the model was trained on. The model cannot be exported."
            )


def _pieces(model: sentencepiece_model_pb2.ModelProto, vocabulary: SentencePieceVocabulary) -> list[str]:
    """The piece of every id; extra ids without the space before them, which T5's tokenizer takes away."""
    own = [_EXTRA_ID.sub(r"\1", piece.piece) for piece in model.pieces]
    return own + [f"<extra_id_{i}>" for i in reversed(range(vocabulary.vocab_size - len(own)))]


def _unigram(model: sentencepiece_model_pb2.ModelProto, pieces: list[str]) -> dict[str, Any]:
    scores = [piece.score for piece in model.pieces] + [0.0] * (len(pieces) - len(model.pieces))
    vocab = [list(pair) for pair in zip(pieces, scores, strict=True)]
    fallback = model.trainer_spec.byte_fallback
    return {"type": "Unigram", "unk_id": _SPECIAL["unk_token"], "vocab": vocab, "byte_fallback": fallback}


def _bpe(model: sentencepiece_model_pb2.ModelProto, pieces: list[str]) -> dict[str, Any]:
    """SentencePiece merges the pair that makes the piece of the highest score, however it is cut in two."""
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == piece.NORMAL}
    merges = [
        (-score, [piece[:cut], piece[cut:]])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return {
        "type": "BPE",
        "unk_token": pieces[_SPECIAL["unk_token"]],
        "fuse_unk": True,
        "byte_fallback": model.trainer_spec.byte_fallback,
        "vocab": {piece: i for i, piece in enumerate(pieces)},
        "merges": [pair for _, pair in sorted(merges, key=lambda merge: merge[0])],
    }


def _normalizer(charsmap: bytes) -> dict[str, Any] | None:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()} if charsmap else None


def _is_bpe(model: sentencepiece_model_pb2.ModelProto) -> bool:
    return model.trainer_spec.model_type == model.trainer_spec.BPE


def _decoder(spaces: dict[str, Any], byte_fallback: bool) -> dict[str, Any]:
    if not byte_fallback:
        return spaces
    return {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, spaces]}


def _added_tokens(model: sentencepiece_model_pb2.ModelProto, pieces: list[str]) -> list[dict[str, Any]]:
    """The tokens that are found in a text before it is cut into pieces; the special ones are left out of answers."""
    defined = [piece.type == piece.USER_DEFINED for piece in model.pieces] + [False] * (len(pieces) - len(model.pieces))
    special = [i in _SPECIAL.values() or bool(_EXTRA_ID.fullmatch(piece)) for i, piece in enumerate(pieces)]
    return [{"id": i, **_token(pieces[i], special=special[i])} for i in range(len(pieces)) if special[i] or defined[i]]


def _added(vocabulary: ByteVocabulary) -> dict[str, dict[str, Any]]:
    """The special tokens by id. transformers would number ByT5's extra ids upwards, T5's go down from the last id."""
    special = {0: "<pad>", 1: "</s>", 2: "<unk>"}
    extra = {vocabulary.vocab_size - 1 - i: f"<extra_id_{i}>" for i in range(vocabulary.extra_ids)}
    return {str(i): _token(text, special=True) for i, text in sorted((special | extra).items())}


def _token(text: str, *, special: bool) -> dict[str, Any]:
    return {
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _config(kind: str, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "tokenizer_class": kind,
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "extra_ids": vocabulary.extra_ids,
        "additional_special_tokens": [f"<extra_id_{i}>" for i in range(vocabulary.extra_ids)],
        "clean_up_tokenization_spaces": False,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
