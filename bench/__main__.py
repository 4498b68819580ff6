"""All benchmarks: ``python -m bench`` runs them, ``python -m bench speed`` runs one of them.

Each table replaces the table of the same name in bench/RESULTS.md.
"""

import argparse
from pathlib import Path

from bench import (
    accuracy,
    activations,
    cholesky,
    claims,
    classification,
    cluster,
    disk,
    figures,
    finite,
    growth,
    larger,
    node,
    passes,
    peers,
    prediction,
    recursion,
    regression,
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
    "cholesky": cholesky.main,
    "safety": safety.main,
    "soak": soak.main,
    "cluster": cluster.main,
    "start": start.main,
    "growth": growth.main,
    "node": node.main,
    "claims": claims.main,
    "finite": finite.main,
    "operator": passes.main,
    "training": training.main,
    "classification": classification.main,
    "regression": regression.main,
    "prediction": prediction.main,
    "larger": larger.main,
    "figure1": figures.figure1,
    "figure2": figures.figure2,
}


def main() -> None:
    """Run the benchmarks named on the command line, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="table", help=", ".join(TABLES))
    parser.add_argument("--n", type=int, help="N of the tables that take one")
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="where tables that use a disk write"
    )
    options = parser.parse_args()
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"no table {', '.join(unknown)}; there are {', '.join(TABLES)}")
    sizes = {} if options.n is None else {"n": options.n}
    on_disk = {**sizes, "folder": options.folder}
    given = dict.fromkeys(("disk", "operator", "cholesky", "larger"), on_disk)
    given |= {"prediction": sizes}
    for name in options.tables or TABLES:
        text = TABLES[name](**given.get(name, {}))
        print(f"{name}\n\n{text}\n", flush=True)
        report.save(name, text)


if __name__ == "__main__":
    main()
