"""The stories to pretrain on for tiny_glue: their English, and that they hold nothing of the tables."""

from __future__ import annotations

import collections
import itertools
import re
from pathlib import Path

import pytest

from t5x_mini import resources
from t5x_mini.tasks import tiny_glue, tiny_world

TABLES = Path(resources.data_path("tiny_glue"))
READ = 20_000


@pytest.fixture(scope="module")
def stories() -> list[str]:
    return list(itertools.islice(tiny_world.documents("train"), READ))


def test_every_call_tells_the_same_stories(stories):
    assert list(itertools.islice(tiny_world.documents("train"), 500)) == stories[:500]


def test_stories_differ_between_the_splits_and_within_one(stories):
    held_out = list(tiny_world.documents("validation"))
    assert len(held_out) == 1_000
    assert len(set(held_out) & set(stories)) < 10  # the shortest can come twice
    assert len(set(stories)) > 0.99 * len(stories)


def test_the_command_writes_a_story_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tiny_world, "SPLITS", {"train": 30, "validation": 20})
    monkeypatch.setattr("sys.argv", ["tiny_world", "--output", str(tmp_path / "new")])
    tiny_world.main()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["train.txt", "validation.txt"]
    for split, lines in (("train", 30), ("validation", 20)):
        text = (tmp_path / "new" / f"{split}.txt").read_text(encoding="utf-8")
        assert text.endswith("\n") and text.splitlines() == list(tiny_world.documents(split))
        assert len(text.splitlines()) == lines
    said = capsys.readouterr().out
    assert "train.txt: 30 stories" in said and "validation.txt: 20 stories" in said


# --- nothing of the tables -------------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """Lower case, no punctuation, a blank around every word; `an` as `a`, which some tables write for it."""
    return re.sub(r"(?<= )an(?= )", "a", f" {' '.join(re.sub('[^a-z ]', ' ', text.lower()).split())} ")


def _sentences_of_the_tables() -> set[str]:
    cells = {
        cell
        for path in TABLES.glob("*/*.tsv")
        for line in path.read_text(encoding="utf-8").splitlines()
        for cell in line.split("\t")
    }
    return {_plain(cell) for cell in cells if " " in cell and not cell.startswith("#")}  # MRPC's columns: '#1 ID'


def _found(sentences: set[str], texts: list[str]) -> list[tuple[str, str]]:
    """(sentence, text) wherever one stands in the other: texts are looked up by the first four words of a sentence."""
    plain = [_plain(text) for text in texts]
    holding = collections.defaultdict(set)
    for number, text in enumerate(plain):
        words = text.split()
        for four in zip(*(words[start:] for start in range(4)), strict=False):
            holding[four].add(number)
    return [
        (sentence, texts[number])
        for sentence in sentences
        for number in holding[tuple(sentence.split()[:4])]
        if sentence in plain[number]
    ]


def test_no_sentence_of_a_table_stands_in_a_story(stories):
    sentences = _sentences_of_the_tables()
    assert len(sentences) > 9_000 and min(len(sentence.split()) for sentence in sentences) >= 4
    assert _found(sentences, stories) == []


def test_sentences_are_found_inside_clauses():
    """What the test above relies on."""
    sentences = {_plain("Eve is a baker."), _plain("a awful film with a dull plot")}
    texts = ["Ben says that Eve is a baker, so he is late.", "An awful film with a dull plot. Eve is a bakery."]
    assert sorted(text for _, text in _found(sentences, texts)) == sorted(texts)


def test_no_label_and_no_prefix_of_glue_is_in_the_stories(stories):
    text = " ".join(stories).lower()
    labels = "entailment not_entailment contradiction neutral acceptable unacceptable positive negative"
    prefixes = "cola sst2 mrpc qqp stsb mnli qnli rte wnli glue"
    features = "sentence sentence1 sentence2 question question1 question2 premise hypothesis"
    words = set(re.findall(r"\w+", text))
    assert words.isdisjoint(f"{labels} equivalent not_equivalent duplicate not_duplicate {prefixes} {features}".split())
    assert not re.search(r"\d|_", text)


# --- English ---------------------------------------------------------------------------------------------------------


def test_stories_are_sentences(stories):
    for story in stories:
        assert story.isascii() and story[0].isupper() and story[-1] in ".?", story
        assert not re.search(r"[{}\n\t]|  | [.,?]|[.,?:][^ ]|[.?] [a-z]", story), story
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", story, re.IGNORECASE), story


def test_stories_speak_of_everything_that_the_tables_speak_of(stories):
    words = set(re.findall(r"\w+", " ".join(stories)))
    for known in (
        tiny_glue.NAMES,
        tiny_glue.PLACES,
        tiny_glue.THINGS,
        tiny_glue.JOBS,
        tiny_glue.MONTHS,
        tiny_glue.MATERIALS,
    ):
        assert words.issuperset(known)


# --- what is so, and what is not -------------------------------------------------------------------------------------


def test_stories_say_yes_and_no_right_and_wrong_as_often(stories):
    text = " ".join(stories)
    for one, other in (("? Yes", "? No"), (" is right.", " is wrong.")):
        assert text.count(one) > 1_000
        assert text.count(one) == pytest.approx(text.count(other), rel=0.1)


def test_claims_about_facts_are_judged_by_what_is_told(stories):
    """Worked out again from the text: people's places and jobs, months of birth, colours and materials."""
    seen = collections.Counter()
    claimed = re.compile(r"(\w+) says that ([^.]*)\. ")
    for story in stories:
        if not re.search(r" (is late|is new|is tired|was early|is lost)[,.]", story):
            continue
        claim, judged = claimed.search(story), re.search(r" (is right|is wrong|may be right)\.$", story)
        if claim and judged:
            told = claimed.sub("", story).split(". ")[0].rstrip(".")
            facts = dict(re.split(" is | was ", clause) for clause in re.split(", and |, ", told))
            about, value = re.split(" is | was ", claim[2])
            verdict = "is right" if facts[about] == value else "is wrong"
            if facts[about] in ("late", "new", "tired", "early", "lost"):
                verdict = "may be right"
            assert judged[1] == verdict, story
            seen[verdict] += 1
    assert min(seen[verdict] for verdict in ("is right", "is wrong", "may be right")) > 200


def test_who_turns_an_event_around_is_wrong(stories):
    """Of sales, worked out again from the text: who sells and who buys."""
    forms = (
        r"(?P<seller>\w+) sold a [a-z ]+ to (?P<buyer>\w+) on \w+",
        r"On \w+, (?P<buyer>\w+) bought a [a-z ]+ from (?P<seller>\w+)",
        r"On \w+, a [a-z ]+ was sold by (?P<seller>\w+) and bought by (?P<buyer>\w+)",
        r"(?P<buyer>\w+) bought a [a-z ]+ from (?P<seller>\w+) on \w+",
    )
    seen = collections.Counter()
    for story in stories:
        parts = re.fullmatch(r"([^.]*)\. \w+ says that ([^.]*)\. \w+ is (right|wrong)\.", story)
        if parts is None or not re.search(r" (sold by|sold a|bought a) ", parts[1]):
            continue
        texts = parts[1], re.sub("^on ", "On ", parts[2])
        told, claim = (next(filter(None, (re.fullmatch(form, text) for form in forms))).groupdict() for text in texts)
        assert parts[3] == ("right" if told == claim else "wrong"), story
        seen[parts[3]] += 1
    assert min(seen["right"], seen["wrong"]) > 25
