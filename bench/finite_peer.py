"""A program that runs neural-tangents' finite networks in the peers' environment.

It is run as ``python finite_peer.py draws '{…}'``.
"""

import json
import sys
import time
from typing import Any

import jax
import neural_tangents as nt
import numpy as np
from neural_tangents import stax


def network(widths: list[int], name: str, w_std: float, b_std: float) -> Any:
    """Return init_fn and apply_fn of a network."""
    name, _, parameter = name.partition(":")
    act = {
        "relu": stax.Relu,
        "abs": stax.Abs,
        "leaky_relu": lambda: stax.LeakyRelu(float(parameter)),
    }[name]
    layers = []
    for width in widths:
        layers += [stax.Dense(width, w_std, b_std, parameterization="ntk"), act()]
    return stax.serial(*layers[:-1])[:2]


def draws(job: dict[str, Any]) -> None:
    """Print the seconds of two calls after one that compiles, as JSON."""
    x = np.random.default_rng(0).standard_normal((job["n"], job["n0"]))
    widths = [job["width"]] * (job["depth"] - 1) + [1]
    init, apply = network(widths, "relu", 1.0, job["b_std"])
    kernel = nt.monte_carlo_kernel_fn(
        init, apply, jax.random.PRNGKey(0), n_samples=job["draws"], vmap_axes=0
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(kernel(x, None, ("nngp", "ntk")))
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds[1:]))


def entries(job: dict[str, Any]) -> None:
    """Save a network's parameters, outputs and Θ, (N, N, K, K)."""
    x = np.array(job["x"])
    init, apply = network(job["widths"], job["name"], job["w_std"], job["b_std"])
    _, params = init(jax.random.PRNGKey(3), x.shape)
    theta = nt.empirical_ntk_fn(apply, trace_axes=())(x, None, params)
    dense = [p for p in params if len(p)]
    arrays = {f"w{k}": np.asarray(w) for k, (w, _) in enumerate(dense)}
    arrays |= {f"b{k}": np.asarray(b) for k, (_, b) in enumerate(dense)}
    np.savez(job["path"], ntk=np.asarray(theta), f=np.asarray(apply(params, x)), **arrays)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    globals()[sys.argv[1]](json.loads(sys.argv[2]))
