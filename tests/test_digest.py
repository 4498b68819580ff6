import numpy as np
import pytest

from ntk_numba.digest import ROWS, Digest, blocks_of
from ntk_numba.inputs.source import open_source

X = np.random.default_rng(0).standard_normal((3 * ROWS + 10, 4))


def digest_of(x, rows=None):
    return open_source(x, "X").survey(rows, digest=True).digest


def test_blocks_are_those_that_runs_of_rows_lie_in():
    assert blocks_of([range(0, 1)], 5000) == {0}
    assert blocks_of([range(ROWS - 1, ROWS + 1), range(3 * ROWS, 9999)], 3 * ROWS + 10) == {0, 1, 3}


def test_parts_make_up_the_whole(monkeypatch):
    whole = digest_of(X)
    assert all(whole.blocks) and len(whole.blocks) == 4
    first = digest_of(X, [range(0, 64)])
    others = digest_of(X, [range(ROWS, len(X))])
    assert [bool(b) for b in first.blocks] == [True, False, False, False]
    assert first.hex != whole.hex
    assert first.difference(others) == first.difference(whole) == "" == whole.difference(others)
    assert [a or b for a, b in zip(first.blocks, others.blocks, strict=True)] == list(whole.blocks)


def test_the_rows_where_data_differs_are_named():
    changed = X.copy()
    changed[ROWS + 3, 1] += 1
    digest = digest_of(X)
    assert digest.difference(digest_of(changed)) == f"rows {ROWS} to {2 * ROWS - 1}"
    last = X.copy()
    last[-1] = 0
    assert digest.difference(digest_of(last)) == f"rows {3 * ROWS} to {len(X) - 1}"
    assert digest.difference(digest_of(X[:-1])) == "shape (1546, 4) and not (1545, 4)"
    # rows that a part did not read, except those that the centre is computed from
    part = digest_of(X, [range(0, 64)])
    assert part.difference(digest_of(last, [range(0, 64)])) == "other rows"


def test_it_is_stored_and_read():
    for rows in (None, [range(ROWS, ROWS + 1)]):
        digest = digest_of(X, rows)
        assert digest.table.shape == (5, 32) and digest.table.dtype == np.uint8
        again = Digest.from_table(digest.shape, digest.table)
        assert again == digest and again.hex == digest.hex


def test_a_part_reads_its_rows_only():
    read = []

    class Watched:
        shape, dtype = X.shape, X.dtype

        def __getitem__(self, rows):
            read.append((rows.start, rows.stop))
            return X[rows]

    source = open_source(Watched(), "X")
    survey = source.survey([range(ROWS, ROWS + 64)], digest=True)
    runs = [(a, b) for a, b in read if b - a > 1]  # others are the evenly spaced ones
    assert min(a for a, _ in runs) == ROWS and max(b for _, b in runs) == 2 * ROWS
    assert len(read) - len(runs) <= 256
    assert ROWS <= survey.longest_row < 2 * ROWS


@pytest.mark.parametrize("row", [ROWS + 5, 3 * ROWS + 9])
def test_an_entry_that_is_not_finite_is_named(row):
    """The entry is in a row of the part, or in a row that the centre is computed from."""
    bad = X.copy()
    bad[row, 2] = np.nan
    with pytest.raises(ValueError, match=rf"X: row {row}, column 2 .* is nan"):
        digest_of(bad, [range(ROWS, ROWS + 1)])
