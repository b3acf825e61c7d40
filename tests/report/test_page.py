"""Lines, columns, colours: nothing is ever wider than the page."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplanner.report.layout import (
    BLANK,
    Column,
    Line,
    Span,
    fit,
    line_width,
    stacked_bar,
    table,
    text_of,
    text_width,
    wrap,
)
from memplanner.report.markdown import escape
from memplanner.report.palette import CATEGORY_COLOURS, CATEGORY_GLYPHS
from memplanner.report.pictures import AXIS, Stretch, step_picture
from memplanner.report.terminal import Page, page_for
from memplanner.timeline import CATEGORIES, PHASES, Phase


def test_every_category_has_its_own_colour_and_glyph() -> None:
    assert tuple(CATEGORY_COLOURS) == tuple(CATEGORY_GLYPHS) == CATEGORIES
    assert len(set(CATEGORY_COLOURS.values())) == len(set(CATEGORY_GLYPHS.values())) == len(CATEGORIES)


@given(st.text(max_size=300), st.integers(10, 60))
def test_wrapped_lines_fit_and_drop_no_word(text: str, width: int) -> None:
    lines = wrap(text, width, first="- ", rest="  ")
    assert all(text_width(line) <= width for line in lines)
    assert all(line.isprintable() for line in lines)


@given(st.text(max_size=40).filter(str.isprintable), st.integers(1, 30))
def test_fitted_text_is_no_wider_than_asked(text: str, width: int) -> None:
    assert text_width(fit(text, width)) <= width


@given(st.lists(st.integers(0, 10**12), max_size=9), st.integers(1, 100))
def test_a_stacked_bar_is_exactly_full(sizes: list[int], width: int) -> None:
    bar = stacked_bar([(size, "x", "") for size in sizes], width)
    assert len(Page().write([bar]).strip()) == line_width(bar) == (width if sum(sizes) else 0)


def test_table_shrinks_the_column_that_may() -> None:
    lines = table((Column(), Column(shrinks=True)), [("name", Span("a long text " * 5))], 30)
    assert Page().write(lines) == "  name  a long text a long te…\n"


def test_table_escapes_control_characters() -> None:
    assert Page().write(table((Column(),), [("\x1b[31m[red]",)], 80)) == "  \\x1b[31m[red]\n"


def test_a_line_is_written_with_colours_or_with_what_stands_for_them() -> None:
    line: Line = (Span("██", "#0072B2", bold=True, plain="#+"), Span(" and "), Span("a", dim=True), Span("  "))
    assert Page().write([line, BLANK]) == "#+ and a\n\n"
    assert Page(depth="truecolor").write([line]) == "\x1b[1;38;2;0;114;178m██\x1b[0m and \x1b[2ma\x1b[0m\n"
    assert Page(depth="256").write([line]).startswith("\x1b[1;38;5;25m██\x1b[0m")


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
    st.lists(st.tuples(st.sampled_from(PHASES), st.integers(1, 100)), min_size=1, max_size=60),
    st.integers(0, 200),
    st.integers(4, 30),
)
def test_the_picture_is_as_wide_as_the_step_and_marks_its_peak(
    points: list[tuple[Phase, int]], room: int, height: int
) -> None:
    steps = [Stretch(phase=phase, size=size, by_category={"inputs": size}) for phase, size in points]
    *picture, marks, axis, _ = step_picture(steps, room, 80, height)
    assert {line_width(line) for line in (*picture, marks, axis)} == {AXIS + len(steps)}
    sizes = [size for _, size in points]
    peak = AXIS + sizes.index(max(sizes))
    assert text_of(marks)[peak] == "▲"
    if not 0 < room <= 1.6 * max(sizes):  # the limit is not drawn, and the picture ends at the peak
        assert text_of(picture[0])[peak] == "█"


def test_markdown_is_escaped() -> None:
    assert escape("[a](b)|<i>`x`@y") == "\\[a\\]\\(b\\)\\|\\<i\\>\\`x\\`\\@\u2060y"
    assert escape("https://x www.x") == "https:/\u2060/x www\u2060.x", "no address of its own becomes a link"
