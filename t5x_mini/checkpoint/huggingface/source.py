"""Hugging Face's T5 checkpoints, read under our names: a local folder, or a name on the hub."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t5x_mini import strangers
from t5x_mini.checkpoint.huggingface import config as huggingface_config
from t5x_mini.checkpoint.huggingface import decoder_only, hub, tokenizer_files
from t5x_mini.checkpoint.huggingface import names as huggingface_names
from t5x_mini.checkpoint.huggingface.names import COPIES_OF_SHARED, EMBEDDING, HEAD, LM_HEAD, SHARED, UNUSED, Stored
from t5x_mini.checkpoint.huggingface.safetensors_files import Tensors
from t5x_mini.checkpoint.source import Origin
from t5x_mini.errors import UserError
from t5x_mini.model.config import TransformerConfig

CONFIG = "config.json"
NO_VOCABULARY = "There is no spiece.model beside it, so that its vocabulary is not known: set VOCABULARY and EXTRA_IDS."
_ROWS_COMPARED_AT_ONCE = 4096


class HuggingFaceSource:
    """T5, T5 1.1, Flan-T5, mT5, ByT5 or umT5 as transformers writes it, or a model that we exported.

    Whether the output head is the embedding is decided as transformers 5 does it, by the file: a head that isn't there
    is the embedding. Whether the logits are scaled is in config.json. Ours are scaled exactly where the head is the
    embedding; the other two combinations become a head of its own that gives the same logits.

    Attributes:
        origin: what is known of it; `vocabulary` is None where there is neither a `spiece.model` nor ByT5's tokenizer.
        shapes: of every parameter, by its name on our disk.
    """

    def __init__(self, path: str):
        """Opens a folder, or the files of a hub name, which are copied into the hub's cache at first use.

        Raises:
            UserError: there is no such model, its files are not complete, or it is none of these.
        """
        folder = Path(path).expanduser() if Path(path).expanduser().is_dir() else hub.fetch(path)
        hf = _read_config(folder)
        self._folder = folder
        self._tensors = Tensors(folder)
        if hf.get("model_type") == decoder_only.MODEL_TYPE:
            model = decoder_only.model_config(hf, path)
            self._stored = decoder_only.names(model)
            self._scaled_head = False
        else:
            model = huggingface_config.model_config(hf, path)
            model = dataclasses.replace(model, logits_via_embedding=self._is_tied(model))
            self._stored = _present(huggingface_names.names(model), self._tensors.shapes)
            self._scaled_head = huggingface_config.scales_logits(hf)
            self._check_copies(path)
        self._check_tensors(path, model)
        vocabulary, extra_ids = tokenizer_files.read_tokenizer(folder, hf)
        self.origin = Origin(
            path=path,
            kind="hf",
            model=model,
            vocabulary=vocabulary,
            extra_ids=extra_ids,
            dropout_rate=hf.get("dropout_rate"),
            feature_lengths=hf.get("feature_lengths"),  # in what we exported
            notes=() if vocabulary else (NO_VOCABULARY,),
        )
        self.shapes: dict[str, tuple[int, ...]] = {
            name: shape[::-1] if stored.transposed else shape
            for name, stored in self._stored.items()
            for shape in [self._tensors.shapes[stored.name]]
        }

    def read(self, name: str) -> np.ndarray:
        """One parameter, float32. Its bytes are read now; nothing of it is kept."""
        stored = self._stored[name]
        array = self._tensors.read(stored.name)
        array = array.T if stored.transposed else array
        if name == HEAD and self._scaled_head:
            array = array * np.float32(1 / math.sqrt(self.origin.model.emb_dim))
        return array

    def _is_tied(self, model: TransformerConfig) -> bool:
        """Whether the head is the embedding, scaled: as T5 1.0's; some files hold it twice."""
        shapes = self._tensors.shapes
        if not model.logits_via_embedding or LM_HEAD not in shapes:
            return model.logits_via_embedding
        return self._are_equal(LM_HEAD, _embedding(shapes))

    def _check_copies(self, path: str) -> None:
        embedding = self._stored[EMBEDDING].name
        for copy in COPIES_OF_SHARED:
            if copy in self._tensors.shapes and copy != embedding and not self._are_equal(copy, embedding):
                raise UserError(
                    f"{path}: {copy} and {embedding} are two embeddings. T5 has one for the encoder and the decoder, "
                    "and so have the models here."
                )

    def _are_equal(self, a: str, b: str) -> bool:
        shapes = self._tensors.shapes
        if b not in shapes or shapes[a] != shapes[b]:
            return False
        x, y = self._tensors.read(a), self._tensors.read(b)
        starts = range(0, len(x), _ROWS_COMPARED_AT_ONCE)
        return all(np.array_equal(x[i : i + starts.step], y[i : i + starts.step]) for i in starts)

    def _check_tensors(self, path: str, model: TransformerConfig) -> None:
        """The file holds what config.json promises, in its shapes, and no more."""
        wanted = huggingface_names.disk_shapes(model)
        found = self._tensors.shapes
        missing = sorted({stored.name for stored in self._stored.values()} - found.keys())
        known = {stored.name for stored in self._stored.values()} | {SHARED, LM_HEAD, *COPIES_OF_SHARED, *UNUSED}
        extra = sorted(found.keys() - known)
        if missing or extra:
            raise UserError(
                f"{path} is not the model that its {CONFIG} describes: {_listed(missing)} not in it, "
                f"{_listed(extra)} not known. A T5 with a language model's head is wanted "
                "(T5ForConditionalGeneration), without adapters or heads of other kinds."
            )
        for name, stored in self._stored.items():
            shape = wanted[name][::-1] if stored.transposed else wanted[name]
            if found[stored.name] != shape:
                raise UserError(
                    f"{path}: {stored.name} has the shape {found[stored.name]}, where its {CONFIG} makes it {shape}."
                )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"There is no {CONFIG} in {folder}. Write the folder of a Hugging Face model, or its hub name.")
    return strangers.read_json(path, "the config.json of a Hugging Face model")


def _embedding(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What the file calls the embedding."""
    return next((name for name in (SHARED, *COPIES_OF_SHARED) if name in shapes), SHARED)


def _present(stored: Mapping[str, Stored], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Stored]:
    """The table with the names under which the file holds the embedding, and the head where that is the embedding."""
    embedding = _embedding(shapes)
    present = {**stored, EMBEDDING: Stored(embedding, False)}
    if HEAD in stored and LM_HEAD not in shapes:
        present[HEAD] = Stored(embedding, True)
    return present


def _listed(names: list[str]) -> str:
    return f"{len(names)} tensors{f' (as {names[0]})' if names else ''}"
