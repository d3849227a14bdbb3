"""That memory which visitors used goes back: how the C library and MKL keep it for threads."""

from __future__ import annotations

import contextlib
import ctypes
import os

_M_ARENA_MAX = -8  # of malloc.h
_ARENAS = 2


def share_memory_of_threads() -> None:
    """Let all threads allocate from the same few places. To be called before torch is imported; Linux only, else nothing.

    Views are drawn in some forty threads. glibc gives each an arena of its own, up to eight a core, and MKL each its
    buffers; both are kept: of what 32 visitors left behind, two thirds belonged to nobody.
    """
    os.environ.setdefault("MKL_DISABLE_FAST_MM", "1")
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, _ARENAS)
