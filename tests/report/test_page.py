"""Lines, columns, colours: nothing is ever wider than the page."""

import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplanner.report.explain_text import columns_of
from memplanner.report.markdown import escape
from memplanner.report.palette import CATEGORY_COLOURS, CATEGORY_GLYPHS
from memplanner.report.terminal import Cell, Column, Page, fit, page_for, stacked_bar, table, text_width, wrap
from memplanner.timeline import CATEGORIES, PHASES


def test_every_category_has_its_own_colour_and_glyph() -> None:
    assert tuple(CATEGORY_COLOURS) == tuple(CATEGORY_GLYPHS) == CATEGORIES
    assert len(set(CATEGORY_COLOURS.values())) == len(set(CATEGORY_GLYPHS.values())) == len(CATEGORIES)


@given(st.text(max_size=300), st.integers(10, 60))
def test_wrapped_lines_fit_and_drop_no_word(text: str, width: int) -> None:
    lines = wrap(text, width, first="- ", rest="  ")
    assert all(text_width(line) <= width for line in lines)
    assert all(line.isprintable() for line in lines)


@given(st.text(max_size=40).filter(str.isprintable), st.integers(1, 30))
def test_fit(text: str, width: int) -> None:
    assert text_width(fit(text, width)) <= width


@given(st.lists(st.integers(0, 10**12), max_size=9), st.integers(1, 100))
def test_a_stacked_bar_is_exactly_full(sizes: list[int], width: int) -> None:
    bar = stacked_bar(Page(), [(size, "x", "") for size in sizes], width)
    assert len(bar) == (width if sum(sizes) else 0)


def test_table_shrinks_the_column_that_may() -> None:
    lines = table(Page(width=30), (Column(), Column(shrinks=True)), [("name", Cell(text="a long text " * 5))])
    assert lines == ["  name  a long text a long te…"]


def test_table_escapes_control_characters() -> None:
    assert table(Page(), (Column(),), [("\x1b[31m[red]",)]) == ["  \\x1b[31m[red]"]


@pytest.mark.parametrize(
    ("env", "width", "depth"),
    [
        ({}, 80, "none"),
        ({"COLUMNS": "120"}, 120, "none"),
        ({"COLUMNS": "500"}, 120, "none"),
        ({"COLUMNS": "5"}, 60, "none"),
        ({"COLUMNS": "wide"}, 80, "none"),
        ({"FORCE_COLOR": "1"}, 80, "256"),
        ({"FORCE_COLOR": "1", "COLORTERM": "truecolor"}, 80, "truecolor"),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, 80, "none"),
    ],
)
def test_page_of_a_pipe(env: dict[str, str], width: int, depth: str) -> None:
    assert page_for(io.StringIO(), env) == Page(width=width, depth=depth)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.sampled_from(PHASES), st.integers(0, 100)), max_size=60),
    st.integers(1, 80),
)
def test_the_picture_keeps_the_peak(points: list[tuple[str, int]], width: int) -> None:
    columns = columns_of(tuple(points), width)  # type: ignore[arg-type]
    assert len(columns) <= width
    runs = sum(a[0] != b[0] for a, b in itertools.pairwise(points)) + 1
    if points and width >= len(points) >= runs:
        assert max(size for _, size in columns) == max(size for _, size in points)


def test_markdown_is_escaped() -> None:
    assert escape("[a](b)|<i>`x`@y") == "\\[a\\]\\(b\\)\\|\\<i\\>\\`x\\`\\@\u2060y"
    assert escape("https://x www.x") == "https:/\u2060/x www\u2060.x", "no address of its own becomes a link"
