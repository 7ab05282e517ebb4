"""Progress bars, which are shown only if the command line or a notebook turns them on."""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
_Track = Callable[[Iterable[T], str, int | None], Iterable[T]]


def _silent(items: Iterable[T], description: str, total: int | None) -> Iterable[T]:
    return items


_show: _Track = _silent


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Yield the items and report progress to the active listener.

    Args:
        items: the items to process.
        description: the label of the progress bar.
        total: the number of items, if `items` has no length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    return _show(items, description, total)


@contextmanager
def listening(listener: _Track) -> Iterator[None]:
    """Make a function the listener of all `track` calls inside the block."""
    global _show
    before, _show = _show, listener
    try:
        yield
    finally:
        _show = before


@contextmanager
def show() -> Iterator[Callable[[], None]]:
    """Show progress bars with the remaining time on standard error inside the block.

    Yields:
        A function that removes the bars before the block ends.
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
    # The speed is averaged over the whole run, because a cell of a study takes minutes.
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
