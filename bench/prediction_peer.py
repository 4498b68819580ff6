"""A program that times one package's prediction: ``python prediction_peer.py '{"program": …}'``.

It runs in the peers' environment as well as in ours, so it imports nothing but NumPy and the
package that it times. It prints the seconds of each call after one for warming up, with
the first samples, and some of the predictions, as JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Floats = np.ndarray
Task = Callable[[Floats, Floats, Floats], Floats]


def ntk_numba_ridge(job: dict[str, Any]) -> Task:
    """Return regression on Θ by ntk_numba."""
    import ntk_numba as nk

    net = nk.MLP(job["depth"], b_std=job["b_std"])
    return lambda x, y, new: nk.kernel_ridge(net, x, y, ridge=job["ridge"]).predict(new)


def ntk_numba_process(job: dict[str, Any]) -> Task:
    """Return the Gaussian process of Σ by ntk_numba, with standard deviations."""
    import ntk_numba as nk

    net = nk.MLP(job["depth"], b_std=job["b_std"])

    def predict(x: Floats, y: Floats, new: Floats) -> Floats:
        model = nk.gaussian_process(net, x, y, noise=job["ridge"])
        return model.predict(new, return_std=True)[0]

    return predict


def ntk_numba_evidence(job: dict[str, Any]) -> Task:
    """Return the evidence of Σ by ntk_numba and its gradient in σ_w and β of all layers."""
    import ntk_numba as nk

    net = nk.MLP(job["depth"], b_std=job["b_std"])

    def evidence(x: Floats, y: Floats, new: Floats) -> Floats:
        model = nk.gaussian_process(net, x, y[:, 0], noise=job["ridge"])
        model.gradient()
        return np.atleast_1d(model.log_marginal_likelihood)

    return evidence


def neural_tangents_ridge(job: dict[str, Any]) -> Task:
    """Return regression on Θ by neural-tangents: the mean of its ensemble at the end of training.

    Its kernels are jitted.
    """
    import jax

    jax.config.update("jax_enable_x64", True)
    import neural_tangents as nt
    from neural_tangents import stax

    layers = []
    for _ in range(job["depth"]):
        layers += [stax.Dense(1, 1.0, job["b_std"], parameterization="ntk"), stax.Relu()]
    kernel = jax.jit(stax.serial(*layers[:-1])[2], static_argnames="get")

    def predict(x: Floats, y: Floats, new: Floats) -> Floats:
        model = nt.predict.gradient_descent_mse_ensemble(kernel, x, y, diag_reg=job["ridge"])
        return np.asarray(jax.block_until_ready(model(x_test=new, get="ntk")))

    return predict


def _scikit_learn(job: dict[str, Any], features: int) -> Any:
    """Return a Gaussian process of scikit-learn whose kernel has two hyperparameters."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel

    kernel = ConstantKernel(1.0) * RBF(features**0.5)
    return GaussianProcessRegressor(kernel, alpha=job["ridge"], optimizer=None)


def scikit_learn_process(job: dict[str, Any]) -> Task:
    """Return a Gaussian process by scikit-learn, with standard deviations."""

    def predict(x: Floats, y: Floats, new: Floats) -> Floats:
        model = _scikit_learn(job, x.shape[1]).fit(x, y)
        return model.predict(new, return_std=True)[0]

    return predict


def scikit_learn_evidence(job: dict[str, Any]) -> Task:
    """Return the evidence by scikit-learn and its gradient in two hyperparameters.

    The model is fitted, without an optimiser, to few samples; the evidence is that of all.
    """

    def evidence(x: Floats, y: Floats, new: Floats) -> Floats:
        model = _scikit_learn(job, x.shape[1]).fit(x[:2], y[:2, 0])
        model.X_train_, model.y_train_ = x, y[:, 0]
        value, _ = model.log_marginal_likelihood(model.kernel_.theta, eval_gradient=True)
        return np.atleast_1d(value)

    return evidence


def main() -> None:
    """Warm up, measure and print the result."""
    job = json.loads(sys.argv[1])
    random = np.random.default_rng(0)
    x, new = (random.standard_normal((n, job["n0"])) for n in (job["n"], job["new"]))
    y = random.standard_normal((job["n"], job["targets"]))
    task: Task = globals()[f"{job['program']}_{job['task']}"](job)
    task(x[: job["warm"]], y[: job["warm"]], new)
    seconds = []
    for _ in range(job["repeats"]):
        start = time.perf_counter()
        result = task(x, y, new)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "result": result.ravel()[::97].tolist()}))


if __name__ == "__main__":
    main()
