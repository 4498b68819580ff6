"""A program that times neural-tangents' numerical dual, at the least degree that reaches an error.

It runs in the peers' environment, as ``python activations_peer.py job.json``, and prints JSON.
"""

import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from neural_tangents import stax

DEGREES = (10, 15, 20, 25, 35, 50, 70, 100, 140, 200)
FUNCTIONS = {"tanh": jnp.tanh, "silu": jax.nn.silu, "arctan": jnp.arctan}


def main() -> None:
    """Raise the degree until the error is small enough, then time the kernel."""
    jax.config.update("jax_enable_x64", True)
    job = json.loads(Path(sys.argv[1]).read_text())
    x = jnp.asarray(job["x"])
    exact = [np.array(k) for k in job["exact"]]
    for degree in DEGREES:
        _, _, kernel_fn = stax.serial(
            stax.Dense(1, 1.0, 0.0, parameterization="ntk"),
            stax.ElementwiseNumerical(FUNCTIONS[job["name"]], deg=degree),
            stax.Dense(1, 1.0, 0.0, parameterization="ntk"),
        )
        kernel = jax.jit(kernel_fn, static_argnames="get")
        compute = lambda kernel=kernel: jax.block_until_ready(kernel(x, None, ("nngp", "ntk")))  # noqa: E731
        error = 0.0
        for k, e in zip(compute(), exact, strict=True):
            root = np.sqrt(np.diag(e))
            error = max(error, float(np.abs((np.asarray(k) - e) / np.outer(root, root)).max()))
        if error <= job["error"]:
            break
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"degree": degree, "error": error, "seconds": seconds}))


if __name__ == "__main__":
    main()
