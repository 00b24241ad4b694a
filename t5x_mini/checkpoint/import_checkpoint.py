"""`t5x-mini import`: a checkpoint of Hugging Face's or T5X's as a run's folder of ours.

checkpoints/<step>   the parameters and, where the checkpoint has it, Adafactor's state
config.gin           model and vocabulary, to pass before a run's own gin files
spiece.model         the vocabulary, where it is a SentencePiece model
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from t5x_mini.checkpoint import array_writer, run_item, steps
from t5x_mini.checkpoint.run_item import RunItem, Training
from t5x_mini.checkpoint.source import Finite, Kind, Origin, Source, open_source
from t5x_mini.errors import UserError
from t5x_mini.model.config import Architecture
from t5x_mini.tasks import files, vocabularies
from t5x_mini.tasks.vocabularies import Vocabulary

CONFIG, VOCABULARY = "config.gin", "spiece.model"


def import_checkpoint(
    path: str,
    *,
    kind: Kind,
    output: str | None = None,
    step: int | None = None,
    vocabulary: str | None = None,
    extra_ids: int | None = None,
    architecture: Architecture | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a checkpoint into a run's folder, and says what it was and what to do with it. Gives the folder.

    One array at a time is in memory (of T5X's scanned models, the layers of one parameter). An interrupted import
    leaves no checkpoint; it can simply be repeated.

    Args:
        path: the checkpoint, as `open_source` takes it.
        kind: who wrote it, `hf` or `t5x`.
        output: the folder; None: the checkpoint's own name, in `runs`.
        step: updates that it has seen, where it doesn't say (Hugging Face's don't).
        vocabulary: what `vocabularies.load` takes; None: the checkpoint's own, if it comes with one.
        extra_ids: ids on top of the vocabulary; None: the checkpoint's own number.
        architecture: of a T5X checkpoint without an encoder, `prefix_lm` or `causal_lm`; None: `prefix_lm`.
        overwrite: replace what an earlier import wrote to the folder.

    Raises:
        UserError: there is no such checkpoint, it is incomplete or of another kind of model; the vocabulary cannot be
            read or has more ids than the model; the folder is in use.
    """
    source = _open(path, kind, architecture)
    origin = source.origin
    found, note = _vocabulary(origin, vocabulary, extra_ids)
    folder = _folder(output or f"runs/{_name(path)}", overwrite)
    step = _step(origin, step)
    names = [name for name in source.shapes if name.startswith(("params/", "opt_state/"))]

    with _draft_of(folder) as draft:
        if _has_file(found):
            files.write_bytes(str(draft / VOCABULARY), Path(found.path).read_bytes())
        config = _config_gin(origin, folder, found)
        files.write_bytes(str(draft / CONFIG), config.encode())
        with tqdm(total=len(names), desc="Importing", unit=" arrays") as progress:
            array_writer.write(
                str(draft),
                step or 0,
                {name: source.shapes[name] for name in names},
                _counted(source, progress),
                _run(origin, found, step is not None),
            )
    _tell(source, folder, step, found, [*origin.notes, *note])
    return str(folder)


def _open(path: str, kind: Kind, architecture: Architecture | None) -> Source:
    if kind == "t5x":
        from t5x_mini.checkpoint.t5x_format import T5XSource

        return Finite(T5XSource(path, architecture))
    if architecture:
        raise UserError("Only T5X's checkpoints don't say their architecture: leave out --architecture.")
    return open_source(path, kind)


def _step(origin: Origin, step: int | None) -> int | None:
    if step is not None and origin.step not in (None, step):
        raise UserError(
            f"{origin.path} is at step {origin.step:,}, and not at {step:,}: leave out --step. Of several checkpoints, "
            "name the one that is meant: PATH/checkpoint_N."
        )
    return origin.step if step is None else step


def _counted(source: Source, progress: tqdm):
    def read(name: str) -> np.ndarray:
        array = source.read(name)
        progress.update()
        return array

    return read


def _run(origin: Origin, vocabulary: Vocabulary | None, step_known: bool) -> RunItem:
    return RunItem(
        model=origin.model,
        step_known=step_known,
        vocabulary=vocabularies.identity(vocabulary) if vocabulary else origin.vocabulary_id,
        vocabulary_source=vocabulary and (VOCABULARY if _has_file(vocabulary) else "bytes", vocabulary.extra_ids),
        training=Training(
            learning_rate=origin.learning_rate,
            loss_normalizing_factor=origin.loss_normalizing_factor,
            dropout_rate=origin.dropout_rate,
        ),
    )


# ---------------------------------------------------------------------------------------------------- the folder


def _name(path: str) -> str:
    """`google/flan-t5-small` to flan-t5-small, `gs://.../t5_1_1_small/checkpoint_1000000` to t5_1_1_small."""
    parts = (path if files.is_remote(path) else os.path.abspath(os.path.expanduser(path))).rstrip("/").split("/")
    return parts[-2] if len(parts) > 1 and re.fullmatch(r"checkpoint_\d+", parts[-1]) else parts[-1]


def _folder(output: str, overwrite: bool) -> Path:
    """The folder to write to, in which there is nothing, or an earlier import that may be replaced."""
    if files.is_remote(output):
        raise UserError(f"A checkpoint is imported into a local folder, and not to {output}.")
    folder = Path(output).expanduser()
    checkpoints = folder / steps.FOLDER
    if any(checkpoints.glob("*/position")):
        raise UserError(f"{folder} holds a run with checkpoints of its own. Write another folder: --output=runs/NAME")
    held = {child.name for child in folder.iterdir()} if folder.exists() else set()
    inside = {child.name for child in checkpoints.glob("*")}
    foreign = sorted(name for name in inside if not re.fullmatch(r"\d+(\.orbax-checkpoint-tmp.*)?", name))
    if foreign:
        raise UserError(
            f"{checkpoints} holds {foreign[0]}, which is no checkpoint of ours: nothing in it is touched. Write "
            "another folder: --output=runs/NAME"
        )
    if (steps.steps_of(folder) or held - {CONFIG, VOCABULARY, steps.FOLDER}) and not overwrite:
        raise UserError(
            f"{folder} is there already, with {', '.join(sorted(held)[:4])}. Write another folder, "
            "--output=runs/NAME, or --overwrite to replace what an import wrote there."
        )
    return folder


@contextlib.contextmanager
def _draft_of(folder: Path) -> Iterator[Path]:
    """A folder beside it, whose content takes the place of an earlier import's at the end; or, after errors, goes."""
    made = [parent for parent in folder.absolute().parents if not parent.exists()]
    draft = folder.absolute().with_name(f".{folder.name}.importing")
    shutil.rmtree(draft, ignore_errors=True)  # of an import that was killed
    draft.mkdir(parents=True)
    try:
        yield draft
        folder.mkdir(exist_ok=True)
        shutil.rmtree(folder / steps.FOLDER, ignore_errors=True)
        (folder / VOCABULARY).unlink(missing_ok=True)
        # The checkpoint last, so that what has one has everything.
        for child in sorted(draft.iterdir(), key=lambda child: child.name == steps.FOLDER):
            child.replace(folder / child.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        with contextlib.suppress(OSError):  # there is something in it
            for parent in made:
                parent.rmdir()


# ------------------------------------------------------------------------------------------------- the vocabulary


def _vocabulary(origin: Origin, name: str | None, extra_ids: int | None) -> tuple[Vocabulary | None, list[str]]:
    """The vocabulary, and why there is none."""
    extra_ids = origin.extra_ids if extra_ids is None else extra_ids
    if name is None and origin.vocabulary is None:
        return None, []
    try:
        vocabulary = vocabularies.load(name or origin.vocabulary, extra_ids)
    except UserError as error:
        if name:
            raise
        return None, [f"its vocabulary is left out: {error}"]
    if vocabulary.vocab_size > origin.model.vocab_size:
        raise UserError(
            f"The vocabulary {name or origin.vocabulary} has {vocabulary.vocab_size} ids with its {extra_ids} extra "
            f"ones, but the model has an embedding for {origin.model.vocab_size}. Write the vocabulary that it was "
            "trained with: --vocabulary=PATH --extra_ids=N"
        )
    return vocabulary, []


def _has_file(vocabulary: Vocabulary | None) -> bool:
    return isinstance(vocabulary, vocabularies.SentencePieceVocabulary)


# --------------------------------------------------------------------------------------------------- config.gin


def _config_gin(origin: Origin, folder: Path, vocabulary: Vocabulary | None) -> str:
    lines = [
        f"# The model and the vocabulary of {origin.path}.",
        "# After a run, whose model it replaces:",
        "#",
        *(f"#     {line}" for line in _commands(folder, vocabulary)[1:]),
        "",
        *_vocabulary_gin(folder, vocabulary),
        f"ARCHITECTURE = {origin.model.architecture!r}",
        "# To evaluate it or infer with it as it is. Training goes to a folder of its own, and starts from this one:",
        "# INITIAL_CHECKPOINT_PATH.",
        f"MODEL_DIR = {str(folder)!r}",
        "",
        "TransformerConfig:",
        *(f"  {name} = {value!r}" for name, value in run_item.identity(origin.model).items() if name != "architecture"),
    ]
    return "\n".join(lines) + "\n"


def _vocabulary_gin(folder: Path, vocabulary: Vocabulary | None) -> list[str]:
    if vocabulary is None:
        return [
            "# It came without its vocabulary: write the one that it was trained with.",
            "VOCABULARY = %gin.REQUIRED",
        ]
    name = str((folder / VOCABULARY).absolute()) if _has_file(vocabulary) else "bytes"
    return [f"VOCABULARY = {name!r}", f"EXTRA_IDS = {vocabulary.extra_ids}"]


# ------------------------------------------------------------------------------------------------------- telling


def _tell(source: Source, folder: Path, step: int | None, vocabulary: Vocabulary | None, notes: list[str]) -> None:
    origin, shapes = source.origin, source.shapes
    count = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("params/"))
    state = "with Adafactor's state" if any(name.startswith("opt_state/") for name in shapes) else "no optimiser state"
    if step is None:
        notes = [*notes, "it doesn't say its step: taken to be 0 (--step=N sets it)"]
    if vocabulary is None:
        notes = [
            *notes,
            f"it has no vocabulary: import it again with --vocabulary=PATH, or set it in {folder / CONFIG}",
        ]
    print(
        f"Imported {origin.path} to {folder}:",
        f"{origin.model.architecture}, {count:,} parameters, step {step or 0:,}, {state}",
        f"vocabulary: {vocabulary}",
        *notes,
        sep="\n    ",
    )
    print("Next:", *_commands(folder, vocabulary), sep="\n    ")


def _commands(folder: Path, vocabulary: Vocabulary | None) -> list[str]:
    option, binding = ("", "") if vocabulary else ("--vocabulary=PATH ", " --gin.VOCABULARY=PATH")
    start = f"--gin.INITIAL_CHECKPOINT_PATH={folder} --gin.MODEL_DIR={folder}_more{binding}"
    return [
        f't5x-mini generate --checkpoint={folder} {option}"Thank you <extra_id_0> me to your party <extra_id_1> week."',
        f"t5x-mini train --gin_file=gin/quickstart.gin --gin_file={folder}/{CONFIG} \\",
        f"    --gin_file=gin/runs/continue.gin {start}",
    ]
