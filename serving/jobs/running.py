"""Jobs under way: each asks for its photographs in turn, and every one of them lets ordinary requests go first."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from serving.errors import ProblemError, refused
from serving.jobs.store import Asked, JobState, Store
from serving.jobs.video import VideoWork
from serving.jobs.webhooks import tell
from serving.jobs.work import Doors, LeftError, Work
from serving.jobs_config import JobsConfig

log = logging.getLogger(__name__)

_LOOK_S = 5.0  # how often the folder is looked at for jobs of other ingresses, and for what is too old
_FAULTS = 5  # of the folder, or of ours, after which a job is given up
_MARGIN_S = 60.0  # after the time that a body may take, until what came of it is left over
View = Callable[[str, Asked, JobState], dict[str, Any]]


class Runner:
    """Works on the jobs of a folder.

    An ingress takes over at its start whatever another one worked on: after a crash nobody else would. If the other is
    still there, it stops at its next photograph, and nothing is done twice but the one under way.

    Args:
        config: of jobs.
        store: the folder.
        doors: to the service.
        key: of webhooks; None where there are none.
        view: what a webhook says of a job.
    """

    def __init__(self, config: JobsConfig, store: Store, doors: Doors, *, key: bytes | None, view: View) -> None:
        self._config, self._store, self._doors = config, store, doors
        self._key, self._view = key, view
        self._name = secrets.token_hex(8)
        self._slots = asyncio.Semaphore(config.parallel)  # first come, first served: jobs alternate
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._works: dict[str, Work] = {}
        self._coming: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._ended: dict[str, JobState] = {}
        self._first = True
        self._woken = asyncio.Event()

    @property
    def room(self) -> int:
        """Bytes that may still be written."""
        states = (*self._ended.values(), *(work.state for work in self._works.values()))
        return self._config.store_bytes - sum(state.size for state in states)

    @contextmanager
    def place(self, client: str) -> Iterator[None]:
        """Room for one more job, while it arrives.

        Raises:
            ProblemError: 429 when the client has too many, 503 when there are too many, or too many bytes.
        """
        config = self._config
        mine = self._coming[client] + sum(
            work.asked.client == client and work.state.ended is None for work in self._works.values()
        )
        if mine >= config.max_per_client:
            detail = f"this client has {config.max_per_client} jobs here that have not ended; wait for one"
            raise refused(429, detail, retry_after=_LOOK_S)
        ended = sum(state.status != "cancelled" for state in self._ended.values())  # of those nothing is left
        if self._coming.total() + len(self._works) + ended >= config.max_jobs or self.room <= 0:
            raise refused(503, "the folder of jobs is full; delete jobs, or try again later", "jobs_full", _LOOK_S)
        self._coming[client] += 1
        try:
            yield
        finally:
            self._coming[client] -= 1

    async def accept(self, job: str, asked: Asked) -> None:
        """Begin a new one; it is kept when this returns."""
        await asyncio.to_thread(self._store.add, job, asked)
        await self._take(job, asked)

    def state(self, job: str) -> JobState | None:
        """Return how far a job is, where this process works on it."""
        work = self._works.get(job)
        return None if work is None else work.state

    async def cancel(self, job: str) -> None:
        """End it, and remove its files."""
        await asyncio.to_thread(self._store.cancel, job)
        if (task := self._tasks.get(job)) is not None:
            task.cancel()
            await asyncio.wait([task])
            await asyncio.to_thread(self._store.cancel, job)  # what the photograph under way left
        self._ended[job] = await asyncio.to_thread(self._store.state, job)
        self._woken.set()

    async def run(self) -> None:
        """For ever; cancelled, it leaves all jobs as they are."""
        try:
            while True:
                self._woken.clear()
                try:
                    await self._look()
                except Exception:
                    log.exception("the folder of jobs cannot be looked at; tried again in %g s", _LOOK_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._woken.wait()
        finally:
            for task in list(self._tasks.values()):
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _look(self) -> None:
        jobs = await asyncio.to_thread(self._store.ids)
        for job in jobs:
            if job not in self._tasks and job not in self._ended:
                await self._found(job)
        for job, state in list(self._ended.items()):
            if time.time() - (state.ended or 0) > self._config.keep_s and job not in self._tasks:
                await asyncio.to_thread(self._store.remove, job)
                del self._ended[job]
        self._first = False
        self._doors.metrics.jobs_open(len(self._works))

    async def _found(self, job: str) -> None:
        asked = await asyncio.to_thread(self._store.asked, job)
        if asked is None:
            if await asyncio.to_thread(self._store.is_left_over, job, self._config.read_timeout_s + _MARGIN_S):
                await asyncio.to_thread(self._store.remove, job)
            return
        state = await asyncio.to_thread(self._store.state, job)
        if state.ended is not None:
            self._ended.setdefault(job, state)  # it may have been deleted meanwhile
            await asyncio.to_thread(self._store.tidy, job, keep_result=state.status == "done")
            if asked.webhook is not None and state.status != "cancelled":
                self._begin(job, self._tell(job, asked, state))
        elif self._first or await asyncio.to_thread(self._store.runner, job) in (None, self._name):
            await self._take(job, asked)

    async def _take(self, job: str, asked: Asked) -> None:
        await asyncio.to_thread(self._store.take, job, self._name)
        if job in self._tasks:  # by the look that came in between
            return
        kind = Work if asked.video is None else VideoWork
        work = kind(self._store, self._doors, self._slots, lambda: self.room, job, self._name, asked, self._config)
        self._works[job] = work
        self._begin(job, self._work(job, work))

    def _begin(self, job: str, work: Coroutine[Any, Any, None]) -> None:
        def ended(_: Any) -> None:
            del self._tasks[job]
            self._works.pop(job, None)
            self._woken.set()

        self._tasks[job] = asyncio.create_task(work)
        self._tasks[job].add_done_callback(ended)

    async def _work(self, job: str, work: Work) -> None:
        try:
            state = await work.done()
        except LeftError:
            return
        except ProblemError as problem:
            state = _failed(work.state, problem.problem.code, problem.problem.detail)
        except Exception:
            log.exception("job %s cannot go on", job)
            self._faults[job] += 1
            if self._faults[job] < _FAULTS:
                await asyncio.sleep(_LOOK_S)  # then a look begins it again
                return
            state = _failed(work.state, "internal", "the service failed; its log says why")
        await asyncio.to_thread(self._store.write_end, job, state)
        self._doors.metrics.job_ended(state.status)

    async def _tell(self, job: str, asked: Asked, state: JobState) -> None:
        if self._key is None or asked.webhook is None or await asyncio.to_thread(self._store.told, job):
            return
        outcome = await tell(self._key, asked.webhook, job, self._view(job, asked, state))
        await asyncio.to_thread(self._store.set_told, job, outcome)


def _failed(state: JobState, code: str, detail: str) -> JobState:
    changes = {"status": "failed", "ended": time.time(), "size": 0, "code": code, "detail": detail}
    return state.model_copy(update=changes)
