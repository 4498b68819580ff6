"""The public functions take their data and paths by position, and their options by name only."""

import inspect

import pytest

import ntk_numba as nk

# By function: the arguments that may be passed by position
POSITIONAL = {
    "MLP": ["depth", "activation", "w_std", "b_std"],
    "Gram": ["nngp", "ntk", "error", "d_nngp", "d_ntk"],
    "gram": ["net", "X", "Z"],
    "diagonal": ["net", "X"],
    "write_gram": ["net", "X", "path"],
    "merge": ["parts", "path"],
    "open_gram": ["path"],
    "repair": ["path", "X", "Z"],
    "dual": ["activation", "q1", "q2", "rho"],
    "check": ["net", "X"],
    "fixed_point": ["activation"],
    "critical_init": ["activation"],
    "correlation_map": ["activation", "rho", "depth"],
    "gradient_flow": ["ntk", "y", "f0", "time"],
    "flow_distribution": [],
    "max_learning_rate": ["ntk", "X"],
    "cholesky": ["gram", "path"],
    "open_cholesky": ["path"],
    "repair_factor": ["path", "gram"],
    "spectrum": ["gram", "k"],
    "kernel_operator": ["net", "X", "Z"],
    "distribute": ["operator", "folder"],
    "solve": ["gram", "Y"],
    "kernel_ridge": ["net", "X", "y"],
    "nystrom_regression": ["net", "X", "y"],
    "gaussian_process": ["net", "X", "y"],
    "fit_hyperparameters": ["net", "X", "y"],
    "load_model": ["path"],
    "one_hot": ["labels"],
    "class_probabilities": ["mean", "std"],
}
FINITE_WIDTH = {
    "sample": ["net", "n_in", "width", "n_out", "seed"],
    "forward": ["params", "X"],
    "empirical_ntk": ["params", "X", "Z"],
    "empirical_nngp": ["params", "X", "Z"],
    "monte_carlo": ["net", "X", "Z"],
    "extrapolate": ["net", "X", "Z"],
    "train": ["params", "X", "y", "learning_rate", "steps"],
}
NO_FUNCTIONS = {
    "__version__", "errors", "activations", "finite_width", "plots", "GramFile", "NtkNumbaError",
    "StoppedError", "UnderflowWarning", "NotPositiveDefiniteError", "RidgeWarning", "KernelRidge",
    "GaussianProcess", "Cholesky", "CholeskyFile", "GramOperator", "Spectrum", "NystromRegression",
    "NotConvergedError", "Solution",
}  # fmt: skip


def by_position(function):
    parameters = inspect.signature(function).parameters.values()
    assert not [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]


def test_all_public_names_are_covered():
    assert set(nk.__all__) == {*POSITIONAL, *NO_FUNCTIONS} == set(dir(nk))
    for name in nk.__all__:
        assert getattr(nk, name) is not None


@pytest.mark.parametrize("name", POSITIONAL)
def test_options_are_passed_by_name(name):
    assert by_position(getattr(nk, name)) == POSITIONAL[name]


@pytest.mark.parametrize("name", FINITE_WIDTH)
def test_options_of_finite_networks_are_passed_by_name(name):
    assert by_position(getattr(nk.finite_width, name)) == FINITE_WIDTH[name]
