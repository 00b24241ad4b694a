"""`t5x-mini export --to=hf`: a checkpoint as a folder that transformers loads, and from there to the hub.

    config.json  generation_config.json     what the model is
    model.safetensors                       its parameters, in several files where they are large
    tokenizer.json  spiece.model ...        its vocabulary (`tokenizer_files.py`)
    README.md                               its card (`model_card.py`)

Encoder-decoders are T5 or umT5 of transformers itself. Decoder-only models bring their code with them
(`decoder_only.py`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import typing
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from t5x_mini.checkpoint.huggingface import config as huggingface_config
from t5x_mini.checkpoint.huggingface import decoder_only, decoder_only_tokenizer, hub, tokenizer_files
from t5x_mini.checkpoint.huggingface import names as huggingface_names
from t5x_mini.checkpoint.huggingface.model_card import write_card
from t5x_mini.checkpoint.huggingface.safetensors_files import Dtype, Tensor, write_tensors
from t5x_mini.checkpoint.source import Origin, Source, open_source
from t5x_mini.errors import UserError
from t5x_mini.tasks import files, vocabularies
from t5x_mini.tasks.vocabularies import EOS_ID, PAD_ID, Vocabulary

# What there is in a folder that an export wrote.
_WRITTEN = re.compile(
    r"(model(-\d+-of-\d+)?\.safetensors|.*\.(json|py|model)|README\.md|\.gitattributes|\.cache|__pycache__)"
)
SHARD_BYTES = 5 * 10**9  # as transformers' own; the hub takes files of up to 50 GB


def export_checkpoint(
    checkpoint: str,
    path: str,
    *,
    push_to: str | None = None,
    dtype: Dtype = "float32",
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> str:
    """Writes a checkpoint for transformers.

    The folder is written beside its place and renamed when it is complete. Its tensors are read, turned and written one
    by one: the memory it takes is that of the largest one.

    Args:
        checkpoint: any that `open_source` opens.
        path: the folder to write.
        push_to: USER/NAME on the Hugging Face hub, to upload the folder to when it is complete.
        dtype: of the tensors in the files; bfloat16 is half as large, and rounds.
        overwrite: replaces a folder that an earlier export wrote.
        shard_bytes: the most that a file of tensors may hold.

    Returns:
        Where the model is: its address on the hub, or `path`.

    Raises:
        UserError: there is no such checkpoint, transformers has no such model, the folder is taken, or the hub refuses.
    """
    if dtype not in typing.get_args(Dtype):
        raise UserError(f"--dtype={dtype} cannot be written. Write one of {', '.join(typing.get_args(Dtype))}.")
    _check_folder(path, overwrite)
    if push_to:
        hub.check_push(push_to)
    source = open_source(checkpoint)
    with _renamed_when_complete(Path(path).expanduser()) as folder:
        write_folder(source, folder, dtype=dtype, shard_bytes=shard_bytes, name=push_to or Path(path).name)
    return hub.push(path, push_to) if push_to else path


def write_folder(
    source: Source, folder: Path, *, dtype: Dtype = "float32", shard_bytes: int = SHARD_BYTES, name: str = "."
) -> None:
    """Fills an empty folder with the model's files.

    Args:
        source: the checkpoint.
        folder: an existing folder.
        dtype: of the tensors in the files.
        shard_bytes: the most that a file of tensors may hold.
        name: what the card calls the model.

    Raises:
        UserError: transformers has no such model, or its vocabulary cannot be read.
    """
    origin = source.origin
    vocabulary = _vocabulary(origin)
    rate = origin.model.dropout_rate if origin.dropout_rate is None else origin.dropout_rate
    if origin.model.has_encoder:
        config = huggingface_config.hf_config(origin.model, rate)
        stored, first = huggingface_names.written(origin.model), "decoder_start_token_id"
    else:
        config = decoder_only.hf_config(origin.model, rate, origin.feature_lengths)
        stored, first = decoder_only.names(origin.model).items(), "bos_token_id"
        decoder_only.write_code(folder)
    if vocabulary is not None:
        _write_tokenizer(folder, vocabulary, origin)
    _write_json(folder / "config.json", config | {"dtype": dtype})
    _write_json(folder / "generation_config.json", {first: PAD_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID})
    write_card(folder, name, origin, source.shapes, has_tokenizer=vocabulary is not None)
    tensors = {}
    for ours, (theirs, transposed) in sorted(stored, key=lambda item: item[1].name):
        shape = source.shapes[ours][::-1] if transposed else source.shapes[ours]
        tensors[theirs] = Tensor(shape, functools.partial(_read, source, ours, transposed))
    write_tensors(folder, tensors, dtype, shard_bytes)


def _read(source: Source, name: str, transposed: bool) -> np.ndarray:
    array = source.read(name)
    return array.T if transposed else array


def _vocabulary(origin: Origin) -> Vocabulary | None:
    if origin.vocabulary is None:
        warnings.warn(
            f"{origin.path} doesn't say which vocabulary it was trained on, so that no tokenizer is written: "
            "AutoTokenizer.from_pretrained will find none.",
            stacklevel=2,
        )
        return None
    vocabulary = vocabularies.load(origin.vocabulary, origin.extra_ids)
    if vocabulary.vocab_size > origin.model.vocab_size:
        raise UserError(
            f"{origin.path}: the vocabulary {origin.vocabulary} has {vocabulary.vocab_size} ids with its "
            f"{origin.extra_ids} extra ids, and the model's embedding {origin.model.vocab_size} rows. It is not the "
            "vocabulary that the model was trained on."
        )
    return vocabulary


def _write_tokenizer(folder: Path, vocabulary: Vocabulary, origin: Origin) -> None:
    if origin.model.has_encoder:
        tokenizer_files.write_tokenizer(folder, vocabulary)
    else:
        decoder_only_tokenizer.write_tokenizer(folder, vocabulary, origin)


def _check_folder(path: str, overwrite: bool) -> None:
    if files.is_remote(path):
        raise UserError(f"An export is written to a local folder, and {path} is not one. Write it here and copy it.")
    folder = Path(path).expanduser()
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{path} exists, and is not the folder of an exported model: nothing in it is touched. Write a new one's "
            "name."
        )
    if not overwrite:
        raise UserError(f"{path} holds a model already. Write a new folder's name, or --overwrite to replace it.")
    foreign = sorted(child.name for child in folder.iterdir() if not _WRITTEN.fullmatch(child.name))
    if foreign:
        raise UserError(
            f"{path} holds {', '.join(foreign[:3])}, which no export wrote and replacing the folder would remove. "
            "Write a new folder's name."
        )


@contextlib.contextmanager
def _renamed_when_complete(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, which takes its place at the end. One that a killed export left is thrown away."""
    folder = folder.absolute()
    partial, old = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be made: {error.strerror}. Write another one's name.") from None
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
