"""`t5x-mini train` in several processes: told to stop, one of them killed, and resumed on any number of them."""

import dataclasses
import signal

import jax
import pytest
from processes import command_line

from t5x_mini import cli
from t5x_mini.parallel.start_up import GO_ON
from t5x_mini.train.metrics import read_metrics

GIN = """
include 'gin/models/t5_1_1/tiny.gin'
include 'gin/hardware/cpu.gin'

TransformerConfig.emb_dim = 16
TransformerConfig.head_dim = 8
TransformerConfig.mlp_dim = 32
TransformerConfig.num_encoder_layers = 1
TransformerConfig.num_decoder_layers = 1
VOCABULARY = 'bytes'
TASK_FEATURE_LENGTHS = {{'inputs': 24, 'targets': 24}}
SHUFFLE_TRAIN_EXAMPLES = False
MIXTURE_OR_TASK_NAME = 'pairs'
pairs/TextToTextTask.files = {{'train': '{folder}/train.jsonl'}}
DATA_FEED = 'tokens'
TOKENS_DIR = '{folder}/tokens'
BATCH_SIZE = 8
CHECKPOINT_PERIOD = 3
EVAL_PERIOD = 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs that are read without a random number, so that both feeds give batches that any hosts can share."""
    folder = tmp_path_factory.mktemp("multi_host")
    rows = [f'{{"inputs": "number {n}", "targets": "{n} {n * n}"}}' for n in range(1024)]
    (folder / "train.jsonl").write_text("\n".join(rows))
    (folder / "run.gin").write_text(GIN.format(folder=folder))
    arguments = ["tokenize", f"--gin_file={folder / 'run.gin'}", "--task=pairs", "--workers=1"]
    assert cli.main(arguments) == 0
    return folder


def words(folder, run, *arguments, **macros):
    """A life of a run, as a command; ends at step 6 if not told otherwise."""
    macros = {"TRAIN_STEPS": 6, "MODEL_DIR": str(folder / run), **macros}
    bindings = [f"--gin.{name}={value!r}" for name, value in macros.items()]
    return ["train", f"--gin_file={folder / 'run.gin'}", *arguments, *bindings]


def start(folder, run, life, count, devices, *arguments, **macros):
    return command_line(folder, f"{run}-{life}", words(folder, run, *arguments, **macros), count, devices)


def finish(*arguments, **named):
    with start(*arguments, **named) as processes:
        return processes.succeed()


def train_here(folder, run, **macros):
    """A life in this process, on the eight devices of all tests, with slow programs that are soon compiled."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        assert cli.main(words(folder, run, **macros)) == 0
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def losses(folder, run):
    metrics = folder / run / "metrics.jsonl"
    return {row["step"]: row["loss"] for row in read_metrics(metrics) if "loss" in row} if metrics.exists() else {}


def newest(folder, run):
    steps = [int(path.name) for path in (folder / run / "checkpoints").glob("*") if path.name.isdigit()]
    return max(steps, default=0)


def last_step(folder, run):
    return max(losses(folder, run), default=0)


@dataclasses.dataclass
class Life:
    """What was left when two processes had ended."""

    codes: list[int]
    printed: list[str]
    newest: int
    losses: dict[int, float]


NEVER = 10**6
HOSTS_AGREE = "Whichever of several hosts is told to stop, all stop at the same step and save it."


def run_until(folder, run, life, step, count, signal_number, victim, **macros):
    """A life of `count` processes, one of which gets a signal after `step`."""
    with start(folder, run, life, count, 2, TRAIN_STEPS=NEVER, **macros) as processes:
        processes.wait_until(lambda: last_step(folder, run) >= step)
        processes.processes[victim].send_signal(signal_number)
        codes = processes.wait()
        if signal_number == signal.SIGKILL:
            processes.wait_to_print(1 - victim, GO_ON)
        return Life(codes, processes.printed(), newest(folder, run), losses(folder, run))


# One run: two processes of two devices, until one is told to stop; two again, until one is killed; then one.
@pytest.fixture(scope="module")
def terminated(folder):
    return run_until(folder, "run", "first", 6, 2, signal.SIGTERM, 1, CHECKPOINT_PERIOD=NEVER)


@pytest.fixture(scope="module")
def killed(folder, terminated):
    return run_until(folder, "run", "second", terminated.newest + 3, 2, signal.SIGKILL, 0, CHECKPOINT_PERIOD=NEVER)


def check_terminated(life, folder, run, name="SIGTERM", code=143):
    assert set(life.codes) == {code}, life.printed
    for printed in life.printed:
        assert (
            f"t5x-mini: {name}: stopped after step {life.newest:,} of 1,000,000, which is saved in {folder / run}. "
            "Go on with the same command:\n    t5x-mini train" in printed
        )
        assert "Traceback" not in printed
    assert sorted(life.losses) == list(range(1, life.newest + 1))  # not one step is lost


def check_killed(life, victim):
    assert life.codes[victim] == -signal.SIGKILL
    assert life.codes[1 - victim] in (1, -signal.SIGABRT), life.printed  # Python noticed it, or JAX did
    assert f"process that failed first: {GO_ON}\n" in life.printed[1 - victim]


def test_two_processes_train_as_one(folder, terminated):
    train_here(folder, "alone")
    alone = losses(folder, "alone")
    assert len(alone) == 6
    assert {step: terminated.losses[step] for step in alone} == pytest.approx(alone, rel=1e-5)
    assert "mesh over 4 device(s) (cpu) of 2 processes: data 4 x fsdp 1 x model 1" in terminated.printed[0]
    assert "device(s)" not in terminated.printed[1]  # the first one alone says what happens


@pytest.mark.damage(HOSTS_AGREE)
def test_sigterm_on_one_process_saves_on_both(folder, terminated):
    check_terminated(terminated, folder, "run")


def test_where_one_is_killed_the_other_stops_and_says_why(terminated, killed):
    check_killed(killed, victim=0)
    assert f"resuming from step {terminated.newest} in " in killed.printed[0]


def test_one_process_goes_on_where_two_were(folder, killed, capsys):
    stopped = killed.newest
    train_here(folder, "run", TRAIN_STEPS=stopped + 2)
    assert f"resuming from step {stopped} in " in capsys.readouterr().out
    again = losses(folder, "run")
    assert sorted(again) == list(range(1, stopped + 3))
    for step in (stopped + 1, stopped + 2):  # that the two had made, and lost
        assert again[step] == pytest.approx(killed.losses[step], rel=1e-5)


@pytest.mark.slow
def test_checkpoints_of_two_processes_go_on_in_one_and_in_four(folder):
    finish(folder, "single", "only", 1, 1)
    expected = losses(folder, "single")
    for count in (1, 4):
        run = f"two_then_{count}"
        printed = finish(folder, run, "first", 2, 2, "--gin.MESH_FSDP=-1", "--gin.MESH_DATA=1", TRAIN_STEPS=3)
        assert "4 device(s) (cpu) of 2 processes: data 1 x fsdp 4 x model 1" in printed[0]
        assert "resuming from step 3" in finish(folder, run, "second", count, 2)[0]
        assert losses(folder, run) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("partitioning", ["mesh", "pmap"])
def test_two_processes_read_seqio_and_train_as_one(folder, partitioning):
    settings = dict(DATA_FEED="seqio", PARTITIONING=partitioning, TRAIN_STEPS=4)
    for count in (1, 2):
        finish(folder, f"{partitioning}_{count}", "only", count, 2, **settings)
    expected = losses(folder, f"{partitioning}_1")
    assert len(expected) == 4
    assert losses(folder, f"{partitioning}_2") == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_sigterm_on_a_single_process(folder):
    check_terminated(run_until(folder, "single_2", "first", 6, 1, signal.SIGTERM, 0), folder, "single_2")


@pytest.mark.slow
@pytest.mark.damage(HOSTS_AGREE)
@pytest.mark.parametrize("victim", [0, 1])
def test_ctrl_c_on_one_process_saves_on_both(folder, victim):
    run = f"interrupted_{victim}"
    life = run_until(folder, run, "first", 6, 2, signal.SIGINT, victim, CHECKPOINT_PERIOD=NEVER)
    check_terminated(life, folder, run, "SIGINT", 130)


@pytest.mark.slow
@pytest.mark.damage(HOSTS_AGREE)
@pytest.mark.parametrize("victim", [0, 1])
def test_before_the_first_step_all_leave_at_once(folder, victim):
    run = f"compiling_{victim}"
    with start(folder, run, "first", 2, 2, TRAIN_STEPS=NEVER) as processes:
        processes.wait_to_print(0, "compiling the step")
        processes.processes[victim].send_signal(signal.SIGTERM)
        codes = processes.wait()
        assert codes == [143, 143], processes.printed()
        for printed in processes.printed():
            assert "t5x-mini: SIGTERM: stopped before it made a step. Nothing is lost." in printed
    assert newest(folder, run) == 0


@pytest.mark.slow
@pytest.mark.damage(HOSTS_AGREE)
@pytest.mark.parametrize("mode", ["skip", "roll_back"])
def test_two_processes_do_the_same_about_a_step_that_diverges(folder, mode):
    """A learning rate that ruins all that it touches: every update is left out, or every way back tried."""
    settings = {"ON_DIVERGENCE": mode, "MAX_SKIPS": 2, "TRAIN_STEPS": 8, "Constant.learning_rate": 1e16}
    with start(folder, mode, "first", 2, 2, "--gin.RunConfig.schedule=@Constant()", **settings) as processes:
        codes = processes.wait()
        printed = processes.printed()
    assert codes == [1, 1], printed
    words = "The updates of 2 steps in a row" if mode == "skip" else "after 2 roll-backs (MAX_SKIPS)"
    assert words in printed[0] and "Traceback" not in "".join(printed)


@pytest.mark.slow
def test_where_the_second_is_killed_while_they_save(folder):
    check_killed(run_until(folder, "saving", "first", 12, 2, signal.SIGKILL, 1, CHECKPOINT_PERIOD=1), victim=1)
    resumed = newest(folder, "saving")
    assert f"resuming from step {resumed}" in finish(folder, "saving", "second", 2, 2, TRAIN_STEPS=resumed + 2)[0]
    assert newest(folder, "saving") == resumed + 2
