"""Tests of t5x_mini/train/config_file.py: the configuration of a run, and those that it had before."""

from t5x_mini.train import config_file


def found(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_another_configuration_keeps_the_one_before(tmp_path):
    config_file.write(tmp_path, "one", 0)
    config_file.write(tmp_path, "one", 20)
    assert found(tmp_path) == {"config.gin": "one"}
    config_file.write(tmp_path, "two", 20)
    assert found(tmp_path) == {"config.gin": "two", "config-20.gin": "one"}
    config_file.write(tmp_path, "three", 20)  # killed before it had trained anything
    assert found(tmp_path) == {"config.gin": "three", "config-20.gin": "one"}
    config_file.write(tmp_path, "four", 50)
    assert found(tmp_path) == {"config.gin": "four", "config-20.gin": "one", "config-50.gin": "three"}


def test_each_step_has_the_configuration_that_it_was_made_with(tmp_path):
    for step, config in ((0, "one"), (20, "two"), (100, "three")):
        config_file.write(tmp_path, config, step)
    (tmp_path / "config-x.gin").write_text("not ours")
    assert config_file.changes(tmp_path) == [20, 100]
    made = {step: config_file.of_step(tmp_path, step).read_text() for step in (1, 20, 21, 100, 101)}
    assert made == {1: "one", 20: "one", 21: "two", 100: "two", 101: "three"}


def test_a_run_that_begins_again_has_nothing_to_keep(tmp_path):
    config_file.write(tmp_path, "one", 0)
    config_file.write(tmp_path, "two", 0)
    assert found(tmp_path) == {"config.gin": "two"}
