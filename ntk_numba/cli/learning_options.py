"""The options of the commands that fit models and predict with them."""

import argparse
from typing import Any

from ntk_numba.cli.groups import (
    DATA_HELP,
    classes_option,
    dtype_option,
    network_options,
    overwrite_option,
    writing_options,
)


def learning_parsers(parsers: Any) -> None:
    """Add the commands ``fit`` and ``predict``."""
    fit = parsers.add_parser("fit", help="fit a kernel regression and write it to a file")
    _fit_options(fit)
    fit.set_defaults(run="fit")
    predict = parsers.add_parser("predict", help="predict new samples with a fitted model")
    _predict_options(predict)
    predict.set_defaults(run="predict")


def _fit_options(fit: argparse.ArgumentParser) -> None:
    """Add the options of ``fit``."""
    fit.add_argument("data", metavar="X", help=f"the training samples, one per row: {DATA_HELP}")
    fit.add_argument(
        "--targets", metavar="Y", required=True,
        help="the targets, one row per sample, in a file of the same kinds; several columns are "
        "several outputs, and a column of text, such as x.csv:label, has the labels of classes",
    )  # fmt: skip
    fit.add_argument(
        "-o", "--output", metavar="MODEL", required=True, help="the file to write, such as model.h5"
    )
    network_options(fit)
    model = fit.add_argument_group("model")
    model.add_argument(
        "--kernel", choices=["ntk", "nngp", "ensemble"],
        help="the kernel; ensemble, of --process, has the distribution of trained wide networks "
        "[ntk; nngp with --process]",
    )  # fmt: skip
    model.add_argument(
        "--ridge", metavar="RIDGE",
        help="the ridge relative to the mean of the kernel's diagonal, or loo or evidence, which "
        "choose it from the targets [1e-6]",
    )  # fmt: skip
    model.add_argument(
        "--process", action="store_true", help="fit a Gaussian process instead of a regression"
    )
    model.add_argument(
        "--noise", metavar="NOISE",
        help="with --process, the variance of the noise, as --ridge [1e-6]",
    )  # fmt: skip
    model.add_argument(
        "--absolute", action="store_true",
        help="the ridge or the noise is a number with the units of the kernel",
    )  # fmt: skip
    classes_option(model)
    model.add_argument(
        "--standardize", action="store_true",
        help="subtract the mean of each feature and divide by its standard deviation; the model "
        "does the same to new samples",
    )  # fmt: skip
    model.add_argument("--gram", metavar="FILE", help="the Gram file of X, computed before")
    dtype_option(model, of="the kernel's entries")
    model.add_argument(
        "--up-to", type=float, metavar="NORM",
        help="the largest norm of all samples, see gram [that of the training samples]",
    )  # fmt: skip
    model.add_argument(
        "--reference", action="store_true",
        help="keep the path and digest of X in the model and not the samples; X has to stay",
    )  # fmt: skip
    _machine_options(fit)
    large = fit.add_argument_group(
        "large matrices", "if the matrix does not fit in --memory; samples have to fit in any case"
    )
    large.add_argument(
        "--method", choices=["auto", "cholesky", "block_krylov", "nystrom_pcg"], default="auto",
        help="how the linear system is solved: by a factor on disk, or by products with the "
        "matrix, which is computed in each of them and never stored [%(default)s: by the expected "
        "time]",
    )  # fmt: skip
    large.add_argument(
        "--tolerance", type=float, default=1e-6, metavar="T",
        help="the relative residual that products are to reach [%(default)s]",
    )  # fmt: skip
    large.add_argument(
        "--scratch", metavar="FILE",
        help="the file of the factor or of the state after each pass, with which the same command "
        "goes on after a stop; it stays [MODEL.scratch, which is removed at the end]",
    )  # fmt: skip
    fit.add_argument("--json", action="store_true", help="print JSON")
    writing_options(fit)


def _predict_options(predict: argparse.ArgumentParser) -> None:
    """Add the options of ``predict``."""
    predict.add_argument("model", metavar="MODEL", help="a file that ntk-numba fit has written")
    predict.add_argument("data", metavar="X", help=f"the new samples, one per row: {DATA_HELP}")
    predict.add_argument(
        "-o", "--output", metavar="FILE", required=True,
        help="the file to write: .npy, .npz (arrays by their names) or .csv",
    )  # fmt: skip
    predict.add_argument(
        "--std", action="store_true",
        help="also write the standard deviations of the outputs, without noise, in the Gaussian "
        "process with the same kernel and ridge: to out.std.npy for out.npy, else to the same "
        "file; the kernel matrix is computed and factorised again",
    )  # fmt: skip
    of_classes = predict.add_mutually_exclusive_group()
    of_classes.add_argument(
        "--scores", action="store_true",
        help="of a classification, write the outputs of all classes instead of the labels",
    )  # fmt: skip
    of_classes.add_argument(
        "--proba", action="store_true",
        help="of a classification, write the probabilities of all classes instead of the labels",
    )  # fmt: skip
    _machine_options(predict)
    predict.add_argument(
        "--scratch", metavar="FILE",
        help="with --std or --proba, the file of the factor if the matrix does not fit in memory, "
        "such as fit has left [a temporary file]",
    )  # fmt: skip
    overwrite_option(predict)
    predict.add_argument("--quiet", action="store_true", help="show no notices")


def _machine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that limit memory and threads."""
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--memory", metavar="SIZE", help="largest memory to use, such as 2GiB [all that is free]"
    )
    machine.add_argument(
        "--threads", type=int, metavar="N", help="largest number of threads [all cores]"
    )
