import jax
import orbax.checkpoint as ocp
import pytest
from etils import epath

from t5x_mini.checkpoint.position_handler import PositionHandler, PositionRestore, PositionSave

DATA = bytes(range(256))


@pytest.fixture
def hosts(monkeypatch):
    """Pretends to be one of several hosts."""

    def be(index, count):
        monkeypatch.setattr(jax, "process_index", lambda: index)
        monkeypatch.setattr(jax, "process_count", lambda: count)

    return be


def test_each_host_writes_and_reads_its_own(tmp_path, hosts):
    folder, handler = epath.Path(tmp_path), PositionHandler()
    for host in (0, 1):
        hosts(host, 2)
        handler.save(folder, PositionSave(DATA[host:]))
    assert {path.name for path in tmp_path.iterdir()} == {"process_0-of-2", "process_1-of-2"}
    for host in (0, 1):
        hosts(host, 2)
        assert handler.restore(folder, PositionRestore()) == DATA[host:]


@pytest.mark.parametrize("count", [1, 4])
def test_another_number_of_hosts_finds_none(tmp_path, hosts, count):
    folder, handler = epath.Path(tmp_path), PositionHandler()
    for host in (0, 1):
        hosts(host, 2)
        handler.save(folder, PositionSave(DATA))
    hosts(0, count)
    assert handler.restore(folder, PositionRestore()) is None


def test_orbax_knows_the_handler_by_its_arguments(tmp_path):
    with ocp.Checkpointer(PositionHandler()) as checkpointer:
        checkpointer.save(tmp_path / "position", args=PositionSave(DATA))
        assert checkpointer.restore(tmp_path / "position", args=PositionRestore()) == DATA
    assert (tmp_path / "position" / "process_0-of-1").read_bytes() == DATA
