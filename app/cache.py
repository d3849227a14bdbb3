"""A bounded cache that many visitors share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Cache(Generic[T]):
    """The most recently used values, at most `size` of them."""

    def __init__(self, size: int) -> None:
        self._size, self._values, self._lock = size, OrderedDict[Any, T](), threading.Lock()

    def get(self, key: Any) -> T | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Any, value: T) -> T:
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)
        return value

    def get_or(self, key: Any, make: Callable[[], T]) -> T:
        found = self.get(key)
        return self.put(key, make()) if found is None else found
