"""The errors of the package are one hierarchy, and each is also of a built-in kind."""

import ast
import builtins

import pytest
from structure import FILES

import ntk_numba as nk
from ntk_numba import errors

BUILT_IN = {
    errors.InvalidValueError: ValueError,
    errors.NotPositiveDefiniteError: ValueError,
    errors.NotConvergedError: ValueError,
    errors.TooLargeError: ValueError,
    errors.InvalidTypeError: TypeError,
    errors.ProcessError: RuntimeError,
    errors.FileError: OSError,
    errors.MissingFileError: FileNotFoundError,
    errors.FolderError: IsADirectoryError,
    errors.AccessError: PermissionError,
    errors.BusyFileError: BlockingIOError,
    errors.OutputExistsError: FileExistsError,
    errors.StoppedError: OSError,
    errors.TakenOverError: BlockingIOError,
}

# Built-in errors that the package itself raises, by file: those that Python's protocols ask for,
# those of bugs, and those that their callers turn into a `FileError`.
RAISED = {
    # of a name that the package does not have, and of scikit-learn if it is not installed
    "__init__.py": {"AttributeError", "ModuleNotFoundError"},
    # as h5py and NumPy raise it, and by which iteration ends
    "matrix.py": {"IndexError", "NotImplementedError"},
    "operator.py": {"IndexError", "NotImplementedError"},
    "registry.py": {"RuntimeError"},
    "writer.py": {"RuntimeError"},
    "disk.py": {"OSError"},
    "numpy_files.py": {"OSError"},
    "contents.py": {"NotImplementedError"},
    "factor.py": {"NotImplementedError"},
    "stored.py": {"NotImplementedError"},
    "schedulers.py": {"NotImplementedError"},
    "policy.py": {"NotImplementedError"},
}


def test_each_error_has_the_base_class_and_a_built_in_kind():
    found = {e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)}
    warnings = {errors.NtkNumbaWarning, errors.UnderflowWarning, errors.RidgeWarning}
    assert found == {*BUILT_IN, errors.NtkNumbaError, *warnings}
    assert all(issubclass(warning, errors.NtkNumbaWarning) for warning in warnings)
    for error, kind in BUILT_IN.items():
        assert issubclass(error, nk.NtkNumbaError) and issubclass(error, kind)
    assert nk.StoppedError is errors.StoppedError


def test_public_calls_raise_them(tmp_path):
    for call in (
        lambda: nk.MLP(0),
        lambda: nk.gram(nk.MLP(2), [[1.0]], kernels="no kernel"),
        lambda: nk.gram("relu", [[1.0]]),
        lambda: nk.open_gram(tmp_path / "none.h5"),
        lambda: nk.open_gram(tmp_path),
        lambda: nk.activations.get("rleu"),
    ):
        with pytest.raises(nk.NtkNumbaError):
            call()


def test_the_package_raises_no_other_errors():
    found = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            raised = node.exc if isinstance(node, ast.Raise) else None
            name = getattr(raised.func if isinstance(raised, ast.Call) else raised, "id", "")
            if isinstance(getattr(builtins, name, None), type):
                found.setdefault(path.name, set()).add(name)
    assert found == RAISED


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (FileNotFoundError("no"), errors.MissingFileError),
        (IsADirectoryError("no"), errors.FolderError),
        (PermissionError("no"), errors.AccessError),
        (BlockingIOError("no"), errors.BusyFileError),
        (FileExistsError("no"), errors.OutputExistsError),
        (OSError("no"), errors.FileError),
        (ValueError("no"), errors.InvalidValueError),
    ],
)
def test_an_error_of_the_same_kind_with_another_text(cause, kind):
    error = errors.file_error(cause, "x.npy cannot be read")
    assert type(error) is kind and str(error) == "x.npy cannot be read"
