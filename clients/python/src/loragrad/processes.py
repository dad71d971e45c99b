"""What a forked child must not share with its parent: locks that another thread held, and sockets."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something that has to start anew in a child."""

    def after_fork(self) -> None: ...


_ALIVE: weakref.WeakSet[Forked] = weakref.WeakSet()


def restart_in_children(item: Forked) -> None:
    """`item.after_fork()` is called in every child that is forked while the item lives."""
    _ALIVE.add(item)


def _in_child() -> None:
    for item in list(_ALIVE):
        item.after_fork()


# Windows has no fork: there nothing needs to be registered.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
