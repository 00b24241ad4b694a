"""What happens to two people, or to two things, in the stories of `tiny_world`: each event in several words.

A line is a format string. `{a}` and `{b}` are the two that the event is about; where they change places, it is not so.
The other names in braces are the people, things, places, days and colours around them. `a` stands for `an` too.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from t5x_mini.tasks.tiny_glue import COLOURS, DAYS, KINDS, MEN, MONTHS, NAMES, PLACES, SIZES, THINGS, WOMEN

_KIND_OF = {thing: kind for kind, things in KINDS.items() for thing in things}


class Event(NamedTuple):
    """Ways to tell of something that happened, and questions about it.

    Attributes:
      told: sentences that mean the same, but that one leaves out the day, or says `animal` where another says `dog`.
      asked: questions whose answer is yes.
      answered: other questions, each with its answer.
      pair: what `{a}` and `{b}` are; where they are not people, `{one}` and `{other}` are.
      share: how often the event is drawn, where most have 1.
    """

    told: tuple[str, ...]
    asked: tuple[str, ...]
    answered: tuple[tuple[str, str], ...]
    pair: str = "people"
    share: float = 1


EVENTS = (
    Event(
        told=(
            "{a} sold a {colour} {thing} to {b} on {day}.",
            "On {day}, {b} bought a {colour} {thing} from {a}.",
            "On {day}, a {colour} {thing} was sold by {a} and bought by {b}.",
            "{b} bought a {colour} {thing} from {a} on {day}.",
        ),
        asked=("Did {a} sell a {colour} {thing} to {b}?", "Was it {b} who bought a {colour} {thing} from {a}?"),
        answered=(("Who sold a {colour} {thing}?", "{a} did."), ("Who bought a {colour} {thing}?", "{b} did.")),
    ),
    Event(
        told=(
            "{one} lost a {colour} {a} and {other} lost a {b} on {day}.",
            "On {day}, {one}'s {colour} {a} and {other}'s {b} went missing.",
            "On {day}, {one} lost a {colour} {a}, and {other}'s {b} went missing.",
            "{other} lost a {b} and {one} lost a {colour} {a} on {day}.",
        ),
        asked=("Did {one} lose a {colour} {a}?", "Did {other}'s {b} go missing?"),
        answered=(("What did {one} lose?", "A {colour} {a}."), ("What did {other} lose?", "A {b}.")),
        pair="things",
    ),
    Event(
        told=(
            "{a} came to the {place} before {b}.",
            "{a} was at the {place} earlier than {b}.",
            "{b} came to the {place} after {a}.",
            "{b} was at the {place} later than {a}.",
        ),
        asked=(
            "Did {a} come to the {place} before {b}?",
            "Was {a} at the {place} earlier than {b}?",
            "Did {b} come to the {place} after {a}?",
        ),
        answered=(("Who came to the {place} first?", "{a} did."), ("Who came to the {place} last?", "{b} did.")),
    ),
    Event(
        told=(
            "{a} went to the {place} with {b}.",
            "{a} took {b} to the {place}.",
            "{b} was taken to the {place} by {a}.",
        ),
        asked=(
            "Did {a} go to the {place} with {b}?",
            "Did {a} take {b} to the {place}?",
            "Was it {a} who took {b} to the {place}?",
        ),
        answered=(("Who took whom to the {place}?", "{a} took {b}."),),
    ),
    Event(
        told=(
            "{a} paid {b} for the {thing}.",
            "It was {a} who gave {b} money for the {thing}.",
            "{b} was paid by {a} for the {thing}.",
            "{b} took {a}'s money for the {thing}.",
        ),
        asked=("Did {a} pay {b} for the {thing}?", "Was it {a} who gave {b} money for the {thing}?"),
        answered=(("Who paid for the {thing}?", "{a} did."), ("Who has the money for the {thing}?", "{b} has it.")),
    ),
    Event(
        told=(
            "The {thing} of {a} is older than that of {b}.",
            "{a} has a older {thing} than {b}.",
            "{b}'s {thing} is newer than {a}'s.",
        ),
        asked=("Is the {thing} of {a} older than that of {b}?", "Does {a} have a older {thing} than {b}?"),
        answered=(("Whose {thing} is older?", "{a}'s."), ("Whose {thing} is newer?", "{b}'s.")),
    ),
    Event(
        told=(
            "{a} works in the {place} on {day}, and {b} stays in bed.",
            "On {day}, {b} stays in bed, and {a} works in the {place}.",
        ),
        asked=("Does {a} work on {day}?", "Does {b} stay in bed on {day}?"),
        answered=(
            ("Where does {a} work on {day}?", "In the {place}."),
            ("Who works on {day}?", "{a} does."),
            ("Where is {b} on {day}?", "In bed."),
        ),
    ),
    Event(
        told=(
            "{a} came to the {place} in {month}, and {b} left it.",
            "In {month}, {b} left the {place}, and {a} came to it.",
        ),
        asked=("Did {a} come to the {place}?", "Did {b} leave the {place}?"),
        answered=(("When did {a} come to the {place}?", "In {month}."), ("Who left the {place}?", "{b} did.")),
    ),
    Event(
        told=(
            "The {thing} of {a} is {colour}, and {b} has none.",
            "{b} has no {thing}, and that of {a} is {colour}.",
            "{a} has a {colour} {thing}, and {b} has none.",
        ),
        asked=("Does {a} have a {thing}?", "Is {a}'s {thing} {colour}?"),
        answered=(
            ("Which colour is the {thing} of {a}?", "It is {colour}."),
            ("Who has no {thing}?", "{b} has none."),
        ),
    ),
    Event(
        told=(
            "In the {place}, {a} gave away a {thing}, and {b} took it.",
            "{b} took the {thing} that {a} gave away in the {place}.",
        ),
        asked=("Did {a} give away a {thing}?", "Did {b} take a {thing} in the {place}?"),
        answered=(("What did {a} give away in the {place}?", "A {thing}."), ("Who took the {thing}?", "{b} did.")),
    ),
    Event(
        told=(
            "On {day}, {one} went to the {a} and {other} went to the {b}.",
            "{one} was at the {a} and {other} was at the {b} on {day}.",
            "On {day}, {other} was at the {b}, and {one} went to the {a}.",
        ),
        asked=("Was {one} at the {a} on {day}?", "Was {other} at the {b}?", "Did {one} go to the {a}?"),
        answered=(("Where was {one} on {day}?", "At the {a}."), ("Where did {other} go?", "To the {b}.")),
        pair="places",
    ),
    Event(
        told=(
            "On {day}, {a} gave the {colour} {thing} to {b}.",
            "{b} was given the {colour} {thing} by {a} on {day}.",
            "{b} had the {colour} {thing} from {a}.",
        ),
        asked=("Did {b} then have the {colour} {thing}?", "Did {a} give {b} the {colour} {thing}?"),
        answered=(
            ("Who then had the {colour} {thing}?", "{b} had it."),
            ("Who gave away the {colour} {thing}?", "{a} did."),
        ),
    ),
    Event(
        told=(
            "On {day}, {one} saw a {size} {a} and {other} saw a {size} {b}.",
            "{one} saw a {a_kind} and {other} saw a {b_kind} on {day}.",
            "On {day}, {other} saw a {b_kind}, and {one} saw a {a_kind}.",
        ),
        asked=("Did {one} see a {a_kind}?", "Did {other} see a {b_kind}?", "Did {one} see a {a} on {day}?"),
        answered=(
            ("What did {one} see?", "A {a}."),
            ("Who saw a {a_kind}?", "{one} did."),
            ("Who saw a {b_kind}?", "{other} did."),
        ),
        pair="kinds",
    ),
    Event(
        told=(
            "The {a} does not fit into the {b} because it is too big.",
            "The {a} does not fit into the {b} because it is too small.",
            "The {a} is too big for the {b}.",
            "The {b} is too small for the {a}.",
        ),
        asked=("Is the {a} too big?", "Is the {b} too small?", "Is the {a} too big for the {b}?"),
        answered=(("What is too big?", "The {a}."), ("What is too small?", "The {b}.")),
        pair="coloured things",
    ),
    Event(
        told=(
            "{a} thanked {b} because {he} had found the {colour} {thing}.",
            "{b} had found the {colour} {thing}, so {a} thanked {b}.",
            "It was {b}, not {a}, who had found the {colour} {thing}.",
        ),
        asked=("Was it {b} who had found the {colour} {thing}?",),
        answered=(("Who had found the {colour} {thing}?", "{b} had."),),
        pair="men or women",
        share=0.5,
    ),
    Event(
        told=(
            "{b} wrote to {a} because {he} had found the {colour} {thing}.",
            "{b} had found the {colour} {thing}, and wrote to {a}.",
            "It was {b}, not {a}, who had found the {colour} {thing}.",
        ),
        asked=("Was it {b} who had found the {colour} {thing}?",),
        answered=(("Who had found the {colour} {thing}?", "{b} had."),),
        pair="men or women",
        share=0.5,
    ),
)


def draw(event: Event, rng: random.Random) -> tuple[dict[str, str], dict[str, str]]:
    """Words for all names in braces: as it happened, and with the two that the event is about in each other's place."""
    he, people = rng.choice((("he", MEN), ("she", WOMEN)))
    around = {
        **dict(zip(("one", "other"), rng.sample(NAMES, 2), strict=True)),
        "he": he,
        "thing": rng.choice(THINGS),
        "colour": rng.choice(COLOURS),
        "place": rng.choice(PLACES),
        "day": rng.choice(DAYS),
        "month": rng.choice(MONTHS),
        "size": rng.choice(SIZES),
    }
    if event.pair == "kinds":
        a, b = (rng.choice(KINDS[kind]) for kind in rng.sample(list(KINDS), 2))
    elif event.pair == "coloured things":
        colours, things = rng.sample(COLOURS, 2), rng.sample(THINGS, 2)
        a, b = (f"{colour} {thing}" for colour, thing in zip(colours, things, strict=True))
    else:
        words = {"people": NAMES, "men or women": people, "things": THINGS, "places": PLACES}[event.pair]
        a, b = rng.sample(words, 2)
    right, wrong = (
        around | {"a": a, "b": b, "a_kind": _KIND_OF.get(a, ""), "b_kind": _KIND_OF.get(b, "")}
        for a, b in ((a, b), (b, a))
    )
    return right, wrong
