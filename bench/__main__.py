"""All benchmarks: ``python -m bench`` runs them, ``python -m bench speed`` runs one of them.

Each table replaces the table of the same name in bench/RESULTS.md.
"""

import argparse
from pathlib import Path

from bench import (
    accuracy,
    activations,
    claims,
    cluster,
    disk,
    figures,
    finite,
    growth,
    peers,
    recursion,
    report,
    safety,
    soak,
    speed,
    start,
    threads,
    training,
)

TABLES = {
    "accuracy": accuracy.main,
    "speed": speed.main,
    "recursion": recursion.main,
    "activations": activations.main,
    "threads": threads.main,
    "peers": peers.main,
    "disk": disk.main,
    "safety": safety.main,
    "soak": soak.main,
    "cluster": cluster.main,
    "start": start.main,
    "growth": growth.main,
    "claims": claims.main,
    "finite": finite.main,
    "training": training.main,
    "figure1": figures.figure1,
    "figure2": figures.figure2,
}


def main() -> None:
    """Run the benchmarks named on the command line, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="table", help=", ".join(TABLES))
    parser.add_argument("--n", type=int, default=disk.N, help="N of the table disk")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the table disk writes")
    options = parser.parse_args()
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"no table {', '.join(unknown)}; there are {', '.join(TABLES)}")
    for name in options.tables or TABLES:
        text = disk.main(options.n, options.folder) if name == "disk" else TABLES[name]()
        print(f"{name}\n\n{text}\n", flush=True)
        report.save(name, text)


if __name__ == "__main__":
    main()
