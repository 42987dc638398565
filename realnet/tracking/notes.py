"""Descriptions of runs, models and the experiment in Markdown: identity, metrics, files."""

from collections.abc import Sequence
from pathlib import Path

from realnet.tracking.contents import Content
from realnet.tracking.names import HEADLINE

ABOUT = """One run per variant and dataset (means), with a child run per category and seed. Exact
metrics of the last checkpoint, as fractions; `official_best/…` follows the protocol of the paper.
`<metric>/low`, `/high`: 95 % interval over test images; `<metric>/std`: standard deviation over
seeds. `realnet track` writes everything here from `results/` and can rebuild it."""


def percent(metrics: dict[str, float], name: str) -> str:
    """A metric with its standard deviation and interval, for a table."""
    if name not in metrics:
        return "undefined"
    text = f"{100 * metrics[name]:.1f}"
    if f"{name}/std" in metrics:
        text += f" ± {100 * metrics[f'{name}/std']:.1f}"
    if f"{name}/low" in metrics:
        text += f" [{100 * metrics[f'{name}/low']:.1f}, {100 * metrics[f'{name}/high']:.1f}]"
    return text


def table(rows: dict[str, dict[str, float]], head: str) -> str:
    """A Markdown table of the headline metrics in percent, one row per name."""
    lines = [f"| {head} | {' | '.join(HEADLINE)} |", f"|---{'|---:' * len(HEADLINE)}|"]
    for title, metrics in rows.items():
        lines.append(f"| {title} | {' | '.join(percent(metrics, name) for name in HEADLINE)} |")
    return "\n".join(lines)


def cell_note(content: Content) -> str:
    """The description of one evaluation."""
    tags = content.tags
    rows = {"last checkpoint, exact": content.metrics}
    official = {
        name: content.metrics[f"official_best/{name}_official"]
        for name in HEADLINE
        if f"official_best/{name}_official" in content.metrics
    }
    if official:
        rows["best on the test set, official"] = official
    lines = [
        f"**{tags['variant']}** on {tags['dataset']}/{tags['category']}, seed {tags['seed']},"
        f" method {tags['method']}.",
        table(rows, "percent"),
        f"- evaluation: `{tags['results']}`",
        f"- model: `{tags['model']}`",
        f"- data: `{content.data[2]}`" if content.data else "",
        f"- commit `{tags['commit'][:12]}`, {tags['device']}, {content.seconds / 60:.1f} min",
        "",
        f"`realnet predict {tags['model']} IMAGE... --out maps`",
    ]
    return f"{lines[0]}\n\n{lines[1]}\n\n" + "\n".join(line for line in lines[2:])


def variant_note(content: Content, cells: Sequence[Content]) -> str:
    """The description of a variant: its means, then each category (means over seeds)."""
    tags = content.tags
    rows = {"**mean**": content.metrics}
    for category in tags["categories"].split(","):
        members = [cell.metrics for cell in cells if cell.tags["category"] == category]
        if len(members) == 1:
            rows[category] = members[0]
        else:
            rows[category] = {
                name: sum(metrics[name] for metrics in members) / len(members)
                for name in HEADLINE
                if all(name in metrics for metrics in members)
            }
    folder = Path(cells[0].tags["results"]).parents[2]
    seeds = f"seed{'s' if ',' in tags['seed'] else ''} {tags['seed'].replace(',', ', ')}"
    return (
        f"**{tags['variant']}** on {tags['dataset']}: {len(cells)} evaluations, {seeds}.\n\n"
        f"{table(rows, 'percent')}\n\n"
        f"- evaluations: `{folder}/*/seed*/{Path(cells[0].tags['results']).name}`\n"
        f"- tables: `{folder.parents[1]}/tables`"
    )


def model_note(cell: Content, uri: str, copied: bool) -> str:
    """The description of a model version in the registry."""
    tags = cell.tags
    where = "its files are copied" if copied else f"its files are read from `{tags['model']}`"
    numbers = table({"last checkpoint": cell.metrics}, "percent")
    return (
        f"**{tags['variant']}** on {tags['dataset']}/{tags['category']}, seed {tags['seed']},"
        f" method {tags['method']}; {where}.\n\n{numbers}\n\n"
        f"```python\nmodel = mlflow.pyfunc.load_model('{uri}')\n"
        "found = model.predict(image)  # uint8 [H, W, 3] or [N, H, W, 3], or a list of paths\n"
        "found['score'], found['map']\n```\n"
    )
