"""Contents of a report page: numbers, curves and tables. `render` builds the page, `charts` the curves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Chart:
    """Curves over the step.

    Attributes:
        title: heading of the panel.
        series: metric name -> label; each is one curve.
        unit: of the vertical axis.
        bounds: of the vertical axis, such as (0, 1) for a fraction, which is shown in per cent; None for the range of the data.
        transform: applied to every value; None for none.
    """

    title: str
    series: Mapping[str, str]
    unit: str = ""
    bounds: tuple[float, float] | None = None
    transform: Callable[[float], float] | None = None


@dataclass(frozen=True)
class Figure:
    """Curves over any quantity.

    Attributes:
        title: heading of the panel.
        over: the horizontal axis, with its unit.
        series: label -> points (x, y) in order of x, or (x, y, low, high) with an error bar.
        unit: of the vertical axis.
        bounds: of the vertical axis, see `Chart`.
    """

    title: str
    over: str
    series: Mapping[str, Sequence[tuple[float, ...]]]
    unit: str = ""
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Samples:
    """A table of examples.

    Attributes:
        title: heading of the table.
        columns: column headings.
        rows: one tuple of texts per example, as long as `columns`; escaped on the page.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Section:
    """A part of the page made by a panel's own template.

    Attributes:
        html: the markup, in which the template has escaped all inserted text.
        style: CSS rules of the section.
    """

    html: str
    style: str = ""


@dataclass(frozen=True)
class ReportConfig:
    """Contents of a page.

    Attributes:
        title: heading of the page.
        headline: label -> formatted value, the main results.
        charts: curves over the step; one without data is omitted.
        figures: curves over other quantities.
        samples: tables of examples.
        notes: sentences below the title.
        sections: parts made by a panel's own templates, below the headline.
    """

    title: str
    headline: dict[str, str] = field(default_factory=dict)
    charts: Sequence[Chart] = ()
    figures: Sequence[Figure] = ()
    samples: Sequence[Samples] = ()
    notes: Sequence[str] = ()
    sections: Sequence[Section] = ()
