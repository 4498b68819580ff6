import numpy as np
import pytest

from ntk_numba.digest import ROWS
from ntk_numba.inputs import source
from ntk_numba.inputs.source import Source, open_source
from ntk_numba.inputs.survey import largest_entry, row_norms

COUNT = 3 * ROWS + 10
X = np.random.default_rng(0).standard_normal((COUNT, 4))


class Watched(Source):
    """A source that records the runs of rows it reads, except the single rows of `sample`."""

    def __init__(self, rows):
        super().__init__("X", rows)
        self.runs = []

    def read(self, start, stop):
        if stop - start > 1:
            self.runs.append((start, stop))
        return super().read(start, stop)

    def read_lately(self):
        runs, self.runs = self.runs, []
        return runs


def mixed(scales, rows=COUNT, columns=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, columns)) * 10.0 ** rng.choice(scales, (rows, 1))


def largest_by_blocks(x):
    """Return the largest norm by an independent loop, in the order of the blocks of the source."""
    largest = 0.0
    s = open_source(x, "X")
    for start, stop in s.blocks():
        rows = s.read(start, stop).astype(float)
        scale = np.abs(rows).max()
        if scale > 0:
            rows /= scale
            largest = max(largest, float(scale * np.sqrt(np.einsum("ij,ij->i", rows, rows).max())))
    return largest


@pytest.mark.parametrize("block", [2 << 20, 20_000, 1000])
@pytest.mark.parametrize(
    "x",
    [
        X,
        X.astype(np.float32),
        X.astype(np.float16),
        X / np.linalg.norm(X, axis=1, keepdims=True),
        np.zeros((COUNT, 2)),
        (9 * X).astype(np.int8),
        mixed([-300, 0, 300]),
        mixed([-3, -2, -1, 0, 1, 2, 3]),
        mixed([-320, -310, -300]),
        mixed([0, 0.1, 150, 307]),
        np.random.default_rng(1).random((700, 3000)),
    ],
    ids=lambda x: f"{x.dtype}-{x.shape[1]}-{np.abs(x).max():.0e}",
)
def test_the_largest_norm_keeps_its_last_bit(x, block, monkeypatch):
    """Activations are fitted to the largest norm, so the bits of results depend on it."""
    monkeypatch.setattr(source, "BLOCK_BYTES", block)
    for digest in (False, True):
        s = open_source(x, "X")
        found = s.survey(digest=digest)
        assert found.largest_norm == largest_by_blocks(x)
        # it does not depend on the surveys before or after
        partial = s.survey([range(ROWS, ROWS + 1)], digest=True)
        assert partial.largest_norm <= found.largest_norm
        assert s.survey(digest=True).largest_norm == found.largest_norm
    s = open_source(x, "X").check()
    assert s.survey().largest_norm == found.largest_norm


@pytest.mark.parametrize("scales", [[0], [-300, 0, 300], [-200, 200], [-160, -150, -140]])
def test_norms_neither_overflow_nor_underflow(scales):
    x = mixed(scales)
    x[5] = 0
    exact = np.sqrt((x.astype(np.longdouble) ** 2).sum(axis=1))
    np.testing.assert_allclose(row_norms(x), exact.astype(float), rtol=1e-15, atol=0)


def test_norms_too_large_for_float64_are_infinite():
    assert row_norms(np.full((1, 9), 1e308))[0] == np.inf


@pytest.mark.parametrize("scales", [[0], [-300, 0, 300]])
def test_the_row_of_the_largest_norm_is_that_of_the_rows_asked_for(scales):
    x = mixed(scales)
    norms = row_norms(x)
    s = open_source(x, "X")
    for first in (0, 2, 1, 3, 0):
        rows = slice(first * ROWS, (first + 1) * ROWS)
        found = s.survey([range(rows.start, rows.start + 1)])
        assert found.longest_row == rows.start + np.argmax(norms[rows])
    assert s.survey().longest_row == np.argmax(norms)
    twice = np.ones((2 * ROWS, 3))
    assert open_source(twice, "X").survey().longest_row == 0


def test_no_rows_are_read_twice_for_the_same_purpose():
    s = Watched(X)
    s.survey([range(ROWS)])
    assert s.read_lately() == [(0, ROWS)]
    whole = s.survey()
    assert s.read_lately() == [(ROWS, COUNT)]
    s.survey([range(5, 6), range(700, 701)])
    s.survey()
    s.check()
    assert s.read_lately() == []
    digest = s.survey([range(ROWS, COUNT)], digest=True).digest
    assert s.read_lately() == [(ROWS, COUNT)]
    assert [bool(block) for block in digest.blocks] == [False, True, True, True]
    assert s.survey(digest=True).largest_norm == whole.largest_norm
    assert s.read_lately() == [(0, ROWS)]
    assert s.survey(digest=True).digest == open_source(X, "X").survey(digest=True).digest
    # a digest of these rows has the same blocks when more is known of the others
    assert s.survey([range(ROWS, COUNT)], digest=True).digest == digest
    assert s.read_lately() == []


def test_runs_of_rows_that_are_apart_are_read_apart():
    s = Watched(X)
    s.survey([range(3 * ROWS, COUNT), range(0, 5), range(ROWS - 1, ROWS)])
    assert s.read_lately() == [(0, ROWS), (3 * ROWS, COUNT)]


def test_blocks_that_were_not_read_to_their_end_are_not_known(monkeypatch):
    monkeypatch.setattr(source, "BLOCK_BYTES", 64 * 4 * 8)
    x = X.copy()
    x[ROWS + 100, 1] = np.nan
    s = Watched(x)
    for _ in range(2):
        with pytest.raises(ValueError, match="row 612, column 1"):
            s.survey([range(COUNT)])
    runs = s.read_lately()
    assert runs[0] == (0, 64) and runs[-1] == (576, 640) and runs.count((0, 64)) == 1
    assert runs.count((512, 576)) == 2


def test_a_digest_is_computed_only_if_it_is_requested():
    s = open_source(X, "X")
    found = s.survey().digest
    assert found.shape == X.shape and found.centre_sample == b"" and not any(found.blocks)


def test_the_largest_entry():
    assert largest_entry(np.array([[1.0, -3.0], [2.0, 0.0]])) == 3
    assert np.isnan(largest_entry(np.array([[1.0, np.nan]])))
    assert largest_entry(np.array([[1.0, -np.inf]])) == np.inf
