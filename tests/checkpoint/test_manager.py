import contextlib
import dataclasses
import functools
import json
import shutil

import eight_devices
import fake_servers
import jax
import numpy as np
import pytest

from t5x_mini.checkpoint.config import CheckpointConfig
from t5x_mini.checkpoint.locate import locate
from t5x_mini.checkpoint.manager import Checkpoints
from t5x_mini.checkpoint.own_source import OwnSource
from t5x_mini.checkpoint.steps import steps_of
from t5x_mini.errors import UserError
from t5x_mini.evaluate.checkpoint_params import restore_params
from t5x_mini.train.optimizers import Adafactor, AdamW, Muon

POSITION = b"where the data stood\x00\xff"
MESH, ROWS_ONLY, ONE_AXIS = eight_devices.mesh(2, 2, 2), eight_devices.mesh(1, 8, 1), eight_devices.mesh(1, 1, 8)
KEEP_ALL = CheckpointConfig(keep=None)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def small(partitioning, **changes):
    """A model of one stack, so that a save takes a moment."""
    return eight_devices.run(partitioning, changes.pop("architecture", "causal_lm"), **changes)


def save(folder, run, *steps, config=KEEP_ALL):
    """Saves a random state under the number of each step; returns it as numpy arrays."""
    checkpoints = Checkpoints(str(folder), config)
    for step in steps:
        state = eight_devices.random_state(run, step)
        checkpoints.save(state, POSITION, run.config.model, run.partitioner)
    checkpoints.wait()
    checkpoints.close()
    return jax.device_get(state)


def restore(folder, run, step):
    checkpoints = Checkpoints(str(folder))
    restored = checkpoints.restore(step, run.shapes, run.shardings, run.config.model, run.partitioner)
    checkpoints.close()
    return restored


def assert_same_bits(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), wanted)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """For each mesh, made once: a folder with a checkpoint of step 7, and its numbers."""

    @functools.cache
    def save_once(partitioning):
        folder = tmp_path_factory.mktemp("run")
        return folder, save(folder, small(partitioning), 7)

    return save_once


MOVES = [
    (MESH, ROWS_ONLY),
    (MESH, eight_devices.PMAP),
    (eight_devices.PMAP, MESH),
    (eight_devices.PMAP, ONE_AXIS),
    (ONE_AXIS, eight_devices.PMAP),
    (ROWS_ONLY, MESH),
]


def describe(partitioning):
    return "pmap" if partitioning.kind == "pmap" else f"{partitioning.data}x{partitioning.fsdp}x{partitioning.model}"


@pytest.mark.parametrize(("before", "after"), MOVES, ids=describe)
def test_a_checkpoint_moves_between_meshes_and_pmap(saved, before, after):
    folder, state = saved(before)
    run = small(after)
    restored = restore(folder, run, 7)
    assert_same_bits(restored.state, state)
    assert restored.position == POSITION
    assert (restored.step, int(restored.state.step)) == (7, 7)
    for leaf, sharding in zip(jax.tree.leaves(restored.state), jax.tree.leaves(run.shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


@pytest.mark.parametrize("optimizer", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_the_state_of_every_optimizer_moves(tmp_path, optimizer):
    state = save(tmp_path, small(MESH, optimizer=optimizer), 3)
    assert_same_bits(restore(tmp_path, small(eight_devices.PMAP, optimizer=optimizer), 3).state, state)


def test_an_encoder_decoder_on_one_device(tmp_path):
    state = save(tmp_path, small(MESH, architecture="encoder_decoder"), 3)
    assert_same_bits(restore(tmp_path, eight_devices.one_device(), 3).state, state)


def test_scanned_layers_are_restored_unrolled(saved):
    folder, state = saved(MESH)
    assert_same_bits(restore(folder, small(MESH, scan_layers=False), 7).state, state)


def test_how_a_model_is_computed_may_change(saved):
    folder, state = saved(MESH)
    run = small(MESH, dropout_rate=0.1, dtype="bfloat16", remat="full")
    assert_same_bits(restore(folder, run, 7).state, state)


@pytest.mark.parametrize("partitioning", [MESH, eight_devices.PMAP], ids=describe)
def test_steps_behind_a_save_do_not_change_it(tmp_path, partitioning):
    run = small(partitioning)
    step = run.partitioner.compile_train_step(
        lambda state, batch: (jax.tree.map(lambda x: x + 1, state), {}),
        *(run.shapes, run.shardings, run.batch_shapes(eight_devices.ROWS)),
    )
    batch = run.partitioner.put(eight_devices.batches("causal_lm", 1)[0])
    state, _ = step(eight_devices.random_state(run, 6), batch)
    wanted = jax.tree.map(np.array, jax.device_get(state))
    with_checkpoints = Checkpoints(str(tmp_path), KEEP_ALL)
    with_checkpoints.save(state, POSITION, run.config.model, run.partitioner)
    for _ in range(5):
        state, _ = step(state, batch)
    with_checkpoints.close()
    assert int(state.step) == 12
    assert_same_bits(restore(tmp_path, run, 7).state, wanted)


def test_the_newest_are_kept(tmp_path):
    save(tmp_path, small(MESH), 1, 2, 3, 4, config=CheckpointConfig(keep=2))
    assert {path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()} == {"3", "4"}
    assert locate(str(tmp_path)) == (str(tmp_path), 4)


def test_none_keeps_all(tmp_path):
    save(tmp_path, small(MESH), 1, 2, 3, config=KEEP_ALL)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()} == {"1", "2", "3"}


def test_an_older_checkpoint_can_be_restored(tmp_path):
    save(tmp_path, small(MESH), 1, 2)
    assert int(restore(tmp_path, small(MESH), 1).state.step) == 1


def test_an_interrupted_save_is_ignored_and_removed(tmp_path):
    run = small(MESH)
    save(tmp_path, run, 1)
    complete = tmp_path / "checkpoints" / "1"
    left = complete.with_name("2.orbax-checkpoint-tmp")  # what Orbax calls a folder until all of it is written
    shutil.copytree(complete, left)
    shutil.rmtree(left / "state")
    assert locate(str(tmp_path)) == (str(tmp_path), 1)
    reading = Checkpoints(str(tmp_path))
    assert reading.latest_step() == 1
    reading.close()
    assert left.exists()  # who only reads removes nothing: the run may be saving just now
    training = Checkpoints(str(tmp_path), KEEP_ALL)
    assert training.latest_step() == 1
    training.save(eight_devices.random_state(run, 3), POSITION, run.config.model, run.partitioner)
    training.close()
    assert not left.exists()
    assert int(restore(tmp_path, run, 3).state.step) == 3


def test_a_new_run_has_no_checkpoint(tmp_path):
    checkpoints = Checkpoints(str(tmp_path / "new"), KEEP_ALL)
    assert checkpoints.latest_step() is None
    checkpoints.close()


def test_what_a_checkpoint_is_stands_in_it(saved):
    folder, _ = saved(MESH)
    run = json.loads((folder / "checkpoints" / "7" / "run" / "metadata").read_text())
    assert run["format"] == 1
    assert run["model"]["architecture"] == "causal_lm"
    assert run["model"]["mlp_activations"] == ["gelu", "linear"]


def refusal(folder, run):
    with pytest.raises(UserError) as error:
        restore(folder, run, 7)
    return str(error.value).replace(str(folder), "FOLDER")


def test_another_model_is_refused(saved):
    folder, _ = saved(MESH)
    assert refusal(folder, small(MESH, architecture="prefix_lm", emb_dim=32, mlp_activations=("relu",))) == (
        "The checkpoint FOLDER/checkpoints/7 holds another model:\n"
        "    architecture: causal_lm when it was saved, prefix_lm now\n"
        "    emb_dim: 16 when it was saved, 32 now\n"
        "    mlp_activations: ('gelu', 'linear') when it was saved, ('relu',) now\n"
        "Go back to the same values, or choose a new folder: --gin.MODEL_DIR=runs/another_name"
    )


def test_another_optimizer_is_refused(saved):
    folder, _ = saved(MESH)
    text = refusal(folder, small(MESH, optimizer=AdamW()))
    lines = text.splitlines()
    assert lines[0] == "The checkpoint FOLDER/checkpoints/7 does not fit this run's optimiser:"
    # 9 arrays in each of 2 layers and 4 outside them: 22 parameters.
    assert lines[1] == "    44 arrays are not in it, opt_state/decoder/decoder_norm/scale/mu for one"
    assert lines[2] == "    66 arrays are not wanted, opt_state/decoder/decoder_norm/scale/v for one"
    assert lines[-1] == (
        "Go back to the optimiser that saved it (RunConfig.optimizer in the run's config.gin, and its FROZEN), or "
        "choose a new folder: --gin.MODEL_DIR=runs/another_name"
    )


def test_an_optimizer_with_arrays_of_other_shapes_is_refused(saved):
    folder, _ = saved(MESH)
    text = refusal(folder, small(MESH, optimizer=Adafactor(min_dim_size_to_factor=128)))
    assert "    0 arrays are not in it\n    0 arrays are not wanted\n" in text
    assert (
        "arrays have another shape, opt_state/decoder/layers_0/mlp/wi_0/kernel/v, (1,) when it was saved, "
        "(16, 24) now for one\n"
    ) in text


def evaluation(folder, partitioning, checkpoint=None, **changes):
    run = small(partitioning, **changes)
    config = dataclasses.replace(
        run.config,
        train=dataclasses.replace(run.config.train, model_dir=str(folder)),
        evaluate=dataclasses.replace(run.config.evaluate, checkpoint_path=checkpoint),
    )
    return dataclasses.replace(run, config=config)


@pytest.mark.parametrize("partitioning", [ROWS_ONLY, eight_devices.PMAP], ids=describe)
def test_the_parameters_are_restored_alone_whatever_the_optimizer(saved, partitioning):
    folder, state = saved(MESH)
    run = evaluation(folder, partitioning, optimizer=Muon())
    step, params = restore_params(run)
    assert step == 7
    assert_same_bits(params, state.params)
    for name, sharding in run.shardings.params.items():
        assert params[name].sharding.is_equivalent_to(sharding, params[name].ndim)


def test_the_parameters_of_a_named_checkpoint(tmp_path):
    save(tmp_path, small(MESH), 1, 2)
    step, _ = restore_params(evaluation("elsewhere", MESH, checkpoint=f"{tmp_path}/checkpoints/1"))
    assert step == 1


def test_the_parameters_of_another_model_are_refused(saved):
    folder, _ = saved(MESH)
    with pytest.raises(UserError, match="num_decoder_layers: 2 in the checkpoint, 1 in this run"):
        restore_params(evaluation(folder, MESH, num_decoder_layers=1))


def test_a_checkpoint_of_another_vocabulary_is_refused(tmp_path):
    run = small(MESH)
    checkpoints = Checkpoints(str(tmp_path), KEEP_ALL, "0123 and 100 extra ids")
    checkpoints.save(eight_devices.random_state(run, 1), POSITION, run.config.model, run.partitioner)
    checkpoints.wait()
    checkpoints.close()
    arguments = (1, run.shapes, run.shardings, run.config.model, run.partitioner)
    for vocabulary in (None, "0123 and 100 extra ids"):
        with contextlib.closing(Checkpoints(str(tmp_path), vocabulary=vocabulary)) as same:
            assert same.restore(*arguments).step == 1
    with contextlib.closing(Checkpoints(str(tmp_path), vocabulary="4567 and 100 extra ids")) as other:
        with pytest.raises(
            UserError, match="was trained on another vocabulary: 0123 .* when it was saved, 4567 .* now"
        ):
            other.restore(*arguments)


def save_with_scores(folder, run, scores, metric="average", **kept):
    """Saves under each step, with a score where one is given, and gives the best ones and their values."""
    checkpoints = Checkpoints(str(folder), CheckpointConfig(**{"keep": 1, **kept}), best_metric=metric)
    for step, value in scores.items():
        logged = {} if value is None else {metric: value}
        state = eight_devices.random_state(run, step)
        checkpoints.save(state, POSITION, run.config.model, run.partitioner, None, logged)
    checkpoints.wait()
    found = checkpoints.best()
    checkpoints.close()
    return found


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path):
    run = small(ROWS_ONLY)
    found = save_with_scores(tmp_path, run, {1: 40.0, 2: 60.0, 3: None, 4: 50.0})
    assert steps_of(tmp_path) == [2, 4]
    assert found == [(2, 60.0), (4, 50.0)]
    assert locate(f"{tmp_path}/checkpoints/best") == (str(tmp_path), 2)
    assert locate(str(tmp_path)) == (str(tmp_path), 4)
    # Another process finds it again, and lets it go for a better one.
    assert save_with_scores(tmp_path, run, {5: None, 6: 70.0, 7: None})[0] == (6, 70.0)
    assert steps_of(tmp_path) == [6, 7]
    # Another metric has another best one; of a loss, it is the least.
    assert save_with_scores(tmp_path, run, {8: 2.0, 9: 3.0, 10: None}, metric="loss") == [(8, 2.0)]
    assert steps_of(tmp_path) == [8, 10]


def test_the_best_few_and_some_for_ever_are_kept(tmp_path):
    scores = {1: 5.0, 2: 1.0, 3: 4.0, 4: 2.0, 5: 3.0, 6: 0.0, 7: None}
    save_with_scores(tmp_path, small(ROWS_ONLY), scores, keep_best=2, keep_period=4)
    assert steps_of(tmp_path) == [1, 3, 4, 7]


def test_a_bucket_is_as_good_as_a_folder(monkeypatch):
    files = {}
    with fake_servers.serving(files) as (address, _):
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        run_dir, run = "gs://checkpoints-of-tests/run", small(MESH)
        assert save_with_scores(run_dir, run, {1: 40.0, 2: 60.0, 3: None, 4: None}) == [(2, 60.0)]
        assert steps_of(run_dir) == [2, 4]
        assert not any("/checkpoints/1/" in name or "/checkpoints/3/" in name for name in files)
        assert locate(f"{run_dir}/checkpoints/best") == (run_dir, 2)
        # A copy of what an older Orbax wrote on a disk lacks the last file, and is complete.
        held = {name: data for name, data in files.items() if "/checkpoints/4/" in name}
        copied = {name: data for name, data in held.items() if not name.endswith("/commit_success.txt")}
        files.update({name.replace("/4/", "/5/"): data for name, data in copied.items()})
        # An interrupted save lacks its manifest. It doesn't count, and the next process to save removes it.
        files.update({name.replace("/4/", "/9/"): data for name, data in held.items() if "manifest.json" not in name})
        assert steps_of(run_dir) == [2, 4, 5]
        wanted = save(run_dir, run, 7)
        assert steps_of(run_dir) == [2, 4, 5, 7]
        assert not any("/checkpoints/9/" in name for name in files)
        restored = restore(run_dir, small(ROWS_ONLY), 7)
        assert_same_bits(restored.state, wanted)
        assert restored.position == POSITION
        assert OwnSource(run_dir).read("step") == 7


DAMAGED = pytest.mark.damage("A run falls back to the newest good checkpoint, or stops if it is told to be strict.")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def a_file_of(folder, step, item):
    """The largest file of the item that was saved."""
    return max((folder / "checkpoints" / str(step) / item).rglob("*"), key=lambda path: path.stat().st_size)


def copied(saved_run, folder):
    shutil.copytree(saved_run, folder)
    return folder


@pytest.fixture(scope="module")
def three_saved(tmp_path_factory):
    """A run with checkpoints of the steps 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("three") / "run"
    save(folder, small(ROWS_ONLY), 1, 2, 3)
    return folder


def open_run(folder, **config):
    return contextlib.closing(Checkpoints(str(folder), CheckpointConfig(keep=None, **config)))


@DAMAGED
@pytest.mark.parametrize("item", ["state", "position", "run"])
def test_a_run_goes_on_from_the_newest_good_checkpoint(three_saved, tmp_path, capsys, item):
    folder, run = copied(three_saved, tmp_path / "run"), small(ROWS_ONLY)
    flip(a_file_of(folder, 3, item))
    (folder / "checkpoints/2/position/process_0-of-1").unlink()
    with open_run(folder) as checkpoints:
        step = checkpoints.newest_good()
        assert step == 1
        assert steps_of(folder) == [1, 2, 3]  # until the good one is in memory
        checkpoints.restore(step, run.shapes, run.shardings, run.config.model, run.partitioner)
        assert steps_of(folder) == [1]
        assert checkpoints.latest_step() == 1
        checkpoints.save(eight_devices.random_state(run, 2), POSITION, run.config.model, run.partitioner)
        checkpoints.wait()
        assert checkpoints.newest_good() == 2
    assert {path.name for path in (folder / "damaged_checkpoints").iterdir()} == {"2", "3"}
    out = capsys.readouterr().out
    assert f"{folder}/checkpoints/3 is damaged:\n    {item}/" in out
    assert f"{folder}/checkpoints/2 is damaged:\n    position/process_0-of-1 is missing\n" in out
    assert (
        f"The newest good checkpoint is that of step 1; what is damaged is in {folder}/damaged_checkpoints now." in out
    )


@DAMAGED
def test_a_strict_run_stops_at_a_damaged_checkpoint(three_saved, tmp_path):
    folder = copied(three_saved, tmp_path / "run")
    flip(a_file_of(folder, 3, "state"))
    with open_run(folder, on_damage="stop") as checkpoints:
        with pytest.raises(UserError, match=r"(?s)3 is damaged:.*write --gin.ON_DAMAGED_CHECKPOINT=fall_back"):
            checkpoints.newest_good()
    assert steps_of(folder) == [1, 2, 3]


@DAMAGED
def test_where_no_checkpoint_is_good_the_run_stops_and_moves_none(three_saved, tmp_path):
    folder = copied(three_saved, tmp_path / "run")
    for step in (1, 2, 3):
        flip(a_file_of(folder, step, "state"))
    with open_run(folder) as checkpoints:
        with pytest.raises(UserError, match=r"(?s)3 is damaged:.*So are the others \(1, 2\), and nothing was changed."):
            checkpoints.newest_good()
    assert steps_of(folder) == [1, 2, 3]
    assert not (folder / "damaged_checkpoints").exists()


@DAMAGED
@pytest.mark.parametrize("name", ["state", "run", "manifest.json"])
def test_who_reads_a_damaged_checkpoint_is_told(three_saved, tmp_path, name):
    folder = copied(three_saved, tmp_path / "run")
    whole = folder / "checkpoints" / "3" / name
    flip(whole if whole.is_file() else a_file_of(folder, 3, name))
    with pytest.raises(UserError, match="is damaged"):
        OwnSource(f"{folder}/checkpoints/3").read("step")
    with pytest.raises(UserError, match="is damaged"):
        restore(folder, small(ROWS_ONLY), 3)
    assert OwnSource(f"{folder}/checkpoints/2").read("step") == 2


def test_a_checkpoint_of_an_earlier_version_is_read_and_said_not_to_be_verified(three_saved, tmp_path, capsys):
    folder = copied(three_saved, tmp_path / "run")
    checkpoint = folder / "checkpoints" / "3"
    (checkpoint / "manifest.json").unlink()
    metadata = checkpoint / "_CHECKPOINT_METADATA"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"custom_metadata": {}}))
    with open_run(folder) as checkpoints:
        assert checkpoints.newest_good() == 3
    assert f"{checkpoint} was saved by an earlier version, without checksums: its bytes are not verified" in (
        capsys.readouterr().out
    )
    assert restore(folder, small(ROWS_ONLY), 3).step == 3


@pytest.mark.damage("An interrupted save, copy or removal leaves nothing that counts as a checkpoint.")
def test_a_save_that_ended_before_its_manifest_is_ignored_and_removed(three_saved, tmp_path, capsys):
    folder = copied(three_saved, tmp_path / "run")
    (folder / "checkpoints" / "3" / "manifest.json").unlink()
    assert locate(str(folder)) == (str(folder), 2)
    with contextlib.closing(Checkpoints(str(folder))) as reading:
        assert reading.latest_step() == 2
    assert (folder / "checkpoints" / "3").exists()  # who only reads removes nothing
    with open_run(folder) as checkpoints:
        assert checkpoints.newest_good() == 2
    assert not (folder / "checkpoints" / "3").exists()
    assert "removed what an interrupted save left of step 3" in capsys.readouterr().out


def test_abandoned_steps_can_be_saved_again(three_saved, tmp_path):
    folder, run = copied(three_saved, tmp_path / "run"), small(ROWS_ONLY)
    with open_run(folder) as checkpoints:
        checkpoints.discard_after(1)
        assert steps_of(folder) == [1]
        checkpoints.save(eight_devices.random_state(run, 2), POSITION, run.config.model, run.partitioner)
    assert steps_of(folder) == [1, 2]
    assert {path.name for path in (folder / "abandoned_checkpoints").iterdir()} == {"2", "3"}


def test_what_is_measured_later_counts_for_the_best(tmp_path):
    run = small(ROWS_ONLY)
    save_with_scores(tmp_path, run, {1: 5.0, 2: 3.0}, keep=None)
    with contextlib.closing(Checkpoints(str(tmp_path), KEEP_ALL, best_metric="average")) as checkpoints:
        checkpoints.add_metrics(2, {"average": 7.0})
        assert checkpoints.best() == [(2, 7.0), (1, 5.0)]
        assert checkpoints.newest_good() == 2
