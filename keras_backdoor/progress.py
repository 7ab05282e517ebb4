"""Progress bars: silent unless the command line or a notebook turns them on."""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
_Track = Callable[[Iterable[T], str, int | None], Iterable[T]]


def _silent(items: Iterable[T], description: str, total: int | None) -> Iterable[T]:
    return items


_show: _Track = _silent


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Yield the items and tell whoever listens how far the work is.

    Args:
        items: what is worked through.
        description: what the bar is labelled with.
        total: number of items where `items` has no length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    return _show(items, description, total)


@contextmanager
def listening(listener: _Track) -> Iterator[None]:
    """Let a function see all `track` calls while the block runs."""
    global _show
    before, _show = _show, listener
    try:
        yield
    finally:
        _show = before


@contextmanager
def show() -> Iterator[Callable[[], None]]:
    """Show bars with an estimate of the time left on standard error while the block runs.

    Yields:
        A function that takes the bars away before the block ends.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # The estimate is over the whole work: cells of a study take minutes each.
    with Progress(
        *columns, console=Console(stderr=True), transient=True, speed_estimate_period=7 * 24 * 3600
    ) as bars:

        def tracked(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
            task = bars.add_task(description, total=total)
            try:
                for item in items:
                    yield item
                    bars.advance(task)
            finally:
                bars.remove_task(task)

        with listening(tracked):
            yield bars.stop
