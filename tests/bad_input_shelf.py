"""What the cases of bad_input.txt take and damage: text, a configuration, a finished run, exports."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import random
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import t5x_writer
from flax import serialization

from t5x_mini import cli
from t5x_mini.checkpoint import manifest
from t5x_mini.checkpoint.own_source import OwnSource
from t5x_mini.tasks import vocabularies

GIN = """
include 'gin/models/t5_1_1/tiny.gin'
include 'gin/hardware/cpu.gin'

TransformerConfig.emb_dim = 16
TransformerConfig.head_dim = 8
TransformerConfig.mlp_dim = 24
stories/PretrainingTask.files = {'train': 'text/train.txt', 'validation': 'text/validation.txt'}
riddles/TextToTextTask.files = {'train': 'riddles.tsv', 'validation': 'riddles.tsv'}
riddles/TextToTextTask.inputs = 'what is {question}?'
riddles/TextToTextTask.targets = '{answer}'
MIXTURE_OR_TASK_NAME = 'stories'
VOCABULARY = 'words.model'
DATA_FEED = 'tokens'
TASK_FEATURE_LENGTHS = {'inputs': 32, 'targets': 14}
BATCH_SIZE = 8
TRAIN_STEPS = 2
EVAL_PERIOD = 0
STATISTICS_PERIOD = 0
COMPILATION_CACHE = None
MODEL_DIR = 'run'
"""


def fill(folder: Path) -> None:
    """Makes everything in `folder`, with the real commands. The working directory has to be there."""
    (folder / "text").mkdir()
    rng = random.Random(0)
    for split, lines in (("train", 300), ("validation", 40)):
        text = "\n".join(_sentence(rng) for _ in range(lines))
        (folder / "text" / f"{split}.txt").write_text(text + "\n")
    (folder / "riddles.tsv").write_text("question\tanswer\n" + "".join(f"{i} and {i}\t{2 * i}\n" for i in range(40)))
    vocabularies.train((folder / "text" / "train.txt").read_text().splitlines(), folder / "words", size=60)
    (folder / "small.gin").write_text(GIN)
    with redirect_stdout(io.StringIO()):
        for command in (
            ["tokenize", "--gin_file=small.gin", "--task=stories", "--workers=1"],
            ["train", "--gin_file=small.gin"],
            ["export", "run", "hf"],
        ):
            assert cli.main(command) == 0, command
    _damaged_safetensors(folder)
    _foreign(folder)


def _sentence(rng: random.Random) -> str:
    who = ("the old captain", "a small child", "my good friend", "the red bird", "every farmer", "the young doctor")
    does = ("watches", "follows", "remembers", "paints", "describes", "avoids")
    what = ("the green house", "a long river", "his new boat", "the quiet town", "a heavy storm", "the empty road")
    return f"{rng.choice(who)} {rng.choice(does)} {rng.choice(what)} and then goes home again."


def _damaged_safetensors(folder: Path) -> None:
    """Files of one tensor's change: what they are called says which."""
    whole = (folder / "hf" / "model.safetensors").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), bytearray(whole[8 + length :])
    name = "shared.weight"
    start = header[name]["data_offsets"][0]

    def written(called: str, changes: Mapping[str, object], data: bytes = bytes(data)) -> None:
        text = json.dumps({**header, name: {**header[name], **changes}}).encode()
        (folder / f"{called}.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)

    for value in ("nan", "inf"):
        data[start : start + 4] = np.float32(value).tobytes()
        written(value, {}, bytes(data))
    end = header[name]["data_offsets"][1]
    written("overlapping", {"data_offsets": [0, end]})
    written("outside", {"data_offsets": [start, 1 << 50]})
    written("negative", {"data_offsets": [-8, end]})
    written("enormous_shape", {"shape": [1 << 40, 1 << 20]})
    written("negative_shape", {"shape": [-1, 16]})
    written("unknown_dtype", {"dtype": "I99"})
    (folder / "claims_10_gb.safetensors").write_bytes((10 << 30).to_bytes(8, "little") + whole[8:])
    (folder / "deep.safetensors").write_bytes((200_000).to_bytes(8, "little") + b'{"a":' * 40_000)


class _Dangerous:
    """Unpickled, it leaves a file where it was unpickled."""

    def __reduce__(self):
        return os.system, ("touch unpickled",)


def _foreign(folder: Path) -> None:
    (folder / "weights.pickle").write_bytes(pickle.dumps({"weights": _Dangerous()}))
    source = OwnSource(str(folder / "run"))
    listed = manifest.read(folder / "run" / "checkpoints" / "2")
    files = {**listed.files, "../../../small.gin": manifest.Entry(9, "0" * 64)}
    (folder / "leaves.json").write_bytes(dataclasses.replace(listed, files=files).to_bytes())
    params = {name.removeprefix("params/"): source.read(name) for name in source.shapes if name.startswith("params/")}
    t5x_writer.native(folder / "t5x" / "checkpoint_2", t5x_writer.as_state(params, step=2))
    packed = {"version": 3, "optimizer": {"target": {"a": np.zeros(3, np.float32)}, "state": {"step": np.int32(2)}}}
    (folder / "no_t5.msgpack").write_bytes(serialization.msgpack_serialize(packed))
