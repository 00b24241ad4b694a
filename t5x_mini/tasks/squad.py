"""SQuAD 1.1 as text: `'question: ... context: ...'`, and an answer copied from the context.

From TensorFlow Datasets under T5's name, `squad_v010_allanswers`, or from files in SQuAD's own JSON format:

    my_squad/SquadTask.files = {'train': 'train-v1.1.json', 'validation': 'dev-v1.1.json'}
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping

from t5x_mini.errors import UserError
from t5x_mini.tasks.definitions import Row, TextToTextTask


def write(row: Row) -> dict[str, str]:
    """T5's texts for a row of TensorFlow Datasets' form; the target is the first answer.

    The row: `{'question': str, 'context': str, 'answers': {'text': [str, ...]}}`.

    Raises:
      UserError: a field is missing, or there is no answer (SQuAD 2.0's unanswerable questions are no task of T5's).
    """
    missing = [field for field in ("question", "context", "answers") if field not in row]
    if missing:
        raise UserError(f"A row of a SQuAD task lacks {missing[0]!r}; it has {', '.join(map(repr, row))}.")
    answers = row["answers"]["text"]
    if len(answers) == 0:
        raise UserError(
            f"The question {row['question']!r} has no answer. Only SQuAD 1.1, where every question has one, is read."
        )
    question, context = pad_punctuation(row["question"]), pad_punctuation(row["context"])
    inputs = _collapse(f"question: {question} context: {context}")
    return {"inputs": inputs, "targets": pad_punctuation(answers[0])}


def pad_punctuation(text: str) -> str:
    """`text` with a space before and after each ASCII punctuation mark, and runs of white space as one space."""
    return _collapse(_PUNCTUATION.sub(r" \1 ", text))


# RE2's classes [[:punct:]] and \s, that T5 uses, know only ASCII (and no vertical tab).
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_SPACES = re.compile(r"[\t\n\f\r ]+")


def _collapse(text: str) -> str:
    return _SPACES.sub(" ", text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquadTask(TextToTextTask):
    """Questions about a text, scored in exact match and F1 over all answers that annotators gave.

    `files` are in SQuAD 1.1's JSON format, or JSON lines with rows as `write` takes them.
    """

    metrics: tuple[str, ...] = ("squad",)
    postprocessor: str | None = "qa"
    write: Callable[[Row], Mapping[str, str] | None] | None = write

    def parse_json(self, document: Mapping) -> Iterator[Row]:
        """Rows of a whole file in SQuAD's format, in its order.

        Raises:
          UserError: the document isn't in that format.
        """
        try:
            for article in document["data"]:
                for paragraph in article["paragraphs"]:
                    for question in paragraph["qas"]:
                        yield {
                            "id": question["id"],
                            "title": article.get("title", ""),
                            "context": paragraph["context"],
                            "question": question["question"],
                            "answers": {
                                "text": [answer["text"] for answer in question["answers"]],
                                "answer_start": [answer["answer_start"] for answer in question["answers"]],
                            },
                        }
        except (KeyError, TypeError, AttributeError) as error:
            what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"{self.name}: the file is not in SQuAD 1.1's JSON format ({what}). It looks like "
                "{'data': [{'paragraphs': [{'context': ..., 'qas': [{'id': ..., 'question': ..., 'answers': "
                "[{'text': ..., 'answer_start': ...}]}]}]}]}."
            ) from None


ALIASES = {"squad": "squad_v010_allanswers"}
"""Short names, and what T5 calls them."""


def definitions() -> list[SquadTask]:
    """SQuAD 1.1, read from TensorFlow Datasets."""
    return [SquadTask(name="squad_v010_allanswers", tfds="squad/v1.1:3.0.0")]
