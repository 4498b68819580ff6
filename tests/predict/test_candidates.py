"""The printed table of a search."""

import math

import ntk_numba as nk
from ntk_numba.predict.candidates import Candidate, HyperparameterFit


def test_the_table_says_what_happened():
    net = nk.MLP(2, "relu", 1.5, 0.25)
    good = Candidate("relu", 2, 1.5, 0.25, 0.01, -12.34567, 30, True, (), "", net)
    edge = Candidate("erf", 2, (1.0, 100.0), 0.1, 0.01, -20.0, 9, True, ("w_std",), "", net)
    turned = Candidate("silu", 2, 1.0, 0.1, 0.01, -30.0, 7, False, (), "too many terms", net)
    failed = Candidate("exp", 2, 1.0, 0.1, 0.01, -math.inf, 0, False, (), "too large", net)
    slow = Candidate("none", 1, 1.0, 0.1, 1e-8, -40.0, 99, False, ("noise",), "", net)
    rows = [good, edge, turned, slow, failed]
    fit = HyperparameterFit(net, 0.01, -12.34567, "loo", "ntk", rows, [])
    assert str(fit).splitlines() == [
        "ntk of 5 networks",
        "activation  depth  w_std  b_std  noise  leave-one-out log density  evaluations",
        "relu            2    1.5   0.25   0.01                   -12.3457           30",
        "erf             2  1 100    0.1   0.01                        -20            9"
        "  w_std at its bound",
        "silu            2      1    0.1   0.01                        -30            7"
        "  not converged, turned back: too many terms",
        "none            1      1    0.1  1e-08                        -40           99"
        "  not converged; noise at its bound",
        "exp             2      1    0.1   0.01                       -inf            0"
        "  failed: too large",
    ]
    assert "screened" not in repr(fit) and "MLP" in repr(fit)
