"""Engines: what runs the shards of a scoring run, on this machine or on a cluster.

An engine has to run each shard at least once; the table of scores makes that exactly once.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import LifoQueue
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, NamedTuple, Self

import polars as pl
import torch

from sentiment_model.errors import ConfigurationError, SentimentError
from sentiment_model.models.bundle import Predictor
from sentiment_model.networks.device import choose_device, count_cores
from sentiment_model.scoring.label import ScoringJob, score_shard
from sentiment_model.scoring.shards import Shard
from sentiment_model.scoring.table import Receipt
from sentiment_model.settings import DeviceName
from sentiment_model.store.objects import first_line

Bundle = dict[str, bytes]
"""A model folder as the content of its files by name, to be sent to workers anywhere."""

SHARD_SECONDS = 24 * 3600.0
"""How long a shard may take, of which a process that hangs would never come to an end."""

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


class JobShard(NamedTuple):
    """A shard and what of its job it needs, for a worker that started before the job was known."""

    job: ScoringJob
    shard: Shard

    @classmethod
    def of(cls, job: ScoringJob, shard: Shard) -> Self:
        """Leave the files of other shards, of which a job may have very many, out."""
        files = {piece.file for piece in shard.pieces}
        sources = {key: job.sources[key] for key in files & job.sources.keys()}
        splits = {key: job.splits[key] for key in files & job.splits.keys()}
        return cls(job.model_copy(update={"sources": sources, "splits": splits}), shard)

    @property
    def name(self) -> str:
        """The shard's name."""
        return self.shard.name


class ModelWorker:
    """Scores shards of any job with models that are loaded once."""

    def __init__(self, device: DeviceName, bundle: Bundle, shadow: Bundle | None) -> None:
        self._predictor = _load(bundle, device)
        self._shadow = _load(shadow, device) if shadow else None
        for predictor in filter(None, (self._predictor, self._shadow)):
            predictor.predict(pl.Series(["a"]))  # loads what is compiled, which else the first shard has to wait for

    def score(self, work: JobShard) -> Receipt:
        """Score a shard, see :func:`score_shard`."""
        return score_shard(work.job, work.shard, self._predictor, self._shadow)


class ShardWorker:
    """Scores the shards of a job with models that are loaded once."""

    def __init__(self, job: ScoringJob, device: DeviceName, bundle: Bundle, shadow: Bundle | None) -> None:
        self._job = job
        self._models = ModelWorker(device, bundle, shadow)

    def score(self, shard: Shard) -> Receipt:
        """Score a shard, see :func:`score_shard`."""
        return self._models.score(JobShard(self._job, shard))


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
    """Processes on this machine, each of which scores one shard at a time. Threads may share it."""

    def __init__(self, start: Callable[[], ModelWorker], workers: int, shard_seconds: float = SHARD_SECONDS) -> None:
        """Prepare the processes, which start when there is work for them, or before (:meth:`warm_up`).

        Args:
            start: makes the worker of a process; must be picklable.
            workers: number of processes.
            shard_seconds: how long a shard may take.
        """
        self._shard_seconds = shard_seconds
        self._environment = ExitStack()
        self._environment.enter_context(_small_processes())
        self._all = [_Process(start) for _ in range(workers)]
        self._idle: LifoQueue[_Process] = LifoQueue()
        for process in self._all:
            self._idle.put(process)
        self._warming: list[threading.Thread] = []
        self._closing = False

    def warm_up(self, processes: int) -> None:
        """Start so many processes in the background, as far as they do not run: what they need takes them seconds.

        Shards may come meanwhile. Where a process cannot be started, the shard that it is to score will say so.
        """
        chosen = [self._idle.get() for _ in range(min(processes, len(self._all)))]
        thread = threading.Thread(target=self._start, args=(chosen,))
        self._warming.append(thread)
        thread.start()

    def _start(self, processes: Sequence["_Process"]) -> None:
        for process in processes:
            with suppress(Exception):
                if not self._closing:
                    process.start()
            self._idle.put(process)

    def score(self, shard: JobShard) -> Receipt:
        """Score a shard in one of the processes; those of other shards do not notice what becomes of it.

        Raises:
            WorkerLostError: the process died, or had to be ended because it took too long.
        """
        process = self._idle.get()
        try:
            return process.score(shard, self._shard_seconds)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """Stop the processes."""
        self._closing = True
        for thread in self._warming:
            thread.join()
        for process in self._all:
            process.close()
        self._environment.close()


class _Process:
    """A process that is started when it is needed, and again where it died."""

    def __init__(self, start: Callable[[], ModelWorker]) -> None:
        self._make_worker = start
        self._pool: ProcessPoolExecutor | None = None

    def start(self) -> None:
        """Start the process, unless it has been; do not wait until it is ready."""
        if self._pool is not None:
            return
        # A fresh process: a forked one would inherit torch's and polars' threads, as locks that nobody opens.
        context = multiprocessing.get_context("spawn")
        end, self._lifeline = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(1, context, initializer=_start_process, initargs=(end,))
        try:
            with _without_main_module(), _without_interrupts():
                # The models come this way since a process that dies while it is given its first arguments, where these
                # are more than a pipe holds, is waited for until the end of time.
                self._ready: Future[int] = self._pool.submit(_start_worker, self._make_worker)
        except BaseException:
            self.close()
            raise

    def score(self, shard: JobShard, seconds: float) -> Receipt:
        try:
            pool, process = self._started(seconds)
            return pool.submit(_score, shard).result(seconds)
        except BrokenProcessPool as error:
            self.close()
            raise WorkerLostError(f"a worker process died while {shard.name} was in work") from error
        except TimeoutError as error:
            os.kill(process, signal.SIGKILL)
            self.close()
            raise WorkerLostError(f"{shard.name} took longer than {seconds:,.0f} s; its process was ended") from error

    def _started(self, seconds: float) -> tuple[ProcessPoolExecutor, int]:
        """Return the pool of the process and its id once it has its models.

        One that could not get them is ended, and the next shard starts another: it would else fail shard after shard,
        in no time, beside processes that work.
        """
        try:
            self.start()
            assert self._pool is not None  # noqa: S101 - it has been started
            return self._pool, self._ready.result(seconds)
        except (BrokenProcessPool, SentimentError):
            self.close()
            raise
        except Exception as error:
            self.close()
            raise WorkerLostError(f"a worker process could not start: {error!r}") from error

    def close(self) -> None:
        if self._pool is not None:
            self._lifeline.close()  # ends a process that is just being started, for which the pool would wait for ever
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


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


_starting = threading.Lock()


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Let processes that are started in the block not import this one's main module.

    They would do so first, and load with it what a flow needs and a worker does not, which takes seconds and memory.
    """
    with _starting:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let processes that are started in the block not hear of Ctrl-C, which is this one's to answer.

    A terminal tells all of them, and those that are starting, or wait for work, would each print a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_worker: ModelWorker | None = None


def _start_process(lifeline: Connection) -> None:
    threading.Thread(target=_end_with_pool, args=(lifeline,), daemon=True).start()
    torch.set_num_threads(1)  # one worker a core


def _start_worker(start: Callable[[], ModelWorker]) -> int:
    """Make this process's worker; return the process's id."""
    global _worker
    _worker = start()
    return os.getpid()


def _end_with_pool(lifeline: Connection) -> None:
    """End this process when the other end of a pipe is closed, by the engine or because its process is gone."""
    lifeline.poll(None)
    os._exit(1)


def _score(shard: JobShard) -> Receipt:
    assert _worker is not None  # noqa: S101 - it is the first thing that is made
    return _worker.score(shard)


def score_on_ray(
    job: ScoringJob,
    device: DeviceName,
    bundle: Bundle,
    shadow: Bundle | None,
    shards: Sequence[Shard],
    workers: int,
    on_done: Callable[[Receipt], None],
) -> dict[Shard, Exception]:
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
        why shards failed.

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
        failures: dict[Shard, Exception] = {}
        while waiting or running:
            while idle and waiting:  # one shard each: what is not begun stays here
                actor, shard = idle.pop(), waiting.pop()
                running[actor.score.remote(shard)] = (actor, shard)
            (reference,), _ = ray.wait(list(running), num_returns=1)
            actor, shard = running.pop(reference)
            idle.append(actor)
            try:
                on_done(ray.get(reference))
            except ray.exceptions.RayTaskError as error:
                failures[shard] = error.cause
            except ray.exceptions.RayError as error:
                failures[shard] = WorkerLostError(f"{shard.name}: {first_line(error)}")
        return failures
    finally:
        if started_here:
            ray.shutdown()
