import jax
import pytest

from t5x_mini.errors import UserError
from t5x_mini.parallel import start_up


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ("localhost:1", None, None),
            "--coordinator without --num_processes and --process_id. Start the command once on every host, with the "
            "same --coordinator=HOST:PORT (of the first one) and --num_processes=N, and --process_id=0, 1 and so on; "
            "or leave all three out where JAX knows the hosts (TPU slices, SLURM, GKE).",
        ),
        ((None, 4, 1), "--num_processes and --process_id without --coordinator. "),
        (
            ("localhost:1", 4, 4),
            "--process_id=4 of --num_processes=4: they are counted from 0, so that the last one is 3.",
        ),
        (
            ("localhost", 4, 1),
            "--coordinator=localhost is not a host and a port; write for example localhost:1234.",
        ),
        ((None, 1, 3), "--num_processes and --process_id without --coordinator. "),
    ],
)
def test_what_does_not_fit_together_is_refused(given, words):
    with pytest.raises(UserError) as error:
        start_up.join(*given)
    assert str(error.value).startswith(words)


@pytest.mark.parametrize("given", [(), (None, 1), ("localhost:1", 1, 0)])
def test_a_process_can_be_alone(given, monkeypatch):
    def no_cluster(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", no_cluster)
    start_up.join(*given)
    assert not start_up.is_joined()
    start_up.leave(1)  # does nothing, or these tests would end here


def test_the_arguments_are_jaxs(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments, **named: calls.append((arguments, named)))
    start_up.join("localhost:1234", 4, 3)
    start_up.join()
    timeouts = {"heartbeat_timeout_seconds": 30, "initialization_timeout": 300}
    assert calls == [
        (("localhost:1234", 4, 3), {"cluster_detection_method": "deactivate", **timeouts}),
        ((), timeouts),
    ]


@pytest.mark.parametrize("error", [RuntimeError("no headless service"), ValueError("Number of processes")])
def test_a_cluster_that_jax_cannot_make_out_is_a_users_matter(error, monkeypatch):
    def initialize(*_, **__):
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(UserError) as raised:
        start_up.join()
    assert str(raised.value) == (
        f"JAX finds itself in a cluster, and can't make it out: {error}\nWrite --num_processes=1 to run on this host "
        "alone, or --coordinator=HOST:PORT --num_processes=N --process_id=K on every host."
    )
