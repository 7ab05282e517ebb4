"""Figures drawn with Matplotlib; each function takes arrays and returns an encoded PNG."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_backdoor.answers import Plot

INK, SOFT, CLEAN, ATTACK = "#1c2430", "#8a94a3", "#2b6cb0", "#c0392b"
SUSPECT = "#e08e45"
COLORS = (CLEAN, ATTACK, SUSPECT, "#3b8f5a", "#7a5aa6", SOFT)
"""The colors of curves, in their order; published curves have those of the measured ones."""
FEW_POINTS = 50
"""Maximum number of points of a curve for which markers are drawn."""
ABOVE = {"frameon": False, "loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 3}
"""A legend above the axes. To look for free space among a thousand bars takes seconds."""


def draw(
    paint: Callable[[Any], None], *, width: float = 8.0, height: float = 3.2, grid: Any = (1, 1)
) -> bytes:
    """Return a figure as an encoded PNG.

    Args:
        paint: a function that draws on the axes, which are a 2-D array.
        width: the width in inches.
        height: the height in inches.
        grid: (rows, columns) of axes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(*grid, squeeze=False)
    paint(axes)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def picture_grid(rows: Sequence[tuple[str, np.ndarray, Sequence[str]]]) -> bytes:
    """Draw rows of the same number of images.

    Args:
        rows: one tuple per row: (title, images (n, h, w, c) in [0, 1], n captions).
    """
    columns = len(rows[0][1])

    def paint(axes: Any) -> None:
        for row, (title, pictures, captions) in enumerate(rows):
            for column in range(columns):
                ax = axes[row, column]
                ax.imshow(pictures[column].squeeze(), cmap="gray", vmin=0, vmax=1)
                ax.set_title(captions[column], fontsize=8, color=INK)
                ax.set(xticks=[], yticks=[])
                for side in ax.spines.values():
                    side.set_visible(False)
            axes[row, 0].set_ylabel(title, fontsize=9)

    return draw(
        paint, width=1.1 * columns + 0.4, height=1.35 * len(rows), grid=(len(rows), columns)
    )


def pair_pictures(pictures: np.ndarray, names: Sequence[str]) -> bytes:
    """Draw a picture for each pair of classes, as one image with a row for each source.

    Args:
        pictures: (k, k, h, w, c) images in [0, 1], by source and target.
        names: k names of the classes.
    """
    k, _, height, width, channels = pictures.shape
    cells = np.ones((k, height + 2, k, width + 2, channels))
    cells[:, 1:-1, :, 1:-1] = pictures.transpose(0, 2, 1, 3, 4)
    whole = cells.reshape(k * (height + 2), k * (width + 2), channels)

    def paint(axes: Any) -> None:
        ax = axes[0, 0]
        ax.imshow(whole.squeeze(), cmap="gray", vmin=0, vmax=1)
        ax.set_xticks((np.arange(k) + 0.5) * (width + 2), names)
        ax.set_yticks((np.arange(k) + 0.5) * (height + 2), names)
        ax.set(xlabel="target class", ylabel="source class")

    return draw(paint, width=0.75 * k + 0.8, height=0.75 * k + 0.6)


def sheet(groups: Sequence[tuple[str, np.ndarray]], *, columns: int = 12) -> bytes:
    """Draw rows of images, whose numbers may differ.

    Args:
        groups: one tuple per row: (title, images (n, h, w, c) in [0, 1]).
        columns: the largest number of images in a row.
    """

    def paint(axes: Any) -> None:
        for row, (title, pictures) in enumerate(groups):
            for column in range(columns):
                ax = axes[row, column]
                ax.set(xticks=[], yticks=[])
                for side in ax.spines.values():
                    side.set_visible(False)
                if column < len(pictures):
                    ax.imshow(pictures[column].squeeze(), cmap="gray", vmin=0, vmax=1)
            axes[row, 0].set_ylabel(title, fontsize=9)

    size = (len(groups), columns)
    return draw(paint, width=0.8 * columns + 0.4, height=0.95 * len(groups) + 0.1, grid=size)


def heatmaps(
    maps: np.ndarray,
    captions: Sequence[str],
    pictures: np.ndarray | None,
    parts: np.ndarray,
    *,
    columns: int = 4,
) -> bytes:
    """Draw heatmaps over their images, each with its own color scale.

    Args:
        maps: (n, h, w) importance; a map with negative values is drawn from blue to red.
        captions: n captions.
        pictures: (n, h, w, c) images in [0, 1], or None.
        parts: (n, h, w) bool, the pixels to outline.
        columns: the largest number of maps in a row.
    """
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)

    def paint(axes: Any) -> None:
        for ax in axes.ravel():
            ax.set_axis_off()
        for ax, number in zip(axes.ravel(), range(len(maps)), strict=False):
            picture = None if pictures is None else pictures[number].squeeze()
            _paint_map(ax, np.nan_to_num(maps[number]), picture, parts[number])
            ax.set_title(captions[number], fontsize=9, color=INK)

    return draw(paint, width=2.7 * columns, height=2.4 * rows, grid=(rows, columns))


def _paint_map(ax: Any, values: np.ndarray, picture: np.ndarray | None, part: np.ndarray) -> None:
    signed = values.min() < 0
    high = float(np.abs(values).max()) or 1.0
    if picture is not None:
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    shown = ax.imshow(
        values,
        cmap="RdBu_r" if signed else "Reds",
        vmin=-high if signed else 0,
        vmax=high,
        alpha=1.0 if picture is None else 0.65,
    )
    if part.any() and not part.all():
        ax.contour(part, levels=[0.5], colors=[INK], linewidths=1.2)
    ax.figure.colorbar(shown, ax=ax, shrink=0.7, ticks=[-high, 0, high] if signed else None)


def explained(
    pictures: np.ndarray,
    segments: np.ndarray,
    maps: Mapping[str, np.ndarray],
    parts: np.ndarray,
    captions: Sequence[str],
) -> bytes:
    """Draw one row for each picture: the picture, its segments and maps of their importance.

    Args:
        pictures: (n, h, w, c) images in [0, 1].
        segments: (n, h, w) numbers of segments.
        maps: title -> (n, h, w) values.
        parts: (n, h, w) bool, the pixels to outline in all of them.
        captions: n captions.
    """
    titles = ["picture", "segments", *maps]

    def paint(axes: Any) -> None:
        for row, line in enumerate(axes):
            for ax, title in zip(line, titles, strict=True):
                ax.set(xticks=[], yticks=[])
                for side in ax.spines.values():
                    side.set_visible(False)
                if row == 0:
                    ax.set_title(title, fontsize=9, color=INK)
            line[0].set_ylabel(captions[row], fontsize=9, color=INK)
            for ax in line[:2]:
                ax.imshow(pictures[row].squeeze(), cmap="gray", vmin=0, vmax=1)
            edges = np.diff(segments[row], axis=0, prepend=segments[row][:1]) != 0
            edges |= np.diff(segments[row], axis=1, prepend=segments[row][:, :1]) != 0
            line[1].imshow(np.ma.masked_where(~edges, edges), cmap="autumn", alpha=0.6)
            outline = [0.5] if parts[row].any() and not parts[row].all() else []
            for ax, values in zip(line[2:], maps.values(), strict=True):
                _paint_map(ax, values[row], pictures[row].squeeze(), parts[row])
            if outline:
                line[0].contour(parts[row], levels=outline, colors=[ATTACK], linewidths=1.4)

    size = (len(pictures), len(titles))
    return draw(paint, width=2.1 * size[1], height=1.75 * size[0] + 0.3, grid=size)


def scatter_panels(panels: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """Draw scatter plots.

    Args:
        panels: by title of the panel: (coordinates (n, 2), flagged (n,) bool). Flagged points are
            red.
    """

    def paint(axes: Any) -> None:
        for ax, (name, (points, flagged)) in zip(axes.ravel(), panels.items(), strict=True):
            for chosen, color, label in ((~flagged, CLEAN, "kept"), (flagged, ATTACK, "flagged")):
                ax.scatter(*points[chosen].T, s=8, color=color, label=label, alpha=0.6, lw=0)
            ax.set_title(name, fontsize=10)
            ax.set(xlabel="first coordinate", ylabel="second coordinate")
        axes[0, 0].legend(frameon=False, loc="upper right")

    return draw(paint, width=3.6 * len(panels) + 0.4, grid=(1, len(panels)))


def draw_plot(plot: Plot, history: Mapping[str, np.ndarray]) -> bytes:
    """Draw the plot that a `Plot` describes.

    Args:
        plot: the description of the plot.
        history: the arrays that the plot refers to, by name.
    """
    series = {text: np.asarray(history[name]) for text, name in plot.series.items()}
    if plot.kind == "bars":
        first = next(iter(series.values()))
        order = np.arange(len(first)) if plot.order is None else np.asarray(history[plot.order])
        return value_bars(order, series, plot)
    return curves(series, plot)


def value_bars(order: np.ndarray, series: Mapping[str, np.ndarray], plot: Plot) -> bytes:
    """Draw a bar for each value in the given order; the bars before `plot.marked` are shaded."""

    def paint(axes: Any) -> None:
        ax = axes[0, 0]
        positions = np.arange(len(order))
        width = 0.8 / len(series)
        for number, (name, values) in enumerate(series.items()):
            color = (CLEAN, ATTACK)[number % 2]
            ax.bar(positions + number * width, values[order], width, label=name, color=color)
        if plot.marked is not None:
            ax.axvspan(-0.5, plot.marked - 0.5, color=SOFT, alpha=0.2, label=plot.marked_label)
        labels = [str(c) for c in order] if len(order) <= 64 else []
        ax.set_xticks(positions[: len(labels)], labels, fontsize=7)
        ax.set(xlabel=plot.x_label, ylabel=plot.y_label)
        ax.legend(**ABOVE)

    return draw(paint)


def curves(series: Mapping[str, np.ndarray], plot: Plot) -> bytes:
    """Draw curves over the index of the values; shares are drawn in percent."""
    shares = plot.kind == "shares"

    def paint(axes: Any) -> None:
        ax = axes[0, 0]
        for number, (name, values) in enumerate(series.items()):
            style = "o-" if len(values) <= FEW_POINTS else "-"
            color = (CLEAN, ATTACK, INK)[number % 3]
            shown = 100 * values if shares else values
            ax.plot(np.arange(len(values)), shown, style, label=name, color=color)
        if plot.marked is not None:
            ax.axvline(plot.marked, color=SOFT, linestyle="--", label=plot.marked_label)
        ax.set(xlabel=plot.x_label, ylabel=plot.y_label)
        ax.xaxis.get_major_locator().set_params(integer=True)
        if shares:
            ax.set(ylim=(-2, 102))
        ax.legend(frameon=False)

    return draw(paint)


def confusion_pair(matrices: dict[str, np.ndarray]) -> bytes:
    """Draw confusion matrices side by side, normalized by row.

    Args:
        matrices: the matrices of counts, by title; rows are labels, columns predicted classes.
    """

    def paint(axes: Any) -> None:
        for ax, (name, matrix) in zip(axes.ravel(), matrices.items(), strict=True):
            shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            ax.set_title(name, fontsize=10)
            ax.set(xlabel="predicted class", ylabel="label")
            if len(matrix) <= 12:
                ax.set(xticks=range(len(matrix)), yticks=range(len(matrix)))
                for i, j in np.argwhere(shares >= 0.005):
                    color = "white" if shares[i, j] > 0.5 else INK
                    text = f"{100 * shares[i, j]:.0f}"
                    ax.text(j, i, text, ha="center", va="center", fontsize=7, color=color)

    number = len(matrices)
    return draw(paint, width=4.2 * number, height=4.2, grid=(1, number))


def score_histogram(scores: np.ndarray, flagged: np.ndarray) -> bytes:
    """Draw histograms of the suspicion scores of flagged samples and of other samples."""

    def paint(axes: Any) -> None:
        ax = axes[0, 0]
        known = np.isfinite(scores)
        bins = np.histogram_bin_edges(scores[known], 60)
        ax.hist(scores[known & ~flagged], bins, color=CLEAN, label="not flagged")
        ax.hist(scores[known & flagged], bins, color=ATTACK, label="flagged")
        ax.set(xlabel="suspicion", ylabel="samples", yscale="symlog")
        ax.legend(frameon=False)

    return draw(paint)


def norm_bars(
    norms: np.ndarray,
    flagged: np.ndarray,
    *,
    further: np.ndarray | None = None,
    spread: np.ndarray | None = None,
    median: float | None = None,
    limits: Mapping[str, float | None] | None = None,
) -> bytes:
    """Draw the L1 norm of the trigger of each class, smallest first.

    Args:
        norms: (k,) norms in pixels; NaN and infinite values are left out.
        flagged: (k,) bool, the flagged classes.
        further: (k,) bool, further suspects, or None.
        spread: (r, k) norms of the single runs, whose range is drawn, or None.
        median: the median of the reference norms; None uses the median of `norms`.
        limits: by name of a rule, the norm below which a class is an outlier, or None.
    """
    order = np.argsort(norms)
    order = order[np.isfinite(norms[order])]
    middle = np.median(norms[order]) if median is None else median

    def paint(axes: Any) -> None:
        ax = axes[0, 0]
        positions = np.arange(len(order))
        suspect = np.zeros(len(norms), bool) if further is None else further
        colors = np.where(flagged, ATTACK, np.where(suspect, SUSPECT, CLEAN))
        ax.bar(positions, norms[order], color=colors[order])
        if spread is not None and len(spread) > 1:
            runs = np.where(np.isfinite(spread), spread, np.nan)[:, order]
            ax.vlines(
                positions, np.nanmin(runs, axis=0), np.nanmax(runs, axis=0), color=INK, lw=0.8
            )
        if np.isfinite(middle):
            ax.axhline(middle, color=SOFT, linestyle="--", label="median")
        for style, (rule, limit) in zip((":", "-."), (limits or {}).items(), strict=False):
            if limit is not None and np.isfinite(limit) and limit > 0:
                ax.axhline(limit, color=ATTACK, linestyle=style, label=f"limit, {rule} rule")
        if len(order) <= 64:
            ax.set_xticks(positions, [str(c) for c in order], fontsize=7)
        ax.set(xlabel="class, smallest trigger first", ylabel="L1 norm of the mask (pixels)")
        if ax.get_legend_handles_labels()[1]:
            ax.legend(**ABOVE)

    return draw(paint)


def number_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, xlabel: str, ylabel: str
) -> bytes:
    """Draw curves on logarithmic axes.

    Args:
        curves: the points (x, y) of each curve, by label.
        xlabel: the label of the x-axis.
        ylabel: the label of the y-axis.
    """

    def paint(axes: Any) -> None:
        ax = axes[0, 0]
        for number, (name, points) in enumerate(curves.items()):
            x, y = np.array(sorted(points)).T
            ax.loglog(x, y, "o-", label=name, color=(CLEAN, ATTACK, INK)[number % 3])
            for at, value in zip(x, y, strict=True):
                ax.annotate(f"{value:.3g}", (at, value), (0, 6), textcoords="offset points")
        ticks = sorted({x for points in curves.values() for x, _ in points})
        ax.set_xticks(ticks, [f"{v:g}" for v in ticks])
        ax.set_xticks([], minor=True)
        ax.set(xlabel=xlabel, ylabel=ylabel)
        ax.legend(frameon=False)

    return draw(paint, width=5.2)


def pair_map(values: np.ndarray, label: str = "L1 norm of the mask (pixels)") -> bytes:
    """Draw a matrix of values of pairs of classes.

    Args:
        values: (k, k) from source class (row) to target class (column), such as the norms of
            triggers; NaN and infinite values are left empty.
        label: the label of the color scale.
    """

    def paint(axes: Any) -> None:
        ax = axes[0, 0]
        shown = ax.imshow(np.ma.masked_invalid(values), cmap="magma", interpolation="nearest")
        ax.set(xlabel="target class", ylabel="source class")
        ax.figure.colorbar(shown, ax=ax, label=label)

    return draw(paint, width=5.2, height=4.4)


def class_bars(scores: np.ndarray, flagged: np.ndarray, further: np.ndarray) -> bytes:
    """Draw the suspicion score of each class and the limit of 1, above which it is an outlier.

    Args:
        scores: (k,) scores; NaN and infinite values are left out.
        flagged: (k,) bool, the flagged classes.
        further: (k,) bool, further suspects.
    """

    def paint(axes: Any) -> None:
        ax = axes[0, 0]
        colors = np.where(flagged, ATTACK, np.where(further, SUSPECT, CLEAN))
        ax.bar(np.arange(len(scores)), np.where(np.isfinite(scores), scores, 0.0), color=colors)
        ax.axhline(1.0, color=ATTACK, linestyle=":", label="limit")
        ax.set(xlabel="class", ylabel="suspicion (limit = 1)")
        if len(scores) <= 64:
            ax.set_xticks(range(len(scores)))
            ax.tick_params(axis="x", labelsize=7)
        ax.legend(**ABOVE)

    return draw(paint)


def ranked(series: Mapping[str, np.ndarray], flagged: np.ndarray, limit: float) -> bytes:
    """Draw values of the classes in decreasing order, one line for each statistic.

    Args:
        series: name -> (k,) values.
        flagged: (k,) bool, the classes whose numbers are written beside their points.
        limit: the limit of outliers, drawn as a line.
    """

    def paint(axes: Any) -> None:
        ax = axes[0, 0]
        for name, values in series.items():
            order = np.argsort(-values)
            ax.plot(np.arange(1, len(order) + 1), values[order], ".-", label=name)
            for rank in np.flatnonzero(flagged[order] & (values[order] > limit)):
                place = (rank + 1, values[order[rank]])
                ax.annotate(str(order[rank]), place, (6, 0), textcoords="offset points")
        ax.axhline(limit, color="black", linewidth=1, linestyle="--", label="limit")
        ax.set(xlabel="rank of the class", ylabel="value")
        ax.legend()

    return draw(paint, width=7, height=3.2)


def channel_grids(clean: np.ndarray, triggered: np.ndarray, marked: np.ndarray) -> bytes:
    """Draw the channels of a layer as cells, on clean and on triggered images.

    Dark cells are dormant channels, bright ones the most active; marked channels are outlined.

    Args:
        clean: (channels,) mean activations on clean images.
        triggered: (channels,) mean activations on triggered images.
        marked: (channels,) bool.
    """
    columns = min(16, len(clean))
    rows = -(-len(clean) // columns)
    high = float(max(clean.max(), triggered.max())) or 1.0

    def paint(axes: Any) -> None:
        for ax, values, title in zip(
            axes[0], (clean, triggered), ("clean images", "with the trigger"), strict=True
        ):
            cells = np.full(rows * columns, np.nan)
            cells[: len(values)] = values
            shown = ax.imshow(cells.reshape(rows, columns), cmap="viridis", vmin=0, vmax=high)
            for number in np.flatnonzero(marked):
                row, column = divmod(int(number), columns)
                ax.plot(column, row, marker="s", markersize=9, markerfacecolor="none",
                        markeredgecolor=ATTACK, markeredgewidth=1.5)  # fmt: skip
            ax.set_title(title, fontsize=9, color=INK)
            ax.set(xticks=[], yticks=[])
        axes[0, 0].figure.colorbar(shown, ax=list(axes[0]), shrink=0.8, label="mean activation")

    return draw(paint, width=9.0, height=0.6 + 0.27 * rows, grid=(1, 2))


def layer_bars(layers: Sequence[tuple[str, int]]) -> bytes:
    """Draw the number of weights of each layer that has weights, in the order of the network.

    Args:
        layers: (name, number of weights) of each layer.
    """
    shown = [(name, number) for name, number in layers if number] or list(layers)
    names, numbers = zip(*shown, strict=True)

    def paint(axes: Any) -> None:
        ax = axes[0, 0]
        positions = np.arange(len(names))
        ax.bar(positions, numbers, color=CLEAN)
        if len(names) <= 40:
            ax.set_xticks(positions, [n[-24:] for n in names], rotation=60, ha="right", fontsize=7)
        ax.set(xlabel="layer", ylabel="weights")
        if max(numbers) > 100 * max(1, min(numbers)):
            ax.set_yscale("log")

    return draw(paint, height=3.8)


def paired_bars(
    bars: Mapping[str, tuple[float, float]], names: tuple[str, str] = ("before", "after")
) -> bytes:
    """Draw two shares side by side for each name, in percent.

    Args:
        bars: name -> (first share, second share), in 0..1; NaN draws no bar.
        names: the legend entries of the two shares.
    """

    def paint(axes: Any) -> None:
        ax = axes[0, 0]
        positions = np.arange(len(bars))
        for number, (name, color) in enumerate(zip(names, (SOFT, CLEAN), strict=True)):
            values = 100 * np.array([pair[number] for pair in bars.values()])
            drawn = ax.barh(positions + 0.4 * (number - 0.5), values, 0.36, label=name, color=color)
            labels = ["" if np.isnan(v) else f"{v:.1f}" for v in values]
            ax.bar_label(drawn, labels, fontsize=8, padding=3)
        ax.set_yticks(positions, list(bars), fontsize=8)
        ax.set(xlabel="%", xlim=(0, 115))
        ax.invert_yaxis()
        ax.legend(**ABOVE)

    return draw(paint, height=1.4 + 0.45 * len(bars))


def rate_panels(
    panels: dict[str, dict[str, list[tuple[float, float, float, float]]]],
    *,
    xlabel: str,
    columns: int = 3,
) -> bytes:
    """Draw rates with confidence intervals over a number, in several panels.

    A curve whose points have no interval (low = high) is drawn dashed; it shows published values.

    Args:
        panels: by title of the panel and label of the curve: points (x, rate, low, high) with
            rates in [0, 1].
        xlabel: the label of the x-axis.
        columns: the number of panels in a row.
    """

    def paint(axes: Any) -> None:
        for ax in axes.ravel()[len(panels) :]:
            ax.set_visible(False)
        for ax, (title, curves) in zip(axes.ravel(), panels.items(), strict=False):
            used = {True: 0, False: 0}
            for name, points in curves.items():
                x, y, low, high = 100 * np.array(sorted(points)).T
                measured = bool(np.any(high > low))
                color = COLORS[used[measured] % len(COLORS)]
                used[measured] += 1
                ax.errorbar(
                    x / 100,
                    y,
                    [y - low, high - y] if measured else None,
                    label=name,
                    color=color,
                    linestyle="-" if measured else "--",
                    marker="o" if measured else "x",
                    capsize=2,
                    alpha=1.0 if measured else 0.6,
                )
            ax.set_title(title, fontsize=10)
            lowest = 100 * min(point[2] for points in curves.values() for point in points)
            ax.set(xlabel=xlabel, ylabel="%", ylim=(min(40, lowest - 3), 103))
        axes[0, 0].legend(frameon=False, fontsize=7)

    rows = -(-len(panels) // columns)
    return draw(paint, width=3.6 * columns, height=3.0 * rows, grid=(rows, columns))
