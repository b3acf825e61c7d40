"""The screens in docs/screens, three sizes of each, say what the interface says. `make screens` draws them anew."""

import pytest

from tests.tui.screens import draw, ink_of, names, path_of, text_of


@pytest.mark.parametrize(("tab", "size"), list(names()), ids=str)
def test_a_kept_screen_is_what_is_shown(tab: str, size: tuple[int, int]) -> None:
    kept = path_of(tab, size).read_text(encoding="utf-8")
    assert len([line for line in text_of(kept) if line]) > 8
    shown = draw(tab, size, text_of(kept))
    assert text_of(shown) == text_of(kept)
    assert any(ink_of(kept))
    assert ink_of(shown) == ink_of(kept)
