"""Joins the processes of a run, before anything touches a device: the only file that knows how.

JAX finds its cluster by itself on TPU pods (Google Cloud and GKE), under Slurm and Open MPI;
elsewhere three environment variables name it, as launch/local.py sets them. A run of one process
needs none of this and is not slowed by it.

JAX ends a process whose peers do not come with an abort that names nobody. So the processes first
meet on the coordinator's port themselves: the roll call knows who is missing.
"""

import contextlib
import glob
import importlib.metadata
import json
import os
import pathlib
import socket
import time
from typing import Any

import jax
from jax._src import clusters, distributed  # what was detected, the key-value store: no public way

from cnn_arch.errors import NotReady, UserError, shown

COORDINATOR = 'JAX_COORDINATOR_ADDRESS'  # host:port of process 0
PROCESSES, PROCESS = 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'
TIMEOUT = 'CNN_ARCH_JOIN_SECONDS'  # how long to wait for the others
JOIN_SECONDS = 50.0
HEARTBEAT_SECONDS = 30  # without a sign of life for so long, a process is dead
LEAVE_SECONDS = 60  # to wait for the others at the end
GOOGLE = '0x1ae0'  # PCI vendor of TPUs

Found = tuple[str, int, int]  # coordinator's address (host:port), number of processes, this one


def join() -> None:
    """Joins the cluster of this run, if it has several processes.

    Raises NotReady that names the missing processes when they are not all there in time, and
    UserError where the variables contradict each other.
    """
    if jax.distributed.is_initialized():
        return
    _join()
    _check_platform()


def _check_platform() -> None:
    """Raises UserError where JAX_PLATFORMS asks for what is not here."""
    asked = os.environ.get('JAX_PLATFORMS', '')
    if asked in ('', 'cpu'):
        return
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter without a word
        reason = str(error).partition('. (')[0] or 'no plug-in or device of that name is here'
        raise UserError(
            f'JAX_PLATFORMS={asked}: {shown(reason)}; unset it, or set it to cpu'
        ) from error


def _join() -> None:
    seconds = float(os.environ.get(TIMEOUT, JOIN_SECONDS))
    explicit = _from_environment()
    found = explicit or _detected(seconds)
    if found is None or found[1] == 1:
        return
    address, processes, process = found
    began = time.monotonic()
    roll_call(address, processes, process, seconds)
    jax.config.update('jax_enable_preemption_service', False)  # takes SIGTERM from training/signals
    jax.distributed.initialize(
        address,
        processes,
        process,
        cluster_detection_method='deactivate' if explicit else None,
        initialization_timeout=max(10, round(seconds - (time.monotonic() - began))),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=LEAVE_SECONDS,
    )


def processes() -> int:
    """How many processes this run has."""
    return distributed.global_state.num_processes


def process() -> int:
    """The number of this one."""
    return distributed.global_state.process_id


def post(key: str, value: str) -> None:
    """Lets the other processes read a value under a key."""
    _client().key_value_set(key, value, allow_overwrite=True)


def look(key: str) -> str | None:
    """What a process has posted under a key; None if none has yet."""
    try:
        return _client().key_value_try_get(key)
    except jax.errors.JaxRuntimeError as error:
        if 'NOT_FOUND' in str(error):
            return None
        raise


def tell(key: str, value: str, seconds: float) -> list[str]:
    """Every process's value, in their order; each calls this once with a key.

    Raises jax.errors.JaxRuntimeError where one does not within that time.
    """
    post(f'{key}/{process()}', value)
    return [
        _client().blocking_key_value_get(f'{key}/{number}', round(1000 * seconds))
        for number in range(processes())
    ]


def _client() -> Any:
    return distributed.global_state.client


def has_accelerator() -> bool:
    """Whether JAX can find one here: a plug-in for one is installed, or a TPU is in the machine.

    libtpu alone says nothing: launch/plan.py uses it where there is no TPU.
    """
    if importlib.metadata.entry_points(group='jax_plugins'):
        return True
    with contextlib.suppress(ImportError):
        import jax_plugins  # a namespace that plug-ins may share  # noqa: F401

        return True
    vendors = (pathlib.Path(path) for path in glob.glob('/sys/bus/pci/devices/*/vendor'))
    return any(path.read_text().strip() == GOOGLE for path in vendors)


def _from_environment() -> Found | None:
    names = (COORDINATOR, PROCESSES, PROCESS)
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    if PROCESSES not in given and PROCESS not in given:
        return None  # JAX takes the coordinator's address alone together with what it detects
    if given.get(PROCESSES) == '1':
        return '', 1, 0
    if len(given) < len(names):
        missing = ', '.join(name for name in names if name not in given)
        raise UserError(f'{", ".join(given)} set, but not {missing}: set all three or none')
    try:
        processes, process = int(given[PROCESSES]), int(given[PROCESS])
        _split(given[COORDINATOR])
    except ValueError as error:
        described = ', '.join(f'{name}={value}' for name, value in given.items())
        raise UserError(f'{described}: expected host:port and two whole numbers') from error
    if not 0 <= process < processes:
        raise UserError(f'{PROCESS}={process}: expected 0 to {PROCESSES} - 1 = {processes - 1}')
    return given[COORDINATOR], processes, process


def _detected(seconds: float) -> Found | None:
    """What JAX detects: the cluster that started this process, or None."""
    try:
        address, processes, process, _ = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            os.environ.get(COORDINATOR), None, None, None, None, round(seconds)
        )
    except Exception as error:  # of any scheduler's own kind
        raise NotReady(
            f'the cluster that started this process cannot be read: {error}; '
            f'{PROCESSES}=1 runs without it'
        ) from error
    if address is None or processes is None or process is None:
        return None
    return address, processes, process


def roll_call(address: str, processes: int, process: int, seconds: float) -> list[str]:
    """Waits for all processes on the coordinator's port; their hosts, on each of them.

    Raises NotReady that names the missing ones, on every process that came.
    """
    deadline = time.monotonic() + seconds
    if process == 0:
        return _call(address, processes, deadline, seconds)
    return _answer(address, process, deadline, seconds)


def _call(address: str, processes: int, deadline: float, seconds: float) -> list[str]:
    """Process 0: takes the names of the others and tells all of them who came."""
    hosts: dict[int, str] = {0: socket.gethostname()}
    _, port = _split(address)
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(_listen(port))
        except OSError as error:
            raise NotReady(f'process 0 cannot listen on port {port}: {error.strerror}') from error
        lines = []
        while len(hosts) < processes and time.monotonic() < deadline:
            server.settimeout(max(0.05, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
                stack.enter_context(connection)
                connection.settimeout(5)
                number, host = _receive(connection)
            except (OSError, ValueError, TypeError):
                continue  # nobody came, or a stranger knocked
            if 0 < number < processes:
                hosts[number] = host
                lines.append(connection)
        missing = sorted(set(range(processes)) - hosts.keys())
        for connection in lines:
            with contextlib.suppress(OSError):
                _send(connection, {'hosts': sorted(hosts.items()), 'missing': missing})
        for connection in lines:  # closed by the others first: the port is free again at once
            with contextlib.suppress(OSError):
                connection.recv(1)
    return _all_there(hosts, missing, processes, seconds)


def _answer(address: str, process: int, deadline: float, seconds: float) -> list[str]:
    """The others: tell process 0 their names, and hear from it who came."""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise NotReady(
                f'process {process} on {socket.gethostname()} waited {seconds:.0f} s for process 0 '
                f'at {address}, which does not answer: was the run started on every host?'
            )
        try:
            with socket.create_connection(_split(address), timeout=min(left, 5)) as connection:
                connection.settimeout(left + 5)
                _send(connection, [process, socket.gethostname()])
                reply = _receive(connection)
        except (OSError, ValueError):
            time.sleep(min(0.2, left))
            continue
        hosts = dict(reply['hosts'])
        return _all_there(hosts, reply['missing'], len(hosts) + len(reply['missing']), seconds)


def _all_there(
    hosts: dict[int, str], missing: list[int], processes: int, seconds: float
) -> list[str]:
    if missing:
        names = ', '.join(_name(number, processes) for number in missing)
        raise NotReady(
            f'{len(hosts)} of {processes} processes joined within {seconds:.0f} s; missing: '
            f'{names}. Was the run started on every host of the pod?'
        )
    return [hosts[number] for number in sorted(hosts)]


def _name(number: int, processes: int) -> str:
    """'process 3 (host)', the host where the cluster's environment lists one for each process."""
    hosts = os.environ.get('TPU_WORKER_HOSTNAMES', '').split(',')
    return f'process {number} ({hosts[number]})' if len(hosts) == processes else f'process {number}'


def _listen(port: int) -> socket.socket:
    """On all addresses, as JAX's coordinator does after it."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(('', port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(('', port))


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(':')
    return host.strip('[]'), int(port)


def _send(connection: socket.socket, value: Any) -> None:
    connection.sendall(json.dumps(value).encode() + b'\n')


def _receive(connection: socket.socket) -> Any:
    with connection.makefile('r') as file:
        return json.loads(file.readline())
