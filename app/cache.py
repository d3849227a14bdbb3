"""A bounded cache that many visitors share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")
_PATIENCE = 0.2  # seconds between two calls of `waiting`


class Cache(Generic[T]):
    """The most recently used values, of at most `most` in all; a value is made once, however many ask at the same time.

    Args:
        most: values, or whatever `size` counts. A single value that is larger is handed out and not kept.
        size: of a value, such as its bytes, asked once when it comes; default 1.
    """

    def __init__(self, most: int, size: Callable[[T], int] = lambda _: 1) -> None:
        self._most, self._size, self._held = most, size, 0
        self._values: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[Hashable, tuple[threading.Lock, int]] = {}

    def get(self, key: Hashable) -> T | None:
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: T) -> T:
        size = self._size(value)
        with self._lock:
            if key in self._values:
                self._held -= self._values.pop(key)[1]
            if size > self._most:
                return value
            self._values[key] = value, size
            self._held += size
            while self._held > self._most:
                self._held -= self._values.popitem(last=False)[1][1]
        return value

    def get_or(self, key: Hashable, make: Callable[[], T], waiting: Callable[[], None] = lambda: None) -> T:
        """The value of a key, made where it is missing. Who waits for one that fails makes it anew.

        Args:
            waiting: called again and again while another makes the value; what it raises ends the wait.
        """
        found = self.get(key)
        if found is not None:
            return found
        with self._lock:
            turn, asking = self._making.get(key, (threading.Lock(), 0))
            self._making[key] = (turn, asking + 1)
        try:
            while not turn.acquire(timeout=_PATIENCE):
                waiting()
            try:
                found = self.get(key)
                return self.put(key, make()) if found is None else found
            finally:
                turn.release()
        finally:
            with self._lock:
                turn, asking = self._making.pop(key)
                if asking > 1:
                    self._making[key] = (turn, asking - 1)
