"""Runs side by side: none twice, each on a free place, failures told, and nothing left behind by Ctrl-C."""

import dataclasses
import types

import pytest

from t5x_mini.errors import UserError
from t5x_mini.study import progress, runner, workers
from t5x_mini.study.cells import Planned, Trial
from t5x_mini.study.workers import Place
from t5x_mini.train import completion

PLACES = [Place(frozenset({0}), {}), Place(frozenset({1}), {})]


class FakeProcess:
    """A run that is over after it was asked for its status twice."""

    def __init__(self, arguments, place, log):
        self.arguments, self.place, self.log, self.asked, self.stopped = arguments, place, log, 0, False
        self.folder = log.with_suffix("")
        MADE.append(self)

    @property
    def status(self):
        self.asked += 1
        if self.stopped:
            return 143
        if self.asked < 3:
            return None
        if FAILS and self.folder.parts[-3] in FAILS:
            return 1
        self.folder.mkdir(parents=True, exist_ok=True)
        completion.mark(self.folder, 10, 10)
        return 0

    def stop(self):
        self.stopped = True

    def wait(self):
        return self.status

    def last_words(self):
        return "t5x-mini: error: something was wrong"


MADE, FAILS = [], set()


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    MADE.clear()
    FAILS.clear()
    monkeypatch.setattr(runner, "Process", FakeProcess)
    monkeypatch.setattr(runner, "_POLL_S", 0)


def trials(folder, count=3):
    made = []
    for number in range(count):
        runs = [Planned(folder / f"cell{number}" / "seed0" / kind, None, "A = 1\n", 10, 1e9) for kind in KINDS]
        made.append(Trial(types.SimpleNamespace(name=f"cell {number}"), 0, *runs))
    return made


KINDS = ("pretraining", "finetuning")


def make(made, said=None, finished=lambda: None):
    runner.make(made, PLACES, (said if said is not None else []).append, finished)


def test_every_run_is_made_once_a_finetuning_behind_its_pretraining(tmp_path):
    said, finished = [], []
    make(trials(tmp_path), said, lambda: finished.append(1))
    assert sorted(process.folder for process in MADE) == sorted(
        tmp_path / f"cell{number}" / "seed0" / kind for number in range(3) for kind in KINDS
    )
    order = [process.folder for process in MADE]
    for number in range(3):
        first, second = (order.index(tmp_path / f"cell{number}" / "seed0" / kind) for kind in KINDS)
        assert first < second
    assert len(finished) == 3 and "3 of 3 finished: cell 2, seed 0" in said
    assert {process.arguments[0] for process in MADE} == {"train"}
    assert (tmp_path / "cell0" / "seed0" / "pretraining.gin").read_text() == "A = 1\n"


def test_no_two_runs_share_a_place(tmp_path, monkeypatch):
    going = []
    status = FakeProcess.status.fget

    def watched(process):
        found = status(process)
        if found is not None and process in going:
            going.remove(process)
        return found

    begin = FakeProcess.__init__

    def started(process, arguments, place, log):
        assert place not in [other.place for other in going]
        begin(process, arguments, place, log)
        going.append(process)

    monkeypatch.setattr(FakeProcess, "status", property(watched))
    monkeypatch.setattr(FakeProcess, "__init__", started)
    make(trials(tmp_path, 5))
    assert len(MADE) == 10


def test_what_is_finished_is_not_made_again(tmp_path):
    made = trials(tmp_path)
    make(made)
    MADE.clear()
    said = []
    make(made, said)
    assert MADE == [] and said == ["3 of 3 are finished already"]
    (made[1].finetuning.folder / completion.NAME).unlink()
    make(made)
    assert [process.folder for process in MADE] == [made[1].finetuning.folder]


def test_a_failure_ends_neither_the_others_nor_is_it_hidden(tmp_path):
    FAILS.add("cell0")
    said = []
    with pytest.raises(UserError, match=r"1 of 3 failed; .* cell 0, seed 0: pretraining, ended with\n.*something"):
        make(trials(tmp_path), said)
    assert any(line.startswith("FAILED with status 1: cell 0, seed 0: pretraining") for line in said)
    assert len(MADE) == 1 + 4, "its finetuning alone is left out"


def test_ctrl_c_stops_the_runs_that_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(runner.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make(trials(tmp_path))
    assert len(MADE) == 2 and all(process.stopped for process in MADE)


# -------------------------------------------------------------------------------------------------- progress and places


def test_progress_is_counted_in_flops(tmp_path, monkeypatch):
    small, large = (Planned(tmp_path / name, None, "", 10, flops) for name, flops in (("small", 1e9), ("large", 3e9)))
    clock, said = iter([0.0, 5.0, 60.0]), []
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    told = progress.Progress([small, large], said.append)
    told.tell(["large"])
    assert said == [], "not every moment"
    small.folder.mkdir()
    completion.mark(small.folder, 10, 10)
    told.tell(["large", "another"])
    assert said == ["25.0%, about 3 min 0 s left: large; another"]


def test_a_run_that_goes_on_counts_by_its_step(tmp_path, monkeypatch):
    run = Planned(tmp_path, None, "", 40, 1e9)
    status = types.SimpleNamespace(step=110, total_steps=140)  # begun at 100
    monkeypatch.setattr(progress, "read_status", lambda path: status)
    assert progress.share_done(run) == 0.25
    assert progress.share_done(dataclasses.replace(run, folder=tmp_path / "none")) == 0.0


@pytest.mark.parametrize(
    ("devices", "jobs", "count", "environment"),
    [
        (("cpu", 1), None, 4, {}),
        (("cpu", 1), 2, 2, {}),
        (("cpu", 1), 9, 4, {}),
        (("gpu", 2), None, 2, {"CUDA_VISIBLE_DEVICES": "0"}),
        (("gpu", 4), 1, 1, {"CUDA_VISIBLE_DEVICES": "0"}),
        (("tpu", 8), None, 1, {}),
    ],
)
def test_places_are_cores_or_gpus_and_a_tpu_is_one(devices, jobs, count, environment, monkeypatch):
    monkeypatch.setattr(workers, "_devices", lambda: devices)
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = workers.places(jobs)
    assert len(found) == count and found[0].environment == environment
    if devices[0] == "cpu":
        assert frozenset().union(*(place.cores for place in found)) == {0, 1, 2, 3}


def test_gpus_that_are_hidden_stay_hidden(monkeypatch):
    monkeypatch.setattr(workers, "_devices", lambda: ("gpu", 2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in workers.places()] == ["5", "7"]
