"""Charts of a report, as SVG text that takes its ink from the page and so follows light and dark.

Texts and lines are drawn in three sentinel colours that the style sheet replaces; models keep one colour
through the whole report.
"""

import re
from typing import Any, Final

import polars as pl

from vitrina.errors import ConfigError

INK: Final = "#010101"
MUTED: Final = "#020202"
RULE: Final = "#030303"

PALETTE: Final = (
    "#3b7dd8",
    "#e0793a",
    "#3a9d6e",
    "#c2527f",
    "#8a6fd1",
    "#b8912f",
    "#2fa3b5",
    "#d0524a",
    "#7a8797",
    "#8fae3c",
    "#a5673f",
    "#5b6ee0",
)
"""Readable on white and on near-black."""

WIDTH: Final = 440

MAX_TICKS: Final = 10
"""Epochs that are named on an axis."""

FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"


class Figures:
    """Draws the charts of one report; models keep their colours.

    Raises:
        ConfigError: the packages that draw are not installed.
    """

    def __init__(self, models: list[str]) -> None:
        try:
            import altair
            import vl_convert
        except ImportError as error:
            raise ConfigError(
                f"a report needs {error.name}, which is not installed; run: pip install 'vitrina[report]'"
            ) from error
        self._alt: Any = altair
        self._convert: Any = vl_convert
        self._n_drawn = 0
        self.models = models
        self.colour = {model: PALETTE[at % len(PALETTE)] for at, model in enumerate(models)}

    def curve(self, frame: pl.DataFrame, title: str) -> str:
        """Recall at growing depth, with bands. Frame: model, k, mean, ci_low, ci_high."""
        alt = self._alt
        base = alt.Chart(alt.Data(values=frame.to_dicts()))
        x = alt.X(
            "k:Q",
            title="items in the list",
            scale=alt.Scale(type="log"),
            axis=alt.Axis(values=_depths(frame)),
        )
        colour = self._colour()
        band = base.mark_area(opacity=0.13).encode(
            x=x, y=alt.Y("ci_low:Q", title=title), y2="ci_high:Q", color=colour
        )
        line = base.mark_line(strokeWidth=2.2).encode(x=x, y="mean:Q", color=colour)
        points = base.mark_point(size=26, filled=True, opacity=1).encode(x=x, y="mean:Q", color=colour)
        return self._svg(alt.layer(band, line, points), width=WIDTH, height=290)

    def tradeoff(self, frame: pl.DataFrame, accuracy: str, coverage: str) -> str:
        """Coverage against accuracy. Frame: model, accuracy, ci_low, ci_high, coverage."""
        alt = self._alt
        base = alt.Chart(alt.Data(values=frame.to_dicts()))
        x = alt.X("accuracy:Q", title=accuracy, scale=alt.Scale(zero=True, nice=True))
        y = alt.Y(
            "coverage:Q", title=coverage, axis=alt.Axis(format="%"), scale=alt.Scale(domainMin=0, nice=True)
        )
        bars = base.mark_rule(strokeWidth=1.6, opacity=0.55).encode(
            x=alt.X("ci_low:Q", title=accuracy), x2="ci_high:Q", y=y, color=self._colour()
        )
        points = base.mark_point(size=110, filled=True, opacity=1).encode(x=x, y=y, color=self._colour())
        return self._svg(alt.layer(bars, points), width=WIDTH, height=290)

    def lorenz(self, frame: pl.DataFrame) -> str:
        """Share of all places that the least shown items get. Frame: model, frac_items, frac_shown."""
        alt = self._alt
        base = alt.Chart(alt.Data(values=frame.to_dicts()))
        x = alt.X(
            "frac_items:Q",
            title="items, least shown first",
            axis=alt.Axis(format="%", tickCount=5),
            scale=alt.Scale(domain=[0, 1]),
        )
        y = alt.Y("frac_shown:Q", title="share of all places", axis=alt.Axis(format="%", tickCount=5))
        line = base.mark_line(strokeWidth=2.2).encode(x=x, y=y, color=self._colour(), order="frac_items:Q")
        even = alt.Chart(alt.Data(values=[{"a": 0, "b": 0}, {"a": 1, "b": 1}])).mark_line(
            strokeDash=[4, 4], stroke=MUTED, strokeWidth=1.2
        )
        return self._svg(alt.layer(even.encode(x="a:Q", y="b:Q"), line), width=WIDTH, height=290)

    def slices(self, frame: pl.DataFrame, metric: str) -> str:
        """One group of slices. Frame: model, slice, order, mean, ci_low, ci_high."""
        alt = self._alt
        names = frame.sort("order")["slice"].unique(maintain_order=True).to_list()
        base = alt.Chart(alt.Data(values=frame.to_dicts()))
        x = alt.X("slice:N", sort=names, title=None, axis=alt.Axis(labelAngle=0, labelLimit=150))
        offset = alt.XOffset("model:N", sort=self.models)
        colour = self._colour()
        bars = base.mark_bar(opacity=0.85, cornerRadiusTopLeft=2, cornerRadiusTopRight=2).encode(
            x=x, xOffset=offset, y=alt.Y("mean:Q", title=metric), color=colour
        )
        rules = base.mark_rule(stroke=INK, strokeWidth=1.1).encode(
            x=x, xOffset=offset, y=alt.Y("ci_low:Q", title=metric), y2="ci_high:Q"
        )
        return self._svg(alt.layer(bars, rules), width=WIDTH, height=230)

    def norms(self, frame: pl.DataFrame) -> str:
        """Length of item vectors by popularity. Frame: model, decile, relative."""
        alt = self._alt
        base = alt.Chart(alt.Data(values=frame.to_dicts()))
        x = alt.X(
            "decile:Q",
            title="tenth of the items, most popular last",
            scale=alt.Scale(domain=[1, 10]),
            axis=alt.Axis(tickMinStep=1, tickCount=10),
        )
        y = alt.Y("relative:Q", title="mean length, all items = 1", scale=alt.Scale(zero=False, nice=True))
        line = base.mark_line(strokeWidth=2.2).encode(x=x, y=y, color=self._colour())
        points = base.mark_point(size=26, filled=True, opacity=1).encode(x=x, y=y, color=self._colour())
        return self._svg(alt.layer(line, points), width=WIDTH, height=230)

    def norm_curve(self, frame: pl.DataFrame) -> str:
        """Correlation of count and length while training. Frame: model, epoch, count_norm."""
        alt = self._alt
        base = alt.Chart(alt.Data(values=frame.to_dicts()))
        x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1))
        y = alt.Y("count_norm:Q", title="Spearman of count and length", scale=alt.Scale(domain=[-1, 1]))
        line = base.mark_line(strokeWidth=2.2).encode(x=x, y=y, color=self._colour())
        points = base.mark_point(size=26, filled=True, opacity=1).encode(x=x, y=y, color=self._colour())
        return self._svg(alt.layer(line, points), width=WIDTH, height=230)

    def training(self, frame: pl.DataFrame, name: str) -> str:
        """One figure of a training after each epoch. Frame: model, epoch, value."""
        alt = self._alt
        base = alt.Chart(alt.Data(values=frame.to_dicts()))
        epochs = frame["epoch"].to_list()
        ticks = epochs[:: -(-len(epochs) // MAX_TICKS)]
        x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(values=ticks, format="d"))
        y = alt.Y("value:Q", title=name, scale=alt.Scale(zero=False, nice=True))
        line = base.mark_line(strokeWidth=2.2).encode(x=x, y=y, color=self._colour())
        points = base.mark_point(size=26, filled=True, opacity=1).encode(x=x, y=y, color=self._colour())
        return self._svg(alt.layer(line, points), width=WIDTH, height=170)

    def trials(self, frame: pl.DataFrame, metric: str) -> str:
        """Values found by a search and the best so far. Frame: trial, model, value, best."""
        alt = self._alt
        base = alt.Chart(alt.Data(values=frame.to_dicts()))
        x = alt.X("trial:Q", title="trial", axis=alt.Axis(tickMinStep=1))
        points = base.mark_point(size=34, filled=True, opacity=0.7).encode(
            x=x,
            y=alt.Y("value:Q", title=f"validation {metric}", scale=alt.Scale(zero=False)),
            color=self._colour(),
        )
        best = base.mark_line(interpolate="step-after", strokeWidth=2).encode(
            x=x, y="best:Q", color=self._colour()
        )
        return self._svg(alt.layer(best, points), width=WIDTH, height=230)

    def _colour(self) -> Any:
        alt = self._alt
        scale = alt.Scale(domain=self.models, range=[self.colour[model] for model in self.models])
        return alt.Color("model:N", scale=scale, legend=None)  # the page has one legend for all charts

    def _svg(self, chart: Any, *, width: int, height: int) -> str:
        axis = {
            "labelColor": MUTED,
            "titleColor": MUTED,
            "titleFontWeight": "normal",
            "titlePadding": 10,
            "gridColor": RULE,
            "domainColor": RULE,
            "tickColor": RULE,
            "labelFontSize": 12,
            "titleFontSize": 12.5,
        }
        styled = (
            chart.properties(width=width, height=height, background="transparent")
            .configure(font=FONT)
            .configure_view(stroke=None)
            .configure_axis(**axis)
            .configure_axisX(grid=False)
        )
        version = ".".join(self._alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
        svg: str = self._convert.vegalite_to_svg(styled.to_dict(), vl_version=version)
        self._n_drawn += 1
        return _fluid(svg, f"c{self._n_drawn}-")


def _depths(frame: pl.DataFrame) -> list[int]:
    return sorted(frame["k"].unique().to_list())


def _fluid(svg: str, prefix: str) -> str:
    """Let the page size the drawing, its own width being the most it may take; make ids its own."""
    svg = re.sub(r'\bid="', f'id="{prefix}', svg).replace("url(#", f"url(#{prefix}")
    head, rest = svg.split(">", 1)
    width = re.search(r'width="([\d.]+)"', head)
    head = re.sub(r'\s(width|height)="[\d.]+"', "", head)
    rest = re.sub(r'\s(aria-[a-z]+|role|pointer-events)="[^"]*"', "", rest)
    head = head.replace('xmlns:xlink="http://www.w3.org/1999/xlink" ', "")
    most = width.group(1) if width else "640"
    return f'{head} role="img" style="width:100%;max-width:{most}px;height:auto">{rest}'
