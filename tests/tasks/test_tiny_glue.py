"""The tables of data/tiny_glue: their format, their rules, and that words alone don't give the labels away."""

from __future__ import annotations

import collections
import itertools
import random
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from t5x_mini import resources
from t5x_mini.tasks import tiny_glue

FOLDER = Path(resources.data_path("tiny_glue"))
PAIRS = {
    "MRPC": ("#1 String", "#2 String", "Quality"),
    "QQP": ("question1", "question2", "is_duplicate"),
    "STS-B": ("sentence1", "sentence2", "score"),
    "MNLI": ("sentence1", "sentence2", "gold_label"),
    "QNLI": ("question", "sentence", "label"),
    "RTE": ("sentence1", "sentence2", "label"),
    "WNLI": ("sentence1", "sentence2", "label"),
}
# Accuracy over that of always answering with one label; 0.035 is one standard error of 200 coin tosses.
ABOVE_CHANCE = 0.05


def _rows(path: str) -> list[dict[str, str]]:
    lines = [line.split("\t") for line in (FOLDER / path).read_text(encoding="utf-8").splitlines()]
    columns = (
        lines.pop(0) if not path.startswith("CoLA/") or "test" in path else "source,label,star,sentence".split(",")
    )
    return [dict(zip(columns, line, strict=True)) for line in lines]


def _files(*splits: str) -> list[str]:
    names = (path.relative_to(FOLDER).as_posix() for path in sorted(FOLDER.glob("*/*.tsv")))
    return [name for name in names if name.split("/")[1].split("_")[0].removesuffix(".tsv") in splits]


def _pairs(path: str) -> tuple[list[str], list[str], list[str]]:
    first, second, label = PAIRS[path.split("/")[0]]
    rows = _rows(path)
    return [row[first] for row in rows], [row[second] for row in rows], [row[label] for row in rows]


def _sentences(path: str) -> set[str]:
    texts = ("sentence", "question", "String")
    found = {text for row in _rows(path) for name, text in row.items() if any(word in name for word in texts)}
    return found - {""}  # MNLI's parses


HELD_OUT_PAIRS = [path for path in _files("dev") if path.split("/")[0] in PAIRS]
TRAINING_PAIRS = [path for path in _files("train") if path.split("/")[0] in PAIRS]
CLASSIFIED = [path for path in HELD_OUT_PAIRS if not path.startswith("STS-B")]


def test_the_files_are_what_the_generator_writes_byte_for_byte():
    made = dict(tiny_glue.tables())
    found = {path.relative_to(FOLDER).as_posix(): path.read_bytes() for path in FOLDER.glob("*/*.tsv")}
    assert found == {path: text.encode() for path, text in made.items()}


def test_the_command_writes_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["tiny_glue", "--output", str(tmp_path / "new")])
    tiny_glue.main()
    for path, text in tiny_glue.tables():
        assert (tmp_path / "new" / path).read_bytes() == text.encode()


def test_every_task_of_glue_is_there_and_small():
    sizes = {path.relative_to(FOLDER).as_posix(): path.stat().st_size for path in FOLDER.glob("*/*.tsv")}
    tasks = ("CoLA", "SST-2", "MRPC", "QQP", "STS-B", "QNLI", "RTE", "WNLI")
    expected = {f"{task}/{split}.tsv" for task in tasks for split in ("train", "dev", "test")}
    expected |= {f"MNLI/{split}_{kind}.tsv" for split in ("dev", "test") for kind in ("matched", "mismatched")}
    assert set(sizes) == expected | {"MNLI/train.tsv", "AX/AX.tsv"}
    assert max(sizes.values()) < 300_000 and sum(sizes.values()) < 1_300_000


@pytest.mark.parametrize(
    ("path", "columns"),
    [
        ("SST-2/train.tsv", "sentence label"),
        ("RTE/dev.tsv", "index sentence1 sentence2 label"),
        ("QNLI/train.tsv", "index question sentence label"),
        ("QQP/dev.tsv", "id qid1 qid2 question1 question2 is_duplicate"),
        ("STS-B/dev.tsv", "index genre filename year old_index source1 source2 sentence1 sentence2 score"),
        ("WNLI/train.tsv", "index sentence1 sentence2 label"),
        ("AX/AX.tsv", "index sentence1 sentence2"),
        ("CoLA/test.tsv", "index sentence"),
        ("QQP/test.tsv", "id question1 question2"),
    ],
)
def test_headers_are_those_of_the_glue_site(path, columns):
    assert (FOLDER / path).read_text().splitlines()[0].split("\t") == columns.split()


def test_mrpc_and_mnli_have_the_columns_of_the_glue_site():
    assert (FOLDER / "MRPC/dev.tsv").read_text().splitlines()[0] == "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    train, dev, test = (_rows(f"MNLI/{name}.tsv")[0] for name in ("train", "dev_matched", "test_matched"))
    assert (len(train), len(dev), len(test)) == (12, 16, 10)
    assert list(train)[8:] == ["sentence1", "sentence2", "label1", "gold_label"]
    assert list(dev)[8:] == ["sentence1", "sentence2", *(f"label{i}" for i in range(1, 6)), "gold_label"]
    assert list(test)[7:] == ["sentence2_parse", "sentence1", "sentence2"]


def test_cola_has_no_header_and_marks_what_is_not_acceptable():
    rows = _rows("CoLA/train.tsv")
    assert {(row["label"], row["star"]) for row in rows} == {("1", ""), ("0", "*")}


def test_no_sentence_stands_in_two_of_train_dev_and_test():
    splits = [set().union(*map(_sentences, _files(split))) for split in ("train", "dev", "test")]
    splits[2] |= _sentences("AX/AX.tsv")
    assert all(len(sentences) > 500 for sentences in splits)
    for one, other in itertools.combinations(splits, 2):
        assert not one & other


@pytest.mark.parametrize("path", HELD_OUT_PAIRS + TRAINING_PAIRS)
def test_every_sentence_of_a_pair_stands_with_every_label_as_often(path):
    first, second, labels = _pairs(path)
    for sentences in (first, second):
        counts = collections.defaultdict(collections.Counter)
        for sentence, label in zip(sentences, labels, strict=True):
            counts[sentence][label] += 1
        if path.startswith("STS-B"):
            means = [sum(float(label) * n for label, n in count.items()) / count.total() for count in counts.values()]
            assert means == pytest.approx([2.5] * len(means))
        else:
            assert all(set(count) == set(labels) and len(set(count.values())) == 1 for count in counts.values())


READERS = ["second", "words of both", "words of each", "which words of both", "tf-idf of both"]


@pytest.mark.parametrize("path", CLASSIFIED)
@pytest.mark.parametrize("reads", READERS)
def test_words_alone_stay_near_chance(path, reads):
    train, dev = _pairs(path.split("/")[0] + "/train.tsv"), _pairs(path)
    features, held_out = _bags(train, dev, reads)
    model = LogisticRegression(max_iter=300).fit(features, train[2])
    majority = max(collections.Counter(dev[2]).values()) / len(dev[2])
    # Of equal rows the last bits may differ with the order of the words: they must not decide.
    answers = model.classes_[np.round(model.predict_proba(held_out), 6).argmax(axis=1)]
    assert np.mean(answers == dev[2]) <= majority + ABOVE_CHANCE


@pytest.mark.parametrize("reads", READERS)
def test_words_alone_say_nothing_of_likeness(reads):
    train, dev = _pairs("STS-B/train.tsv"), _pairs("STS-B/dev.tsv")
    features, held_out = _bags(train, dev, reads)
    predicted = Ridge(alpha=1.0).fit(features, np.asarray(train[2], float)).predict(held_out)
    assert abs(np.cov(predicted, np.asarray(dev[2], float))[0, 1]) < 0.02


def _bags(train, dev, reads):
    """Words as numbers, of training and held-out rows."""

    def texts(pairs):
        first, second, _ = pairs
        if reads == "second":
            return second
        if reads == "words of each":
            second = [re.sub(r"(\w+)", r"\1_2", text) for text in second]
        return [f"{a} {b}" for a, b in zip(first, second, strict=True)]

    make = TfidfVectorizer if reads.startswith("tf-idf") else CountVectorizer
    words = make(token_pattern=r"\w+", binary=reads.startswith("which"))
    return words.fit_transform(texts(train)), words.transform(texts(dev))


def test_labels_are_balanced():
    for path in _files("train", "dev"):
        if path.startswith("STS-B"):
            continue
        name = {"CoLA": "label", "SST-2": "label"} | {task: columns[2] for task, columns in PAIRS.items()}
        counts = collections.Counter(row[name[path.split("/")[0]]] for row in _rows(path))
        assert min(counts.values()) >= 0.9 * max(counts.values()), path


# --- the rules, worked out again from the text -----------------------------------------------------------------------


def test_mnli_follows_from_the_facts_of_the_premise():
    for name in ("train", "dev_matched", "dev_mismatched"):
        for row in _rows(f"MNLI/{name}.tsv"):
            facts = dict(_fact(clause) for clause in re.split(", and |, ", row["sentence1"].rstrip(".")))
            about, value = _fact(row["sentence2"].rstrip("."))
            assert about in facts
            known = facts[about]
            expected = "neutral" if known is None else "entailment" if known == value else "contradiction"
            assert row["gold_label"] == expected, row


def _fact(clause: str) -> tuple[str, str | None]:
    """ "Anna's cup is red" -> ("Anna's cup", 'red'); None where it speaks of something else."""
    about, value = re.split(r" (?:is|was) ", clause)
    return about, None if value in ("late", "new", "tired", "early", "lost") else value


def test_stsb_counts_what_each_person_keeps():
    points = {"did": 1.4, "what": 1.6, "where": 1.2, "when": 0.8}
    first = r"(?P<who>\w+) (?P<did>\w+) a (?P<what>\w+) in the (?P<where>\w+) on (?P<when>\w+)"
    second = r"on (?P<when>\w+), in the (?P<where>\w+), (?P<who>\w+) (?P<did>\w+) a (?P<what>\w+)"
    for row in _rows("STS-B/train.tsv") + _rows("STS-B/dev.tsv"):
        one = [re.fullmatch(first, part).groupdict() for part in row["sentence1"].rstrip(".").split(", and ")]
        texts = row["sentence2"].replace("On ", "on ").rstrip(".").split(", and ")
        other = [re.fullmatch(second, part).groupdict() for part in texts]
        assert [fact["who"] for fact in one] == [fact["who"] for fact in other]
        agreed = [sum(points[name] for name in points if a[name] == b[name]) for a, b in zip(one, other, strict=True)]
        assert agreed == pytest.approx([float(row["score"])] * 2)


def test_mrpc_compares_who_with_what():
    forms = {
        "sold a": (
            r"(\w+) sold a (.+) to (\w+) on (\w+)\.",
            r"On (\w+), a (.+) was sold by (\w+) and bought by (\w+)\.",
        ),
        "lost a": (
            r"(\w+) lost a (.+) and (\w+) lost a (\w+) on (\w+)\.",
            r"On (\w+), (\w+)'s (.+) and (\w+)'s (\w+) went missing\.",
        ),
    }
    orders = {"sold a": (2, 1, 3, 0), "lost a": (1, 2, 3, 4, 0)}
    seen = set()
    for row in _rows("MRPC/train.tsv") + _rows("MRPC/dev.tsv"):
        kind = next(words for words in forms if words in row["#1 String"])
        seen.add(kind)
        one, other = (
            re.fullmatch(form, row[name]).groups()
            for form, name in zip(forms[kind], ("#1 String", "#2 String"), strict=True)
        )
        assert row["Quality"] == str(int(one == tuple(other[i] for i in orders[kind]))), row
    assert seen == set(forms)


def test_sst2_turns_around_at_not_and_counts_what_follows_but():
    for row in _rows("SST-2/train.tsv") + _rows("SST-2/dev.tsv"):
        words = row["sentence"].split(" but ")[-1].split()
        value = next(
            (1 if word in tiny_glue.PRAISE else 0) for word in words if word in tiny_glue.PRAISE + tiny_glue.BLAME
        )
        turned = bool({"not", "never", "hardly"} & set(words))
        assert row["label"] == str(value ^ turned)


def test_wnli_knows_who_is_meant():
    for row in _rows("WNLI/train.tsv") + _rows("WNLI/dev.tsv"):
        first, second = row["sentence1"], row["sentence2"]
        meant = re.match(r"(?:The )?(?P<a>.+?) (does not fit into the|thanked|wrote to) (?P<b>.+?) because", first)
        expected = meant["b"] if "too small" in first or "thanked" in first else meant["a"]
        assert row["label"] == str(int(re.match(r"(?:The )?(.+?) (?:is|had) ", second)[1] == expected))


def test_cola_pairs_differ_only_in_grammar():
    rng = random.Random(1)
    for _ in range(200):
        block = tiny_glue.cola(rng)
        good = collections.Counter(
            w for row in block if row.label == "1" for w in row.sentences[0].lower().strip(".").split()
        )
        bad = collections.Counter(
            w for row in block if row.label == "0" for w in row.sentences[0].lower().strip(".").split()
        )
        assert good == bad  # the same words, so nothing but their order and agreement can tell


def test_rte_follows_only_where_the_rules_say_so():
    kind_of = {thing: kind for kind, things in tiny_glue.KINDS.items() for thing in things}
    seen = collections.Counter()
    for row in _rows("RTE/train.tsv") + _rows("RTE/dev.tsv"):
        first, second = (row[name].rstrip(".").split() for name in ("sentence1", "sentence2"))
        if "went" in first:
            rule, follows = "went", first[first.index("went") + 3] == second[second.index("the") + 1]
        elif "gave" in first:
            rule, follows = "gave", first[first.index("to") + 1] == second[0]
        else:
            rule, follows = "kind", kind_of[first[6]] == second[3]
        seen[rule] += 1
        assert row["label"] == ("entailment" if follows else "not_entailment"), row
    assert set(seen) == {"went", "gave", "kind"}


def test_qnli_answers_speak_of_the_person_who_was_asked_about():
    for row in _rows("QNLI/train.tsv") + _rows("QNLI/dev.tsv"):
        asked, told = (_people(row[name]) for name in ("question", "sentence"))
        assert len(told) == 2 and asked[0] in told
        assert row["label"] == ("entailment" if asked[0] == told[0] else "not_entailment"), row


def _people(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text) if word in tiny_glue.NAMES]


def test_qqp_duplicates_have_the_people_in_the_same_places():
    for row in _rows("QQP/train.tsv") + _rows("QQP/dev.tsv"):
        one, other = _people(row["question1"]), _people(row["question2"])
        assert sorted(one) == sorted(other)
        assert row["is_duplicate"] == str(int(one == other)), row
