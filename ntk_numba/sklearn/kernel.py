"""The kernel of a network as one of `sklearn.gaussian_process`."""

import numbers
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel

from ntk_numba.activations import Activation
from ntk_numba.arguments import KERNELS, Data, KernelName, one_of
from ntk_numba.compute.gradients import along
from ntk_numba.compute.memory import diagonal, gram
from ntk_numba.errors import InvalidValueError
from ntk_numba.network import MLP

Floats = NDArray[np.floating]
ActivationSpec: TypeAlias = str | Activation | Sequence[str | Activation]
Bounds: TypeAlias = tuple[float, float] | Literal["fixed"]


class NTKKernel(Kernel):
    """The kernel of an infinitely wide network, as a kernel of `sklearn.gaussian_process`.

    It is Θ∞⁽ᴸ⁾, the neural tangent kernel, or Σ⁽ᴸ⁾, the covariance of the network as a Gaussian
    process (NNGP); see `ntk_numba.gram`. It combines with other kernels by ``+``, ``*`` and ``**``,
    and its hyperparameters w_std and b_std are optimised by analytic gradients in
    GaussianProcessRegressor and GaussianProcessClassifier. An instance is also a callable for the
    parameter `kernel` of SVC, SVR, KernelRidge, KernelPCA, Nystroem and others, which call it once
    for the whole matrix.

    Parameters
    ----------
    depth : int
        L ≥ 1, the number of weight layers, of which L − 1 are hidden.
    activation : str, Activation or sequence of them
        One for all hidden layers, or one for each of the L − 1.
    w_std, b_std : float or sequence of float
        σ_w and β, one for all layers or one for each of the L.
    kernel : "ntk" or "nngp"
        Θ or Σ.
    w_std_bounds, b_std_bounds : (float, float) or "fixed"
        The bounds of w_std and b_std for optimisers. With "fixed" the parameter keeps its value. A
        parameter that is 0 has no logarithm, so its bounds must be "fixed". Activations given by
        series refuse large w_std, at which their errors grow; with them give bounds such as
        (0.3, 2).
    up_to : float, optional
        The largest Euclidean norm of a sample, see `ntk_numba.gram`. Activations given by series
        (tanh, silu, ...) and elu are fitted to it, or else to the samples of each call. Give it if
        samples to predict may be longer than those of the fit.

    Attributes
    ----------
    theta : array
        The logarithms of the parameters that are not fixed, in the order b_std, w_std.
    bounds : array
        The logarithms of their bounds, one row for each.

    Raises
    ------
    ValueError, TypeError
        When the kernel is used: see `ntk_numba.MLP` and `ntk_numba.gram`.

    Notes
    -----
    All results are float64. The rows of equal samples are exactly equal, the matrix of X with
    itself is exactly symmetric, and `diag` equals its diagonal bit for bit.

    The kernel is not normalised: K(x,x) grows with the norm of x and with w_std. Noise that is
    added to it, such as `alpha` of GaussianProcessRegressor or a WhiteKernel, is absolute.

    Examples
    --------
    >>> from sklearn.gaussian_process import GaussianProcessRegressor
    >>> from sklearn.gaussian_process.kernels import WhiteKernel
    >>> x = np.linspace(-1, 1, 20)[:, None]
    >>> kernel = NTKKernel(depth=3, kernel="nngp") + WhiteKernel(1e-4, "fixed")
    >>> process = GaussianProcessRegressor(kernel).fit(x, np.sin(3 * x[:, 0]))
    >>> mean, std = process.predict([[0.5]], return_std=True)
    >>> mean.round(2)
    array([1.])

    >>> from sklearn.svm import SVC
    >>> SVC(kernel=NTKKernel()).fit([[0.0, 1.0], [1.0, 0.0]], ["a", "b"]).predict([[0.1, 1.2]])
    array(['a'], dtype='<U1')
    """

    def __init__(
        self,
        depth: int = 3,
        activation: ActivationSpec = "relu",
        w_std: float | Sequence[float] = 1.0,
        b_std: float | Sequence[float] = 0.1,
        kernel: KernelName = "ntk",
        w_std_bounds: Bounds = (1e-2, 1e2),
        b_std_bounds: Bounds = (1e-3, 1e1),
        up_to: float | None = None,
    ) -> None:
        self.depth = depth
        self.activation = activation
        self.w_std = w_std
        self.b_std = b_std
        self.kernel = kernel
        self.w_std_bounds = w_std_bounds
        self.b_std_bounds = b_std_bounds
        self.up_to = up_to

    @property
    def hyperparameter_w_std(self) -> Hyperparameter:
        """The standard deviation of the weights, as a hyperparameter."""
        return self._hyperparameter("w_std")

    @property
    def hyperparameter_b_std(self) -> Hyperparameter:
        """The standard deviation of the biases, as a hyperparameter."""
        return self._hyperparameter("b_std")

    def _hyperparameter(self, name: str) -> Hyperparameter:
        """Return a parameter as a hyperparameter, with an element for each number that it has."""
        value, bounds = getattr(self, name), getattr(self, f"{name}_bounds")
        _check_bounds(f"{name}_bounds", bounds)
        if np.ndim(bounds) == 2 and len(bounds) not in (1, np.size(value)):
            raise InvalidValueError(
                f"{name}_bounds has {len(bounds)} pairs, and {name} {np.size(value)} numbers"
            )
        found = Hyperparameter(name, "numeric", bounds, np.size(value))
        if not found.fixed and not all(getattr(self._network(), name)):
            raise InvalidValueError(
                f"{name} is {value!r}, and 0 has no logarithm for an optimiser; "
                f"give {name}_bounds='fixed', or a {name} of more than 0"
            )
        return found

    def __call__(self, X: Data, Y: Data | None = None, eval_gradient: bool = False) -> Any:
        """Return the kernel of all pairs of samples, and its gradient.

        Parameters
        ----------
        X : (N, n0) samples, as for `ntk_numba.gram`
        Y : (M, n0) samples, optional
            Without them, or if Y is X, the matrix is that of X with itself.
        eval_gradient : bool
            Whether to return the derivatives by `theta` too, for which Y must be None.

        Returns
        -------
        K : (N, M) float64 array
            If X and Y are single samples of shape (n0,), it is one number.
        gradient : (N, N, n_dims) float64 array
            The derivatives by `theta`, that is, by log b_std and log w_std.
        """
        net, name = self._network(), self._kernel()
        if not eval_gradient:
            if Y is not None and _is_one_sample(X) and _is_one_sample(Y):
                return self(np.asarray(X)[None], np.asarray(Y)[None])[0, 0]
            columns = None if Y is X else Y
            k = gram(net, X, columns, kernels=name, dtype=np.float64, up_to=self.up_to)
            return getattr(k, name)
        if Y is not None:
            raise InvalidValueError("eval_gradient: the gradient is that of X with itself; omit Y")
        k = getattr(gram(net, X, kernels=name, dtype=np.float64, up_to=self.up_to), name)
        directions = self._directions(net.depth)
        if len(directions) == 0:
            return k, np.empty((*k.shape, 0))
        derivatives = along(net, X, directions, kernel=name, up_to=self.up_to)
        return k, np.moveaxis(derivatives, 0, -1)

    def _directions(self, depth: int) -> NDArray[np.float64]:
        """Return the directions of `theta` among the logarithms of all layers, see `along`."""
        directions = [np.empty((0, 2, depth))]
        for hyperparameter in self.hyperparameters:
            if not hyperparameter.fixed:
                block = np.zeros((hyperparameter.n_elements, 2, depth))
                shared = hyperparameter.n_elements == 1
                kind = 0 if hyperparameter.name == "w_std" else 1
                block[:, kind] = 1 if shared else np.eye(depth)
                directions.append(block)
        return np.concatenate(directions)

    def diag(self, X: Data) -> Floats:
        """Return K(x,x) of the N samples, (N,) float64; it takes O(N·n0) operations."""
        name = self._kernel()
        d = diagonal(self._network(), X, kernels=name, dtype=np.float64, up_to=self.up_to)
        return getattr(d, name)

    def is_stationary(self) -> bool:
        """Return False: the kernel depends on more than the difference of two samples."""
        return False

    def _network(self) -> MLP:
        """Return the network that the parameters describe."""
        return MLP(self.depth, self.activation, self.w_std, self.b_std)

    def _kernel(self) -> KernelName:
        """Return the name of the kernel."""
        return one_of("kernel", self.kernel, KERNELS)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NTKKernel) or type(self) is not type(other):
            return False
        mine, others = self.get_params(), other.get_params()
        return all(np.array_equal(mine[name], others[name]) for name in mine)

    __hash__ = None  # type: ignore[assignment]  # as all kernels of scikit-learn

    def __repr__(self) -> str:
        return (
            f"NTKKernel(depth={self.depth}, activation={self.activation!r}, "
            f"w_std={_short(self.w_std)}, b_std={_short(self.b_std)}, kernel={self.kernel!r})"
        )


def _check_bounds(name: str, bounds: Any) -> None:
    """Raise an error if the bounds of a hyperparameter are neither "fixed" nor two numbers."""
    if isinstance(bounds, str) and bounds == "fixed":
        return
    try:
        low, high = np.atleast_2d(np.asarray(bounds, float)).T
    except (ValueError, TypeError):  # not of numbers, or not of pairs
        low, high = np.zeros(1), np.zeros(1)
    if not np.all((low > 0) & (low <= high)):
        raise InvalidValueError(
            f"{name} must be 'fixed' or a pair (low, high) with 0 < low ≤ high, not {bounds!r}"
        )


def _is_one_sample(X: Any) -> bool:
    """Return whether X is a row of numbers, as scikit-learn passes it for one pair of samples."""
    if isinstance(X, np.ndarray):
        return X.ndim == 1
    return isinstance(X, list | tuple) and len(X) > 0 and np.ndim(X[0]) == 0


def _short(values: Any) -> str:
    """Return a number with three digits, several in brackets, and anything else as it is."""
    if isinstance(values, list | tuple | np.ndarray) and np.ndim(values) == 1:
        return f"[{', '.join(map(_short, values))}]"
    return f"{values:.3g}" if isinstance(values, numbers.Real) else repr(values)
