"""Batches made ahead of time by a background worker, in an order that never varies."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Ask for step n; steps n + 1 … n + depth are being made meanwhile.

    `make` must be a pure function of the step, so who makes it and when changes nothing.
    """

    def __init__(self, executor: Executor, make: Callable[[int], T], *, depth: int) -> None:
        self._executor = executor
        self._make = make
        self._depth = depth
        self._pending: dict[int, Future[T]] = {}

    def get(self, step: int) -> T:
        """Return the result of a step; asks for those that follow."""
        for ahead in range(step, step + self._depth + 1):
            if ahead not in self._pending:
                self._pending[ahead] = self._executor.submit(self._make, ahead)
        for old in [n for n in self._pending if n < step]:
            self._pending.pop(old).cancel()
        return self._pending.pop(step).result()

    def close(self) -> None:
        """Drop what was asked for and end the worker."""
        self._pending.clear()
        self._executor.shutdown(wait=True, cancel_futures=True)
