"""Tables for the screen and for Markdown."""

from terminaltables import AsciiTable, GithubFlavoredMarkdownTable


def ascii_table(rows: list[list], first_column_left: bool = True) -> str:
    """Rows (the first is the header) as a boxed table, numbers to the right."""
    table = AsciiTable([[str(cell) for cell in row] for row in rows])
    table.justify_columns = {i: "left" if i == 0 and first_column_left else "right" for i in range(len(rows[0]))}
    return table.table


def markdown_table(rows: list[list]) -> str:
    """The same as a Markdown table."""
    return GithubFlavoredMarkdownTable([[str(cell) for cell in row] for row in rows]).table


def change(before: float, after: float) -> str:
    """"-83.1 % (5.9x)": what a size or a time lost; "-" where there was nothing."""
    if not before or not after:
        return "-"
    return f"{100 * (after / before - 1):+.1f} % ({before / after:.2f}x)"


def counted(count: int, noun: str) -> str:
    """"1 epoch", "2,000 epochs": a count and its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
