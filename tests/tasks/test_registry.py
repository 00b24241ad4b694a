"""Names of tasks, and the rates of mixtures, which are SeqIO's."""

import subprocess
import sys

import pytest

from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import registry
from t5x_mini.tasks.definitions import Mixture, PretrainingTask, TextToTextTask
from t5x_mini.tasks.objectives import SpanCorruption

OBJECTIVE = SpanCorruption(noise_density=0.25)


def feed(*tasks, name="any", **fields):
    return FeedConfig(
        mixture_or_task_name=name, tasks=tasks, task_feature_lengths={"inputs": 8, "targets": 8}, batch_size=1, **fields
    )


def text(name):
    return PretrainingTask(name=name, files={"train": f"{name}.txt"})


def mixture(name, tasks, **fields):
    return Mixture(name=name, tasks=tasks, **fields)


@pytest.fixture
def counted(tmp_path):
    """Three tasks of 3, 30 and 300 documents."""
    for count in (3, 30, 300):
        (tmp_path / f"{count}.txt").write_text("a line\n" * count)
    return [
        PretrainingTask(name=name, files={"train": str(tmp_path / f"{count}.txt")})
        for name, count in (("small", 3), ("middle", 30), ("big", 300))
    ]


def test_definitions_import_neither_tensorflow_nor_jax():
    script = """
import sys
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import registry
feed = FeedConfig(mixture_or_task_name="any", task_feature_lengths={}, batch_size=1)
assert "glue_cola_v002" in registry.definitions(feed)
assert registry.components("glue", feed)["glue_rte_v002"] > 0
assert not {"tensorflow", "seqio", "jax"} & set(sys.modules), sys.modules
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


def test_the_runs_objective_is_that_of_tasks_that_name_none():
    own = PretrainingTask(name="own", files={"train": "own.txt"}, objective=SpanCorruption(mean_span=5.0))
    known = registry.definitions(feed(text("mine"), own, objective=OBJECTIVE))
    objectives = {name: definition.objective for name, definition in known.items() if hasattr(definition, "objective")}
    assert objectives == {
        **dict.fromkeys(["installed_docs", "tiny_world", "c4", "mine"], OBJECTIVE),
        **dict.fromkeys(["installed_docs_span_corruption", "c4_span_corruption"], SpanCorruption()),
        "own": SpanCorruption(mean_span=5.0),
    }


def test_a_name_given_twice_is_refused():
    with pytest.raises(UserError, match="Two tasks are named 'c4': .*choose another scope"):
        registry.definitions(feed(text("c4")))


def test_short_names_find_t5s_tasks_unless_the_user_has_one():
    assert registry.find("cola", feed()).name == "glue_cola_v002"
    mine = TextToTextTask(name="cola", files={"train": "x.tsv"})
    assert registry.find("cola", feed(mine)) is mine
    assert registry.is_defined("cola", feed()) and not registry.is_defined("koala", feed())


def test_an_unknown_name_is_answered_with_the_closest():
    with pytest.raises(UserError, match="no task or mixture named 'my_txt'. The closest names: my_text"):
        registry.find("my_txt", feed(text("my_text")))


def test_the_components_of_a_task_are_itself():
    assert registry.components("installed_docs", feed()) == {"installed_docs": 1.0}


def test_nested_rates_are_seqios(counted):
    seqio = pytest.importorskip("seqio")
    tasks = (
        *counted,
        mixture("inner", {"small": 2.0, "middle": 6.0}),
        mixture("outer", {"inner": 4.0, "small": 1.0, "big": 0.0}),
    )
    registered = {
        task.name: seqio.Task(task.name, seqio.TextLineDataSource({"train": "x"}), output_features={})
        for task in counted
    }
    inner = seqio.Mixture("inner", [(registered["small"], 2.0), (registered["middle"], 6.0)])
    outer = seqio.Mixture("outer", [(inner, 4.0), (registered["small"], 1.0), (registered["big"], 0.0)])
    expected = {name: outer.get_rate(task) for name, task in registered.items()}
    assert registry.components("outer", feed(*tasks)) == expected == {"small": 2.0, "middle": 3.0, "big": 0.0}


@pytest.mark.parametrize(("limit", "temperature"), [(None, 1.0), (100, 1.0), (100, 2.0), (None, 4.0)])
def test_proportional_rates_are_seqios(counted, limit, temperature):
    seqio = pytest.importorskip("seqio")
    found = registry.components(
        "all", feed(*counted, mixture("all", ("small", "middle", "big"), limit=limit, temperature=temperature))
    )
    for name, count in (("small", 3), ("middle", 30), ("big", 300)):
        source = seqio.TextLineDataSource({"train": "x"}, num_input_examples={"train": count})
        task = seqio.Task(name, source, output_features={})
        rate = seqio.mixing_rate_num_examples(task, maximum=limit, temperature=temperature)
        assert found[name] == pytest.approx(rate, rel=1e-12)


def test_a_mixture_in_a_proportional_one_counts_as_all_of_its_examples(counted):
    tasks = (*counted, mixture("inner", {"small": 1.0, "middle": 1.0}), mixture("outer", ("inner", "big")))
    assert registry.components("outer", feed(*tasks)) == {"small": 16.5, "middle": 16.5, "big": 300.0}


def test_what_is_only_evaluated_is_not_counted(counted):
    tasks = (*counted, mixture("inner", {"small": 1.0, "big": 0.0}), mixture("outer", ("inner", "middle")))
    assert registry.components("outer", feed(*tasks)) == {"small": 3.0, "big": 0.0, "middle": 30.0}


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        (("small",), {"middle": 30.0, "big": 300.0}),
        (("inner",), {"big": 300.0}),
        (("middle", "big"), {"small": 3.0}),
    ],
)
def test_tasks_are_left_out_with_their_examples(counted, without, expected):
    inner = mixture("inner", {"small": 1.0, "middle": 10.0})
    tasks = (*counted, inner, mixture("outer", ("inner", "big"), without=without))
    assert registry.components("outer", feed(*tasks)) == pytest.approx(expected)


def test_what_a_mixture_does_not_hold_is_not_left_out(counted):
    tasks = (*counted, mixture("both", ("small", "middle"), without=("big",)))
    with pytest.raises(UserError, match="both/Mixture.without names 'big', which the mixture doesn't hold. It holds"):
        registry.components("both", feed(*tasks))


def test_counts_can_be_given():
    tasks = (text("a"), text("b"), mixture("both", ("a", "b"), limit=10))
    assert registry.components("both", feed(*tasks), count={"a": 4, "b": 40}.get) == {"a": 4.0, "b": 10.0}


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ({"a": 0.0}, "has the rates {'a': 0.0}. Each must be a number from 0 up, and one of them more than 0"),
        ({"a": -1.0}, "Each must be a number from 0 up"),
        ({}, "has the rates {}"),
        ({"mix": 1.0}, "'mix' contains itself: mix > mix"),
        ({"aa": 1.0}, "'mix' names 'aa': There is no task .*seqio.MixtureRegistry.add"),
    ],
)
def test_bad_mixtures_are_refused(tasks, words):
    with pytest.raises(UserError, match=words):
        registry.components("mix", feed(text("a"), mixture("mix", tasks)))


@pytest.mark.parametrize(("field", "value"), [("limit", 0), ("temperature", 0.0), ("temperature", -2.0)])
def test_bad_proportions_are_refused(field, value):
    with pytest.raises(UserError, match=f"mix/Mixture.{field} must be .*; found {value}"):
        registry.components("mix", feed(text("a"), mixture("mix", ("a",), **{field: value})), count=lambda name: 5)


@pytest.mark.parametrize("setting", [{"limit": 10}, {"temperature": 2.0}])
def test_proportions_beside_explicit_rates_are_refused(setting):
    with pytest.raises(UserError, match=r"gives the rates itself. Leave these out, or the rates: .* = \['a'\]"):
        registry.components("mix", feed(text("a"), mixture("mix", {"a": 1.0}, **setting)))
