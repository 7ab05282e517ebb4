"""Executors that compute the cells of a study in local processes or on a Ray cluster.

An executor takes tasks and yields (task, outcome) pairs in the order in which they finish. If a
worker is killed, its cell is computed again; training resumes after the last finished epoch.
"""

import json
import logging
import os
import queue
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from keras_backdoor.errors import BadInput, MissingPackage
from keras_backdoor.progress import track
from keras_backdoor.studies._engine.worker import ENVIRONMENT, Task, work

RETRIES = 2
Ended = Iterator[tuple[Task, dict[str, Any]]]


def local(tasks: Sequence[Task], jobs: int) -> Ended:
    """Compute cells in `jobs` parallel processes on this machine."""
    ended: queue.SimpleQueue = queue.SimpleQueue()
    running: set[subprocess.Popen] = set()
    stopping: list[bool] = []

    def run(task: Task) -> None:
        try:
            ended.put((task, _with_retries(task, running, stopping)))
        except BaseException as error:
            ended.put((task, error))

    pool = ThreadPoolExecutor(max_workers=jobs)
    try:
        for task in tasks:
            pool.submit(run, task)
        for _ in tasks:
            task, outcome = ended.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield task, outcome
    finally:
        stopping.append(True)
        for process in list(running):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _with_retries(
    task: Task, running: set[subprocess.Popen], stopping: list[bool]
) -> dict[str, Any]:
    for _ in range(1 + RETRIES):
        outcome, code, errors = _process(task, running)
        if outcome is not None:
            return outcome
        if code >= 0 or stopping:
            break
    log = Path(task.cache) / "logs" / f"{task.key}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(errors)
    if code < 0:
        message = f"The worker was killed by signal {-code} (out of memory?)."
    else:
        message = f"The worker ended with exit code {code}: {(errors.splitlines() or [''])[-1]}"
    return {"key": task.key, "error": f"{message} Log of the worker: {log}"}


def _process(task: Task, running: set[subprocess.Popen]) -> tuple[dict[str, Any] | None, int, str]:
    """Run one worker; return (outcome or None, exit code, text of its standard error)."""
    command = [sys.executable, "-m", "keras_backdoor.studies._engine.worker"]
    pipe, outcome = subprocess.PIPE, None
    environment = {**os.environ, **ENVIRONMENT}
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment
    ) as process, ThreadPoolExecutor(max_workers=1) as reader:  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        running.add(process)
        errors = reader.submit(process.stderr.read)
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asdict(task)) + "\n")
            process.stdin.flush()  # stdin stays open: the worker ends when it is closed
            outcome = _listen(task.name, process.stdout)
        text = errors.result().strip()
        process.wait()
    running.discard(process)
    return outcome, process.returncode, text


def _listen(name: str, lines: Iterable[str]) -> dict[str, Any] | None:
    """Show the progress of a worker; return its outcome, or None if it died."""
    outcome: list[dict[str, Any]] = []

    def events() -> Iterator[tuple[str, int, int | None]]:
        for line in lines:
            content = json.loads(line)
            if "outcome" in content:
                outcome.append(content["outcome"])
            else:
                yield tuple(content["progress"])

    for _ in track([name], name):
        for (description, total), group in groupby(events(), key=lambda e: (e[0], e[2])):
            for _ in track(_steps(number for _, number, _ in group), description, total):
                pass
    return outcome[0] if outcome else None


def _steps(numbers: Iterable[int]) -> Iterator[None]:
    """Yield once for each new step; numbers below the maximum so far are ignored."""
    reached = 0
    for number in numbers:
        yield from (None for _ in range(number - reached))
        reached = max(reached, number)


def ray(tasks: Sequence[Task], address: str | None, jobs: int | None) -> Ended:
    """Compute cells on a Ray cluster, or with a local Ray of `jobs` workers.

    All machines of a cluster need this package, and the data and the cache under the same paths or
    in an object store. Each cell gets one core, and a GPU of its own if the cluster has any.

    Args:
        tasks: the cells to compute.
        address: the address of a cluster; None starts Ray on this machine.
        jobs: the number of local workers; None is the number of cores.

    Raises:
        MissingPackage: if Ray is not installed.
        BadInput: if there is no cluster at this address.
    """
    cluster = _connect(address, jobs)
    try:
        gpus = 1 if cluster.cluster_resources().get("GPU", 0) >= 1 else 0
        remote = cluster.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(work)
        waiting = {remote.remote(task): task for task in tasks}
        while waiting:
            ready, _ = cluster.wait(list(waiting), num_returns=1)
            task = waiting.pop(ready[0])
            try:
                yield task, cluster.get(ready[0])
            except cluster.exceptions.RayError as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                yield task, {"key": task.key, "error": f"Ray: {lines[-1]}"}
    finally:
        cluster.shutdown()


def _connect(address: str | None, jobs: int | None) -> Any:
    try:
        import ray as cluster
    except ImportError as error:
        raise MissingPackage(
            "--executor ray needs Ray: pip install 'keras-backdoor[ray]'."
        ) from error
    _check_address(address)
    if address and jobs is not None:
        raise BadInput(
            "--jobs is for this machine: leave it out with the address of a Ray cluster."
        )
    options: dict[str, Any] = (
        {"address": address}
        if address
        else {"num_cpus": jobs or os.cpu_count(), "include_dashboard": False}
    )
    try:
        cluster.init(
            **options,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": ENVIRONMENT},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        if not address:
            raise BadInput(f"Ray could not be started on this machine: {error}.") from error
        raise BadInput(
            f"No Ray cluster could be reached at {address}: {error}. If the cluster requires a "
            "token, set RAY_AUTH_MODE=token and provide the token as Ray's documentation describes."
        ) from error
    return cluster


def _check_address(address: str | None) -> None:
    """Raise at once if no server answers at host:port; Ray itself would wait for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or "//" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise BadInput(
            f"No Ray cluster could be reached at {address}: {error.strerror or error}."
        ) from error
