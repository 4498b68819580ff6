"""The errors that the package raises for its users, under one base class.

Each is also a built-in error of the same kind, so that ``except ValueError`` and
``except OSError`` catch them too. A message names the argument, row or file, and says what to do.
"""

from ntk_numba.terminal import escaped


class NtkNumbaError(Exception):
    """The base class of all errors that the package raises for its users.

    A message may contain names from files of others, and Python prints it to the terminal. So its
    text has escapes for characters that a terminal would obey.
    """

    def __str__(self) -> str:
        return escaped(super().__str__())


class InvalidValueError(NtkNumbaError, ValueError):
    """An argument, or the content of a file, has a value that cannot be used."""


class TooLargeError(InvalidValueError):
    """A matrix does not fit in the memory that a job may take."""


class NotPositiveDefiniteError(InvalidValueError):
    """A matrix that is to be factorised is not positive definite.

    Attributes
    ----------
    row : int
        The row, counted from 0, at which the factorisation fails.
    least_eigenvalue : float or None
        The least eigenvalue of the matrix; None if it was not computed.
    least_ridge : float or None
        An absolute ridge for which the factorisation succeeds; None if it was not computed.
    equal : (int, int) or None
        The first pair of rows that are exactly equal.
    """

    row: int = 0
    least_eigenvalue: float | None = None
    least_ridge: float | None = None
    equal: tuple[int, int] | None = None


class NotConvergedError(InvalidValueError):
    """An iteration does not reach the tolerance that is asked for, with this matrix and ridge.

    Attributes
    ----------
    residual : float
        The relative residual that it has reached, the largest of all columns: ‖Y − A X‖/‖Y‖ of
        solutions, ‖K v − λ v‖/λ of eigenvectors.
    passes : int
        The number of products with the matrix.
    """

    residual: float = 1.0
    passes: int = 0

    @classmethod
    def after(cls, passes: int, residual: float, text: str) -> "NotConvergedError":
        """Return the error with this text and its facts."""
        error = cls(text)
        error.residual, error.passes = residual, passes
        return error


class NtkNumbaWarning(UserWarning):
    """The base class of all warnings that the package gives its users, with escapes as errors."""

    def __str__(self) -> str:
        return escaped(super().__str__())


class RidgeWarning(NtkNumbaWarning):
    """A ridge that was to be chosen from the data lies at the edge of what is tried."""


class UnderflowWarning(NtkNumbaWarning):
    """Results are so small that they are 0, or have few digits, in their dtype."""


class InvalidTypeError(NtkNumbaError, TypeError):
    """An argument, or the content of a file, is of a type that cannot be used."""


class ProcessError(NtkNumbaError, RuntimeError):
    """Something cannot be done in this process, whatever the arguments."""


class FileError(NtkNumbaError, OSError):
    """A file or a folder cannot be read, written or trusted."""


class MissingFileError(FileError, FileNotFoundError):
    """A file or a folder does not exist."""


class FolderError(FileError, IsADirectoryError):
    """A folder stands where a file is expected."""


class AccessError(FileError, PermissionError):
    """A file or a folder may not be read or written by this user."""


class BusyFileError(FileError, BlockingIOError):
    """Another process writes the same file."""


class OutputExistsError(FileError, FileExistsError):
    """The output file exists already, for example since another process has completed it."""


class StoppedError(FileError):
    """A job stopped before it was complete; its results are kept, and the same call resumes it."""


class TakenOverError(StoppedError, BusyFileError):
    """A job stopped because another process has taken its file over, and goes on with it."""


_OF_THE_SAME_KIND = {
    FileNotFoundError: MissingFileError,
    IsADirectoryError: FolderError,
    PermissionError: AccessError,
    BlockingIOError: BusyFileError,
    FileExistsError: OutputExistsError,
}


def folder_error(path: object, wanted: str) -> FolderError:
    """Return the error for a folder, or an empty path, where a file is expected.

    wanted : what to name instead
    """
    hint = " (the path is empty, or '.')" if str(path) == "." else ""
    return FolderError(f"{path} is a folder; name {wanted}{hint}")


def file_error(cause: Exception, text: str) -> NtkNumbaError:
    """Return an error of this hierarchy of the same kind as `cause`, with the given text."""
    for kind, ours in _OF_THE_SAME_KIND.items():
        if isinstance(cause, kind):
            return _with_number(ours(text), cause)
    if isinstance(cause, OSError):
        return _with_number(FileError(text), cause)
    return InvalidValueError(text)


def _with_number(error: FileError, cause: Exception) -> FileError:
    """Give an error the number of the system's error behind it."""
    error.errno = getattr(cause, "errno", None)
    return error
