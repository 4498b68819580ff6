"""The objective, the screening of starts, and searches where nothing can be computed."""

import math

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.errors import InvalidValueError
from ntk_numba.predict import search
from ntk_numba.predict.search import Ascent, Objective, ascend, climb, screen
from ntk_numba.predict.space import Space

BOUNDS = {"w_std": (0.1, 10.0), "b_std": (0.01, 5.0), "noise": (1e-6, 2.0)}
ALL = ("w_std", "b_std", "noise")
NET = nk.MLP(3, "relu", [1.0, 1.5, 2.0], [0.0, 0.2, 0.3])


def task(count=25, kind="evidence", kernel="nngp"):
    x = np.random.default_rng(0).standard_normal((count, 3))
    return Objective(x, np.sin(2 * x[:, :1]) + x[:, 1:2], kernel, kind, None)


@pytest.mark.parametrize("kind", ["evidence", "loo"])
def test_gradients_by_logarithms(kind):
    for shared in (True, False):
        objective = task(kind=kind)
        space = Space(NET.replace(w_std=1.2, b_std=0.3), 0.1, ALL, shared, BOUNDS)
        vector = space.start({})
        gradient, step = objective.gradient(space, vector)[1], 1e-4

        def at(vector, space=space, objective=objective):
            return objective.gradient(space, vector)[0]

        for k, moved in enumerate(step * np.eye(len(vector))):
            near = at(vector + moved) - at(vector - moved)
            wanted = (8 * near - at(vector + 2 * moved) + at(vector - 2 * moved)) / (12 * step)
            assert gradient[k] == pytest.approx(wanted, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("room", [3, 100])
def test_screening_is_the_evidence_of_each_depth(room):
    objective = task()
    net = nk.MLP(4, "relu", 1.2, 0.3)
    spaces = [Space(net.first(depth), 0.1, ALL, True, BOUNDS) for depth in (1, 2, 4)]
    for point in ({}, {"w_std": 0.8, "b_std": 0.5, "noise": 0.3}):
        found = screen(objective, spaces, point, room)
        for space, start in zip(spaces, found, strict=True):
            placed, noise = space.place(start.vector)
            process = nk.gaussian_process(placed, objective.x, objective.targets, noise=noise)
            assert start.value == pytest.approx(process.log_marginal_likelihood, rel=1e-10)


def test_starts_where_nothing_can_be_computed():
    """Deep networks overflow, shallow ones do not; without noise equal samples are singular."""
    objective = task()
    net = nk.MLP(60, "relu", 1e4)
    spaces = [Space(net.first(depth), 0.1, (), True, BOUNDS) for depth in (2, 60)]
    shallow, deep = screen(objective, spaces, {}, 1000)
    assert math.isfinite(shallow.value)
    assert (deep.value == -math.inf and "overflow" in deep.failure) or "too large" in deep.failure
    assert climb(objective, spaces[1], [deep], 2, 10) == deep
    equal = Objective(objective.x[[0, 0, 1]], np.ones((3, 1)), "nngp", "loo", None)
    space = Space(NET, 0.0, (), True, BOUNDS)
    (start,) = screen(equal, [space], {}, 1000)
    assert "not positive definite: its factorisation fails at row 1" in start.failure
    assert ascend(equal, space, start.vector, 10).failure == start.failure


class Hill:
    """An objective with the maximum 5 at (2, 2), which cannot be computed beyond a line."""

    numbers = 1

    def __init__(self, edge):
        self.edge, self.seen = edge, []

    def gradient(self, space, vector):
        self.seen.append(vector.copy())
        if vector.sum() > self.edge:
            raise InvalidValueError("beyond the edge")
        return 5 - 0.5 * ((vector - 2) ** 2).sum(), 2 - vector


@pytest.mark.parametrize("edge", [100, 3.9, 2.0])
def test_a_search_turns_back_where_nothing_can_be_computed(edge):
    space = Space(NET, 0.1, ("w_std", "noise"), True, dict.fromkeys(ALL, (1e-06, 1000000.0)))
    hill = Hill(edge)
    end = ascend(hill, space, np.array([-3.0, -1.0]), 100)
    assert end.vector.sum() <= edge and end.evaluations == len(hill.seen) < 100
    assert end.value == 5 - 0.5 * ((end.vector - 2) ** 2).sum()
    if edge == 100:
        assert end.converged and end.vector == pytest.approx([2, 2], abs=1e-4)
    else:
        assert end.value > 5 - 0.5 * 25  # it climbs from −12 towards the edge


def test_the_best_starts_are_refined(monkeypatch):
    ends = {-3.0: 1.0, -1.0: 4.0, 0.0: 2.0}
    asked = []

    def stand_in(objective, space, start, iterations):
        asked.append(start)
        return Ascent(start, ends[start], 10, converged=True)

    monkeypatch.setattr(search, "ascend", stand_in)
    starts = [Ascent(v, v, 0, converged=False) for v in (-3.0, -math.inf, 0.0, -1.0)]
    best = climb(None, None, starts, 2, 50)
    assert asked == [0.0, -1.0] and best == Ascent(-1.0, 4.0, 20, converged=True)
