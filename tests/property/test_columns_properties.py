"""Text for terminals keeps its bounds for every text."""

from hypothesis import given
from hypothesis import strategies as st

from kernelq.columns import Column, clean, cut, pad, table, width

ANY_TEXT = st.text(st.characters(), max_size=40)
CLEAN_TEXT = ANY_TEXT.map(clean)


@given(ANY_TEXT)
def test_what_is_clean_is_visible_and_one_line(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.isprintable()
    assert clean(cleaned) == cleaned
    cleaned.encode("utf-8")  # no lone surrogate is left
    if text.isprintable():
        assert cleaned == text


@given(CLEAN_TEXT, st.integers(0, 50))
def test_what_is_cut_fits_and_begins_the_same(text: str, columns: int) -> None:
    shown = cut(text, columns)
    assert width(shown) <= columns
    if width(text) <= columns:
        assert shown == text
    elif columns:
        assert shown.endswith("…")
        assert text.startswith(shown[:-1])
        assert width(shown) >= columns - 1  # half of a wide character is left out


@given(CLEAN_TEXT, st.integers(0, 50), st.booleans())
def test_what_is_padded_has_its_columns(text: str, columns: int, to_right: bool) -> None:
    assert width(pad(text, columns, to_right=to_right)) == max(width(text), columns)


@given(
    st.lists(
        st.builds(
            Column,
            st.sampled_from(["A", "HEAD", ""]),
            st.booleans(),
            st.integers(0, 9),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=6,
    ).flatmap(
        lambda columns: st.tuples(
            st.just(columns),
            st.lists(st.tuples(*[CLEAN_TEXT] * len(columns)), max_size=5),
        )
    ),
    st.integers(1, 120),
)
def test_tables_fit_their_room(made: tuple[list[Column], list[tuple[str, ...]]], room: int) -> None:
    columns, rows = made
    lines = table(columns, rows, room)
    assert len(lines) == len(rows) + 1
    assert max(map(width, lines)) <= room
