"""A picture: pixels in one JPEG, with outlines, marks and letters as vectors above it.

Vectors stay sharp in print, and a reader can switch the outlines off to see what is below.
"""

import base64
import io
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from deepmir.report.cuts import Frame, Pixels

_GAP = 4  # pixels between panels
_GROUND = 16  # grey level between and behind panels


@dataclass(frozen=True, slots=True)
class Outline:
    """Border of something, as an SVG path in the panel's pixels."""

    kind: str  # style class, such as "cmb" or "brain"
    path: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A numbered ring around a finding."""

    x: float
    y: float
    radius: float
    kind: str
    text: str
    link: str | None


@dataclass(frozen=True, slots=True)
class Crosshair:
    """Four lines that point at a place and leave it free."""

    x: float
    y: float
    gap_x: float
    gap_y: float


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One drawn plane: its pixels, and what is drawn above them."""

    pixels: Pixels
    title: str = ""
    letters: str = ""  # at the left and at the right edge
    outlines: tuple[Outline, ...] = ()
    marks: tuple[Mark, ...] = ()
    crosshair: Crosshair | None = None
    bar_px: float = 0.0  # length of the scale bar
    bar_text: str = ""

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])


@dataclass(frozen=True, slots=True)
class Placed:
    """A panel and its upper left corner in the picture."""

    panel: Panel
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Picture:
    """Panels in rows, ready for the page."""

    width: int
    height: int
    uri: str  # data: URI of the JPEG
    panels: tuple[Placed, ...]
    description: str
    """What is to be seen, for those who cannot see it."""
    legend: tuple[tuple[str, str], ...] = field(default=())
    """(colour, name) pairs."""


@dataclass(frozen=True, slots=True)
class Window:
    """Values drawn black and white."""

    low: float
    high: float

    def grey(self, values: npt.NDArray[np.float32]) -> Pixels:
        """Grey levels 0 to 255."""
        scale = 255 / max(self.high - self.low, 1e-12)
        return np.asarray(np.clip((values - self.low) * scale, 0, 255), dtype=np.uint8)


def compose(
    rows: list[list[Panel]], description: str, legend: tuple[tuple[str, str], ...] = ()
) -> Picture:
    """Lay rows of panels out, all left-aligned, with one small gap between them."""
    width = max(sum(panel.width + _GAP for panel in row) - _GAP for row in rows)
    height = sum(max(panel.height for panel in row) + _GAP for row in rows) - _GAP
    colour = any(panel.pixels.ndim == 3 for row in rows for panel in row)
    canvas = np.full((height, width, 3) if colour else (height, width), _GROUND, dtype=np.uint8)
    placed: list[Placed] = []
    y = 0
    for row in rows:
        x = 0
        for panel in row:
            pixels = panel.pixels[..., None] if colour > (panel.pixels.ndim == 3) else panel.pixels
            canvas[y : y + panel.height, x : x + panel.width] = pixels
            placed.append(Placed(panel, x, y))
            x += panel.width + _GAP
        y += max(panel.height for panel in row) + _GAP
    return Picture(width, height, jpeg_uri(canvas), tuple(placed), description, legend)


def jpeg_uri(pixels: Pixels, *, quality: int = 84) -> str:
    """Encode pixels as a ``data:`` URI that needs no network."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def bar_px(frame: Frame, length_mm: float, cell_mm: float) -> float:
    """Length in pixels of a scale bar along the columns."""
    return length_mm / cell_mm * frame.width / frame.cells_across
