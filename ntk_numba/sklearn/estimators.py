"""A regressor and a classifier for scikit-learn."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from ntk_numba.arguments import KernelName
from ntk_numba.network import MLP
from ntk_numba.predict.classification import class_probabilities
from ntk_numba.predict.loading import as_process
from ntk_numba.predict.regression import KernelRidge, kernel_ridge
from ntk_numba.predict.targets import one_hot
from ntk_numba.sklearn.calibration import Calibration
from ntk_numba.sklearn.kernel import ActivationSpec

Floats = NDArray[np.floating]
_SAMPLES: dict[str, Any] = {"accept_sparse": "csr", "dtype": np.float64}


class _KernelRegression(BaseEstimator):
    """What the regressor and the classifier have in common."""

    def __init__(
        self,
        depth: int = 3,
        activation: ActivationSpec = "relu",
        w_std: float | Sequence[float] = 1.0,
        b_std: float | Sequence[float] = 0.1,
        kernel: KernelName = "ntk",
        ridge: float | Literal["loo", "evidence"] = 1e-6,
    ) -> None:
        self.depth = depth
        self.activation = activation
        self.w_std = w_std
        self.b_std = b_std
        self.kernel = kernel
        self.ridge = ridge

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _fit(self, X: Any, targets: Floats) -> Self:
        """Fit the coefficients of the samples."""
        net = MLP(self.depth, self.activation, self.w_std, self.b_std)
        model = kernel_ridge(net, X, targets, kernel=self.kernel, ridge=self.ridge)
        self.model_ = model
        self.ridge_ = model.ridge
        self.dual_coef_ = model.dual_coef[:, 0] if model.flat else model.dual_coef
        return self

    def _new(self, X: Any) -> tuple[KernelRidge, Any]:
        """Return the fitted model, and new samples for it."""
        check_is_fitted(self)
        samples = validate_data(self, X, **_SAMPLES, reset=False)
        return self.model_, samples


class NTKRegressor(RegressorMixin, _KernelRegression):
    """Ridge regression with the kernel of an infinitely wide network.

    The prediction for x is f(x) = K(x, X) α, where K is Θ∞⁽ᴸ⁾ or Σ⁽ᴸ⁾ of the network and the
    coefficients solve (K + r I) α = y; see `ntk_numba.kernel_ridge`.

    Parameters
    ----------
    depth : int
        L ≥ 1, the number of weight layers, of which L − 1 are hidden.
    activation : str, Activation or sequence of them
        One for all hidden layers, or one for each of the L − 1.
    w_std, b_std : float or sequence of float
        σ_w and β, one for all layers or one for each of the L.
    kernel : "ntk" or "nngp"
        Θ: the mean of trained wide networks; Σ: the mean of Bayesian ones.
    ridge : float, "loo" or "evidence"
        r, relative to the mean of the diagonal of K, or how to choose it from the targets.

    Attributes
    ----------
    model_ : KernelRidge
        The fitted model, see `ntk_numba.kernel_ridge`. It keeps a copy of the samples, and the
        Cholesky factor of K + r I, which is left out of a pickle and computed again when it is
        needed, which is not for the mean.
    dual_coef_ : (N,) or (N, n_out) array
        α.
    ridge_ : float
        The number that was added to the diagonal, in the units of K.
    n_features_in_ : int
        The number of features.
    feature_names_in_ : array of str
        The names of the features, if X was a data frame with names.

    Notes
    -----
    There is no intercept: y is used as it is, as in scikit-learn's KernelRidge. If its mean is far
    from 0 compared with its spread, use `sklearn.compose.TransformedTargetRegressor`. The kernel
    depends on the scale of the features; put a StandardScaler before the estimator in a pipeline.

    Samples are converted to float64, and the fit takes memory for one matrix of N × N numbers.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), NTKRegressor(depth=2, ridge=1.0))
    >>> print(f"{cross_val_score(model, X, y).mean():.2f}")
    0.45
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the regression.

        Parameters
        ----------
        X : (N, n0) array, sparse matrix or data frame
        y : (N,) or (N, n_out) real numbers

        Returns
        -------
        The estimator.

        Raises
        ------
        NotPositiveDefiniteError
            A ValueError: the ridge is too small, for example 0 with equal samples. The message
            names the samples and a ridge that is large enough.
        ValueError, TypeError
            See `ntk_numba.kernel_ridge`, and scikit-learn's `validate_data`.
        """
        samples, y = validate_data(self, X, y, **_SAMPLES, multi_output=True, y_numeric=True)
        return self._fit(samples, y)

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predict the outputs for new samples, and their standard deviations if wanted.

        The standard deviation is that of the Gaussian process with covariance s²K and noise
        variance s²r, which has the same mean for any s. For each output, s² = yᵀα/N, which
        maximises the marginal likelihood. So the standard deviations have the units of y and do
        not depend on the scale of the kernel. They are without the noise.

        Parameters
        ----------
        X : (M, n0) array, sparse matrix or data frame
        return_std : bool
            Whether to return the standard deviations too.

        Returns
        -------
        mean : (M,) or (M, n_out) float64 array
        std : array of the same shape, if wanted
        """
        model, samples = self._new(X)
        if not return_std:
            return model.predict(samples)
        mean, std = as_process(model, model.factor).predict(samples, return_std=True)
        unit = np.abs(model.targets).max(axis=0)
        unit[unit == 0] = 1  # so that no product overflows
        powers = (model.targets / unit * (model.dual_coef / unit)).mean(axis=0)
        scale = unit * np.sqrt(np.maximum(powers, 0))
        return mean, (std[:, None] * scale).reshape(mean.shape)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class NTKClassifier(ClassifierMixin, _KernelRegression):
    """Classification by ridge regression with the kernel of an infinitely wide network.

    The targets of C classes are 1 − 1/C for the class of a sample and −1/C for the others, and the
    class with the largest predicted output is chosen (Lee et al. 2018, *Deep Neural Networks as
    Gaussian Processes*); see `ntk_numba.one_hot` and `ntk_numba.kernel_ridge`.

    Parameters
    ----------
    depth, activation, w_std, b_std, kernel, ridge
        See `NTKRegressor`.

    Attributes
    ----------
    classes_ : (C,) array
        The labels, in increasing order.
    dual_coef_ : (N, C) array
        The coefficients of the samples for each class.
    model_, ridge_, n_features_in_, feature_names_in_
        See `NTKRegressor`.

    Notes
    -----
    Samples are converted to float64. The kernel depends on the scale of the features; put a
    StandardScaler before the estimator in a pipeline.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_wine(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), NTKClassifier())
    >>> search = GridSearchCV(model, {"ntkclassifier__depth": [1, 2, 3]}).fit(X, y)
    >>> print(search.best_params_, f"{search.best_score_:.2f}")
    {'ntkclassifier__depth': 3} 0.98
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the classifier.

        Parameters
        ----------
        X : (N, n0) array, sparse matrix or data frame
        y : (N,) labels of at least two classes: numbers, strings or truth values

        Returns
        -------
        The estimator.

        Raises
        ------
        NotPositiveDefiniteError, ValueError, TypeError
            See `NTKRegressor.fit`.
        """
        samples, y = validate_data(self, X, y, **_SAMPLES)
        check_classification_targets(y)
        targets, self.classes_ = one_hot(column_or_1d(y, warn=True))
        self._fit(samples, targets)
        self._calibration = Calibration(self.model_)
        return self

    def decision_function(self, X: Any) -> Floats:
        """Return the outputs of the regression for new samples.

        Parameters
        ----------
        X : (M, n0) array, sparse matrix or data frame

        Returns
        -------
        (M, C) float64, or (M,) for two classes
            For two classes it is the output of the second class minus that of the first one, that
            is, the prediction of targets of 1 and −1.
        """
        model, samples = self._new(X)
        outputs = model.predict(samples)
        return outputs[:, 1] - outputs[:, 0] if len(self.classes_) == 2 else outputs

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the class with the largest output for each of the M new samples, (M,)."""
        model, samples = self._new(X)
        outputs = model.predict(samples)
        return self.classes_[outputs.argmax(axis=1)]

    def predict_proba(self, X: Any) -> Floats:
        """Return the probability of each class that its output is the largest.

        The outputs are independent Gaussians around those of the regression, with one standard
        deviation for all samples and classes, see `ntk_numba.class_probabilities`. It is the one
        for which the leave-one-out predictions of the training samples are most probable, so the
        probabilities are calibrated. The first call after a fit computes it from at most 20,000
        outputs, or from 200 samples if there are more than 100 classes. It takes about as long as
        the fit, and seconds longer if there are many classes.

        Parameters
        ----------
        X : (M, n0) array, sparse matrix or data frame

        Returns
        -------
        (M, C) float64
            Rows sum to 1. The most probable class is that of `predict`.
        """
        model, samples = self._new(X)
        outputs = model.predict(samples)
        return class_probabilities(outputs, self._calibration.spread)
