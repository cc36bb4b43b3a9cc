"""What came of `how_many`, told: a table a data set, what difference shows, and Gaussians at a known distance."""

from pathlib import Path
from statistics import mean, stdev

from dit_lab.experiments.page import write_page

COMMAND = "python -m dit_lab experiment how-many"
TITLE = "How many pictures make a difference visible?"
FIGURES = {
    "frechet": ("Fréchet", ".2f"), "spatial_frechet": ("spatial Fréchet", ".3f"), "kernel_distance": ("kernel", ".2f"),
    "precision": ("precision", ".3f"), "recall": ("recall", ".3f"), "agreement": ("agreement", ".3f"),
}  # fmt: skip
VISIBLE = 2 * 2**0.5  # spreads: two deviations of a difference of two figures


def tell(table: dict, results: Path) -> None:
    """Write the page beside the results."""
    write_page(results.with_suffix(".md"), TITLE, COMMAND, page(table))


def page(table: dict) -> str:
    """Per set of pictures what n of them say; then the smallest difference that shows; then Gaussians."""
    settings, parts = table["settings"], []
    for name, pool in dict.fromkeys((row["set"], row["pool"]) for row in table["rows"]):
        told = "as they are" if pool == "real" else f"with noise of {settings['noise']:g}"
        parts += [f"## {name}, training pictures {told}\n", *table_of(table, name, pool, said), ""]
        if pool != "real":
            parts += [f"What shows of {name}, two sets of n each:\n", *table_of(table, name, pool, shows), ""]
    parts.append(
        f"{draws(table)} sets of each number, drawn from {settings['pool']:,} training pictures, against "
        f"{settings['reference']:,} test pictures; features of the zoo's small judges; the kernel distance over all "
        "pairs. A cell is the mean over the sets ± the standard deviation over them, and in brackets the one that "
        "`evaluate` says of one set (root mean square over the sets). The last row is one set of "
        f"{settings['many']:,}. A dash: too few pictures for that many features. A difference shows where it is 2.8 "
        "standard deviations, two of a difference between two figures."
    )
    return "\n".join([*parts, "", *gaussians(table)])


def draws(table: dict) -> int:
    """How many sets of a number there are."""
    return 1 + max((row["draw"] for row in table["rows"]), default=-1)


def found(table: dict, rows: list[dict], figure: str) -> float:
    """The standard deviation of a figure over sets, as of a pool without end: without replacement sets spread less."""
    return stdev(row["figures"][figure] for row in rows) / (1 - rows[0]["count"] / table["settings"]["pool"]) ** 0.5


def table_of(table: dict, name: str, pool: str, cell) -> list[str]:
    """A row a number of pictures, a column a figure; `cell` tells one of sets' rows."""
    mine = [row for row in table["rows"] if (row["set"], row["pool"]) == (name, pool)]
    lines = [f"| pictures | {' | '.join(title for title, _ in FIGURES.values())} |", "| ---: " * 7 + "|"]
    for count in sorted({row["count"] for row in mine}):
        rows = [row for row in mine if row["count"] == count]
        if len(rows) > 1 or cell is said:
            cells = [cell(table, [row for row in rows if figure in row["figures"]], figure) for figure in FIGURES]
            lines.append(f"| {count:,} | {' | '.join(cells)} |")
    return lines


def said(table: dict, rows: list[dict], figure: str) -> str:
    """`12.34 ± 0.43 (0.40)`: mean, spread found, spread said."""
    form = FIGURES[figure][1]
    if not rows:
        return "–"
    values = [row["figures"][figure] for row in rows]
    spreads = [row["spread"][figure] for row in rows if figure in row["spread"]]
    over = f" ± {found(table, rows, figure):{form}}" if len(values) > 1 else ""
    of_one = f" ({mean(spread**2 for spread in spreads) ** 0.5:{form}})" if spreads else ""
    return f"{mean(values):{form}}{over}{of_one}"


def shows(table: dict, rows: list[dict], figure: str) -> str:
    """The smallest difference between two figures that shows, of so many pictures each."""
    return f"{VISIBLE * found(table, rows, figure):{FIGURES[figure][1]}}" if rows else "–"


def gaussians(table: dict) -> list[str]:
    """Fréchet distances between Gaussians that are known, beside what n features say."""
    lines = [
        "## Gaussians at a known distance\n",
        "| features | pictures | distance | mean | ± found | ± said | within two of the mean |",
        "| ---: " * 7 + "|",
    ]
    for row in table["gaussian"]:
        spreads = f"{row['found']:.3f} | {row['said']:.3f} | {row['covered']:.0%}"
        lines.append(f"| {row['width']} | {row['count']:,} | {row['distance']:.2f} | {row['mean']:.2f} | {spreads} |")
    return lines
