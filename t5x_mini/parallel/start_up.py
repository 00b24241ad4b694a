"""Several processes as one run: how they find one another, and how one leaves.

On a TPU slice, under SLURM, Open MPI or Kubernetes, JAX knows who the others are
(https://docs.jax.dev/en/latest/multi_process.html). Elsewhere the command line says it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator

import jax
from jax._src import distributed  # there is no public word for this process's number

from t5x_mini.errors import UserError
from t5x_mini.parallel import last_words

# JAX's default of 100 s would leave a run standing for longer than a restart takes.
HEARTBEAT_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 300
_QUIET_S = 10

GO_ON = "its own output says why. Start the command again on all hosts: a run goes on from its newest checkpoint."

_take_back: Callable[[], None] | None = None  # the last words; there are some while others share this run


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Makes this process one of those that share a run; to be called before JAX looks at the devices.

    Without arguments, of the cluster that JAX finds itself in; where there is none, this process is alone, as it is
    with `num_processes=1`. From then on a process that is gone for half a minute makes JAX end the others, and each of
    them leaves a line that says so.

    Args:
        coordinator: `host:port` of the process with the id 0, which listens there.
        num_processes: of the run, on all hosts.
        process_id: of this one, from 0.

    Raises:
        UserError: for arguments that don't fit together; where JAX can't make out the cluster that it finds.
    """
    global _take_back
    if jax.distributed.is_initialized():
        return
    check(coordinator, num_processes, process_id)
    if num_processes == 1:
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, the second one too
    with _said_if_it_takes_long(coordinator, num_processes, process_id):
        if coordinator:
            _initialize(coordinator, num_processes, process_id, cluster_detection_method="deactivate")
        else:
            _join_cluster()
    if jax.distributed.is_initialized():
        _take_back = last_words.leave_behind(_last_words())
        atexit.register(_take_back)


def check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Raises UserError unless the three fit together: all of them, none, or `num_processes=1` alone."""
    if num_processes == 1 and not process_id:
        return
    given = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return
    if missing:
        raise UserError(
            f"{' and '.join(name for name in given if name not in missing)} without {' and '.join(missing)}. Start "
            "the command once on every host, with the same --coordinator=HOST:PORT (of the first one) and "
            "--num_processes=N, and --process_id=0, 1 and so on; or leave all three out where JAX knows the hosts "
            "(TPU slices, SLURM, GKE)."
        )
    if process_id >= num_processes:
        raise UserError(
            f"--process_id={process_id} of --num_processes={num_processes}: they are counted from 0, so that the last "
            f"one is {num_processes - 1}."
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        name = coordinator.partition(":")[0] or "localhost"
        raise UserError(f"--coordinator={coordinator} is not a host and a port; write for example {name}:1234.")


def leave(code: int) -> None:
    """Ends this process if others share its run; returns if it is alone.

    After a failure, the regular way out of Python waits for the others, which may be waiting for this one. After a
    success all wait for one another here, and then go without taking apart JAX's devices, which can hang on CPUs.
    """
    if _take_back:
        if not code:
            jax.distributed.shutdown()
        _take_back()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def is_joined() -> bool:
    """Whether this process shares its run with others."""
    return _take_back is not None


def _last_words() -> str:
    state = distributed.global_state  # jax.process_index() would look for the devices
    return (
        f"t5x-mini: process {state.process_id}, of {state.num_processes} that share the run, was ended. If JAX says "
        f"above that another task died, or stopped sending heartbeats, it is that process that failed first: {GO_ON}"
    )


def _join_cluster() -> None:
    try:
        _initialize()
    except ValueError as error:
        if not str(error).startswith("coordinator_address"):  # what it says where it finds no cluster
            raise UserError(_not_made_out(error)) from error
    except RuntimeError as error:
        if "must be called before" not in str(error):  # called from a program that has used JAX already
            raise UserError(_not_made_out(error)) from error


def _initialize(*arguments, **named) -> None:
    jax.distributed.initialize(
        *arguments,
        **named,
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
        initialization_timeout=CONNECT_TIMEOUT_S,
    )


def _not_made_out(error: Exception) -> str:
    return (
        f"JAX finds itself in a cluster, and can't make it out: {error}\nWrite --num_processes=1 to run on this host "
        "alone, or --coordinator=HOST:PORT --num_processes=N --process_id=K on every host."
    )


@contextlib.contextmanager
def _said_if_it_takes_long(coordinator: str | None, num_processes: int | None, process_id: int | None) -> Iterator:
    """JAX waits in silence, and after five minutes ends the process with a dump of its stack."""
    who = "" if coordinator is None else f" (this is {process_id} of {num_processes}; 0 is at {coordinator})"
    text = (
        f"waiting for the other processes of this run{who}. If they don't come within {CONNECT_TIMEOUT_S} s, JAX ends "
        "this one: start the command on every host; --num_processes=1 runs on this host alone."
    )
    timer = threading.Timer(_QUIET_S, print, (text,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
