"""Progress of long work, which is shown only if the command line or a notebook turns it on."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
_Track = Callable[[Iterable[T], str, int | None], Iterable[T]]
FIRST, INTERVAL = 10.0, 60.0
"""Seconds before the first line, and between lines, where the output is not a terminal."""


def be_silent() -> None:
    """Report no progress from now on."""
    global _show, _tell
    _show, _tell = _silent, _nothing


def _nothing(text: str) -> None:
    """Tell nothing."""


_tell: Callable[[str], None] = _nothing


def tell(text: str) -> None:
    """Report an intermediate result to the active listener, as one line."""
    _tell(text)


def _silent(items: Iterable[T], description: str, total: int | None) -> Iterable[T]:
    return items


_show: _Track = _silent


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Yield the items and report progress to the active listener.

    Calls may be nested; the outermost one is the whole work.

    Args:
        items: the items to process.
        description: the label of the progress bar.
        total: the number of items, if `items` has no length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    return _show(items, description, total)


@contextmanager
def listening(listener: _Track, teller: Callable[[str], None] = _nothing) -> Iterator[None]:
    """Make functions the listeners of all `track` and `tell` calls inside the block."""
    global _show, _tell
    before = _show, _tell
    _show, _tell = listener, teller
    try:
        yield
    finally:
        _show, _tell = before


@dataclass
class Level:
    """One of the nested `track` calls.

    Attributes:
        description: its label.
        total: the number of its items, or None.
        done: the number of finished items.
        parts: the number of levels that the current item has begun inside it.
        start: the time of its first item, in seconds.
    """

    description: str
    total: int | None
    done: int = 0
    parts: int = 0
    start: float = field(default_factory=lambda: time.monotonic())


@dataclass
class Stack:
    """The nested `track` calls that are running, the outermost first.

    Attributes:
        levels: the calls of the thread that made the stack.
        branches: the calls of other threads. Each thread works on an item of the innermost call of
            `levels`.
        thread: the thread that made the stack.
    """

    levels: list[Level] = field(default_factory=list)
    branches: dict[int, list[Level]] = field(default_factory=dict)
    thread: int = field(default_factory=threading.get_ident)

    def follow(self, items: Iterable[T], level: Level, changed: Callable[[], None]) -> Iterator[T]:
        """Yield the items, count them as a new level, and call `changed` after each of them."""
        thread = threading.get_ident()
        own = self.levels if thread == self.thread else self.branches.setdefault(thread, [])
        position = len(own)
        if own:
            own[-1].parts += 1
        own.append(level)
        try:
            changed()
            for item in items:
                yield item
                level.done += 1
                level.parts = 0
                changed()
        finally:
            del own[position:]

    def fractions(self) -> Iterator[tuple[Level, float]]:
        """The running levels of all threads, with the finished fraction of each."""
        branches = self._branches()
        beside = sum(map(fraction, branches))
        for number, level in enumerate(self.levels):
            yield level, fraction(self.levels[number:], beside)
        for branch in branches:
            for number, level in enumerate(branch):
                yield level, fraction(branch[number:])

    def begins(self) -> bool:
        """Whether the outermost level has only begun, and nothing inside it."""
        return len(self.levels) == 1 and self.levels[0].done == 0 and not self._branches()

    def fraction(self) -> float:
        """The finished fraction of the whole work."""
        return next((share for _, share in self.fractions()), 0.0)

    def remaining(self) -> float | None:
        """The expected number of seconds until the whole work is finished, or None if unknown."""
        done = self.fraction()
        if not self.levels or done <= 0:
            return None
        return (time.monotonic() - self.levels[0].start) * (1 - done) / done

    def __str__(self) -> str:
        branches = self._branches()
        text, remaining = _shown(self.levels, bool(branches)), self.remaining()
        if remaining is not None:
            text += f": {self.fraction():.0%} done, about {duration(remaining)} left"
        return "; ".join([text, *map(_shown, branches)])

    def _branches(self) -> list[list[Level]]:
        """Copies of the branches, which other threads change at any time."""
        return [list(branch) for branch in list(self.branches.values()) if branch]


def fraction(levels: Sequence[Level], beside: float = 0.0) -> float:
    """The finished fraction of the first of nested levels.

    An item that begins several levels inside it, one after the other, counts when it is finished:
    how many more will follow is not known.

    Args:
        levels: the levels, the outermost first.
        beside: what other threads have finished of items of the innermost level.

    >>> fraction([Level("run", 4, done=1, parts=1), Level("step", 10, done=5)])
    0.375
    >>> fraction([Level("run", 4, done=1, parts=2), Level("step", 10, done=5)])
    0.25
    >>> fraction([Level("cell", 4, done=1)], beside=0.5 + 0.7)
    0.55
    """
    if not levels:
        return beside
    level, *inside = levels
    if not level.total:
        return 0.0
    part = fraction(inside, beside) if not inside or level.parts <= 1 else 0.0
    return min(1.0, (level.done + part) / level.total)


def _shown(levels: Sequence[Level], branched: bool = False) -> str:
    """Nested levels as text; a level of a single item is a title of those inside it.

    >>> _shown([Level("cells", 3, done=1), Level("clean 0", 1), Level("epoch", 5, done=2)])
    'cells 2 of 3, clean 0: epoch 2 of 5'
    """
    text = ""
    for level in levels:
        inner = level is not levels[-1]
        if level.total == 1:
            text += f"{level.description}{': ' if inner else ''}"
            continue
        of = f" of {level.total}" if level.total else ""
        number = level.done + ((inner or branched) and bool(level.total))
        text += f"{level.description} {number}{of}{', ' if inner else ''}"
    return text


def duration(seconds: float) -> str:
    """A number of seconds as text.

    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


@contextmanager
def show() -> Iterator[Callable[[], None]]:
    """Show progress on standard error inside the block, with the remaining time.

    On a terminal, bars are drawn. Otherwise a line is written after 10 seconds, and then once a
    minute.

    Yields:
        A function that removes the bars before the block ends.
    """
    with _bars() if sys.stderr.isatty() else _lines() as clear:
        yield clear


@contextmanager
def _lines() -> Iterator[Callable[[], None]]:
    stack, due = Stack(), [0.0]

    def changed() -> None:
        now = time.monotonic()
        if stack.begins():
            due[0] = max(due[0], now + FIRST)
        if now >= due[0]:
            due[0] = now + INTERVAL
            print(stack, file=sys.stderr, flush=True)

    def tracked(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
        return stack.follow(items, Level(description, total), changed)

    def told(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with listening(tracked, told):
        yield lambda: None


@contextmanager
def _bars() -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
    stack, lock = Stack(), threading.Lock()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[int, Any] = {}

        def changed() -> None:
            remaining = stack.remaining()
            with lock:
                for number, (level, done) in enumerate(stack.fractions()):
                    of = f"/{level.total}" if level.total else ""
                    state = [] if level.total == 1 else [f"{level.done}{of}"]
                    if number == 0 and remaining is not None:
                        state.append(f"about {duration(remaining)} left")
                    completed = done * (level.total or 0)
                    bars.update(tasks[id(level)], completed=completed, state=", ".join(state))

        def tracked(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
            level = Level(description, total)
            task = tasks[id(level)] = bars.add_task(description, total=total, state="")
            try:
                yield from stack.follow(items, level, changed)
            finally:
                with lock:
                    bars.remove_task(task)

        with listening(tracked, lambda text: bars.console.print(text, markup=False)):
            yield bars.stop
