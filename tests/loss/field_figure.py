#!/usr/bin/env python3
"""Draws docs/img/learned-field.svg from the table in docs/learned-field.md: the cosine of the drift with
the exact score difference, by set size. usage: field_figure.py TABLE.md FIGURE.svg [--check]
With --check it compares, so that the figure follows the table."""
import math
import sys

W, H, LEFT, RIGHT, TOP, BOTTOM = 640, 340, 58, 100, 42, 52
LINES = [("learned", "learned"), ("promised", "promised"), ("kernel, best temperature", "kernel")]
STYLE = """
  .ground { fill: #ffffff; stroke: #dde2e8 } .grid { stroke: #e8ecf0 } text { fill: #18212c; font: 13px system-ui, sans-serif }
  .muted { fill: #566374 } .learned { --c: #2b6cb0 } .kernel { --c: #c2541b } .promised { --c: #566374 }
  .line { fill: none; stroke: var(--c); stroke-width: 2 } .promised .line { stroke-dasharray: 2 5 } .dot { fill: var(--c) } .name { fill: var(--c); font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #181e26; stroke: #2a333f } .grid { stroke: #2a333f } text { fill: #e4e9ef } .muted { fill: #99a6b5 }
    .learned { --c: #6cacec } .kernel { --c: #f09a62 } .promised { --c: #99a6b5 }
  }
"""


def table(path):
    """The rows of the table that begins with "set size": {column: [value]}."""
    with open(path, encoding="utf-8") as f:
        rows = [[c.strip() for c in line.strip().strip("|").split("|")] for line in f if line.startswith("|")]
    first = next((i for i, r in enumerate(rows) if r[0] == "set size"), None)
    if first is None:
        sys.exit(f"{path}: expected a table with the column `set size`")
    body = [r for r in rows[first + 2:] if r[0].isdigit()]
    return {name: [float(r[k]) for r in body] for k, name in enumerate(rows[first])}


def draw(data):
    size = data["set size"]
    lo, hi = math.log2(min(size)), math.log2(max(size))

    def x(n):
        return LEFT + (math.log2(n) - lo) / (hi - lo) * (W - LEFT - RIGHT)

    def y(v):
        return H - BOTTOM - v * (H - TOP - BOTTOM)

    said = "; ".join(f"{name} {', '.join(f'{v:.3f}' for v in data[name])}" for name, _ in LINES)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" width="{W}" height="{H}" role="img"'
           ' aria-labelledby="t d">',
           '<title id="t">Cosine of the drift with the exact score difference, by set size</title>',
           f'<desc id="d">At {", ".join(f"{n:g}" for n in size)} samples: {said}</desc>', f"<style>{STYLE}</style>",
           f'<rect class="ground" x=".5" y=".5" width="{W - 1}" height="{H - 1}" rx="8"/>',
           f'<text x="{LEFT - 34}" y="24">cosine with the exact score difference</text>']
    for k in range(6):
        v = k / 5
        out += [f'<path class="grid" d="M{LEFT} {y(v):.1f}H{W - RIGHT}"/>',
                f'<text class="muted" x="{LEFT - 8}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.1f}</text>']
    for n in size:
        out.append(f'<text class="muted" x="{x(n):.1f}" y="{H - BOTTOM + 20}" text-anchor="middle">{n:g}</text>')
    out.append(f'<text class="muted" x="{(LEFT + W - RIGHT) / 2:.1f}" y="{H - 10}" text-anchor="middle">set size</text>')
    places = []
    for name, word in LINES:
        at = [(x(n), y(v)) for n, v in zip(size, data[name])]
        label = at[-1][1]
        while any(abs(label - p) < 17 for p in places):  # two ends at one height
            label += 1
        places.append(label)
        out.append(f'<g class="{word}"><path class="line" d="M'
                   + "L".join(f"{a:.1f} {b:.1f}" for a, b in at) + '"/>'
                   + "".join(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="{2.5 if word == "promised" else 4}"/>'
                             for a, b in at)
                   + f'<text class="name" x="{at[-1][0] + 12:.1f}" y="{label + 4:.1f}">{name.split(",")[0]}</text></g>')
    return "\n".join(out) + "\n</svg>\n"


def main():
    if len(sys.argv) not in (3, 4) or sys.argv[3:] not in ([], ["--check"]):
        sys.exit(__doc__)
    made = draw(table(sys.argv[1]))
    if sys.argv[3:]:
        with open(sys.argv[2], encoding="utf-8") as f:
            if f.read() != made:
                sys.exit(f"{sys.argv[2]} is not the figure of {sys.argv[1]}: run field_figure.py without --check")
        return
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        f.write(made)


main()
