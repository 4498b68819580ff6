"""The commands ``fit`` and ``predict``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ntk_numba
from ntk_numba.cli.groups import network_of, wants_progress
from ntk_numba.cli.output import flush, show, show_json
from ntk_numba.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntk_numba.cli.predictions import Column
    from ntk_numba.inputs.source import Source
    from ntk_numba.predict.gaussian_process import GaussianProcess
    from ntk_numba.predict.regression import KernelRidge


FEW = 20  # different whole numbers that may be labels of classes


def fit(options: argparse.Namespace) -> bool:
    """Fit a model and write it to a file."""
    from ntk_numba.gramfile.place import partial_of
    from ntk_numba.gramfile.whole import check_output
    from ntk_numba.inputs.source import open_sources

    net, ridge = network_of(options), _ridge(options)
    target = check_output(options.output, overwrite=options.overwrite)
    x: Any
    x, _ = open_sources(options.data, None, options.memory)
    refuse_inputs([target], x, options.targets, options.gram)
    y, classes, columns = targets_of(options, x.shape[0])
    # beside the output, so that the same command goes on with it after a kill
    scratch = Path(options.scratch or f"{target}.scratch")
    refuse_inputs([scratch], x, options.targets, options.gram)
    common: dict[str, Any] = {
        "absolute": options.absolute,
        "method": options.method,
        "tolerance": options.tolerance,
        "scratch": scratch,
        "overwrite": options.overwrite or options.scratch is None,
        "gram": options.gram,
        "preprocess": "standardize" if options.standardize else None,
        "dtype": options.dtype,
        "up_to": options.up_to,
        "memory": options.memory,
        "threads": options.threads,
        "progress": wants_progress(options),
    }
    model: KernelRidge | GaussianProcess
    kernel: Any = options.kernel or ("nngp" if options.process else "ntk")
    if options.process:
        model = ntk_numba.gaussian_process(net, x, y, kernel=kernel, noise=ridge, **common)
    else:
        model = ntk_numba.kernel_ridge(net, x, y, kernel=kernel, ridge=ridge, **common)
    model.classes = classes
    model.target_names = columns
    facts = _facts(model, options)
    reference = options.data if options.reference else None
    model.save(target, overwrite=options.overwrite, reference=reference)
    if options.scratch is None:
        for left in (scratch, partial_of(scratch)):  # the latter of a factor, if a fit was stopped
            left.unlink(missing_ok=True)
    if options.json:
        show_json(facts)
    else:
        _show_fit(options.output, model, facts)
    flush()
    return True


def targets_of(options: argparse.Namespace, count: int) -> "tuple[Any, Any, list[str] | None]":
    """Read the targets of `count` samples.

    Return them, the labels of the classes if they are classes, and the names of their columns.
    """
    from ntk_numba.inputs.labels import read_targets_file
    from ntk_numba.predict.targets import one_hot, read_targets

    labels = read_targets_file(options.targets, count, classes=options.classes)
    if options.classes or labels.are_text:
        return *one_hot(labels.classes()), labels.columns
    y = read_targets(labels.values, count, labels.name)
    _note_whole_numbers(labels.name, y)
    return (y[:, 0] if labels.values.ndim == 1 else y), None, labels.columns


def _note_whole_numbers(name: str, y: Any) -> None:
    """Print a notice if numbers that are fitted may have been meant as labels of classes."""
    import numpy as np

    from ntk_numba.notices import notice

    if y.shape[1] == 1 and (y == np.rint(y)).all() and 1 < (count := len(np.unique(y))) <= FEW:
        notice(
            f"{name} has {count} different whole numbers, which are fitted as numbers; --classes "
            f"takes them as labels of classes"
        )


def _ridge(options: argparse.Namespace) -> Any:
    """Return the ridge, or the noise of a Gaussian process."""
    if options.process and options.ridge is not None:
        raise InvalidValueError("--process has a --noise, not a --ridge")
    if options.noise is not None and not options.process:
        raise InvalidValueError("--noise is of a Gaussian process: add --process, or give --ridge")
    if options.kernel == "ensemble" and not options.process:
        raise InvalidValueError("--kernel ensemble is of a Gaussian process: add --process")
    name, text = ("noise", options.noise) if options.process else ("ridge", options.ridge)
    if text is None:
        return 1e-6
    if text in ("loo", "evidence"):
        return str(text)
    try:
        return float(text)
    except ValueError:
        raise InvalidValueError(f"--{name} must be a number, loo or evidence, not {text}") from None


def refuse_inputs(targets: "Sequence[Path]", x: "Source | None", *others: str | None) -> None:
    """Raise an error if an output is one of the files that are read, or that a model refers to."""
    from ntk_numba.gramfile import place
    from ntk_numba.inputs.paths import split

    files = x.paths if x else set()
    files |= {split(other)[0] for other in others if other is not None}
    for target in targets:
        place.refuse_inputs(target, files, "read by this command")


def _facts(model: "KernelRidge | GaussianProcess", options: argparse.Namespace) -> dict[str, Any]:
    """Return what a fit has found, as --json prints it."""
    import numpy as np

    from ntk_numba.predict.large import System

    count, features = model.training.samples.shape
    facts: dict[str, Any] = {
        "model": options.output,
        "kind": model.kind,
        "kernel": model.kernel,
        "samples": count,
        "features": features,
        "outputs": model.targets.shape[1],
        "classes": [] if model.classes is None else model.classes.tolist(),
        "ridge": model.ridge,
        "relative_ridge": model.relative_ridge,
        "chosen_by": "given" if model.choice is None else model.choice.objective,
        "residual": model.residual,
        "method": model.method,
    }
    if model.kernel == "ensemble":
        return facts  # trained networks have no leave-one-out predictions in closed form
    if model.method != "cholesky":
        return facts  # they take a factor
    if options.process:
        facts["log_marginal_likelihood"] = model.log_marginal_likelihood  # type: ignore[union-attr]
    if isinstance(model.factor, System):
        return facts  # another factorisation, which would take hours
    residual = np.asarray(model.leave_one_out().residual).reshape(model.targets.shape)
    mean = model.targets - residual
    if model.classes is not None:
        right = mean.argmax(axis=1) == model.targets.argmax(axis=1)
        return facts | {"loo_right": int(right.sum()), "loo_accuracy": float(right.mean())}
    unit = np.abs(residual).max(axis=0)
    unit[unit == 0] = 1  # so that no square over- or underflows
    rmse = unit * np.sqrt(np.mean((residual / unit) ** 2, axis=0))
    return facts | {"loo_rmse": rmse.tolist()}


def _show_fit(output: str, model: "KernelRidge | GaussianProcess", facts: dict[str, Any]) -> None:
    """Print what a fit has found, for people."""
    show(f"{output}: {facts['kind'].replace('_', ' ')}, {facts['kernel']}, {model.net}")
    classes = facts["classes"]
    what = f"{len(classes)} classes" if classes else _count(facts["outputs"], "target")
    show(
        f"{'data':16} {_count(facts['samples'], 'row')}, {_count(facts['features'], 'feature')}, "
        f"{what}"
    )
    chosen = "" if model.choice is None else f", chosen by {model.choice.objective}"
    show(
        f"{model.ridge_name:16} {facts['ridge']:.4g} "
        f"({facts['relative_ridge']:.4g} of the mean of the diagonal{chosen})"
    )
    by = "" if facts["method"] == "cholesky" else f" by {facts['method']}"
    show(f"{'residual':16} {facts['residual']:.2g}{by}")
    if "log_marginal_likelihood" in facts:
        show(f"{'log evidence':16} {facts['log_marginal_likelihood']:.8g}")
    if "loo_accuracy" in facts:
        show(
            f"{'leave-one-out':16} {facts['loo_right']:,} of {facts['samples']:,} classes right, "
            f"{100 * facts['loo_accuracy']:.1f} %"
        )
    if "loo_rmse" in facts:
        names = model.target_names or []
        rmse = facts["loo_rmse"]
        shown = (
            [f"{n} {e:.4g}" for n, e in zip(names, rmse, strict=True)]
            if len(names) > 1
            else [f"{e:.4g}" for e in rmse]
        )
        show(f"{'leave-one-out':16} root mean square error {', '.join(shown)}")


def _count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def predict(options: argparse.Namespace) -> bool:
    """Predict new samples with the model of a file, and write the predictions to a file."""
    from ntk_numba.cli.predictions import check_outputs, std_path, write_predictions
    from ntk_numba.inputs.source import open_sources

    outputs = check_outputs(options.output, std=options.std, overwrite=options.overwrite)
    model = ntk_numba.load_model(options.model)
    if model.classes is None and (options.scores or options.proba):
        raise InvalidValueError(
            f"{options.model} is a regression; --scores and --proba are of classifications"
        )
    x, _ = open_sources(options.data, None, options.memory)
    refuse_inputs(outputs, x, options.model, model.reference)
    columns = _predictions(model, x, options)
    write_predictions(options.output, columns, overwrite=options.overwrite)
    where = std_path(options.output) if options.output.lower().endswith(".npy") else "the same file"
    std = f", standard deviations in {where}" if options.std else ""
    show(f"{options.output}: {next(iter(columns))} of {_count(x.shape[0], 'sample')}{std}")
    flush()
    return True


def _predictions(
    model: "KernelRidge | GaussianProcess", x: Any, options: argparse.Namespace
) -> "dict[str, Column]":
    """Return the arrays of predictions that the options ask for."""
    from ntk_numba.cli.predictions import Column
    from ntk_numba.predict.loading import as_process

    limits: dict[str, Any] = {"memory": options.memory, "threads": options.threads}
    std: Any = None
    if options.std or options.proba:
        process = as_process(model)
        mean, std = process.predict(x, return_std=True, scratch=options.scratch, **limits)
    else:
        mean = model.predict(x, **limits)
    outputs = model.targets.shape[1]
    if model.classes is None:
        names = model.target_names or [
            "prediction" if outputs == 1 else f"prediction_{k}" for k in range(outputs)
        ]
        found = {"mean": Column(mean, names)}
    elif options.scores:
        found = {"scores": Column(mean, [str(c) for c in model.classes])}
    elif options.proba:
        probabilities = ntk_numba.class_probabilities(mean, std)
        found = {"probabilities": Column(probabilities, [str(c) for c in model.classes])}
    else:
        labels = model.classes[mean.argmax(axis=1)]
        found = {"labels": Column(labels, model.target_names or ["label"])}
    if options.std:
        found["std"] = Column(std, ["std"])
    return found
