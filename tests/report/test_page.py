"""Tests of t5x_mini/report/page.py: the page's content, and that it needs nothing but itself."""

import html.parser
import json
import math
import re

import pytest
import tiny_runs
from made_up_runs import LOSS, PIXEL, training_row, write_answers, write_best, write_lines, write_run

from t5x_mini.errors import UserError
from t5x_mini.report.page import page, report, reproduce
from t5x_mini.report.run_data import read_run, read_runs

EVIL = "</script><b>evil</b>"


class Parsed(html.parser.HTMLParser):
    """The text of a page, its elements, and the JSON that it carries."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts, self.data = [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "input", "br"):
            self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag  # every element is closed, in order

    def handle_data(self, data):
        if self.open and self.open[-1][1].get("id") == "data":
            self.data += data
        elif not self.open or self.open[-1][0] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def values(self, tag, attribute):
        return [attributes.get(attribute) for name, attributes in self.elements if name == tag]


@pytest.fixture
def two_runs(tmp_path):
    folders = [write_run(tmp_path / "one"), write_run(tmp_path / "two", batch_size=32, steps=60)]
    for folder in folders:
        (folder / "masks.png").write_bytes(PIXEL)
        answers = [{"inputs": EVIL, "targets": EVIL, "prediction": EVIL}]
        write_answers(folder, "letters", 50, answers)
    write_best(folders[0], 50, "loss", 1.5)
    return read_runs([str(folder) for folder in folders])


def test_the_page_says_what_the_runs_did(two_runs):
    parsed = Parsed(page(two_runs))
    assert parsed.open == []
    for said in (
        "one complete, 100 steps",
        "two step 60 of 100",
        "loss 1.5 at step 50",
        "BATCH_SIZE 16 32",
        "1,000 tokens per second",
        "best 1.000 at 100",
        "training steps 40.0 s (75.5%)",
        "total: 40 parameters",
    ):
        assert said in parsed.text, said
    for title in ("Summary", "Loss", "Training", "Speed", "Evaluation", "Example answers", "Reproduce", "Settings"):
        assert title in parsed.text
    assert "Blocks of the model" not in parsed.text  # there are no such rows
    assert "None" not in Parsed(page(two_runs[:1])).text.partition("Settings one")[0]


def test_nothing_is_loaded_from_elsewhere(two_runs):
    text = page(two_runs)
    parsed = Parsed(text)
    for attribute in ("src", "href", "srcset", "action", "poster", "data"):
        for tag, attributes in parsed.elements:
            where = attributes.get(attribute) or "#"
            assert where.startswith(("#", "data:")), (tag, where)
    # What is left are the names that uPlot's licence line gives, in a comment; nothing asks the network by script.
    assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s)'\"]*", text)) == {"https://github.com/leeoniya/uPlot"}
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|\bimport\(", text)


def test_text_of_runs_is_never_html(two_runs):
    text = page(two_runs)
    assert "<b>evil" not in text and "<b>bold" not in text
    assert text.count("</script>") == 3  # the page's own
    assert EVIL in Parsed(text).text


def test_names_of_runs_and_metrics_are_escaped(tmp_path):
    run = tmp_path / "<i>&run"
    write_lines(run / "metrics.jsonl", [training_row(1, **{"grad_rms/</script>": 0.5})])
    parsed = Parsed(page([read_run(run)]))
    assert "<i>&run" in parsed.text
    assert json.loads(parsed.data)["runs"] == ["<i>&run"]
    assert "</script>" in [curve["label"] for chart in json.loads(parsed.data)["charts"] for curve in chart["curves"]]


def test_losses_that_are_not_finite(tmp_path):
    rows = [training_row(1), training_row(2, math.nan), training_row(3, math.inf)]
    rows = [
        {name: "NaN" if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()} for row in rows
    ]
    write_lines(tmp_path / "metrics.jsonl", rows)
    parsed = Parsed(page([read_run(tmp_path)]))
    assert "the loss was not finite at 2 step(s), first at step 2" in parsed.text
    assert "stopped at step 3: the loss was not finite" in parsed.text
    (loss,) = [chart for chart in json.loads(parsed.data)["charts"] if chart["section"] == "loss"]
    assert loss["curves"][0]["raw"] == [[1, 1.5], [2, None], [3, None]]


@pytest.mark.parametrize("missing", ["metrics.jsonl", "config.gin", "model-info.txt"])
def test_a_run_without_a_part_has_a_page(tmp_path, missing):
    folder = write_run(tmp_path / "one")
    (folder / missing).unlink()
    parsed = Parsed(page([read_run(folder), read_run(write_run(tmp_path / "two"))]))
    assert parsed.open == []
    if missing == "config.gin":
        assert "without a config.gin: one" in parsed.text
    if missing == "metrics.jsonl":
        assert "one no step yet" in parsed.text


def test_a_picture_that_runs_share_is_there_once(two_runs):
    pictures = [a for tag, a in Parsed(page(two_runs)).elements if tag == "img"]
    assert len(pictures) == 1 and pictures[0]["src"].startswith("data:image/png;base64,")
    assert pictures[0]["alt"].startswith("Attention masks of one, two")


def test_what_eval_measured_has_its_table(two_runs, tmp_path):
    folder = tmp_path / "one" / "eval"
    folder.mkdir()
    results = {"tasks": {"letters": {LOSS: 1.25}}, "metrics": {"letters": {"accuracy": 71.5, "f1": None}}}
    (folder / "test-100.json").write_text(json.dumps({"step": 100, "split": "test", **results}))
    text = Parsed(page([read_run(tmp_path / "one")])).text
    assert "letters, test accuracy (%) 71.5 best 71.5 at 100" in text
    assert "letters, test f1 (%) not finite" in text
    assert "letters, test held-out loss (nats per token) 1.250" in text


def test_the_page_is_described_to_who_cannot_see_it(two_runs):
    parsed = Parsed(page(two_runs))
    headings = [tag for tag, _ in parsed.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == "h1" and headings.count("h1") == 1
    for before, after in zip(headings, headings[1:], strict=False):
        assert int(after[1]) <= int(before[1]) + 1
    plots = [a for tag, a in parsed.elements if a.get("class") == "plot"]
    assert all(a["role"] == "img" for a in plots)
    assert "one goes from 4.8 at step 1 to 1.03 at step 100" in plots[0]["aria-label"]
    assert ("html", {"lang": "en"}) in parsed.elements


def test_the_command_reproduces_the_run_elsewhere(tmp_path):
    run = read_run(write_run(tmp_path / "my run"))
    folder = tmp_path / "my run"
    assert reproduce(run) == (f"t5x-mini train '--gin_file={folder}/config.gin' '--gin.MODEL_DIR={folder}_again'")


def test_a_long_run_s_page_stays_small(tmp_path):
    blocks = {f"grad_rms/decoder/layers_{i}": 0.00123456 for i in range(24)}
    rows = (training_row(step, 1 + 1 / step, **(blocks if step % 10 == 0 else {})) for step in range(1, 4_001))
    write_lines(tmp_path / "metrics.jsonl", rows)
    assert len(page([read_run(tmp_path)])) < 1_200_000


def test_report_writes_the_page(tmp_path, capsys):
    write_run(tmp_path / "one")
    output = tmp_path / "pages" / "one.html"
    finished = tiny_runs.run(["report", str(tmp_path / "one"), f"--output={output}"])
    assert (finished.code, finished.out) == (0, f"{output}\n")
    assert output.read_text().startswith("<!DOCTYPE html>")


def test_mistakes_are_explained(tmp_path):
    run = str(write_run(tmp_path / "one"))
    with pytest.raises(UserError, match=r"write --output=report\.html, not report\.pdf"):
        report([run], "report.pdf")
    with pytest.raises(UserError, match=r"can't be written to .*one/config\.gin/x\.html"):
        report([run], f"{run}/config.gin/x.html")
    assert "did you mean" in tiny_runs.run(["report", f"{run}x"]).err


@pytest.mark.slow
def test_a_real_run_has_its_page(tmp_path):
    with tiny_runs.tiny(tmp_path) as tiny:
        assert tiny.run("train", MODEL_DIR=str(tmp_path / "run"), EVAL_PERIOD=10).code == 0
    parsed = Parsed(page([read_run(tmp_path / "run")]))
    assert "complete, 30 steps" in parsed.text and "encoder_decoder" in parsed.text
    titles = [chart["title"] for chart in json.loads(parsed.data)["charts"]]
    assert {"Loss", "Learning rate", "Gradient norm", "Tokens per second", "tiny_sentences"} <= set(titles)
