"""What came out of a study: means, spreads, orderings with their verdicts, tables, the page and its pictures."""

import dataclasses
import html.parser
import math
import re

import made_up_study
import pytest

from t5x_mini.evaluate.spread import Spread
from t5x_mini.study import page, plots
from t5x_mini.study import report as report_module
from t5x_mini.study.orderings import in_words
from t5x_mini.study.outcomes import AVERAGE, Outcome, over_seeds

REPORT = made_up_study.report()


def test_a_spread_is_the_standard_deviation_over_seeds():
    spread = Spread((1.0, 2.0, 3.0))
    assert (spread.mean, spread.deviation, spread.text(1)) == (2.0, 1.0, "2.0 ± 1.0")
    assert Spread((2.0,)).text(2) == "2.00" and math.isnan(Spread((2.0,)).deviation)


def test_above_chance_is_by_more_than_twice_the_spread():
    spread = Spread((49.0, 51.0, 53.0))  # 51 ± 2
    assert spread.is_above(46.9) and not spread.is_above(47.0)
    assert not Spread((90.0,)).is_above(0.0), "of one seed nobody knows"


def test_an_average_is_t5s_the_mean_over_tasks_of_the_mean_over_metrics():
    outcome = Outcome("a", 0, 1.0, None, [], {"cola": {"mcc": 20.0}, "mrpc": {"accuracy": 70.0, "f1": 90.0}})
    assert outcome.values == {AVERAGE: 50.0, "cola": 20.0, "mrpc": 80.0}
    assert "held-out loss" not in over_seeds([outcome], "a")


def test_pairs_that_differ_in_one_choice_are_ordered_and_judged():
    found = {(one.better, one.worse): one for one in REPORT.orderings if one.by == AVERAGE}
    assert len(found) == 4  # of six pairs, two differ in both choices
    far = found["denoising, enc-dec", "denoising, causal <LM>"]
    assert (far.axis, far.verdict, far.here) == ("architecture", "reproduced", pytest.approx(10.0))
    assert far.reference == pytest.approx(8.58) and far.error == pytest.approx(math.sqrt(2 / 3))
    assert found["denoising, enc-dec", "LM, enc-dec"].verdict == "reversed"
    assert found["LM, enc-dec", "LM, causal <LM>"].verdict == "not judged", "one of them is not above chance"
    words = "1 of 4 orderings reproduced, 1 reversed, 2 not judged"
    assert in_words(list(found.values())) == words


def test_held_out_losses_are_compared_where_they_can_be():
    study = dataclasses.replace(
        REPORT.study, compare_losses_along=("architecture",), exceptions={"LM, causal <LM>": ("OBJECTIVE=@CausalLM()",)}
    )
    losses = {"denoising, enc-dec": 1.0, "denoising, causal <LM>": 1.2}
    outcomes = [
        dataclasses.replace(outcome, held_out_loss=losses.get(outcome.cell, 1.5) + outcome.seed / 100)
        for outcome in REPORT.outcomes
    ]
    report = dataclasses.replace(REPORT, study=study, outcomes=outcomes)
    (one,) = (one for one in report.orderings if one.by == "held-out loss")
    assert (one.better, one.worse, one.verdict) == ("denoising, enc-dec", "denoising, causal <LM>", "reproduced")
    assert one.here == pytest.approx(0.2) and one.error == pytest.approx(0.01 * math.sqrt(2 / 3))
    assert "By the held-out loss, beside GLUE there: 1 of 1 orderings reproduced." in report_module.as_text(report)


def test_close_ones_and_single_seeds_decide_nothing():
    close = [
        dataclasses.replace(outcome, scores={"sst2": {"accuracy": 80.0 + outcome.seed}}) for outcome in REPORT.outcomes
    ]
    report = dataclasses.replace(REPORT, outcomes=close, chance={"sst2": 50.0})
    assert {one.verdict for one in report.orderings} == {"undecided"}
    single = dataclasses.replace(REPORT, outcomes=REPORT.outcomes[:4])
    assert {one.verdict for one in single.orderings} == {"not judged"}
    unknown = dataclasses.replace(single, chance={})
    assert {one.verdict for one in unknown.orderings} == {"undecided"}


def test_the_table_has_a_line_a_cell_and_says_what_nothing_can_be_concluded_from():
    text = report_module.as_text(REPORT)
    assert re.search(r"denoising +causal <LM> +1,007 +101", text)
    assert "81.0 ± 1.0" in text and "83.28" in text
    assert re.search(r"LM +causal <LM> +1,021 \*", text)
    assert (
        "Marked with *: not above chance by twice the spread, so that nothing can be concluded: LM, causal <LM>."
        in text
    )
    assert "LM, enc-dec: another thing there" in text
    assert "4 cells, 3 seeds each; models of 1,000 to 1,021 parameters, pretrained for 100 to 103 steps" in text
    assert report_module.as_markdown(REPORT).splitlines()[0].startswith("| objective | architecture | parameters |")


def test_a_study_that_goes_on_says_how_far_it_is():
    report = dataclasses.replace(REPORT, outcomes=REPORT.outcomes[:3])
    assert "(3 of 12 trained so far)" in report_module.size_in_words(report)
    assert "–" in report_module.as_text(report)


def test_the_report_comes_back_from_json():
    again = report_module.from_json(report_module.to_json(REPORT))
    assert report_module.as_markdown(again) == report_module.as_markdown(REPORT)
    assert again.orderings == REPORT.orderings


class _Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_needs_nothing_else_and_has_all_of_it(tmp_path):
    pictures = plots.draw(REPORT, tmp_path)
    assert [path.name for path in pictures] == ["scores.png", "losses.png"]
    shown = _Page(page.page(REPORT, pictures, "t5x-mini study x.gin"))
    assert shown.open == [] and all(link.startswith("data:image/png;base64,") for link in shown.links)
    words = " ".join(shown.words)
    for cell in REPORT.cells:
        assert cell.name in words
    for expected in ("Which & why", "t5x-mini study x.gin", "reproduced", "reversed", "another thing there", "61.14"):
        assert expected in words


def test_a_study_without_finetuning_compares_losses(tmp_path):
    bare = [dataclasses.replace(outcome, scores={}) for outcome in REPORT.outcomes]
    report = dataclasses.replace(REPORT, outcomes=bare, chance={})
    assert [path.name for path in plots.draw(report, tmp_path)] == ["losses.png"]
    assert "1.600 ± 0.100" in report_module.as_text(report) and report.orderings == []
