"""The scans as they are drawn: one grey window each for the whole page."""

from dataclasses import dataclass

import numpy as np

from deepmir.lesions.instances import bounding_box
from deepmir.report.cuts import Frame, Pixels, Plane, sample
from deepmir.report.picture import Window
from deepmir.report.view import SubjectView
from deepmir.volume import BoolMap, Modality, Volume

CHI_HALF_WINDOW_PPM = 0.2
"""χ is drawn from black to white over the brain's median ± this."""
_TITLES = {Modality.SWI: "SWI", Modality.CHIMAP: "QSM", Modality.T2W: "T2w"}


@dataclass(frozen=True, slots=True)
class Look:
    """Where to look: a plane, its number, and the part of it that is drawn."""

    plane: Plane
    index: int
    frame: Frame


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A scan and how its values become grey."""

    volume: Volume
    window: Window

    @property
    def title(self) -> str:
        """Name as it stands on the picture."""
        return _TITLES[self.volume.modality]

    @property
    def window_text(self) -> str:
        """Values of black and white."""
        if self.volume.modality is Modality.CHIMAP:
            low, high = (f"{value:+.2f}" for value in (self.window.low, self.window.high))
            return f"{self.title} {low} to {high} ppm".replace("-", "−")
        digits = 0 if self.window.high >= 100 else 2
        return f"{self.title} {self.window.low:.{digits}f} to {self.window.high:.{digits}f}"

    def grey(self, look: Look) -> Pixels:
        """Draw one frame of one plane."""
        cut = look.plane.cut(self.volume.data, look.index)
        return self.window.grey(sample(cut, look.frame, fill=0.0))


def layers(view: SubjectView) -> tuple[Layer, ...]:
    """Return SWI, QSM and T2w, as far as they are there."""
    present = (view.scans.swi, view.scans.chimap, view.scans.t2w)
    return tuple(
        Layer(volume, window_of(volume, view.brain_mask))
        for volume in present
        if volume is not None
    )


def window_of(volume: Volume, brain: BoolMap) -> Window:
    """Choose the grey window from the values inside the brain; of fixed width for χ."""
    inside = volume.data[brain] if brain.any() else volume.data.ravel()
    values = inside[inside != 0].astype(np.float64)
    if not len(values):
        return Window(0.0, 1.0)
    middle = float(np.median(values))
    if volume.modality is Modality.CHIMAP:
        return Window(middle - CHI_HALF_WINDOW_PPM, middle + CHI_HALF_WINDOW_PPM)
    return Window(0.2 * middle, float(np.percentile(values, 99.5)))


def brain_box(view: SubjectView) -> tuple[slice, ...]:
    """Bounding box of the brain; all of the image where the mask is empty."""
    everything = tuple(slice(0, size) for size in view.brain_mask.shape)
    return bounding_box(view.brain_mask) if view.brain_mask.any() else everything


def brain_frame(view: SubjectView, plane: Plane, *, width_px: int, square: bool) -> Frame:
    """Frame of the brain and 6 mm around it, as wide as asked, or a square of that side."""
    grid, box = view.scans.reference.grid, brain_box(view)
    cell = plane.spacing(grid.spacing_mm)
    centre = np.array([(part.start + part.stop - 1) / 2 for part in box])
    down, across = (
        (box[axis].stop - box[axis].start) * step + 12
        for axis, step in zip(plane.axes, cell, strict=True)
    )
    if square:
        down = across = max(down, across)
    return Frame.around(
        plane.place(centre, grid.shape),
        field_mm=(down, across),
        cell_mm=cell,
        pixels_per_mm=width_px / across,
    )
