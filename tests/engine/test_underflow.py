"""Results that are too small for their dtype are said, and results that are truly 0 are not."""

import warnings

import numpy as np
import pytest

import ntk_numba as nk

X = np.random.default_rng(0).standard_normal((70, 5))


def says(net, x, **options):
    """Return the warnings of all ways to compute kernels in memory, which have to be the same."""
    found = []
    for compute in (nk.gram, nk.diagonal):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            compute(net, x, **options)
        assert all(w.category is nk.UnderflowWarning for w in caught) and len(caught) <= 1
        found.append(str(caught[0].message) if caught else "")
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize(
    ("dtype", "fine", "deep", "first"), [("f4", 120, 160, 124), ("f8", 1000, 1100, 1020)]
)
@pytest.mark.parametrize("kernels", ["nngp", "ntk"])
def test_depth(dtype, fine, deep, first, kernels):
    options = {"dtype": dtype, "kernels": kernels}
    smallest = int(np.argmin(np.linalg.norm(X, axis=1)))
    assert says(nk.MLP(fine), X, **options) == ""
    said = says(nk.MLP(deep), X, **options)
    assert f"row {smallest} has norm {np.linalg.norm(X[smallest]):.3g}" in said
    at = int(said.partition("from layer ")[2].split()[0])
    assert abs(at - first) <= 8
    assert ("use float64" in said) == (dtype == "f4")
    # the layer that it names is the first whose variance is below the normal numbers
    variance = X[smallest] @ X[smallest] / 5 * 0.5 ** (np.arange(at - 1, at + 1) - 1)
    assert variance[1] < np.finfo(dtype).tiny <= variance[0]


def test_all_layers_and_small_rows():
    assert says(nk.MLP(3), X * 1e-25, dtype="f4", layers="all")
    assert says(nk.MLP(3, "relu", 1, [0, 0, 1]), X * 1e-25, dtype="f4") == ""
    assert says(nk.MLP(3, "relu", 1, [0, 0, 1]), X * 1e-25, dtype="f4", layers="all")
    x = X.copy()
    x[66] *= 1e-200
    assert "row 66 has norm" in says(nk.MLP(2), x)


def test_what_is_truly_0_is_not_said():
    x = X.copy()
    x[3] = 0
    for net in (
        nk.MLP(3),
        nk.MLP(3, "tanh"),
        nk.MLP(2, "relu", 0.0),
        nk.MLP(3, "relu", [1, 0, 1]),
        nk.MLP(3, "sign"),
    ):
        assert says(net, x, layers="all") == ""
    assert says(nk.MLP(2), np.eye(3)) == ""  # orthogonal rows
    assert "row 3 " in says(nk.MLP(2, "sigmoid", 1e-170), x)  # σ(0) is not 0
