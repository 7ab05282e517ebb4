"""What is shown of long work while it runs."""

import io
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from keras_backdoor import progress
from keras_backdoor.progress import Level, Stack, track


def steps(stack: Stack, description: str, total: int):
    return stack.follow(range(total), Level(description, total), lambda: None)


def test_the_time_left_follows_from_the_finished_items(monkeypatch) -> None:
    stack = Stack([Level("cell", 4, done=1, start=100.0)])
    monkeypatch.setattr(time, "monotonic", lambda: 160.0)
    assert stack.remaining() == pytest.approx(180.0)
    assert str(stack) == "cell 1 of 4: 25% done, about 3 min left"


def test_one_part_inside_an_item_counts_as_it_goes_on() -> None:
    stack, seen = Stack(), []
    for _ in steps(stack, "run", 2):
        seen += [stack.fraction() for _ in steps(stack, "image", 4)]
    assert seen == [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875]


def test_no_time_is_guessed_from_one_of_several_parts() -> None:
    """How many more trainings follow inside the first cell is not known."""
    stack, seen = Stack(), []
    for _ in steps(stack, "cell", 2):
        for _ in steps(stack, "images", 2):
            pass
        seen += [(stack.remaining(), str(stack)) for _ in steps(stack, "epoch", 2)]
    unknown, known = seen[:2], seen[2:]
    assert unknown == [(None, "cell 1 of 2, epoch 0 of 2"), (None, "cell 1 of 2, epoch 1 of 2")]
    assert [text.partition(":")[0] for _, text in known] == [
        "cell 2 of 2, epoch 0 of 2",
        "cell 2 of 2, epoch 1 of 2",
    ]
    assert all(left is not None for left, _ in known)


def test_two_cells_at_a_time_are_shown_beside_each_other(monkeypatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 160.0)
    stack = Stack([Level("cells", 8, done=1, start=100.0)])

    def cell(name: str, halfway: threading.Barrier, done: threading.Barrier) -> None:
        for _ in stack.follow([name], Level(name, 1), lambda: None):
            for epoch in steps(stack, "epoch", 4):
                if epoch == 2:
                    halfway.wait(30)
                    done.wait(30)

    halfway, done = (threading.Barrier(3) for _ in range(2))
    threads = [threading.Thread(target=cell, args=(n, halfway, done)) for n in ("a", "b")]
    for thread in threads:
        thread.start()
    halfway.wait(30)
    main, *cells = str(stack).split("; ")
    share, bars = stack.fraction(), [level.description for level, _ in stack.fractions()]
    done.wait(30)
    for thread in threads:
        thread.join()
    assert main == "cells 2 of 8: 25% done, about 3 min left"
    assert sorted(cells) == ["a: epoch 2 of 4", "b: epoch 2 of 4"]
    assert share == (1 + 0.5 + 0.5) / 8
    assert sorted(bars) == ["a", "b", "cells", "epoch", "epoch"]
    assert str(stack) == "cells 1 of 8: 12% done, about 7 min left"


def test_lines_are_written_while_another_thread_is_at_the_first_cell(monkeypatch, capsys) -> None:
    clock = iter(range(0, 100_000, 7))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))

    def cell(name: str) -> int:
        return sum(1 for _ in track([name], name) for _ in track(range(60), "epoch"))

    def cells(pool: ThreadPoolExecutor):
        yield from pool.map(cell, ["a"])

    with progress.show(), ThreadPoolExecutor(1) as pool:
        assert list(track(cells(pool), "cells", 3)) == [60]
    lines = capsys.readouterr().err.splitlines()
    assert any(re.match(r"cells 1 of 3.*; a: epoch \d+ of 60$", line) for line in lines), lines


def test_bars_of_two_threads_on_a_terminal(monkeypatch) -> None:
    """One bar for each level; a bar that another thread removes is no error."""
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)

    def cell(name: str) -> int:
        return sum(1 for _ in track([name], name) for _ in track(range(200), "epoch"))

    with progress.show(), ThreadPoolExecutor(4) as pool:
        found = list(track(pool.map(cell, "abcdefgh"), "cells", 8))
    assert found == [200] * 8


def test_a_line_a_minute_where_output_is_no_terminal(capsys, monkeypatch) -> None:
    clock = iter(range(0, 100_000, 7))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with progress.show():
        for _ in track(range(3), "run"):
            for _ in track(range(20), "triggers"):
                pass
    lines = capsys.readouterr().err.splitlines()
    assert 5 <= len(lines) <= 40
    first, *others = lines
    assert first == "run 1 of 3, triggers 0 of 20"
    pattern = r"run [1-3] of 3(, triggers \d+ of 20)?: (\d+)% done, about [\d.]+ (s|min|h) left"
    found = [re.fullmatch(pattern, line) for line in others]
    shares = [int(match[2]) for match in found if match]
    assert len(shares) == len(others)
    assert shares == sorted(shares)


def test_lines_are_also_written_while_the_time_is_unknown(monkeypatch, capsys) -> None:
    clock = [0.0]

    def now() -> float:
        clock[0] += 7.0
        return clock[0]

    monkeypatch.setattr(time, "monotonic", now)
    with progress.show():
        for _ in track(range(1), "cell"):
            for description in ("images", "epoch"):
                for _ in track(range(30), description):
                    pass
    lines = capsys.readouterr().err.splitlines()
    assert any("images" in line and "left" in line for line in lines)
    shown = [line for line in lines if "epoch" in line]
    assert shown
    assert not any("left" in line or "%" in line for line in shown)
