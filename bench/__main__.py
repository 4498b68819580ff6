"""``python -m bench`` makes all tables and bench/RESULTS.md; ``python -m bench speed`` one."""

import sys
from pathlib import Path

from bench import accuracy, report, speed

TABLES = {"accuracy": accuracy, "speed": speed}


def main() -> None:
    """Make the tables named on the command line, or all of them."""
    wanted = sys.argv[1:] or list(TABLES)
    for name in wanted:
        if name not in TABLES:
            sys.exit(f"bench: no table {name!r}; there are {', '.join(TABLES)}")
    text = f"{report.machine()}\n"
    print(text)
    for name in wanted:
        section = f"## {name.capitalize()}\n\n`python -m bench {name}`\n\n{TABLES[name].main()}\n"
        print(section, flush=True)
        text += f"\n{section}"
    if wanted == list(TABLES):
        Path(__file__).with_name("RESULTS.md").write_text(f"# Results\n\n{text}")


if __name__ == "__main__":
    main()
