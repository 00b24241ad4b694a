"""A few of the kills that `make chaos` does by the hundred, and whether its eyes are open."""

import json
import random
import shutil
from types import SimpleNamespace

import chaos
import jax
import pytest
import tiny_runs

PROMISE = "However often a run is killed, it ends bit for bit like one that was never touched."
CHECKPOINTS = "checkpoints"


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A configuration that was tormented, and the kills."""
    seed, kills = random.randrange(2**32), []
    print(f"seed {seed}")
    with chaos.cases(["tokens/encoder_decoder"], tmp_path_factory.mktemp("chaos")) as (case,):
        compared = chaos.torment(case, 2, random.Random(seed), kills.append)
        yield case, kills, compared


@pytest.mark.damage(PROMISE)
def test_killed_runs_end_bit_for_bit_like_an_undisturbed_one(killed, record_property):
    case, kills, compared = killed
    assert compared >= 1
    assert [kill.configuration for kill in kills] == [case.name] * 2
    assert {kill.stage for kill in kills} <= set(chaos.STAGES)
    record_property("trials", len(kills))


@pytest.mark.slow
def test_kills_of_both_feeds_at_a_time(tmp_path, capsys):
    result = chaos.kill_runs(["seqio/causal_lm", "tokens/prefix_lm"], kills=4, seed=1, folder=tmp_path)
    assert result["broken"] == []
    assert result["kills"] == sum(result["stages"].values()) == 4
    assert result["runs_compared"] >= 2
    assert "kill 4/4: " in capsys.readouterr().out


def test_a_run_is_like_itself_and_the_arrays_that_are_compared_are_everything(killed):
    run = killed[0].folder / "undisturbed"
    chaos.compare(run, run)
    last, earlier = (tiny_runs.arrays(run, step) for step in (chaos.STEPS, chaos.STEPS - chaos.SAVE_PERIOD))
    assert {"step", "rng", "params", "opt_state"} == last.keys()
    assert {"wi_0", "wi_1", "wo"} <= last["opt_state"]["decoder"]["layers_1"]["mlp"].keys()
    changed = jax.tree.map(lambda a, b: (a != b).any(), last["params"], earlier["params"])
    assert all(jax.tree.leaves(changed))


def edit_rows(run, edit):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    edit(rows)
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def take_arrays_of_an_earlier_step(run):
    shutil.rmtree(run / CHECKPOINTS / str(chaos.STEPS) / "state")
    earlier = run / CHECKPOINTS / str(chaos.STEPS - chaos.SAVE_PERIOD)
    shutil.copytree(earlier / "state", run / CHECKPOINTS / str(chaos.STEPS) / "state")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: edit_rows(run, lambda rows: rows.pop(3)), "step 4"),
        (lambda run: edit_rows(run, lambda rows: rows.pop()), "rows, not"),
        (lambda run: edit_rows(run, lambda rows: rows.insert(5, rows[5])), "step"),
        (lambda run: edit_rows(run, lambda rows: rows[8].update(learning_rate=0.5)), "learning_rate: 0.5, not"),
        (take_arrays_of_an_earlier_step, "is another one"),
        (lambda run: (run / CHECKPOINTS / "64.orbax-checkpoint-tmp").mkdir(), "interrupted saves were left behind"),
        (lambda run: (run / CHECKPOINTS / "64").mkdir(), "interrupted saves were left behind"),
    ],
    ids=["a row less", "a row less at the end", "a row twice", "a number", "arrays", "a draft", "half a checkpoint"],
)
def test_a_difference_is_found(killed, tmp_path, damage, words):
    expected = killed[0].folder / "undisturbed"
    run = shutil.copytree(expected, tmp_path / "run")
    damage(run)
    with pytest.raises(chaos.Broken, match=words):
        chaos.compare(run, expected)


def test_a_restart_from_too_early_is_found(killed):
    case = killed[0]
    process = SimpleNamespace(output=lambda: "resuming from step 8 in runs/x\ncompiling the step")
    chaos._check_restart(case, process, 8)
    with pytest.raises(chaos.Broken, match="step 12 was saved, and not gone on from"):
        chaos._check_restart(case, process, 12)


COMPILING = "mesh over 1 device(s)\ncompiling the step, and reading held-out text ...\n"


@pytest.mark.parametrize(
    ("output", "last_row", "made", "stage"),
    [
        ("", None, [], "start"),
        ("mesh over 1 device(s)\nresuming from step 4 in x", {"step": 5, "loss": 1}, ["4"], "restore"),
        (COMPILING, None, [], "compile"),
        (COMPILING, {"step": 5, "loss": 1}, ["4"], "compile"),
        (f"{COMPILING}step 5/40", {"step": 5, "loss": 1}, ["4"], "step"),
        (f"{COMPILING}step 8/40", {"step": 8, "loss": 1}, ["4", "8.orbax-checkpoint-tmp"], "save"),
        (f"{COMPILING}step 8/40", {"step": 9, "loss": 1}, ["4", "8 without a manifest"], "save"),
        (f"{COMPILING}step 6/40", {"step": 6, "loss": 1}, ["4"], "evaluation"),
        (f"{COMPILING}step 6/40", {"step": 6, "eval/x": 1}, ["4"], "step"),
        (f"{COMPILING}step 40/40", {"step": 40, "loss": 1}, ["36"], "evaluation"),
        (f"{COMPILING}step 40/40", {"step": 40, "eval/x": 1}, ["40"], "closing"),
    ],
)
def test_where_a_process_was_is_seen_in_what_it_left(tmp_path, output, last_row, made, stage):
    if last_row:
        (tmp_path / "metrics.jsonl").write_text(f'{json.dumps(last_row)}\n{{"step": 99')
    for name in made:
        step, _, rest = name.partition(" ")
        (tmp_path / CHECKPOINTS / step).mkdir(parents=True)
        if not rest and step.isdigit():
            (tmp_path / CHECKPOINTS / step / "manifest.json").write_text("{}")
    process = SimpleNamespace(run=tmp_path, output=lambda: output)
    assert chaos._where(process) == (stage, last_row["step"] if last_row else 0)


def test_damage_tests_are_counted_by_their_promise():
    def item(name, promise):
        marker = promise and SimpleNamespace(args=(promise,))
        return SimpleNamespace(nodeid=name, get_closest_marker=lambda _: marker)

    def report(name, outcome, when="call", properties=()):
        outcomes = {kind: kind == outcome for kind in ("passed", "failed", "skipped")}
        return SimpleNamespace(nodeid=name, when=when, user_properties=properties, **outcomes)

    plugin = chaos.DamageTests()
    plugin.pytest_collection_modifyitems([item("a", "one"), item("b", "one"), item("c", "two"), item("d", None)])
    for one in (
        report("a", "passed", properties=[("trials", 7)]),
        report("a", "passed", when="teardown"),
        report("b", "passed"),
        report("c", "failed", when="setup"),
        report("d", "failed"),
    ):
        plugin.pytest_runtest_logreport(one)
    assert plugin.rows() == [
        {"promise": "one", "trials": 8, "skipped": 0, "failed": []},
        {"promise": "two", "trials": 0, "skipped": 0, "failed": ["c"]},
    ]
