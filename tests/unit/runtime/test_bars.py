"""Progress bars, as a person sees them: on a terminal, in a notebook, in a file."""

from __future__ import annotations

import gc
import os
import re
import sys
import types
from typing import Any

import pytest

from obsray.core.runtime import bars as module
from obsray.core.runtime.bars import Bars, marked, read_mark
from obsray.experimental import tqdm_ray
from tests.integration.terminal import Screen


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Until the test ends, this process writes to a terminal and has no bars of others."""
    screen = Screen()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((screen.columns, screen.rows)))
    monkeypatch.setattr(module, "DRAW_SECONDS", 0)
    monkeypatch.setattr(module, "bars", Bars())
    monkeypatch.setattr(tqdm_ray, "bars", module.bars)
    return screen


def test_bars_of_all_are_drawn_together_below_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_terminal(monkeypatch)
    bars = module.bars
    bars.show("a", "first 1/3", owner="w1")
    bars.show("b", "second 0/3", owner="w2")
    bars.show("c", "upper 0/9", owner="w1", position=-1)
    assert screen.shown == ["upper 0/9", "first 1/3", "second 0/3"], "those of one process stay together"
    print("said", 1)
    print("said 2", file=sys.stderr)
    bars.show("a", "first 2/3", owner="w1")
    assert screen.shown == ["said 1", "said 2", "upper 0/9", "first 2/3", "second 0/3"]
    bars.show("b", "second 3/3", owner="w2", over=True)
    assert screen.shown == ["said 1", "said 2", "second 3/3", "upper 0/9", "first 2/3"]
    bars.end_of("w1")
    assert screen.shown == ["said 1", "said 2", "second 3/3", "upper 0/9", "first 2/3"]
    print("over")
    assert screen.shown[-1] == "over" and sys.stdout is sys.stderr is screen, "streams are the program's own again"


def test_a_line_that_was_begun_is_not_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_terminal(monkeypatch)
    module.bars.show("a", "1/3")
    print("what is your name? ", end="")
    module.bars.show("a", "2/3")
    assert screen.shown == ["what is your name? "]
    print("Ann")
    assert screen.shown == ["what is your name? Ann", "2/3"]
    print("more ", end="")
    module.bars.show("a", "3/3", over=True)
    assert screen.shown == ["what is your name? Ann", "more ", "3/3"]


def test_who_keeps_the_stream_for_itself_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_terminal(monkeypatch)
    module.bars.show("a", "1/3")
    module.bars.show("b", "1/3")
    screen.write("a warning of a library\nand another\n")
    module.bars.show("a", "2/3")
    assert screen.shown == ["a warning of a library", "and another", "2/3", "1/3"]
    module.bars.hide_bars()
    assert screen.shown == ["a warning of a library", "and another"]
    tqdm_ray.safe_print("in between")
    assert screen.shown == ["a warning of a library", "and another", "in between", "2/3", "1/3"]
    module.bars.end_all()


def test_more_bars_than_lines_and_longer_ones_than_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_terminal(monkeypatch)
    screen.rows = 6
    for number in range(9):
        module.bars.show(f"b{number}", f"bar {number}")
    assert screen.shown == ["bar 0", "bar 1", "bar 2", "and 6 more"]
    for number in range(8):
        module.bars.show(f"b{number}", "over", over=True)
    module.bars.show("b8", "長" * 60)
    assert screen.shown == ["over"] * 8 + ["長" * 39]
    module.bars.show("b8", "\x1b[2Jred \x1b[31m\nand\tmore")
    assert screen.shown == ["over"] * 8 + ["red  and more"]
    module.bars.end_all()


def test_streams_are_left_alone_where_rays_variable_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_terminal(monkeypatch)
    monkeypatch.setenv("RAY_TQDM_PATCH_PRINT", "0")
    module.bars.show("a", "1/3")
    assert sys.stdout is screen
    module.bars.end_all()


def test_in_a_file_a_bar_says_its_end_and_now_and_then_where_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = Bars()
    for count in range(100):
        bars.show("a", f"{count}/100")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "LINE_SECONDS", 0)
    bars.show("a", "99/100")
    monkeypatch.setattr(module, "LINE_SECONDS", 100)
    bars.show("a", "100/100", over=True)
    assert capsys.readouterr().err == "99/100\n100/100\n"
    bars.show("b", "1/1", over=True)
    assert capsys.readouterr().err == "1/1\n", "one that is over when it is heard of"
    monkeypatch.setattr(sys, "stderr", None)
    bars.show("c", "1/1", over=True)


def test_in_a_notebook_all_bars_are_one_output(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    class Display:
        def update(self, data: dict[str, str], raw: bool) -> None:
            shown[-1].append(data["text/plain"])

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Display:
        shown.append([data["text/plain"]])
        return Display()

    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    monkeypatch.setattr("builtins.__IPYTHON__", True, raising=False)
    monkeypatch.setattr(module, "DRAW_SECONDS", 0)
    bars = Bars()
    bars.show("a", "1/2")
    bars.show("b", "1/3", owner="w")
    bars.show("a", "2/2", over=True)
    bars.end_others()
    bars.show("c", "next")
    assert shown == [["1/2", "1/2\n1/3", "2/2\n1/3", "2/2\n1/3"], ["next"]]
    bars.end_all()


def test_a_mark_is_read_as_it_was_written_and_nothing_else_is_one() -> None:
    assert read_mark(marked("12", -3, False, "rows: 1/3")) == ("12", -3, False, "rows: 1/3")
    assert read_mark(marked("12", 0, True, "")) == ("12", 0, True, "")
    for other in (
        "",
        "rows",
        "\x1b]obsray-bar;1;2;open",
        "\x1b]obsray-bar;1;x;open\x07",
        "x" + marked("1", 0, True, ""),
    ):
        assert read_mark(other) is None


def test_a_bar_looks_as_those_of_tqdm_do(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_terminal(monkeypatch)
    bar = tqdm_ray.tqdm(desc="rows", total=8, unit="row")
    assert re.fullmatch(r"rows:   0%\|          \| 0/8 \[00:00<\?, 0.00row/s\]", screen.shown[-1])
    bar.update(3)
    bar.refresh()
    assert re.fullmatch(r"rows:  37%\|███▊      \| 3/8 \[00:00<00:00, .*row/s\]", screen.shown[-1])
    bar.n, bar.total = 2_500_000, 10_000_000
    bar.set_description("lines")
    bar.refresh()
    assert screen.shown[-1].startswith("lines:  25%|██▌       | 2.5M/10M [")
    bar.total = None
    bar.refresh()
    assert re.fullmatch(r"lines: 2.5Mrow \[00:00, .*row/s\]", screen.shown[-1])
    bar.close()
    bar.update(5)
    bar.refresh()
    assert len(screen.shown) == 1 and "2.5M" in screen.shown[0]
    with tqdm_ray.tqdm(total=2) as more:
        more.update(3)
    assert screen.shown[-1].startswith("100%|██████████| 3/2 [00:00<?")
    with pytest.raises(TypeError, match="total"):
        tqdm_ray.tqdm(total="ten")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to iterate"):
        list(tqdm_ray.tqdm(total=2))


def test_bars_that_nobody_has_any_more_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_terminal(monkeypatch)

    class Feed:
        def __iter__(self) -> Any:
            yield from range(5)

    for each in tqdm_ray.tqdm(Feed(), desc="left", flush_interval_s=0):
        if each == 2:
            break
    gc.collect()
    module.bars.tick()
    assert len(screen.shown) == 1 and screen.shown[0].startswith("left: 2it [") and sys.stderr is screen
