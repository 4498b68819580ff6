"""Plain NumPy from the note, sharing no code with the package: networks by loops, Jacobians by
complex steps, and the kernels of ReLU networks with errors planted where asked.
"""

import numpy as np
from scipy.special import erf


def cases(x, *values):
    """Return the last value, or the first one whose bound the real part of x is not above.

    Values and bounds alternate: ``cases(x, left, 0, right)`` is left up to 0 and right above.
    """
    out = values[-1]
    for value, bound in zip(values[-3::-2], values[-2::-2], strict=True):
        out = np.where(np.real(x) > bound, out, value)
    return out[()]  # a number of a number


# of arrays of real or complex numbers
SIGMA = {
    "identity": lambda x: x,
    "relu": lambda x: cases(x, 0 * x, 0, x),
    "abs": lambda x: cases(x, -x, 0, x),
    "leaky_relu:0.2": lambda x: cases(x, 0.2 * x, 0, x),
    "ab_relu:-0.5,1.5": lambda x: cases(x, -0.5 * x, 0, 1.5 * x),
    "hard_tanh": lambda x: cases(x, 0 * x - 1, -1, x, 1, 0 * x + 1),
    "relu6": lambda x: cases(x, 0 * x, 0, x, 6, 0 * x + 6),
    "piecewise_linear:0.5,0.2,-1,1,0.5,-0.3": lambda x: (
        0.5 + cases(x, 0.2 * x - 0.8, -1, x, 0.5, 0.65 - 0.3 * x)
    ),
    "elu:0.7": lambda x: cases(x, 0.7 * (np.exp(x) - 1), 0, x),
    "selu": lambda x: 1.0507009873554805 * cases(x, 1.6732632423543772 * (np.exp(x) - 1), 0, x),
    "celu:1.5": lambda x: cases(x, 1.5 * (np.exp(x / 1.5) - 1), 0, x),
    "rectified_monomial:3": lambda x: cases(x, 0 * x, 0, x**3),
    "sign": lambda x: np.sign(np.real(x)) + 0 * x,
    "heaviside": lambda x: (np.real(x) > 0) + 0 * x,
    "erf:1.5,0.7,0.2": lambda x: 1.5 * erf(0.7 * x) + 0.2,
    "normal_cdf": lambda x: (1 + erf(x / np.sqrt(2))) / 2,
    "sigmoid_like": lambda x: (1 + erf(x / 2.4020563531719796)) / 2,
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "sin:2,1.5,0.3": lambda x: 2 * np.sin(1.5 * x + 0.3),
    "cos:1,2,0": lambda x: np.cos(2 * x),
    "rbf:0.7": lambda x: np.sqrt(2) * np.sin(np.sqrt(1.4) * x + np.pi / 4),
    "exp:0.5,0.3": lambda x: 0.5 * np.exp(0.3 * x),
    "gaussian:2,-0.4": lambda x: 2 * np.exp(-0.4 * x * x),
    "gabor": lambda x: np.exp(-x * x) * np.sin(x),
    "monomial:3": lambda x: x**3,
    "polynomial:0.5,-1,0,0.25": lambda x: 0.5 - x + 0.25 * x**3,
    "hermite:2": lambda x: (x * x - 1) / np.sqrt(2),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "mish": lambda x: x * np.tanh(np.log(1 + np.exp(x))),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "softsign": lambda x: x / (1 + cases(x, -x, 0, x)),
    "arctan": np.arctan,
}


def forward(x, weights, biases, sigma, w_std, b_std):
    """f(x), eq. 1-4, sample by sample and unit by unit."""
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
    """∂f_k(x)/∂θ_p, (N, n_L, P), each by a complex step, which has no error of truncation."""
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
    """(L, N, N) Σ and Θ of a ReLU network, eq. 10-12 and 24-26; 1.0 is right everywhere.

    factor multiplies E[σσ]; last_bias the last layer's β²; derivative Σ̇; rho the correlation of
    different samples.
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
