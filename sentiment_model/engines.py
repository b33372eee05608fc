"""Engines: what runs the shards of a scoring run, on this machine or on a cluster.

An engine has to run each shard at least once; the table of scores makes that exactly once.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from sentiment_model.bundle import Predictor
from sentiment_model.errors import ConfigurationError
from sentiment_model.score_table import Receipt
from sentiment_model.scoring import ScoringJob, score_shard
from sentiment_model.settings import DeviceName
from sentiment_model.shards import Shard
from sentiment_model.training import choose_device, count_cores

Bundle = dict[str, bytes]
"""A model folder as the content of its files by name, to be sent to workers anywhere."""


_ENVIRONMENT = {
    "POLARS_MAX_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # By default glibc gives each thread an arena of its own, and each batch has new threads: one after the other, the
    # arenas grow to the size of the largest batch.
    "MALLOC_ARENA_MAX": "1",
}
"""Of a worker: it has one core, and shares the memory with many."""


class WorkerLostError(RuntimeError):
    """A worker process died, killed or out of memory; the shard can be tried again."""


def read_bundle(folder: Path) -> Bundle:
    """Return the files of a model folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class ShardWorker:
    """Scores shards with models that are loaded once."""

    def __init__(self, job: ScoringJob, device: DeviceName, bundle: Bundle, shadow: Bundle | None) -> None:
        torch.set_num_threads(1)  # one worker a core
        self._job = job
        self._predictor = _load(bundle, device)
        self._shadow = _load(shadow, device) if shadow else None

    def score(self, shard: Shard) -> Receipt:
        """Score a shard, see :func:`score_shard`."""
        return score_shard(self._job, shard, self._predictor, self._shadow)


def _load(bundle: Bundle, device: DeviceName) -> Predictor:
    with TemporaryDirectory(prefix="sentiment-model-") as folder:
        for name, content in bundle.items():
            Path(folder, name).write_bytes(content)
        return Predictor.load(Path(folder), choose_device(device))


def default_workers(device: DeviceName) -> int:
    """Return how many workers this machine has room for: one per GPU, or else one per CPU core."""
    if choose_device(device).type == "cuda":
        return torch.cuda.device_count()
    return count_cores()


class LocalEngine:
    """A pool of processes on this machine. Threads may share it."""

    def __init__(self, start: Callable[[], ShardWorker], workers: int) -> None:
        """Start the processes.

        Args:
            start: makes the worker of a process; must be picklable.
            workers: number of processes.
        """
        self._start = start
        self._workers = workers
        self._lock = threading.Lock()
        self._environment = ExitStack()
        self._environment.enter_context(_small_processes())  # they start when there is work for them
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        # Fresh processes: forked ones would inherit torch's and polars' threads, as locks that nobody opens.
        context = multiprocessing.get_context("spawn")
        end, self._lifeline = context.Pipe(duplex=False)
        return ProcessPoolExecutor(self._workers, context, initializer=_start_worker, initargs=(self._start, end))

    def score(self, shard: Shard) -> Receipt:
        """Score a shard in one of the processes.

        Raises:
            WorkerLostError: a process died; the pool has been replaced by then.
        """
        pool = self._pool
        try:
            return pool.submit(_score, shard).result()
        except BrokenProcessPool as error:
            with self._lock:
                if self._pool is pool:  # the first of several threads to notice
                    # The pool ends the processes that it knows, then waits for all, and so for ever for one that was
                    # just being started.
                    self._lifeline.close()
                    self._pool = self._new_pool()
            raise WorkerLostError(f"a worker process died while {shard.name} was in work") from error

    def close(self) -> None:
        """Stop the processes; shards that have not begun are dropped."""
        self._pool.shutdown(cancel_futures=True)
        self._lifeline.close()
        self._environment.close()


@contextmanager
def _small_processes() -> Iterator[None]:
    """Let processes that are started in the block compute with one thread, and use again what they free."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_worker: ShardWorker | None = None


def _start_worker(start: Callable[[], ShardWorker], lifeline: Connection) -> None:
    global _worker
    threading.Thread(target=_end_with_pool, args=(lifeline,), daemon=True).start()
    _worker = start()


def _end_with_pool(lifeline: Connection) -> None:
    """End this process when the other end of a pipe is closed, by the engine or because its process is gone."""
    lifeline.poll(None)
    os._exit(1)


def _score(shard: Shard) -> Receipt:
    assert _worker is not None  # noqa: S101 - the pool's initializer has run
    return _worker.score(shard)


def score_on_ray(
    job: ScoringJob,
    device: DeviceName,
    bundle: Bundle,
    shadow: Bundle | None,
    shards: Sequence[Shard],
    workers: int,
    on_done: Callable[[Receipt], None],
) -> dict[str, str]:
    """Score shards on a Ray cluster: the one that RAY_ADDRESS names, or one on this machine.

    Each worker is an actor that loads the models once and commits its shards itself; Ray starts it again where it is
    lost, and repeats the shard that it had.

    Args:
        job: what the shards have in common; files and table must be reachable from every node.
        device: where to compute.
        bundle: the model.
        shadow: the model that scores beside it.
        shards: what to score.
        workers: number of actors; 0 is one per CPU of the cluster.
        on_done: is told of each shard that is done.

    Returns:
        why shards failed, by their name.

    Raises:
        ConfigurationError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigurationError("engine `ray` needs Ray: pip install 'sentiment-pipeline[ray]'") from error
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False)
    try:
        cores = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
        count = min(workers or cores, len(shards))
        worker = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=3, runtime_env={"env_vars": _ENVIRONMENT})(
            ShardWorker
        )
        models = [ray.put(bundle), ray.put(shadow)]
        idle: list[Any] = [worker.remote(job, device, *models) for _ in range(count)]
        waiting = list(reversed(shards))
        running: dict[Any, tuple[Any, Shard]] = {}
        failures: dict[str, str] = {}
        while waiting or running:
            while idle and waiting:  # one shard each: what is not begun stays here
                actor, shard = idle.pop(), waiting.pop()
                running[actor.score.remote(shard)] = (actor, shard)
            (reference,), _ = ray.wait(list(running), num_returns=1)
            actor, shard = running.pop(reference)
            idle.append(actor)
            try:
                on_done(ray.get(reference))
            except ray.exceptions.RayError as error:
                failures[shard.name] = str(error.cause if hasattr(error, "cause") else error).splitlines()[0]
        return failures
    finally:
        if started_here:
            ray.shutdown()
