"""Draw docs/house.svg, the wings of the package and their imports: ``python docs/draw_house.py``.

tests/structure.py lists the wings. Their contents are read from the sources: the purpose of a wing
from its docstring, the arrows from the imports of its files.
"""

import sys
import textwrap
from html import escape
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from structure import MODULES, WINGS, docstring, imported, wing_of  # noqa: E402

PICTURE = ROOT / "docs" / "house.svg"
LEGEND = (
    "An arrow leads from a wing to one that it imports. An import that follows from other arrows "
    "is left out. The command line is at the top, the ground at the bottom; files are in the order "
    "of their imports."
)
PURPOSES = {"ground": "Files that all wings may use: errors, arguments, the machine, the grid."}
TINTS = [  # by layer
    "#f3e9dc", "#e3edf7", "#e3edf7", "#e3edf7", "#e6f2e6", "#f7eecf", "#f9e4dc", "#eee6f5",
]  # fmt: skip
OPEN = {"activations"}  # wings whose files are not named, so that a new family changes nothing here
INK, GREY, LINE = "#1f2933", "#52606d", "#7b8794"
BOX, LANE, GAP, BETWEEN, MARGIN = 276, 18, 30, 64, 28  # widths and distances, in pixels
PURPOSE_WIDTH, FILES_WIDTH = 39, 39  # characters of a line

Node = str | tuple[str, str, int]  # a wing, or the place where an arrow passes a layer


def wings_imported() -> dict[str, set[str]]:
    """Return the wings that each wing imports.

    The command line imports the package, and by it all wings that have public names.
    """
    found: dict[str, set[str]] = {wing: set() for wing in WINGS}
    for module, path in MODULES.items():
        if (wing := wing_of(module)) in WINGS:
            others = imported(path)
            if "" in others and wing == "cli":
                others |= imported(MODULES[""])
            found[wing] |= {wing_of(other) for other in others} & set(WINGS) - {wing}
    return found


def reduced(edges: dict[str, set[str]]) -> dict[str, list[str]]:
    """Return the imports that do not follow from others (the transitive reduction)."""
    reach: dict[str, set[str]] = {}
    for wing in WINGS:  # from the ground up, so that the reach of all imported wings is known
        reach[wing] = edges[wing].union(*(reach[other] for other in edges[wing]))
    return {
        wing: [
            other
            for other in WINGS
            if other in edges[wing] and not any(other in reach[o] for o in edges[wing])
        ]
        for wing in WINGS
    }


def layers_of(edges: dict[str, list[str]]) -> dict[str, int]:
    """Return the layer of each wing: as high as the wings above it allow."""
    depth: dict[str, int] = {}
    for wing in WINGS:
        depth[wing] = max((depth[other] + 1 for other in edges[wing]), default=0)
    users = {wing: [u for u in WINGS if wing in edges[u]] for wing in WINGS}
    for wing in reversed(WINGS):
        if users[wing] and edges[wing]:
            depth[wing] = min(depth[user] for user in users[wing]) - 1
    return depth


def arranged(
    edges: dict[str, list[str]], depth: dict[str, int]
) -> tuple[list[list[Node]], list[list[Node]]]:
    """Return the nodes of each layer from left to right, and the nodes of each arrow."""
    rows: list[list[Node]] = [[] for _ in range(max(depth.values()) + 1)]
    for wing in WINGS:
        rows[depth[wing]].append(wing)
    paths: list[list[Node]] = []
    for wing in WINGS:
        for other in edges[wing]:
            passed: list[Node] = [
                (wing, other, layer) for layer in range(depth[wing] - 1, depth[other], -1)
            ]
            for node in passed:
                rows[node[2]].append(node)  # type: ignore[index]
            paths.append([wing, *passed, other])
    # lists and not sets, whose order would differ from one process to the next
    joined: dict[Node, list[Node]] = {node: [] for row in rows for node in row}
    for path in paths:
        for a, b in pairwise(path):
            joined[a].append(b)
            joined[b].append(a)
    best, fewest = [list(row) for row in rows], crossings(rows, joined)
    for turn in range(40):  # move each node to the middle of the nodes that it is joined to
        step = 1 if turn % 2 else -1  # from a row to the neighbour that it follows
        for layer in range(len(rows))[::-step]:
            if not 0 <= layer + step < len(rows):
                continue
            row, neighbour = rows[layer], rows[layer + step]
            near = {n: (k + 0.5) / len(neighbour) for k, n in enumerate(neighbour)}
            middle = {}
            for k, n in enumerate(row):
                ends = [near[m] for m in joined[n] if m in near]
                middle[n] = sum(ends) / len(ends) if ends else (k + 0.5) / len(row)
            row.sort(key=middle.__getitem__)
        if (count := crossings(rows, joined)) < fewest:
            best, fewest = [list(row) for row in rows], count
    return best, paths


def crossings(rows: list[list[Node]], joined: dict[Node, list[Node]]) -> int:
    """Return how many pairs of arrows cross between neighbouring layers."""
    total = 0
    for low, high in pairwise(rows):
        place = {n: k for k, n in enumerate(high)}
        ends = [(k, place[m]) for k, n in enumerate(low) for m in joined[n] if m in place]
        total += sum(a < c and b > d for a, b in ends for c, d in ends)
    return total


def purpose(wing: str) -> list[str]:
    """Return the lines that state the purpose of a wing."""
    text = PURPOSES.get(wing) or docstring(wing)
    return textwrap.wrap(text, PURPOSE_WIDTH)


def files(wing: str) -> list[str]:
    """Return the lines that name the files of a wing."""
    names = ["one file for each family"] if wing in OPEN else WINGS[wing]
    text = ", ".join(names) or f"{wing}.py"
    return textwrap.wrap(text, FILES_WIDTH, break_on_hyphens=False)


def height(node: Node) -> int:
    """Return the height of a box."""
    return 44 + 16 * len(purpose(node)) + 14 * len(files(node)) if isinstance(node, str) else 0


def text(x: float, y: float, content: str, style: str) -> str:
    """Return one line of text."""
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{escape(content)}</text>'


def box(wing: str, x: float, y: float, tint: str) -> list[str]:
    """Return a wing: its name, its purpose and its files."""
    out = [
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX}" height="{height(wing)}" rx="8" '
        f'fill="{tint}" stroke="{LINE}"/>',
        text(x + 12, y + 22, wing, f'font-size="16" font-weight="bold" fill="{INK}"'),
    ]
    y += 26
    for line in purpose(wing):
        y += 16
        out.append(text(x + 12, y, line, f'font-size="12" fill="{INK}"'))
    y += 4
    mono = f'font-size="10.5" fill="{GREY}" font-family="Menlo, Consolas, monospace"'
    for line in files(wing):
        y += 14
        out.append(text(x + 12, y, line, mono))
    return out


def draw() -> str:
    """Return the picture as SVG."""
    edges = reduced(wings_imported())
    depth = layers_of(edges)
    rows, paths = arranged(edges, depth)
    wide = {n: BOX if isinstance(n, str) else LANE for row in rows for n in row}
    widths = [sum(wide[n] for n in row) + GAP * (len(row) - 1) for row in rows]
    width = max(widths) + 2 * MARGIN
    top: dict[Node, float] = {}
    left: dict[Node, float] = {}
    lanes: dict[Node, int] = {}  # heights of the layers that arrows pass
    y: float = 84
    for row, row_width in zip(reversed(rows), reversed(widths), strict=True):
        tall = max(height(n) for n in row)
        spare = (width - 2 * MARGIN - row_width) / (len(row) + 1)
        x = MARGIN + spare
        for n in row:
            left[n], top[n] = x, y + (tall - height(n)) / 2 if isinstance(n, str) else y
            x += wide[n] + GAP + spare
        for n in row:
            lanes[n] = tall
        y += tall + BETWEEN
    bottom = y - BETWEEN + MARGIN

    def port(n: Node, other: Node, down: bool) -> float:
        """Return the x at which an arrow meets a box.

        Arrows are spread along the edge of the box, in the order of their other ends.
        """
        if not isinstance(n, str):
            return left[n] + LANE / 2
        ends = sorted(
            {p[k + 1 if down else k - 1] for p in paths for k, m in enumerate(p)
             if m == n and 0 <= (k + 1 if down else k - 1) < len(p)},
            key=lambda m: (left[m] + wide[m] / 2, str(m)),
        )  # fmt: skip
        return left[n] + BOX * (ends.index(other) + 1) / (len(ends) + 1)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{bottom:.0f}" '
        f'viewBox="0 0 {width:.0f} {bottom:.0f}" font-family="Helvetica, Arial, sans-serif">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" '
        f'markerHeight="8" orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{LINE}"/></marker>'
        "</defs>",
        text(MARGIN, 34, "The wings of ntk_numba",
             f'font-size="20" font-weight="bold" fill="{INK}"'),
        text(MARGIN, 56, LEGEND, f'font-size="12" fill="{GREY}"'),
    ]  # fmt: skip
    for path in paths:
        x0, y0 = port(path[0], path[1], True), top[path[0]] + height(path[0])
        line = f"M{x0:.0f} {y0:.0f}"
        for before, n in pairwise(path):
            x1, y1 = port(n, before, False), top[n]
            bend = (y1 - y0) * 0.5
            line += f" C{x0:.0f} {y0 + bend:.0f} {x1:.0f} {y1 - bend:.0f} {x1:.0f} {y1:.0f}"
            x0, y0 = x1, y1
            if not isinstance(n, str):
                y0 += lanes[n]
                line += f" L{x0:.0f} {y0:.0f}"
        out.append(
            f'<path d="{line}" fill="none" stroke="{LINE}" stroke-width="1.6" '
            'marker-end="url(#head)"/>'
        )
    for layer, row in enumerate(rows):
        for n in row:
            if isinstance(n, str):
                out += box(n, left[n], top[n], TINTS[layer % len(TINTS)])
    return "\n".join([*out, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw())
