"""Text to pretrain on for the tasks of `tiny_glue`: short stories about the same small world.

    python -m t5x_mini.tasks.tiny_world --output FOLDER

writes `FOLDER/train.txt` and `FOLDER/validation.txt`, a story a line; the same bytes come out every time. A story tells
something, and then tells it again in other words, asks about it, or lets somebody repeat it, rightly or wrongly, and
says so:

    Sam came to the park after Ruth. Did Sam come to the park before Ruth? No.
    Jack says that Paul's bell is blue. Paul's bell is blue, Paul's boat is new, and Paul's clock is red. Jack is right.

This is not text as one finds it. Rules like those behind the labels of `tiny_glue` made it, of the same words, so that
pretraining on it is close to the tasks, and what it brings there says little about pretraining on other text. It holds
no label's name, no task's prefix, and no sentence of any table of `tiny_glue` (train, dev or test), not even as a part
of a longer one. A story may repeat more than it told: a day that the first sentence leaves out, or which animal it was.
"""

from __future__ import annotations

import argparse
import collections
import functools
import hashlib
import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from t5x_mini.tasks import made_corpora, tiny_glue, tiny_world_events
from t5x_mini.tasks.tiny_glue import (
    ASPECTS,
    BLAME,
    COLOURS,
    DAYS,
    DONE,
    JOBS,
    MATERIALS,
    MONTHS,
    NAMES,
    NOUNS,
    PLACES,
    PRAISE,
    SIZES,
    THINGS,
    VERBS,
)
from t5x_mini.tasks.tiny_world_events import EVENTS, Event, draw
from t5x_mini.whole_file import write_whole

SPLITS = {"train": 100_000, "validation": 1_000}


def documents(split: str) -> Iterator[str]:
    """The stories of a split, `train` or `validation`. The same in every call, on every machine."""
    rng = random.Random(f"tiny world {split}")
    for _ in range(SPLITS[split]):
        (tell,) = rng.choices(list(STORIES), list(STORIES.values()))
        story = tell(rng)
        # Another one of the same kind: the tables hold most of who can have which job, and jobs would hardly come up.
        while _says_what_a_table_says(story):
            story = tell(rng)
        yield re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", story)


def ensure() -> dict[str, Path]:
    """`{'train': path, 'validation': path}`: made at the first call, within some ten seconds, and kept."""
    made_corpora.make(folder(), lambda partial: collections.deque(write(partial), maxlen=0))
    return {split: folder() / f"{split}.txt" for split in SPLITS}


@functools.cache
def _fingerprint() -> str:
    """Of all that decides the stories."""
    sources = (Path(module.__file__) for module in (sys.modules[__name__], tiny_glue, tiny_world_events))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def folder() -> Path:
    """Where the stories are, or will be."""
    return made_corpora.cache_root("tiny_world") / _fingerprint()


def write(folder: Path) -> Iterator[tuple[Path, int]]:
    """Writes both splits into `folder`; (path, number of stories) of each, as soon as it is there."""
    for split, stories in SPLITS.items():
        path = folder / f"{split}.txt"
        write_whole(path, (f"{story}\n" for story in documents(split)))
        yield path, stories


# --- stories ---------------------------------------------------------------------------------------------------------


def told_again(event: Event, rng: random.Random) -> str:
    """What happened to two people or things: in other words, in questions, or in what somebody says of it."""
    right, wrong = draw(event, rng)
    first, second = rng.sample(event.told, 2)
    first = first.format_map(right)
    is_so = rng.random() < 0.5
    said = right if is_so else wrong
    (frame,) = rng.choices(("other words", "answer", "yes or no", "told after", "told before"), (15, 20, 30, 10, 25))
    if frame == "other words":
        link = rng.choice(("So", "In other words,", "That means that"))
        return f"{first} {link} {_clause(second, right)}."
    if frame == "answer":
        question, answer = rng.choice(event.answered)
        return f"{first} {question.format_map(right)} {answer.format_map(right)}"
    if frame == "yes or no":
        question, answer = rng.choice(event.asked).format_map(said), "Yes" if is_so else "No"
        why = f", {_clause(second, right)}" if rng.random() < 0.3 else ""
        return f"{first} {question} {answer}{why}."
    speaker = rng.choice(NAMES)
    claim, verdict = f"{speaker} says that {_clause(second, said)}.", f"{speaker} is {'right' if is_so else 'wrong'}."
    return f"{claim} {first} So {verdict}" if frame == "told after" else f"{first} {claim} {verdict}"


def _clause(text: str, words: Mapping[str, str]) -> str:
    """A sentence as it stands within another one: no full stop, and small at the start unless that is a name."""
    first, rest = text.format_map(words).removesuffix(".").split(" ", 1)
    if first.removesuffix("'s") not in NAMES:
        first = first.lower()
    return f"{first} {rest}"


def facts(topic: str, rng: random.Random) -> str:
    """Everybody and everything has one place, colour, job, month of birth or material; of three, two are told."""
    name = rng.choice(NAMES)
    text, question, something_else, subjects, values = {
        "places": ("{} is in the {}", "Is {} in the {}?", "{} is late", NAMES, PLACES),
        "colours": (f"{name}'s {{}} is {{}}", f"Is {name}'s {{}} {{}}?", f"{name}'s {{}} is new", THINGS, COLOURS),
        "jobs": ("{} is a {}", "Is {} a {}?", "{} is tired", NAMES, JOBS),
        "months": ("{} was born in {}", "Was {} born in {}?", "{} was early", NAMES, MONTHS),
        "materials": (
            f"{name}'s {{}} is made of {{}}",
            f"Is {name}'s {{}} made of {{}}?",
            f"{name}'s {{}} is lost",
            THINGS,
            MATERIALS,
        ),
    }[topic]
    (this, that, third), (value, other) = rng.sample(subjects, 3), rng.sample(values, 2)
    clauses = [text.format(this, value), text.format(that, other), something_else.format(third)]
    rng.shuffle(clauses)
    told = f"{clauses[0]}, {clauses[1]}, and {clauses[2]}."
    subject, answer, verdict = rng.choice(
        ((this, "Yes", "is right"), (that, "No", "is wrong"), (third, "Perhaps", "may be right"))
    )
    if rng.random() < 0.5:
        asked = rng.choice((value, other)) if subject == third else value
        return f"{told} {question.format(subject, asked)} {answer}."
    speaker = rng.choice(NAMES)
    claim = f"{speaker} says that {text.format(subject, value)}."
    both = f"{claim} {told}" if rng.random() < 0.4 else f"{told} {claim}"
    return f"{both} {speaker} {verdict}."


def days(rng: random.Random) -> str:
    """What two people did, to what, where and when, and which of these somebody remembers rightly."""
    names = rng.sample(NAMES, 2)
    values = [rng.sample(words, 2) for words in (DONE, THINGS, PLACES, DAYS)]
    kept = [rng.random() < 0.5 for _ in values]
    told = [[pair[i] for pair in values] for i in range(2)]
    again = [[pair[i if keep else 1 - i] for pair, keep in zip(values, kept, strict=True)] for i in range(2)]
    first = "{} {} a {} in the {} on {}, and {} {} a {} in the {} on {}.".format(names[0], *told[0], names[1], *told[1])
    if rng.random() < 0.3:
        question, answer = rng.choice(
            (
                ("What did {0} do there?", "{0} {1} a {2}."),
                ("Where was {0}?", "In the {3}."),
                ("When was {0} there?", "On {4}."),
            )
        )
        i = rng.randrange(2)
        return f"{first} {question.format(names[i])} {answer.format(names[i], *told[i])}"
    speaker = rng.choice(NAMES)
    claim = "on {4}, in the {3}, {0} {1} a {2}, and on {9}, in the {8}, {5} {6} a {7}"
    claim = claim.format(names[0], *again[0], names[1], *again[1])
    return f"{first} {speaker} says that {claim}. {speaker} has {_praise(kept)}."


def _praise(kept: Sequence[bool]) -> str:
    """[True, False, False, True] -> 'the deeds and days right and the things and places wrong'"""
    parts = list(zip(("deeds", "things", "places", "days"), kept, strict=True))
    right, wrong = ([part for part, keep in parts if keep is wanted] for wanted in (True, False))
    if not (right and wrong):
        return "it all right" if right else "it all wrong"
    return f"the {_and(right)} right and the {_and(wrong)} wrong"


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def look(rng: random.Random) -> str:
    """What people and animals do: two to four sentences in which words must agree."""
    return " ".join(_sight(rng) for _ in range(rng.randint(2, 4)))


def _sight(rng: random.Random) -> str:
    several = rng.randrange(2)
    noun = rng.choice(list(NOUNS.items()))[several]
    verb = rng.choice(list(VERBS.items()))[several]
    determiner = rng.choice((("a", "this"), ("these", "two"))[several])
    size, place = rng.choice(SIZES), rng.choice(PLACES)
    thing = f"{rng.choice(COLOURS)} {rng.choice(THINGS)}"
    near = (f" near the {rng.choice(THINGS)}", f" near the {rng.choice(SIZES)} trees")
    return rng.choice(
        (
            f"The {size} {noun}{rng.choice(('', f' in the {place}', *near))} {verb} the {thing}.",
            f"{rng.choice(NAMES)} {rng.choice(list(VERBS))} {determiner} {size} {noun} in the {place}.",
            f"The {size} {noun} {verb} the {thing} in the {place}.",
        )
    )


def review(rng: random.Random) -> str:
    """Praise or blame of films and books, and what comes of it, in either order."""
    words, others, ends = rng.choice(
        (
            (PRAISE, BLAME, ("{} liked it.", "{} wants to see it again.", "Go and see it, says {}.")),
            (BLAME, PRAISE, ("{} did not like it.", "{} does not want to see it again.", "Do not go, says {}.")),
        )
    )
    (one, another), opposite = rng.sample(words, 2), rng.choice(others)
    (this, that), verb = rng.sample(ASPECTS, 2), rng.choice(("is", "was"))
    kind = rng.choice(("plain", "negation", "but"))
    if kind == "plain":
        text = rng.choice(
            (f"A {one} {this} with a {another} {that}.", f"The {this} and the {that}: {one} and {another}.")
        )
    elif kind == "negation":
        negated = f"{rng.choice(('not', 'never', 'hardly'))} {opposite}"
        text = f"The {this} of this {that} {verb} {rng.choice((one, negated))}."
    else:
        text = f"The {this} {verb} {opposite}, but the {that} {verb} {one}."
    end = rng.choice(ends).format(rng.choice(NAMES))
    return f"{text} {end}" if rng.random() < 0.7 else f"{end} {text}"


# How many of a hundred stories are of each kind.
_FACTS = {"places": 2, "colours": 2, "jobs": 1, "months": 2, "materials": 2}
STORIES: dict[Callable[[random.Random], str], float] = {
    **{functools.partial(told_again, event): 22 * event.share / sum(each.share for each in EVENTS) for event in EVENTS},
    **{functools.partial(facts, topic): share for topic, share in _FACTS.items()},
    days: 5,
    look: 40,
    review: 24,
}


# --- what stands in the tables ---------------------------------------------------------------------------------------


def _says_what_a_table_says(story: str) -> bool:
    words, known = _words(story), _table_sentences()
    return any(
        words[start : start + length] in known
        for start in range(len(words))
        for length in _lengths().get(words[start : start + 3], ())
    )


@functools.cache
def _table_sentences() -> frozenset[tuple[str, ...]]:
    """Every sentence of every table. Other columns hold one word, or nothing but the names of the columns."""
    lines = (line for _, table in tiny_glue.tables() for line in table.splitlines())
    return frozenset(_words(cell) for line in lines for cell in line.split("\t") if cell.count(" ") > 1)


@functools.cache
def _lengths() -> Mapping[tuple[str, ...], set[int]]:
    """How long the sentences are that start with three given words: only these lengths need to be looked up."""
    lengths: dict[tuple[str, ...], set[int]] = collections.defaultdict(set)
    for sentence in _table_sentences():
        lengths[sentence[:3]].add(len(sentence))
    return lengths


def _words(text: str) -> tuple[str, ...]:
    """Lower case without punctuation. Some tables write `a` for `an`, and so do the stories until they are checked."""
    return tuple("a" if word == "an" else word for word in re.findall(r"[\w']+", text.lower()))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m t5x_mini.tasks.tiny_world",
        description="Writes train.txt and validation.txt, stories to pretrain on for the tasks of tiny_glue.",
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder to write to")
    for path, stories in write(parser.parse_args().output):
        print(f"{path}: {stories:,} stories ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
