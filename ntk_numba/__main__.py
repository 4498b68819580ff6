"""The command line, as ``python -m ntk_numba``."""

from ntk_numba.cli.program import main

if __name__ == "__main__":
    main()
