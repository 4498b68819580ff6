"""ntk_numba: exact infinite-width kernels of fully connected networks, as Gram matrices.

The names below are the public ones. Each is imported when it is first used, so that
``ntk-numba --help`` does not wait for the compiler.
"""

import sys
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntk_numba import activations as activations
    from ntk_numba import errors as errors
    from ntk_numba import finite_width as finite_width
    from ntk_numba import plots as plots
    from ntk_numba.cluster.merge import merge as merge
    from ntk_numba.cluster.write import write_gram as write_gram
    from ntk_numba.compute.memory import diagonal as diagonal
    from ntk_numba.compute.memory import gram as gram
    from ntk_numba.compute.pair import Gram as Gram
    from ntk_numba.compute.verify import repair as repair
    from ntk_numba.engine.dual import dual as dual
    from ntk_numba.errors import NotConvergedError as NotConvergedError
    from ntk_numba.errors import NotPositiveDefiniteError as NotPositiveDefiniteError
    from ntk_numba.errors import NtkNumbaError as NtkNumbaError
    from ntk_numba.errors import RidgeWarning as RidgeWarning
    from ntk_numba.errors import StoppedError as StoppedError
    from ntk_numba.errors import UnderflowWarning as UnderflowWarning
    from ntk_numba.factors.cholesky import Cholesky as Cholesky
    from ntk_numba.factors.cholesky import cholesky as cholesky
    from ntk_numba.factors.cholesky_file import CholeskyFile as CholeskyFile
    from ntk_numba.factors.cholesky_file import open_cholesky as open_cholesky
    from ntk_numba.factors.factorise import repair_factor as repair_factor
    from ntk_numba.gramfile.reader import GramFile as GramFile
    from ntk_numba.gramfile.reader import open_gram as open_gram
    from ntk_numba.network import MLP as MLP
    from ntk_numba.operators.computed import kernel_operator as kernel_operator
    from ntk_numba.operators.distributed import distribute as distribute
    from ntk_numba.operators.operator import GramOperator as GramOperator
    from ntk_numba.predict.classification import class_probabilities as class_probabilities
    from ntk_numba.predict.gaussian_process import GaussianProcess as GaussianProcess
    from ntk_numba.predict.gaussian_process import gaussian_process as gaussian_process
    from ntk_numba.predict.gradient_flow import flow_distribution as flow_distribution
    from ntk_numba.predict.gradient_flow import gradient_flow as gradient_flow
    from ntk_numba.predict.gradient_flow import max_learning_rate as max_learning_rate
    from ntk_numba.predict.hyperparameters import fit_hyperparameters as fit_hyperparameters
    from ntk_numba.predict.loading import load_model as load_model
    from ntk_numba.predict.nystrom import NystromRegression as NystromRegression
    from ntk_numba.predict.nystrom import nystrom_regression as nystrom_regression
    from ntk_numba.predict.regression import KernelRidge as KernelRidge
    from ntk_numba.predict.regression import kernel_ridge as kernel_ridge
    from ntk_numba.predict.targets import one_hot as one_hot
    from ntk_numba.solvers.solve import Solution as Solution
    from ntk_numba.solvers.solve import solve as solve
    from ntk_numba.solvers.spectrum import Spectrum as Spectrum
    from ntk_numba.solvers.spectrum import spectrum as spectrum
    from ntk_numba.theory.criticality import correlation_map as correlation_map
    from ntk_numba.theory.criticality import critical_init as critical_init
    from ntk_numba.theory.criticality import fixed_point as fixed_point
    from ntk_numba.validation.check import check as check

if sys.platform == "win32":
    from ntk_numba.systems import refuse

    refuse()

__version__ = version("ntk_numba")

_HOMES = {
    "MLP": "network",
    "Gram": "compute.pair",
    "gram": "compute.memory",
    "diagonal": "compute.memory",
    "write_gram": "cluster.write",
    "merge": "cluster.merge",
    "NtkNumbaError": "errors",
    "StoppedError": "errors",
    "NotConvergedError": "errors",
    "NotPositiveDefiniteError": "errors",
    "RidgeWarning": "errors",
    "UnderflowWarning": "errors",
    "errors": "errors",
    "open_gram": "gramfile.reader",
    "GramFile": "gramfile.reader",
    "repair": "compute.verify",
    "dual": "engine.dual",
    "check": "validation.check",
    "fixed_point": "theory.criticality",
    "critical_init": "theory.criticality",
    "correlation_map": "theory.criticality",
    "cholesky": "factors.cholesky",
    "Cholesky": "factors.cholesky",
    "solve": "solvers.solve",
    "Solution": "solvers.solve",
    "CholeskyFile": "factors.cholesky_file",
    "open_cholesky": "factors.cholesky_file",
    "repair_factor": "factors.factorise",
    "GramOperator": "operators.operator",
    "spectrum": "solvers.spectrum",
    "Spectrum": "solvers.spectrum",
    "kernel_operator": "operators.computed",
    "distribute": "operators.distributed",
    "kernel_ridge": "predict.regression",
    "load_model": "predict.loading",
    "KernelRidge": "predict.regression",
    "nystrom_regression": "predict.nystrom",
    "NystromRegression": "predict.nystrom",
    "gaussian_process": "predict.gaussian_process",
    "GaussianProcess": "predict.gaussian_process",
    "one_hot": "predict.targets",
    "class_probabilities": "predict.classification",
    "fit_hyperparameters": "predict.hyperparameters",
    "gradient_flow": "predict.gradient_flow",
    "flow_distribution": "predict.gradient_flow",
    "max_learning_rate": "predict.gradient_flow",
    "activations": "activations",
    "finite_width": "finite_width",
    "plots": "plots",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOMES[name]}")
    value = module if _HOMES[name] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
