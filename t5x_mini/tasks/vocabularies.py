"""SentencePiece vocabularies in T5's layout: loading one, and training one.

Ids: padding 0, end of sequence 1, unknown 2, pieces from 3, and on top the extra ids that mark masked spans, the first
span's last: `<extra_id_0>` is `vocab_size - 1`.

    python -m t5x_mini.tasks.vocabularies --output data/vocabularies/docs_8k --size 8000

trains one on the documentation of the installed packages.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from t5x_mini import resources
from t5x_mini.errors import UserError
from t5x_mini.tasks import installed_docs

if TYPE_CHECKING:
    import seqio

DEFAULT_EXTRA_IDS = 100

# SentencePiece leaves out, with a warning, what is longer than its limit in bytes (4192).
_TRAINER_CHARACTERS = 1000


def sentencepiece_vocabulary(
    path: str | os.PathLike, extra_ids: int = DEFAULT_EXTRA_IDS
) -> seqio.SentencePieceVocabulary:
    """A SentencePiece model file as SeqIO's vocabulary, with `extra_ids` ids for masked spans added on top.

    A remote path (`gs://...`) is read at first use.

    Raises:
      UserError: there is no such local file.
    """
    import seqio

    path = os.fspath(path)
    if "://" not in path and not os.path.isfile(path):
        raise UserError(
            f"The vocabulary file {path!r} does not exist. Write the path of a SentencePiece model (a .model file), or "
            "make one with: python -m t5x_mini.tasks.vocabularies --output my_vocabulary --size 8000"
        )
    return seqio.SentencePieceVocabulary(path, extra_ids=extra_ids)


def default_vocabulary() -> seqio.SentencePieceVocabulary:
    """The vocabulary that ships with the project: 8000 pieces and 100 extra ids (see data/README.md)."""
    return sentencepiece_vocabulary(resources.data_path("vocabularies/docs_8k.model"))


def train_vocabulary(lines: Iterable[str], output_prefix: str | os.PathLike, size: int) -> Path:
    """Trains a unigram SentencePiece model with T5's special ids, in one pass over `lines`.

    Args:
      lines: text; long lines are cut at spaces.
      output_prefix: where to write, without `.model`. Missing folders are made.
      size: pieces, padding, EOS and unknown included; extra ids come on top.

    Returns:
      The path of the `.model` file.

    Raises:
      UserError: the text is too small for `size` pieces.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_cut(lines),
            model_writer=model,
            vocab_size=size,
            model_type="unigram",
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=1,
        )
    except RuntimeError as error:
        raise UserError(
            f"SentencePiece could not make a vocabulary of {size} pieces from this text: {error}. "
            "Ask for a smaller --size or give it more text."
        ) from error
    path = Path(f"{os.fspath(output_prefix)}.model")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.getvalue())
    return path


def _cut(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        while len(line) > _TRAINER_CHARACTERS:
            end = line.rfind(" ", 1, _TRAINER_CHARACTERS)
            end = end if end > 0 else _TRAINER_CHARACTERS
            yield line[:end]
            line = line[end:]
        yield line.rstrip("\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m t5x_mini.tasks.vocabularies",
        description="Trains a SentencePiece vocabulary (unigram; pad 0, eos 1, unk 2, no bos) and writes OUTPUT.model. "
        "Extra ids for masked spans are added when it is loaded, not here.",
    )
    parser.add_argument("--output", required=True, help="where to write, without .model")
    parser.add_argument("--size", type=int, default=8000, help="number of pieces (default: 8000)")
    parser.add_argument(
        "--text",
        type=Path,
        help="a UTF-8 text file, one document a line (default: the documentation of the installed Python packages, "
        "its training split)",
    )
    arguments = parser.parse_args()
    text = arguments.text or installed_docs.ensure()["train"]
    with text.open(encoding="utf-8") as lines:
        path = train_vocabulary(lines, arguments.output, arguments.size)
    print(f"{path} ({path.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
