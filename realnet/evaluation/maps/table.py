"""The result of `realnet metrics` as an aligned text table."""

from collections.abc import Sequence
from typing import Any

GROUPS = (
    ("image_auroc", "image_ap", "image_f1_max"),
    ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pro"),
    ("aupimo",),
    ("image_auroc_official", "pixel_auroc_official", "pro_official"),
)


def table(result: dict[str, Any]) -> str:
    """Counts; metrics with intervals, PRO at every limit; by defect type; by region size."""
    parts = [_counts(result), _metrics(result)]
    if result["pro_at"] is not None:
        parts.append(_parts("defect type", result["by_defect"], result))
        parts.append(_parts("region area / image area", result["by_size"], result))
    return "\n\n".join(part for part in parts if part)


def _counts(result: dict[str, Any]) -> str:
    images = f"{result['images']} images ({result['normal_images']} normal, "
    images += f"{result['anomalous_images']} anomalous)"
    if result["image_size"]:
        images += " of {} x {} pixels".format(*result["image_size"])
    if result["regions"] is None:
        return f"{images}; no masks"
    return (
        f"{images}\n{result['regions']:,} regions, {result['defect_pixels']:,} defect pixels,"
        f" {result['normal_pixels']:,} normal pixels"
    )


def _metrics(result: dict[str, Any]) -> str:
    intervals = result["intervals"] or {}
    heading = ["metric", "value"]
    if intervals:
        drawn = result["bootstrap"]
        heading.append(f"{drawn['level']:.0%} interval ({drawn['count']} resamples of the images)")
    rows: list[list[str]] = [heading]
    for group in GROUPS:
        for key in (key for key in group if key in result):
            name = f"pro (FPR up to {result['pro_limit']:g})" if key == "pro" else key
            between = intervals.get(key)
            rows.append(
                [name, _value(result, key)]
                + (["[{:.4f}, {:.4f}]".format(*between)] if between else [])
            )
            others = result["pro_at"] or {}
            for limit, value in (
                others.items() if key == "pro" and result["pro"] is not None else ()
            ):
                if float(limit) != float(f"{result['pro_limit']:g}"):
                    rows.append([f"pro (FPR up to {limit})", f"{value:.4f}"])
    return _aligned(rows, right=())


def _parts(title: str, parts: dict[str, dict[str, Any]], result: dict[str, Any]) -> str:
    """One row for each part that has a region."""
    heading = [title, "pro", "pixel_auroc", "regions", "pixels"]
    rows = [
        [name, f"{part['pro']:.4f}", f"{part['pixel_auroc']:.4f}",
         f"{part['regions']:,}", f"{part['defect_pixels']:,}"]
        for name, part in parts.items()
        if part["pro"] is not None
    ]  # fmt: skip
    return _aligned([heading, *rows], right=range(1, 5)) if rows else ""


def _value(result: dict[str, Any], key: str) -> str:
    if result[key] is None:
        return f"undefined ({result['undefined'][key]})"
    return f"{result[key]:.4f}"


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """Columns as wide as their widest cell; the last cell of a row may be wider."""
    widths = [
        max(
            (len(row[column]) for row in rows if len(row) > column + 1 or column in right),
            default=0,
        )
        for column in range(max(map(len, rows)))
    ]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(widths[k]) if k in right else cell.ljust(widths[k])
            for k, cell in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
