"""RRS: layers and frequencies of the selected residual maps, and examples of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from realnet.plots import style
from realnet.plots.chain import reference
from realnet.plots.made import Drawn, Entry, Skipped, arrays, counted
from realnet.tables.published import title
from realnet.tables.runs import Results

SHOWN = 4  # rows of examples
Statistics = Mapping[str, np.ndarray]  # of realnet.evaluation.residuals.residual_statistics

BARS = (
    ("by maximum, normal", "kept_max", 0, "#9ecae1"),
    ("by maximum, anomalous", "kept_max", 1, style.COLOURS[0]),
    ("by mean, normal", "kept_mean", 0, "#fdd49e"),
    ("by mean, anomalous", "kept_mean", 1, style.COLOURS[4]),
)


@style.styled
def kept_residuals(found: Mapping[str, Statistics]) -> Figure:
    """Category -> statistics. Above left: shares of layers among the selected maps; right: how
    often each map is selected; below: residual maps of one anomalous image of some categories."""
    names = list(found)
    chosen = [n for n in names if len(found[n]["examples"])][:SHOWN]
    examples = [(n, 0) for n in chosen]
    if len(chosen) == 1:
        examples = [(chosen[0], k) for k in range(len(found[chosen[0]]["examples"]))]
    maps = found[chosen[0]]["kept_maps"].shape[1] if chosen else 0
    side, gap, tile = 0.32, 0.03, 0.0
    if chosen:
        tile = min((style.WIDTH - side - 0.85) / (2 * maps + 1) - gap, 0.8)
    head, upper = 0.28, 1.45
    second = head + upper + 0.42
    canvas = style.Canvas(second + (0.4 + len(examples) * (tile + gap) + 0.02 if chosen else 0))

    axes = canvas.axes(0.45, head, 2.75, upper)
    _layers(axes, list(found.values()))
    canvas.text(0.04, 0.05, "Layers of the selected maps", fontweight="bold")
    axes = canvas.axes(3.75, head, style.WIDTH - 3.85, upper)
    _frequencies(axes, list(found.values()))
    canvas.text(3.4, 0.05, "How often each map is selected", fontweight="bold")
    if not chosen:
        return canvas.figure

    kept_left = side + tile + gap + 0.08
    dropped_left = kept_left + maps * (tile + gap) + 0.08
    canvas.text(0.04, second, "Residual maps of anomalous test images", fontweight="bold")
    for left, words in ((side, "image"), (kept_left, "strongest selected"),
                        (dropped_left, "weakest dropped")):  # fmt: skip
        canvas.text(left, second + 0.21, words, fontsize=style.SMALL, color=style.FAINT)
    for row, (name, k) in enumerate(examples):
        data, top = found[name], second + 0.38 + row * (tile + gap)
        canvas.picture(side, top, tile, tile, data["pictures"][k])
        kept = data["kept_maps"][k].astype(np.float32)
        dropped = data["dropped_maps"][k].astype(np.float32)
        high = float(np.nanmax(kept)) if np.isfinite(kept).any() else 1.0
        low = float(np.nanmedian(np.concatenate([kept, dropped])))
        # A square root scale, since the maxima are far above all other values.
        scale = PowerNorm(0.5, low, max(high, low + 1e-6))
        last = None
        for left, pictures in ((kept_left, kept), (dropped_left, dropped)):
            for column, picture in enumerate(pictures):
                there = picture if np.isfinite(picture).any() else None
                image = canvas.picture(
                    *(left + column * (tile + gap), top, tile, tile, there, "–"),
                    cmap=style.HEAT,
                    norm=scale,
                )
                last = image or last
        canvas.text(
            *(side / 2, top + tile / 2, style.fitted(name, tile, style.SMALL)),
            rotation=90,
            ha="center",
            va="center",
            fontsize=style.SMALL,
            linespacing=1.0,
        )
        if last is not None:
            right = dropped_left + maps * (tile + gap) + 0.05
            bar = canvas.figure.colorbar(
                last, cax=canvas.axes(right, top + 0.04, 0.07, tile - 0.08)
            )
            bar.outline.set_linewidth(0.4)
            bar.set_ticks([low, high], labels=[_short(low), _short(high)])
            bar.ax.minorticks_off()
    return canvas.figure


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}"


def _layers(axes: Axes, data: list[Statistics]) -> None:
    layers = sorted(set(data[0]["layers"].tolist()))
    used = [bar for bar in BARS if any(one[bar[1]].sum() for one in data)]
    for k, (label, key, row, colour) in enumerate(used):
        shares = []
        for one in data:
            counts = np.array([one[key][row][one["layers"] == layer].sum() for layer in layers])
            if counts.sum():
                shares.append(100 * counts / counts.sum())
        if not shares:
            continue
        wide = 0.8 / len(used)
        x = np.arange(len(layers)) + (k - (len(used) - 1) / 2) * wide
        axes.bar(x, np.mean(shares, axis=0), wide * 0.92, color=colour, label=label)
        for one in shares if 1 < len(shares) <= 15 else ():
            axes.plot(x, one, ".", color=style.INK, ms=1.5, alpha=0.6)
    for place, layer in enumerate(layers):
        share = 100 * np.mean(data[0]["layers"] == layer)
        axes.plot([place - 0.45, place + 0.45], [share, share], color=style.INK, lw=0.8, ls="--",
                  label="share of all maps" if place == 0 else None)  # fmt: skip
    axes.set_xticks(range(len(layers)), [f"layer {layer + 1}" for layer in layers])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("% of the selected maps")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.45)
    axes.legend(
                fontsize=style.SMALL, loc="upper left", ncols=2, handlelength=1.0,
                columnspacing=0.8,
                borderaxespad=0, labelspacing=0.25, handletextpad=0.4)  # fmt: skip


def _frequencies(axes: Axes, data: list[Statistics]) -> None:
    """Slots per image of each map by either rule, sorted; faint: single categories."""
    total = len(data[0]["layers"])
    for row, colour, label in (
        (0, style.NORMAL, "normal images"),
        (1, style.DEFECT, "anomalous images"),
    ):
        curves = []
        for one in data:
            if one["counted"][row]:
                both = one["kept_max"][row] + one["kept_mean"][row]
                curves.append(np.sort(both / one["counted"][row])[::-1])
        if not curves:
            continue
        places = np.arange(total) + 1
        for curve in curves if len(curves) > 1 else ():
            axes.plot(places, curve, color=colour, lw=0.5, alpha=0.6 / len(curves) ** 0.5)
        axes.plot(places, np.mean(curves, axis=0), color=colour, lw=1.5, label=label)
    slots = sum(int(data[0][key].sum()) for key in ("kept_max", "kept_mean"))
    images = int(data[0]["counted"].sum())
    if images:
        axes.axhline(slots / images / total, color=style.INK, lw=0.8, ls="--",
                     label="uniform")  # fmt: skip
    axes.set(xlim=(0, total + 1), xlabel="residual maps, sorted", ylim=(0, None))
    axes.set_ylabel("slots per image")
    axes.grid(axis="y")
    axes.legend(fontsize=style.SMALL, loc="upper right", borderaxespad=0, labelspacing=0.25)


def make(found: Results, results: Path, dataset: str) -> Iterator[Entry]:
    """One figure, from ``residuals.npz`` of the reference variant's first seed."""
    name, heading = f"residuals_{dataset}", f"Residuals that RRS selects, {title(dataset)}"
    variant, data = found.matrix.variants[0], {}
    for category, folder in reference(found, dataset).items():
        stored = arrays(folder / "residuals.npz")
        if stored is not None and stored["counted"].sum():
            data[category] = stored
    sizes = {len(one["layers"]) for one in data.values()}
    if len(sizes) != 1:
        why = (
            f"no residuals.npz of variant {variant}: it selects no residuals, or was evaluated by"
            " an older version"
        )
        yield Skipped(
            name,
            heading,
            why if not data else "the numbers of channels of the categories differ",
            dataset,
        )
        return
    normal, anomalous = np.sum([one["counted"] for one in data.values()], axis=0).tolist()
    caption = (
        f"RRS on {title(dataset)}, variant {variant}: {normal} normal and {anomalous} anomalous"
        f" test images of {counted(len(data), 'category', 'categories')}. Left: share of each"
        " backbone layer among the maps that are selected by their maximum and by their mean"
        " (dots: single categories), compared with its share of all maps. Right: slots that a map"
        " takes per image (up to 2: one by maximum, one by mean), maps sorted; faint: single"
        " categories. Below: for one anomalous image per row, not chosen by hand, the strongest"
        " selected maps (half by maximum, half by mean) and the weakest dropped ones, on one"
        " square root scale per row, standardised if the ranking is."
    )
    yield Drawn(name, heading, caption, kept_residuals(data), dataset)
