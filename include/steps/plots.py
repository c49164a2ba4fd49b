"""Plots of the pages, as SVG inside the page."""

import io
import logging

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from include.stores.list_quality import PRODUCT

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its fonts

MOST_LABELS = 24
"""Of more labels below a plot every second, third, … is written."""


def lines(series: dict[str, list[float | None]], labels: list[str]) -> Markup:
    """A line for each series over the labels; None leaves a gap."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, values in series.items():
        axes.plot(
            range(len(labels)),
            np.array(values, dtype=float),
            marker="o",
            label=name,
            linewidth=2.5 if name == PRODUCT else 1.2,
        )
    shown = slice(None, None, -(-len(labels) // MOST_LABELS))
    axes.set_xticks(range(len(labels))[shown], labels[shown], rotation=20 if len(labels) > 3 else 0)
    return _svg(figure)


def bars(series: dict[str, list[float | None]], labels: list[str]) -> Markup:
    """Bars of each series beside one another; None has no height."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    width = 0.85 / len(series)
    for number, (name, values) in enumerate(series.items()):
        heights = [0.0 if value is None else value for value in values]
        axes.bar(np.arange(len(labels)) + number * width, heights, width, label=name)
    axes.set_xticks(np.arange(len(labels)) + width * (len(series) - 1) / 2, labels)
    return _svg(figure)


def _svg(figure: Figure) -> Markup:
    """A figure as SVG for a page; equal figures give equal text."""
    axes = figure.axes[0]
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "tidemark", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return Markup(text.getvalue()[text.getvalue().index("<svg") :])  # noqa: S704 # of numbers and of our own names
