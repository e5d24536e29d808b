"""How every figure looks: colours that colour-blind readers can tell apart, titled axes, nothing clipped."""

from __future__ import annotations

import html
import io
import threading
from collections.abc import Iterable, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, get_hinting_flag
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator
from plotly import graph_objects as go
from plotly import io as plotly_io

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito (2008), "Color Universal Design", darker colours first; their yellow is unreadable on white."""

MODEL, BASELINE = OKABE_ITO[0], OKABE_ITO[2]
"""Whose a score is, in every figure. A hollow marker is a score of all folds' rows together, in every figure too."""
DASHES = ("solid", "dash", "dashdot", "longdash")
GREY = "#6b6b6b"
MAP = "cividis"
FONT = 10
PLOTLY = {
    "displaylogo": False,
    "responsive": True,
    "showSendToCloud": False,  # Plotly's own default is a button that uploads the figure and its data
    "modeBarButtonsToRemove": ["select2d", "lasso2d"],
}
"""How a figure behaves in the browser."""
_DRAWING = threading.Lock()  # matplotlib's font and text caches are shared by all figures of a process


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure of this size in inches, drawn without a display.

    The layout ``"constrained"`` finds the margins itself and doubles the time; what every trial draws does without.
    """
    figure = Figure(figsize=(width, height), dpi=100, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def panel(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches from the figure's lower left corner."""
    breadth, tall = figure.get_size_inches()
    return figure.add_axes((left / breadth, bottom / tall, width / breadth, height / tall))


def heading(figure: Figure, text: str) -> None:
    """The figure's title, at its upper left corner."""
    tall = figure.get_size_inches()[1]
    figure.text(0.01, 1 - 0.06 / tall, text, va="top", fontsize=FONT + 1)


def text_width(labels: Iterable[str], size: float = FONT - 1) -> float:
    """The breadth, in inches, that the longest label needs."""
    font = get_font(findfont("DejaVu Sans"))
    font.set_size(size, 100)
    widths = []
    for label in labels:
        font.set_text(label, 0.0, flags=get_hinting_flag())
        widths.append(font.get_width_height()[0] / 64 / 100)
    return max(widths, default=0.0)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    with _DRAWING:
        figure.savefig(buffer, format="png", pil_kwargs={"compress_level": 3})
    return buffer.getvalue()


def plain(axes: Axes, title: str, x: str, y: str) -> None:
    """Titles and a light frame."""
    axes.set_title(title, fontsize=FONT, loc="left", y=1.0)  # a given height saves looking for a free one
    axes.set_xlabel(x, fontsize=FONT)
    axes.set_ylabel(y, fontsize=FONT)
    axes.tick_params(labelsize=FONT - 1)
    axes.spines[["top", "right"]].set_visible(False)


def colour(index: int) -> str:
    return OKABE_ITO[index % len(OKABE_ITO)]


def fold_line(index: int) -> dict[str, object]:
    """Colour and dashes of a fold among many, for an interactive figure; black is left to the mean.

    >>> len({tuple(fold_line(k).values()) for k in range(24)})
    24
    """
    colours = OKABE_ITO[:-1]
    turn = index // (2 * len(colours))  # after so many, colours and dashes begin again together
    return {"color": colours[index % len(colours)], "dash": DASHES[(index + turn) % len(DASHES)]}


def whole_ticks(last: int, most: int = 12) -> list[int]:
    """Places from 0 to ``last`` for the ticks of an axis that counts.

    >>> whole_ticks(3), whole_ticks(20, most=5)
    ([0, 1, 2, 3], [0, 4, 8, 12, 16, 20])
    """
    return [int(tick) for tick in MaxNLocator(most, integer=True).tick_values(0, last) if 0 <= tick <= last]


def shortened(label: str, limit: int = 34) -> str:
    """A label that fits beside an axis: its middle gives way, since names differ at their ends.

    >>> shortened("tissue microarray CD163 tumour centre, second core", 21)
    'tissue mic…econd core'
    """
    if len(label) <= limit:
        return label
    half = (limit - 1) // 2
    return f"{label[:half]}…{label[-half:]}"


def counted(number: int, noun: str) -> str:
    """A number and its noun.

    >>> counted(1, "fold"), counted(5, "fold")
    ('1 fold', '5 folds')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def axis_name(name: str) -> str:
    """A score's or loss's name as an axis title, with what it is measured in.

    >>> axis_name("auroc"), axis_name("loss")
    ('AUROC (0.5 = chance, 1 = perfect)', 'loss (nats per row)')
    """
    return _AXIS_NAMES.get(name, name)


def metric_name(name: str) -> str:
    """A score's or loss's name in words.

    >>> metric_name("auroc"), metric_name("macro F1"), metric_name("dice")
    ('AUROC', 'macro F1', 'dice')
    """
    return axis_name(name).partition(" (")[0]


_AXIS_NAMES = {
    "auroc": "AUROC (0.5 = chance, 1 = perfect)",
    "ap": "average precision (0 to 1)",
    "min_ap": "lowest average precision (0 to 1)",
    "macro_plus_min": "macro + min AP (0 to 1)",
    "macro + min AP": "macro + min AP (0 to 1)",
    "f1": "F1 (0 to 1)",
    "f1_at_0.5": "F1 at threshold 0.5 (0 to 1)",
    "macro F1": "macro F1 (0 to 1)",
    "accuracy": "accuracy (0 to 1)",
    "loss": "loss (nats per row)",
    "log_loss": "log loss (nats per row)",
    "brier": "Brier score (0 to 1)",
    "r2": "R² (1 = perfect)",
    "lr": "learning rate",
}


def layout(figure: go.Figure, title: str, height: int) -> go.Figure:
    """The look of :func:`plain` for an interactive figure."""
    figure.update_layout(
        title={"text": html.escape(title), "x": 0.01},
        height=height,
        template="plotly_white",
        font={"family": "Helvetica, Arial, sans-serif", "size": 13},
        margin={"t": 70, "l": 60, "r": 30, "b": 60},
        legend={"itemsizing": "constant"},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure


def page(title: str, figures: Sequence[go.Figure], notes: Sequence[str] = ()) -> str:
    """A page of interactive figures that needs no network: the script (about 5 MB) is inside, once."""
    return document(title, f"{paragraphs(notes)}{figures_html(figures)}")


def figures_html(figures: Sequence[go.Figure]) -> str:
    """Interactive figures, the script inside the first."""
    return "".join(
        plotly_io.to_html(f, full_html=False, include_plotlyjs=i == 0, config={**PLOTLY}) for i, f in enumerate(figures)
    )


def paragraphs(notes: Sequence[str]) -> str:
    """A paragraph of each."""
    return "".join(f"<p>{html.escape(note)}</p>" for note in notes)


def document(title: str, body: str, look: str = "") -> str:
    """A whole HTML document; ``look`` is CSS beside the pages' own."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>body{{font-family:Helvetica,Arial,sans-serif;margin:16px;max-width:1400px;color:#222}}{look}</style>"
        f"</head><body>{body}</body></html>"
    )
