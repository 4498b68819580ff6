"""Networks, Jacobians and kernels from the note in plain NumPy, sharing no code with the package.

Networks are loops, Jacobians complex steps, and the kernels of ReLU networks can have planted
errors.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def families():
    """Yield the modules tests/activations/test_*.py, each under a name of its own.

    pytest imports these files as modules of its own, with rewritten assertions. These copies are
    only read, so the order of the imports does not matter.
    """
    if str(HERE) not in sys.path:  # a script may load this file by its path
        sys.path.append(str(HERE))
    for path in sorted((HERE / "activations").glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"{path.stem}_for_plain", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


def collected():
    """Return the dictionaries SIGMA and KINKS of all families, each as one dictionary.

    Raises
    ------
    ValueError
        Two families have the same key.
    """
    sigma, kinks = {}, {}
    for module in families():
        for whole, attribute in ((sigma, "SIGMA"), (kinks, "KINKS")):
            own = getattr(module, attribute, {})
            if whole.keys() & own.keys():
                raise ValueError(f"{module.__file__}: {attribute} has keys of another family")
            whole.update(own)
    return sigma, kinks


# By name with parameters: σ of arrays of real or complex numbers, which the file of each family in
# tests/activations/ gives; and the x at which σ or a derivative jumps, for those that are not
# smooth
SIGMA, KINKS = collected()


def forward(x, weights, biases, sigma, w_std, b_std):
    """Return f(x), eq. 1-4, sample by sample and unit by unit."""
    outputs = []
    for row in x:
        alpha = list(row)
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            z = [
                w_std[layer]
                * sum(w * a for w, a in zip(ws, alpha, strict=True))
                / len(alpha) ** 0.5
                + b_std[layer] * b
                for ws, b in zip(weight, bias, strict=True)
            ]
            last = layer == len(weights) - 1
            alpha = z if last else [SIGMA[sigma[layer]](h) for h in z]
        outputs.append(alpha)
    return np.array(outputs)


def jacobian(x, weights, biases, sigma, w_std, b_std):
    """Return ∂f_k(x)/∂θ_p, (N, n_L, P), by complex steps, which have no truncation error."""
    step, columns = 1e-30, []
    for arrays in (weights, biases):
        for layer, array in enumerate(arrays):
            for index in np.ndindex(array.shape):
                moved = [a.astype(complex) for a in arrays]
                moved[layer][index] += 1j * step
                both = (moved, biases) if arrays is weights else (weights, moved)
                columns.append(forward(x, *both, sigma, w_std, b_std).imag / step)
    return np.moveaxis(np.array(columns), 0, -1)


def relu_kernels(x, w_std, b_std, factor=1.0, last_bias=1.0, derivative=1.0, rho=1.0):
    """Return Σ and Θ of a ReLU network, eq. 10-12 and 24-26, (L, N, N) each.

    Arguments other than 1.0 plant errors: factor multiplies E[σσ]; last_bias the last layer's β²;
    derivative Σ̇; rho the correlation of different samples.
    """
    nngp = [w_std[0] ** 2 * x @ x.T / x.shape[1] + b_std[0] ** 2]
    ntk = [nngp[0]]
    for layer, (w, b) in enumerate(zip(w_std[1:], b_std[1:], strict=True)):
        q = np.diag(nngp[-1])
        p = np.sqrt(q[:, None] * q)
        cos = np.clip(nngp[-1] / p, -1, 1)
        cos = np.where(np.eye(len(x), dtype=bool), 1.0, rho * cos)
        angle = np.arccos(cos)
        k = factor * p * (np.sin(angle) + (np.pi - angle) * cos) / (2 * np.pi)
        k_dot = derivative * (np.pi - angle) / (2 * np.pi)
        last = layer == len(w_std) - 2
        nngp.append(w**2 * k + b**2 * (last_bias if last else 1.0))
        ntk.append(w**2 * k_dot * ntk[-1] + nngp[-1])
    return np.array(nngp), np.array(ntk)
