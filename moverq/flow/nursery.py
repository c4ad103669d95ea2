"""A resource's own tasks: gone when it is left, and not to be noticed by who uses it.

A nursery wraps what comes out of its block in a group. Who writes `async with open_root(…)` and asks `except
RequestRefused` shall not have to know that there is a nursery, let alone two in each other.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from moverq.errors import leaves


@asynccontextmanager
async def open_own_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks are cancelled on leaving. The block's own error comes out as it was raised; one that a task
    had, or had beside it, comes in its group."""
    body: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as error:
                body = error
                raise
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if body is not None and leaves(group) == leaves(body):
            raise body from body.__cause__
        raise
