"""Tables for every GLUE task, in the format of the GLUE site, about a small world with a rule behind every label.

    python -m t5x_mini.tasks.tiny_glue --output data/tiny_glue

writes them: English of some 250 words, from one seed, so that the same bytes come out every time. They are small
enough to finetune on in minutes, and can't be solved by looking at words one by one. Rows are made in *blocks*: on a
pair task every first sentence of a block, and every second one, stands once with each label (or with each score), and
the first sentences of a block are made of the same words. So neither a sentence alone nor the words of both say
anything about the label: what counts is which word goes with which.

No sentence stands in two of train, dev and test, not even in different tasks.

Source of the columns: the files that https://gluebenchmark.com/tasks offers, laid out as GLUE's download script does.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from t5x_mini.whole_file import write_whole

SEED = 0

MEN = tuple("Adam Ben Bob Frank Jack Jim John Leo Mark Max Paul Sam Tim Tom".split())
WOMEN = tuple("Anna Emma Eve Jane Kate Lisa Mary Nina Ruth".split())
NAMES = MEN + WOMEN
PLACES = tuple("field forest garden hall kitchen library market museum office park school shop station village".split())
THINGS = tuple("ball bell boat book box car clock coat cup hat key lamp letter map plate ring".split())
COLOURS = tuple("black blue green red white yellow".split())
JOBS = tuple("baker doctor driver farmer painter singer teacher writer".split())
MATERIALS = tuple("glass gold iron paper stone wood".split())
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
MONTHS = tuple("January March May June July August October".split())
KINDS = {
    "flower": ("lily", "rose", "tulip"),
    "animal": ("cat", "dog", "horse"),
    "tool": ("hammer", "saw", "spade"),
    "fruit": ("apple", "pear", "plum"),
}
NOUNS = {
    **{noun: f"{noun}s" for noun in ("bird", "boy", "cat", "doctor", "dog", "driver", "girl", "teacher", "writer")},
    **{"child": "children", "man": "men", "woman": "women"},
}
VERBS = {f"{verb}s": verb for verb in ("find", "know", "like", "move", "need", "see", "take", "want")}
SIZES = ("big", "small", "tall", "young")
PRAISE = tuple("beautiful bright brilliant clever fine funny good great lovely strong wonderful".split())
BLAME = tuple("awful bad boring dull poor sad slow stupid terrible ugly weak".split())
ASPECTS = tuple("acting camera cast dialogue ending film idea joke music plot script show song story title".split())
DONE = tuple("cleaned found lost moved painted sold".split())


class Row(NamedTuple):
    """One or two sentences and their label, as the table writes it; `kind` names the rule or the topic behind it."""

    kind: str
    sentences: tuple[str, ...]
    label: str


Block = list[Row]


def cola(rng: random.Random) -> Block:
    """1 for English, 0 where one rule of grammar is broken.

    `agreement`: a verb has the number of its subject, whatever noun stands between them. `determiner`: `a` and `this`
    go with one, `these` and `two` with several. `order`: determiner, adjective, noun, verb; prepositions before nouns.
    """
    one_and_many, verbs = rng.choice(list(NOUNS.items())), rng.choice(list(VERBS.items()))
    place, size, thing = rng.choice(PLACES), rng.choice(SIZES), f"{rng.choice(COLOURS)} {rng.choice(THINGS)}"
    kind = rng.choice(("agreement", "determiner", "order"))
    if kind == "agreement":
        between = rng.choice(("", f" in the {place}", f" near the {rng.choice(THINGS)}", f" near the {size} trees"))
        return _matches(kind, one_and_many, verbs, f"The {size} {{}}{between} {{}} the {thing}.", "10")
    if kind == "determiner":
        determiners = rng.choice(("a", "this")), rng.choice(("these", "two"))
        text = f"{rng.choice(NAMES)} {verbs[0]} {{}} {size} {{}} in the {place}."
        return _matches(kind, determiners, one_and_many, text, "10")
    words = ["the", size, one_and_many[0], verbs[0], "the", *thing.split(), "in", "the", place]
    i, j = rng.choice(((0, 2), (1, 2), (2, 3), (5, 6), (7, 9)))
    swapped = list(words)
    swapped[i], swapped[j] = words[j], words[i]
    return [Row(kind, (" ".join(text).capitalize() + ".",), label) for text, label in ((words, "1"), (swapped, "0"))]


def sst2(rng: random.Random) -> Block:
    """1 for praise, 0 for blame.

    An adjective praises or blames. `negation`: `not`, `never` or `hardly` before it turns it around. `but`: of two
    clauses joined by `but`, the second one counts.
    """
    praise, blame = rng.choice(PRAISE), rng.choice(BLAME)
    (this, that), verb = rng.sample(ASPECTS, 2), rng.choice(("is", "was"))
    kind = rng.choice(("plain", "negation", "but"))
    if kind == "plain":
        text = rng.choice((f"a {{}} {this} with a {{}} {that}", f"the {this} and the {that} : {{}} and {{}} ."))
        texts = [(text.format(*rng.sample(words, 2)), label) for words, label in ((PRAISE, "1"), (BLAME, "0"))]
    elif kind == "negation":
        no = rng.choice(("not", "never", "hardly"))
        adjectives = ((praise, "1"), (f"{no} {praise}", "0"), (blame, "0"), (f"{no} {blame}", "1"))
        texts = [(f"the {this} of this {that} {verb} {words} .", label) for words, label in adjectives]
    else:
        orders = ((praise, blame, "0"), (blame, praise, "1"))
        texts = [
            (f"the {this} {verb} {first} , but the {that} {verb} {last} .", label) for first, last, label in orders
        ]
    return [Row(kind, (text,), label) for text, label in texts]


# --- two sentences ---------------------------------------------------------------------------------------------------


def mrpc(rng: random.Random) -> Block:
    """1 where both tell the same of the same people, 0 where the people have changed places.

    `sale`: who sells to someone is who that one buys from. `loss`: what someone loses is theirs, and goes missing.
    """
    names, things = rng.sample(NAMES, 2), rng.sample(THINGS, 2)
    day, colour = rng.choice(DAYS), rng.choice(COLOURS)
    if rng.random() < 0.5:
        sold = f"{{0}} sold a {colour} {things[0]} to {{1}} on {day}."
        bought = f"On {day}, a {colour} {things[0]} was sold by {{0}} and bought by {{1}}."
        return _square("sale", [names, names[::-1]], sold, bought, "10")
    lost = f"{names[0]} lost a {colour} {{0}} and {names[1]} lost a {{1}} on {day}."
    missing = f"On {day}, {names[0]}'s {colour} {{0}} and {names[1]}'s {{1}} went missing."
    return _square("loss", [things, things[::-1]], lost, missing, "10")


def qqp(rng: random.Random) -> Block:
    """1 where two questions about two people have the same answer, 0 where the people have changed places."""
    names, place, thing = rng.sample(NAMES, 2), rng.choice(PLACES), rng.choice(THINGS)
    kind, (first, second) = rng.choice(
        (
            ("time", ("Did {0} come to the %s before {1}?", "Was {0} at the %s earlier than {1}?")),
            ("reason", ("Why did {0} go to the %s with {1}?", "For what reason did {0} take {1} to the %s?")),
            ("money", ("Did {0} pay {1} for the %s?", "Was it {0} who gave {1} money for the %s?")),
            ("age", ("Is the %s of {0} older than that of {1}?", "Does {0} have an older %s than {1}?")),
        )
    )
    about = place if kind in ("time", "reason") else thing
    return _square(kind, [names, names[::-1]], first.replace("%s", about), second.replace("%s", about), "10")


STSB_FIFTHS = {"did": 7, "what": 8, "where": 6, "when": 4}


def stsb(rng: random.Random) -> Block:
    """0 to 5: what two people did, to what, where and when count 1.4 + 1.6 + 1.2 + 0.8 points, where both say the same.

    The second sentence has nothing new: it gives each person what the first one does, or what the other person has
    there. A block's sentences differ in nothing, in some parts, in all others, or in everything.
    """
    names = rng.sample(NAMES, 2)
    values = [rng.sample(words, 2) for words in (DONE, THINGS, PLACES, DAYS)]
    part = [rng.random() < 0.5 for _ in values]
    if all(part) or not any(part):
        part[rng.randrange(len(part))] ^= True
    sides = ([0] * 4, [int(side) for side in part], [int(not side) for side in part], [1] * 4)
    told = [[words[side] for words, side in zip(values, chosen, strict=True)] for chosen in sides]
    others = [[words[1 - side] for words, side in zip(values, chosen, strict=True)] for chosen in sides]
    first = "{} {} a {} in the {} on {}, and {} {} a {} in the {} on {}."
    second = "On {4}, in the {3}, {0} {1} a {2}, and on {9}, in the {8}, {5} {6} a {7}."
    return [
        Row(
            "facts",
            tuple(
                text.format(names[0], *told[side], names[1], *others[side]) for text, side in ((first, i), (second, j))
            ),
            _score(told[i], told[j]),
        )
        for i, j in itertools.product(range(4), repeat=2)
    ]


def _score(one: Sequence[str], other: Sequence[str]) -> str:
    agreed = sum(fifths for fifths, a, b in zip(STSB_FIFTHS.values(), one, other, strict=True) if a == b)
    return f"{agreed / 5:.3f}"


MATCHED, MISMATCHED = ("places", "colours", "jobs"), ("months", "materials")


def mnli(rng: random.Random, topics: Sequence[str] = MATCHED) -> Block:
    """Everybody and everything has one place, colour, job, month of birth or material; the premise speaks of three, and
    gives it for two of them.

    `entailment` where it gives what the hypothesis says, `contradiction` where it gives another value, `neutral` where
    it leaves it open.
    """
    topic, name = rng.choice(list(topics)), rng.choice(NAMES)
    text, something_else, subjects, values = {
        "places": ("{} is in the {}", "{} is late", NAMES, PLACES),
        "colours": (f"{name}'s {{}} is {{}}", f"{name}'s {{}} is new", THINGS, COLOURS),
        "jobs": ("{} is a {}", "{} is tired", NAMES, JOBS),
        "months": ("{} was born in {}", "{} was early", NAMES, MONTHS),
        "materials": (f"{name}'s {{}} is made of {{}}", f"{name}'s {{}} is lost", THINGS, MATERIALS),
    }[topic]
    about, (value, other) = rng.sample(subjects, 3), rng.sample(values, 2)
    rows = []
    for i in range(3):  # each premise entails one hypothesis, contradicts the next, and leaves the third open
        this, next_one, last = about[i], about[(i + 1) % 3], about[(i + 2) % 3]
        clauses = [text.format(this, value), text.format(next_one, other), something_else.format(last)]
        rng.shuffle(clauses)
        premise = f"{clauses[0]}, {clauses[1]}, and {clauses[2]}."
        for subject, label in ((this, "entailment"), (next_one, "contradiction"), (last, "neutral")):
            rows.append(Row(topic, (premise, f"{text.format(subject, value)}."), label))
    return rows


def qnli(rng: random.Random) -> Block:
    """`entailment` where the sentence answers the question: it says what was asked of that person, not of the other."""
    names, place, thing = rng.sample(NAMES, 2), rng.choice(PLACES), rng.choice(THINGS)
    day, month, colour = rng.choice(DAYS), rng.choice(MONTHS), rng.choice(COLOURS)
    kind, question, sentence = rng.choice(
        (
            (
                "where",
                f"Where does {{0}} work on {day}?",
                f"{{0}} works in the {place} on {day}, and {{1}} stays in bed.",
            ),
            (
                "when",
                f"When did {{0}} come to the {place}?",
                f"{{0}} came to the {place} in {month}, and {{1}} left it.",
            ),
            (
                "colour",
                f"Which colour is the {thing} of {{0}}?",
                f"The {thing} of {{0}} is {colour}, and {{1}} has none.",
            ),
            (
                "what",
                f"What did {{0}} give away in the {place}?",
                f"In the {place}, {{0}} gave away a {thing}, and {{1}} took it.",
            ),
        )
    )
    return _square(kind, [names, names[::-1]], question, sentence, ("entailment", "not_entailment"))


def rte(rng: random.Random) -> Block:
    """`entailment` where the second sentence follows from the first.

    `went`: who goes somewhere is there. `gave`: who is given a thing has it. `kind`: a rose is a flower, a dog an
    animal, a hammer a tool, an apple a fruit.
    """
    labels = ("entailment", "not_entailment")
    who, whom = rng.sample(NAMES, 2)
    thing, colour, day = rng.choice(THINGS), rng.choice(COLOURS), rng.choice(DAYS)
    kind = rng.choice(("went", "went", "gave", "kind", "kind"))
    if kind == "went":
        went = f"On {day}, {who} went to the {{0}} and {whom} went to the {{1}}."
        places = rng.sample(PLACES, 2)
        return _square(kind, [places, places[::-1]], went, f"{who} was at the {{0}} on {day}.", labels)
    if kind == "gave":
        text = f"On {day}, {{0}} gave the {colour} {thing} to {{1}}."
        return _square(kind, [(who, whom), (whom, who)], text, f"{{1}} then had the {colour} {thing}.", labels)
    (one, other), size = rng.sample(list(KINDS), 2), rng.choice(SIZES)
    seen = rng.choice(KINDS[one]), rng.choice(KINDS[other])
    values = [(*seen, _a(one)), (*seen[::-1], _a(other))]
    text = f"On {day}, {who} saw a {size} {{0}} and {whom} saw a {size} {{1}}."
    return _square(kind, values, text, f"{who} saw {{2}} on {day}.", labels)


def wnli(rng: random.Random) -> Block:
    """1 where the second sentence says rightly what `it`, `he` or `she` stands for.

    What does not fit into another thing is too big, and the other too small. Who is thanked has helped; who says
    sorry has lost something; who is asked to help knows the way.
    """
    (one, other), (colour, another) = rng.sample(THINGS, 2), rng.sample(COLOURS, 2)
    pronoun, names = rng.choice((("he", MEN), ("she", WOMEN)))
    things, people = (f"{colour} {one}", f"{another} {other}"), tuple(rng.sample(names, 2))
    found = f"had found the {colour} {one}"
    first, second, who = rng.choice(
        (
            ("The {0} does not fit into the {1} because it is too big.", "The {0} is too big.", things),
            ("The {0} does not fit into the {1} because it is too small.", "The {1} is too small.", things),
            (f"{{0}} thanked {{1}} because {pronoun} {found}.", f"{{1}} {found}.", people),
            (f"{{0}} wrote to {{1}} because {pronoun} {found}.", f"{{0}} {found}.", people),
        )
    )
    return _square("pronoun", [who, who[::-1]], first, second, "10")


def _matches(kind: str, ones: Sequence[str], others: Sequence[str], text: str, labels: Sequence[str]) -> Block:
    """Every combination in one sentence: the first label where a word stands with its fellow, else the second."""
    pairs = itertools.product(range(len(ones)), range(len(others)))
    return [Row(kind, (text.format(ones[i], others[j]),), labels[i != j]) for i, j in pairs]


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _square(kind: str, values: Sequence[Sequence[str]], first: str, second: str, labels: Sequence[str]) -> Block:
    """Every combination of two sentences: the first label where both were made of the same values, else the second."""
    pairs = itertools.product(range(len(values)), repeat=2)
    return [Row(kind, (first.format(*values[i]), second.format(*values[j])), labels[i != j]) for i, j in pairs]


# --- tables ----------------------------------------------------------------------------------------------------------


class Table(NamedTuple):
    """A file of the GLUE site: `rows` rows (a block more at most) that `make` draws, under `columns`."""

    path: str
    columns: str
    rows: int
    make: Callable[[random.Random], Block]
    header: bool = True

    @property
    def split(self) -> str:
        return "test" if self.path.startswith("AX") else self.path.split("/")[1].removesuffix(".tsv").split("_")[0]


_MNLI = (
    "index,promptID,pairID,genre,sentence1_binary_parse,sentence2_binary_parse,sentence1_parse,sentence2_parse,"
    "sentence1,sentence2"
)
_STSB = "index,genre,filename,year,old_index,source1,source2,sentence1,sentence2"
_PAIR = "index,sentence1,sentence2"


def _mismatched(rng: random.Random) -> Block:
    return mnli(rng, MISMATCHED)


# What is held out comes first and takes its sentences; training rows are made of others.
TABLES = (
    Table("CoLA/dev.tsv", "source,label,star,sentence", 200, cola, header=False),
    Table("SST-2/dev.tsv", "sentence,label", 200, sst2),
    Table("MRPC/dev.tsv", "Quality,#1 ID,#2 ID,#1 String,#2 String", 200, mrpc),
    Table("QQP/dev.tsv", "id,qid1,qid2,question1,question2,is_duplicate", 200, qqp),
    Table("STS-B/dev.tsv", f"{_STSB},score", 208, stsb),
    Table("MNLI/dev_matched.tsv", f"{_MNLI},label1,label2,label3,label4,label5,gold_label", 198, mnli),
    Table("MNLI/dev_mismatched.tsv", f"{_MNLI},label1,label2,label3,label4,label5,gold_label", 198, _mismatched),
    Table("QNLI/dev.tsv", "index,question,sentence,label", 200, qnli),
    Table("RTE/dev.tsv", f"{_PAIR},label", 200, rte),
    Table("WNLI/dev.tsv", f"{_PAIR},label", 80, wnli),
    Table("CoLA/test.tsv", "index,sentence", 60, cola),
    Table("SST-2/test.tsv", "index,sentence", 60, sst2),
    Table("MRPC/test.tsv", "index,#1 ID,#2 ID,#1 String,#2 String", 60, mrpc),
    Table("QQP/test.tsv", "id,question1,question2", 60, qqp),
    Table("STS-B/test.tsv", _STSB, 64, stsb),
    Table("MNLI/test_matched.tsv", _MNLI, 63, mnli),
    Table("MNLI/test_mismatched.tsv", _MNLI, 63, _mismatched),
    Table("QNLI/test.tsv", "index,question,sentence", 60, qnli),
    Table("RTE/test.tsv", _PAIR, 60, rte),
    Table("WNLI/test.tsv", _PAIR, 60, wnli),
    Table("AX/AX.tsv", _PAIR, 99, mnli),
    Table("CoLA/train.tsv", "source,label,star,sentence", 1000, cola, header=False),
    Table("SST-2/train.tsv", "sentence,label", 1000, sst2),
    Table("MRPC/train.tsv", "Quality,#1 ID,#2 ID,#1 String,#2 String", 1000, mrpc),
    Table("QQP/train.tsv", "id,qid1,qid2,question1,question2,is_duplicate", 1000, qqp),
    Table("STS-B/train.tsv", f"{_STSB},score", 800, stsb),
    Table("MNLI/train.tsv", f"{_MNLI},label1,gold_label", 1350, mnli),
    Table("QNLI/train.tsv", "index,question,sentence,label", 1000, qnli),
    Table("RTE/train.tsv", f"{_PAIR},label", 1000, rte),
    Table("WNLI/train.tsv", f"{_PAIR},label", 400, wnli),
)


def tables() -> Iterator[tuple[str, str]]:
    """(path, text) of every table. The same in every call, on every machine."""
    split_of: dict[str, str] = {}
    for table in TABLES:
        rows = _draw(table, random.Random(f"{SEED} {table.path}"), split_of)
        columns = table.columns.split(",")
        lines = [columns] * table.header + [
            [_cell(column, number, row, table.split) for column in columns] for number, row in enumerate(rows)
        ]
        yield table.path, "".join("\t".join(line) + "\n" for line in lines)


def write(folder: Path) -> None:
    """Writes all tables below `folder`."""
    for path, text in tables():
        write_whole(folder / path, text)


def _draw(table: Table, rng: random.Random, split_of: dict[str, str]) -> list[Row]:
    """Rows in whole blocks, shuffled, none twice, without the sentences of another split; notes its own."""
    drawn: dict[tuple[str, ...], Row] = {}
    while len(drawn) < table.rows:
        block = table.make(rng)
        sentences = {sentence for row in block for sentence in row.sentences}
        known = any(row.sentences in drawn for row in block)
        if known or any(split_of.get(sentence, table.split) != table.split for sentence in sentences):
            continue
        split_of.update(dict.fromkeys(sentences, table.split))
        drawn.update({row.sentences: row for row in block})
    rows = list(drawn.values())
    rng.shuffle(rows)
    return rows


def _cell(column: str, number: int, row: Row, split: str) -> str:
    """What a table says under `column`. The parses of MNLI, which nobody reads, stay empty."""
    if column in ("sentence1", "question1", "#1 String", "question"):
        return row.sentences[0]
    if column in ("sentence", "sentence2", "question2", "#2 String"):
        return row.sentences[-1]
    if column in ("Quality", "is_duplicate", "score") or "label" in column:
        return row.label
    return {
        "index": str(number),
        "id": str(number),
        "qid1": str(2 * number + 1),
        "qid2": str(2 * number + 2),
        "#1 ID": str(2 * number + 1),
        "#2 ID": str(2 * number + 2),
        "promptID": str(number),
        "pairID": f"{number}{row.label[0]}" if split != "test" else str(number),
        "genre": row.kind,
        "source": row.kind,
        "star": "*" if row.label == "0" else "",
        "filename": "tiny_glue",
        "old_index": f"{number:04}",
    }.get(column, "" if column.endswith("_parse") else "none")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m t5x_mini.tasks.tiny_glue", description="Writes the tables of data/tiny_glue."
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder to write to")
    write(parser.parse_args().output)


if __name__ == "__main__":
    main()
