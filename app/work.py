"""Long computations: one at a time for each visitor, with words on how far it is, and a way to stop it."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from messages import UserError, readable

MOST_AT_ONCE = 32  # threads of all visitors; all but a few of them wait for each other
MOST_VISITORS = 1000
_PATIENCE = 0.2


class Stopped(UserError):
    """The computation was stopped, by its visitor or by the next one that this visitor asked for."""


class Work:
    """How far a computation is, in words and as a share (None: unknown). `at` raises `Stopped` once `stop` was called."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self.words = "Waiting for a free place"
        self.share: float | None = None

    def at(self, words: str, share: float | None = None) -> None:
        self.go_on()
        self.words, self.share = words, share

    def go_on(self) -> None:
        """Nothing, or `Stopped`."""
        if self._stop.is_set():
            raise Stopped("Stopped.")

    def stop(self) -> None:
        self._stop.set()

    @contextmanager
    def turn(self, lock: threading.Lock) -> Iterator[None]:
        """The lock's turn; the wait for it can be stopped."""
        while not lock.acquire(timeout=_PATIENCE):
            self.at("Waiting for another long computation")
        try:
            yield
        finally:
            lock.release()


class Task:
    """A computation that has begun, under a name that its visitor alone knows."""

    def __init__(self, work: Work, future: Future[Any], at: float) -> None:
        self.ticket, self.work, self.at, self._future = secrets.token_urlsafe(8), work, at, future

    def done(self, patience: float) -> bool:
        """Whether it has ended after `patience` seconds at most."""
        wait([self._future], patience)
        return self._future.done()

    def result(self) -> Any:
        """What it returned.

        Raises:
            UserError: whatever went wrong, in words.
        """
        return self._future.result()


class Desk:
    """The tasks of all visitors, the last one of each."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="work")
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, visitor: str, do: Callable[[Work], Any], *, at: float = 0.0) -> Task:
        """Start a computation, and stop the one that this visitor had before.

        Args:
            at: when the visitor asked, by a clock of its own. One that was asked for earlier than what there is does not
                take its place: it is stopped.
        """
        with self._lock:
            before = self._tasks.get(visitor)
            late = before is not None and at < before.at
            work = Work()
            if late:
                work.stop()
            task = Task(work, self._threads.submit(_run, do, work), at)
            if late:
                return task
            self._tasks.pop(visitor, None)
            self._tasks[visitor] = task
            left = self._tasks.popitem(last=False)[1] if len(self._tasks) > MOST_VISITORS else None
        for old in (before, left):
            if old is not None:
                old.work.stop()
        return task

    def task(self, visitor: str, ticket: str) -> Task | None:
        """The visitor's task of this ticket, None where it is another one's or was followed by another."""
        with self._lock:
            task = self._tasks.get(visitor)
        return task if task is not None and task.ticket == ticket else None

    def busy(self, visitor: str) -> bool:
        """Whether a task of the visitor's has not ended."""
        with self._lock:
            task = self._tasks.get(visitor)
        return task is not None and not task.done(0)

    def overtake(self, visitor: str, at: float) -> None:
        """Stop what the visitor asked for before this time of its clock."""
        with self._lock:
            task = self._tasks.get(visitor)
        if task is not None and task.at < at:
            task.work.stop()

    def stop(self, visitor: str) -> None:
        """Stop what the visitor has begun."""
        with self._lock:
            task = self._tasks.get(visitor)
        if task is not None:
            task.work.stop()

    def leave(self, visitor: str) -> None:
        """Stop what the visitor had begun, and forget it."""
        with self._lock:
            task = self._tasks.pop(visitor, None)
        if task is not None:
            task.work.stop()


def _run(do: Callable[[Work], Any], work: Work) -> Any:
    work.go_on()
    return readable(do)(work)
