"""A Ray cluster: connecting, what is checked before anything starts, and running units of work on its workers."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import textwrap
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hn_datasets import __version__
from hn_datasets.errors import ArgumentError, ClusterError, HNDatasetsError, StoreError
from hn_datasets.progress import progress_bar
from hn_datasets.recipe import ALGORITHM_VERSION

CONNECT_SECONDS = 10.0
"""How long an address has to answer."""

MOST_TRIES = 10
"""How often a unit of work is begun again whose worker or node was lost."""

AT_ONCE = 2
"""Units that wait at each worker, so that it never waits itself."""


def load_ray() -> Any:
    """Return the module ``ray``, which sends no usage statistics from here.

    Raises:
        ArgumentError: it cannot be imported.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ArgumentError(
            f"Expected Ray for the engine ray, which cannot be imported ({error}); run: "
            'pip install "hn-datasets[ray]", or use the engine local.'
        ) from error
    return ray


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to a cluster, unless this process is connected already, and leave it at the end.

    Raises:
        ArgumentError: Ray is not installed.
        ClusterError: no cluster answers.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield ray
        return
    if address != "auto":
        _check_answers(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = textwrap.shorten(str(error).partition(". ")[0], 120, placeholder="...")
        raise ClusterError(
            f"Expected a Ray cluster at {address!r}, got no answer ({reason}); start one with `ray start --head`, or "
            "name its address."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would go on asking for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS):
            return
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"Expected a Ray cluster at {address!r}, got no answer ({error}); start one with `ray start --head`, or "
            "name its address as host:port."
        ) from error


def check_nodes(ray: Any, store: Path) -> list[dict[str, Any]]:
    """Return the nodes, each of which has this package and sees the store; one that is lost meanwhile is left out.

    Raises:
        ClusterError: a node lacks the package, or has another version of it; or no node is left.
        StoreError: a node does not see what is written to the store here.
    """
    nonce = secrets.token_hex(16)
    note = store / f".seen-{nonce}"
    try:
        store.mkdir(parents=True, exist_ok=True)
        note.write_text(nonce, encoding="utf-8")
    except OSError as error:
        raise StoreError(error.errno, f"Could not write to {store} ({error.strerror}); name another store.") from error
    asked = [(node, _probe(ray, node["NodeID"], str(note))) for node in ray.nodes() if node["Alive"]]
    nodes = []
    try:
        for node, answer in asked:
            # Ray lists a node for some seconds after it is lost.
            with contextlib.suppress(ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
                nodes.append((node, ray.get(answer)))
    finally:
        note.unlink(missing_ok=True)
    if not nodes:
        raise ClusterError(f"Expected a node that runs tasks, got no answer from {len(asked)}; see `ray status`.")
    for node, (version, algorithm, seen) in nodes:
        where = f"node {node['NodeManagerAddress']}"
        if version is None:
            raise ClusterError(f"Expected hn-datasets {__version__} on every node, {where} has none; install it there.")
        if (version, algorithm) != (__version__, ALGORITHM_VERSION):
            raise ClusterError(
                f"Expected hn-datasets {__version__} on every node, {where} has {version}; install the same one there."
            )
        if seen != nonce:
            raise ClusterError(
                f"Expected every node to see the store {store}, {where} does not; put it on storage that all nodes "
                "have at the same path."
            )
    return [node for node, _ in nodes]


def _probe(ray: Any, node: str, note: str) -> Any:
    """Ask one node for its version of the package and what it reads in a file.

    The function travels by its code and not by its name, because the node may lack the package.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415 - an extra

    def look() -> tuple[str | None, int | None, str | None]:
        from pathlib import Path  # noqa: PLC0415 - it runs elsewhere

        try:
            seen = Path(note).read_text(encoding="utf-8")
        except OSError:
            seen = None
        try:
            from hn_datasets import __version__ as version  # noqa: PLC0415
            from hn_datasets.recipe import ALGORITHM_VERSION as ALGORITHM  # noqa: PLC0415
        except ImportError:
            return None, None, seen
        return version, ALGORITHM, seen

    look.__module__ = "__main__"
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=strategy)(look).remote()


def check_resources(nodes: Sequence[dict[str, Any]], workers: int, gpus_per_worker: float, block_bytes: int) -> None:
    """Refuse more GPUs than there are, and object stores that do not hold the blocks on their way.

    Args:
        nodes: of the cluster.
        workers: how many.
        gpus_per_worker: of each.
        block_bytes: of one block of anchors.

    Raises:
        ClusterError: there are fewer GPUs, or a node has too small an object store.
    """
    gpus = sum(node["Resources"].get("GPU", 0) for node in nodes)
    if workers * gpus_per_worker > gpus:
        raise ClusterError(
            f"Expected {workers * gpus_per_worker:g} GPUs for {workers} workers, the cluster has {gpus:g}; lower "
            "workers or gpus_per_worker."
        )
    needed = 4 * AT_ONCE * block_bytes
    for node in nodes:
        size = int(node["Resources"].get("object_store_memory", 0))
        if size < needed:
            raise ClusterError(
                f"Expected an object store of {needed / 1e6:,.0f} MB on every node, node {node['NodeManagerAddress']} "
                f"has {size / 1e6:,.0f} MB; start it with --object-store-memory={needed}."
            )


def default_workers(nodes: Sequence[dict[str, Any]], gpus_per_worker: float) -> int:
    """Return one worker for each share of the GPUs, or for each node where none are asked for."""
    if not gpus_per_worker:
        return len(nodes)
    return max(1, int(sum(node["Resources"].get("GPU", 0) // gpus_per_worker for node in nodes)))


def threads_of(nodes: Sequence[dict[str, Any]], workers: int) -> int:
    """Return how many cores each worker has to itself."""
    return max(1, int(sum(node["Resources"].get("CPU", 0) for node in nodes) // workers))


def start_actors(ray: Any, kind: type, count: int, gpus: float, *arguments: Any) -> list[Any]:
    """Start actors, spread over the nodes; one that is lost is started again wherever there is room.

    They reserve no cores, so that those of a lost node find room on the others.
    """
    options = {"num_cpus": 0, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": MOST_TRIES}
    remote = ray.remote(scheduling_strategy="SPREAD", **options)(kind)
    return [remote.remote(*arguments) for _ in range(count)]


def run_units(
    ray: Any,
    actors: Sequence[Any],
    submit: Callable[[Any, Any], Any],
    units: Sequence[Any],
    *,
    label: str,
    sizes: Sequence[int] | None = None,
    unit: str = "piece",
) -> list[Any]:
    """Let actors work on units, with a progress bar; return their results in the order of the units.

    Args:
        ray: the module.
        actors: each works on one unit after the other.
        submit: gives an actor a unit, and returns the reference of its result.
        units: of work.
        label: of the progress bar.
        sizes: what each unit counts; 1 if None.
        unit: what is counted.

    Raises:
        HNDatasetsError: a unit failed so; other errors come as Ray has them.
        ClusterError: a unit's worker was lost too often.
    """
    counts = list(sizes) if sizes is not None else [1] * len(units)
    results: list[Any] = [None] * len(units)
    waiting, idle = deque(range(len(units))), deque([*actors] * AT_ONCE)
    pending: dict[Any, tuple[int, Any]] = {}
    with progress_bar(total=sum(counts), desc=label, unit=unit) as progress:
        while waiting or pending:
            while waiting and idle:
                number, actor = waiting.popleft(), idle.popleft()
                pending[submit(actor, units[number])] = number, actor
            (done,), _ = ray.wait(list(pending), num_returns=1)
            number, actor = pending.pop(done)
            results[number] = result_of(ray, done, label)
            idle.append(actor)
            progress.update(counts[number])
    return results


def result_of(ray: Any, reference: Any, label: str) -> Any:
    """Return the result behind a reference; errors are those of ``run_units``."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HNDatasetsError):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        raise ClusterError(
            f"{label}: a worker was lost {MOST_TRIES} times with the same work, for instance because its node has too "
            "little memory; see `ray logs`, and run again: what is finished is kept."
        ) from error
