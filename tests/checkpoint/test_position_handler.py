import jax
import orbax.checkpoint as ocp
import pytest
from etils import epath

from t5x_mini.checkpoint.position_handler import PositionHandler, PositionRestore, PositionSave
from t5x_mini.errors import UserError
from t5x_mini.feed.position import Position

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


@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize(("before", "now"), [(1, 4), (2, 4), (8, 4)])
def test_another_number_of_hosts_reads_the_first_hosts(tmp_path, hosts, before, now, index):
    folder, handler = epath.Path(tmp_path), PositionHandler()
    for host in range(before):
        hosts(host, before)
        handler.save(folder, PositionSave(DATA[host:]))
    hosts(index, now)
    assert handler.restore(folder, PositionRestore()) == DATA


def position(**fingerprint):
    return Position({"seed": 1, **fingerprint}, b"", 30)


def test_a_place_that_is_every_hosts_is_accepted_and_one_hosts_own_is_refused():
    position().check({"seed": 1})
    of_one_of_two = position(host_index=0, host_count=2)
    with pytest.raises(UserError) as refused:
        of_one_of_two.check({"seed": 1, "host_index": 0, "host_count": 1})
    assert "host_count: 2 when it was saved, 1 now" in str(refused.value)
    assert "Only a run with DATA_FEED = 'tokens' can go on with another number of hosts" in str(refused.value)
    with pytest.raises(UserError) as refused:
        position().check({"seed": 2})
    assert "hosts" not in str(refused.value)


def test_orbax_knows_the_handler_by_its_arguments(tmp_path):
    with ocp.Checkpointer(PositionHandler()) as checkpointer:
        checkpointer.save(tmp_path / "position", args=PositionSave(DATA))
        assert checkpointer.restore(tmp_path / "position", args=PositionRestore()) == DATA
    assert (tmp_path / "position" / "process_0-of-1").read_bytes() == DATA
