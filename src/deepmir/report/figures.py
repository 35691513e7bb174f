"""The page's pictures: one per finding, the overview, brain and regions, registration."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.geometry import Shape
from deepmir.labels import BASAL_GANGLIA_BASES, LEFT_OFFSET, REGIONS, Finding
from deepmir.lesions import Lesion
from deepmir.lesions.instances import bounding_box
from deepmir.report.cuts import Frame, Pixels, Plane, Voxel, outline_path, sample
from deepmir.report.picture import Crosshair, Mark, Outline, Panel, Picture, Window, bar_px, compose
from deepmir.report.view import SubjectView
from deepmir.volume import BoolMap, Modality, Volume

FIELD_MM = 40.0
"""Width of the square field shown around a finding."""
CHI_HALF_WINDOW_PPM = 0.2
"""χ is drawn from black to white over the brain's median ± this."""
MODALITY_TITLES = {Modality.SWI: "SWI", Modality.CHIMAP: "QSM", Modality.T2W: "T2w"}
REGION_COLOURS: dict[int, str] = {
    1: "#8c6d31",
    2: "#d6b656",
    3: "#b5179e",
    4: "#7b2cbf",
    5: "#4361ee",
    6: "#4cc9f0",
    7: "#f8f9fa",
    8: "#94a3b8",
    9: "#e63946",
    10: "#f3722c",
    11: "#2a9d8f",
    12: "#80b918",
    13: "#f9c74f",
    21: "#ff70a6",
    22: "#ff9770",
    23: "#e9ff70",
}
"""By base number; left and right share a colour."""

_FINDING_PX = 240
_BRAIN_PX = 300
_TILE_PX = 220
_TILES_ACROSS = 6
_MAX_TILES = 30
_MIN_TILES = 12


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A scan and how its values become grey."""

    volume: Volume
    window: Window

    @property
    def title(self) -> str:
        """Name as it stands on the picture."""
        return MODALITY_TITLES[self.volume.modality]

    @property
    def window_text(self) -> str:
        """Values of black and white."""
        unit = " ppm" if self.volume.modality is Modality.CHIMAP else ""
        return f"{self.title} {self.window.low:.3g} to {self.window.high:.3g}{unit}"

    def grey(self, plane: Plane, index: int, frame: Frame) -> Pixels:
        """Draw one frame of one plane."""
        cut = plane.cut(self.volume.data, index)
        return self.window.grey(sample(cut, frame, fill=self.window.low))


def layers(view: SubjectView) -> tuple[Layer, ...]:
    """SWI, QSM and T2w, as far as they are there, with one window for the whole page."""
    present = (view.scans.swi, view.scans.chimap, view.scans.t2w)
    return tuple(Layer(volume, window_of(volume, view.brain_mask)) for volume in present if volume)


def window_of(volume: Volume, brain: BoolMap) -> Window:
    """Grey window from the values inside the brain; of fixed width for χ."""
    inside = volume.data[brain] if brain.any() else volume.data.ravel()
    values = inside[inside != 0].astype(np.float64)
    if not len(values):
        return Window(0.0, 1.0)
    middle = float(np.median(values))
    if volume.modality is Modality.CHIMAP:
        return Window(middle - CHI_HALF_WINDOW_PPM, middle + CHI_HALF_WINDOW_PPM)
    return Window(0.2 * middle, float(np.percentile(values, 99.5)))


def finding_picture(view: SubjectView, lesion: Lesion, shown: Sequence[Layer]) -> Picture:
    """Three planes through one finding on every scan, with its outline and a crosshair."""
    anchor = anchor_voxel(view, lesion)
    rows = [
        [_finding_panel(view, lesion, layer, plane=plane, anchor=anchor) for plane in Plane]
        for layer in shown
    ]
    rows[0] = [
        replace(panel, title=f"{panel.title} · {plane.title}")
        for panel, plane in zip(rows[0], Plane, strict=True)
    ]
    names = ", ".join(layer.title for layer in shown)
    return compose(rows, f"Finding {lesion.index} on {names}: axial, coronal and sagittal plane")


def anchor_voxel(view: SubjectView, lesion: Lesion) -> Voxel:
    """Return the voxel of a lesion that lies nearest to its centroid."""
    box = ndimage.find_objects(view.measured.instances == lesion.index)[0]
    inside = np.argwhere(view.measured.instances[box] == lesion.index)
    spacing = np.array(view.scans.reference.grid.spacing_mm)
    away = np.linalg.norm((inside - inside.mean(axis=0)) * spacing, axis=1)
    i, j, k = (
        int(part.start + step) for part, step in zip(box, inside[away.argmin()], strict=True)
    )
    return i, j, k


def overview(view: SubjectView, shown: Layer) -> Picture:
    """Axial slices with every finding ringed and numbered on the slice nearest to it."""
    anchors = {lesion.index: anchor_voxel(view, lesion) for lesion in view.lesions}
    box = bounding_box(view.brain_mask if view.brain_mask.any() else ~view.brain_mask)
    slices = choose_slices([anchor[2] for anchor in anchors.values()], box[2])
    frame = _brain_frame(view, Plane.AXIAL, box, width_px=_TILE_PX)
    nearest = {
        index: min(slices, key=lambda k, at=anchor[2]: (abs(k - at), k))  # type: ignore[misc]
        for index, anchor in anchors.items()
    }
    tiles = [
        _tile(view, shown, frame, k=k, anchors={n: anchors[n] for n in nearest if nearest[n] == k})
        for k in slices
    ]
    rows = [tiles[n : n + _TILES_ACROSS] for n in range(0, len(tiles), _TILES_ACROSS)]
    return compose(rows, f"Overview of {len(tiles)} axial slices of the {shown.title}")


def choose_slices(wanted: Sequence[int], brain: slice) -> list[int]:
    """Choose axial slices: those with findings, filled up evenly to full rows.

    With more findings' slices than there is room for, an even choice of them is taken.

    Examples
    --------
    >>> choose_slices([3, 9], slice(0, 12))
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    """
    chosen = sorted(set(wanted))
    if len(chosen) > _MAX_TILES:
        even = np.linspace(0, len(chosen) - 1, _MAX_TILES).round().astype(int)
        return [chosen[n] for n in even]
    full_rows = -(-len(chosen) // _TILES_ACROSS) * _TILES_ACROSS
    free = [k for k in range(brain.start, brain.stop) if k not in chosen]
    while free and len(chosen) < max(full_rows, _MIN_TILES):
        ends = [*chosen, brain.start - 1, brain.stop]
        furthest = max(free, key=lambda k: min(abs(k - end) for end in ends))  # noqa: B023
        chosen.append(furthest)
        free.remove(furthest)
    return sorted(chosen)


def brain_picture(view: SubjectView, shown: Layer) -> Picture:
    """Three planes with the border of the brain mask, and again with the regions in colour."""
    box = bounding_box(view.brain_mask if view.brain_mask.any() else ~view.brain_mask)
    at = _middle(view, box)
    panels = [_brain_panel(view, shown, plane, box=box, at=at) for plane in Plane]
    coloured = [
        replace(panel, pixels=_region_colours(view, panel, plane, box=box, at=at), outlines=())
        for panel, plane in zip(panels, Plane, strict=True)
    ]
    present = {int(number) % LEFT_OFFSET for number in np.unique(view.regions)}
    legend = tuple(
        (REGION_COLOURS[region.base], region.name) for region in REGIONS if region.base in present
    )
    return compose([panels, coloured], f"Brain mask and regions on the {shown.title}", legend)


def registration_picture(view: SubjectView, fixed: Layer, moved: Layer) -> Picture:
    """Three planes as a checkerboard of two scans, and the edges of one over the other."""
    box = bounding_box(view.brain_mask if view.brain_mask.any() else ~view.brain_mask)
    at = _middle(view, box)
    below = [_brain_panel(view, fixed, plane, box=box, at=at) for plane in Plane]
    above = [_brain_panel(view, moved, plane, box=box, at=at) for plane in Plane]
    checked = [
        replace(one, pixels=_checkerboard(one.pixels, other.pixels), outlines=())
        for one, other in zip(below, above, strict=True)
    ]
    edged = [
        replace(one, pixels=_edges_over(one.pixels, other.pixels), outlines=(), title="")
        for one, other in zip(below, above, strict=True)
    ]
    what = f"{moved.title} against {fixed.title}: checkerboard, and edges of the former"
    return compose([checked, edged], what)


def _finding_panel(
    view: SubjectView, lesion: Lesion, layer: Layer, *, plane: Plane, anchor: Voxel
) -> Panel:
    grid = view.scans.reference.grid
    cell = plane.spacing(grid.spacing_mm)
    place = plane.place(np.array(anchor, dtype=float), grid.shape)
    frame = Frame.around(
        place, field_mm=(FIELD_MM, FIELD_MM), cell_mm=cell, pixels_per_mm=_FINDING_PX / FIELD_MM
    )
    index = anchor[plane.slice_axis]
    instances = plane.cut(view.measured.instances, index)
    x, y = frame.pixel(*place)
    own = instances == lesion.index
    gap = [
        _half_extent(own, axis) * step * frame.width / FIELD_MM for axis, step in enumerate(cell)
    ]
    first = layer.volume is view.scans.reference
    return Panel(
        pixels=layer.grey(plane, index, frame),
        title=layer.title,
        letters=plane.letters,
        outlines=_outlines(view, instances, frame, own=lesion.index),
        crosshair=Crosshair(x, y, gap_x=gap[1] + 14, gap_y=gap[0] + 14),
        bar_px=bar_px(frame, 10.0, cell[1]) if first else 0.0,
        bar_text="10 mm" if first else "",
    )


def _half_extent(mask: BoolMap, axis: int) -> float:
    return np.count_nonzero(mask.any(axis=1 - axis)) / 2


def _outlines(
    view: SubjectView, instances: npt.NDArray[np.generic], frame: Frame, *, own: int
) -> tuple[Outline, ...]:
    """Outlines of all findings in a cut, the one the picture is about last and solid."""
    return tuple(_each_outline(view, instances, frame, own=own))


def _each_outline(
    view: SubjectView, instances: npt.NDArray[np.generic], frame: Frame, *, own: int
) -> Iterator[Outline]:
    kinds = np.array([0, *(lesion.finding for lesion in view.lesions)])
    others = np.where(instances == own, 0, kinds[instances.astype(np.intp)])
    for finding in Finding:
        if path := outline_path(others == finding, frame):
            yield Outline(f"{finding.name.lower()} other", path)
    if path := outline_path(instances == own, frame):
        yield Outline(f"{Finding(kinds[own]).name.lower()} own", path)


def _brain_frame(
    view: SubjectView, plane: Plane, box: tuple[slice, ...], *, width_px: int
) -> Frame:
    """Frame of the brain's bounding box and 6 mm around it."""
    grid = view.scans.reference.grid
    cell = plane.spacing(grid.spacing_mm)
    centre = np.array([(part.start + part.stop - 1) / 2 for part in box])
    field = [
        (box[axis].stop - box[axis].start) * step + 12
        for axis, step in zip(plane.axes, cell, strict=True)
    ]
    return Frame.around(
        plane.place(centre, grid.shape),
        field_mm=(field[0], field[1]),
        cell_mm=cell,
        pixels_per_mm=width_px / field[1],
    )


def _tile(
    view: SubjectView, shown: Layer, frame: Frame, *, k: int, anchors: dict[int, Voxel]
) -> Panel:
    grid = view.scans.reference.grid
    cell = Plane.AXIAL.spacing(grid.spacing_mm)
    lesions = [view.lesions[index - 1] for index in anchors]
    instances = Plane.AXIAL.cut(view.measured.instances, k)
    return Panel(
        pixels=shown.grey(Plane.AXIAL, k, frame),
        title=f"slice {k + 1}",
        letters=Plane.AXIAL.letters,
        outlines=_outlines(view, instances, frame, own=0),
        marks=tuple(_mark(view, lesion, frame, anchors[lesion.index]) for lesion in lesions),
        bar_px=bar_px(frame, 20.0, cell[1]),
        bar_text="20 mm",
    )


def _mark(view: SubjectView, lesion: Lesion, frame: Frame, anchor: Voxel) -> Mark:
    shape: Shape = view.scans.reference.grid.shape
    x, y = frame.pixel(*Plane.AXIAL.place(np.array(anchor, dtype=float), shape))
    cell_mm = Plane.AXIAL.spacing(view.scans.reference.grid.spacing_mm)[1]
    return Mark(
        x=x,
        y=y,
        radius=bar_px(frame, lesion.diameter_mm / 2 + 3.0, cell_mm),
        kind=lesion.finding.name.lower(),
        text=str(lesion.index),
        link=f"#finding-{lesion.index}" if lesion in view.pictured else None,
    )


def _middle(view: SubjectView, box: tuple[slice, ...]) -> Voxel:
    """Return a voxel at the level of the basal ganglia, else the middle of the brain."""
    nuclei = np.isin(view.regions % LEFT_OFFSET, list(BASAL_GANGLIA_BASES))
    i, j, k = bounding_box(nuclei) if nuclei.any() else box
    middle_i, _, _ = ((part.start + part.stop) // 2 for part in box)
    # a few mm off the midline, so that the sagittal plane shows cortex and ventricle
    off = round(12 / view.scans.reference.grid.spacing_mm[0])
    last = view.brain_mask.shape[0] - 1
    return min(middle_i + off, last), (j.start + j.stop) // 2, (k.start + k.stop) // 2


def _brain_panel(
    view: SubjectView, layer: Layer, plane: Plane, *, box: tuple[slice, ...], at: Voxel
) -> Panel:
    frame = _square(_brain_frame(view, plane, box, width_px=_BRAIN_PX))
    index = at[plane.slice_axis]
    border = outline_path(plane.cut(view.brain_mask, index) != 0, frame)
    return Panel(
        pixels=layer.grey(plane, index, frame),
        title=plane.title,
        letters=plane.letters,
        outlines=(Outline("brain", border),) if border else (),
    )


def _square(frame: Frame) -> Frame:
    """Widen a frame to a square of the usual size, so that panels stand in line."""
    scale = max(frame.height, frame.width)
    down = frame.cells_down * scale / frame.height
    across = frame.cells_across * scale / frame.width
    return Frame(
        top=frame.top - (down - frame.cells_down) / 2,
        left=frame.left - (across - frame.cells_across) / 2,
        cells_down=down,
        cells_across=across,
        height=_BRAIN_PX,
        width=_BRAIN_PX,
    )


def _region_colours(
    view: SubjectView, panel: Panel, plane: Plane, *, box: tuple[slice, ...], at: Voxel
) -> Pixels:
    frame = _square(_brain_frame(view, plane, box, width_px=_BRAIN_PX))
    numbers = plane.cut(view.regions, at[plane.slice_axis])
    drawn = sample(numbers, frame, fill=0, smooth=False).astype(np.intp) % LEFT_OFFSET
    colours = np.zeros((LEFT_OFFSET, 3))
    for base, code in REGION_COLOURS.items():
        colours[base] = [int(code[n : n + 2], 16) for n in (1, 3, 5)]
    share = np.where(drawn > 0, 0.5, 0.0)[..., None]
    mixed = panel.pixels[..., None] * (1 - share) + colours[drawn] * share
    return np.asarray(mixed, dtype=np.uint8)


def _checkerboard(first: Pixels, second: Pixels, *, squares: int = 8) -> Pixels:
    rows, columns = np.indices(first.shape)
    size = max(first.shape[1] // squares, 1)
    return np.where((rows // size + columns // size) % 2 == 0, first, second)


def _edges_over(below: Pixels, above: Pixels) -> Pixels:
    """Grey image with the strongest edges of another in colour."""
    smooth = ndimage.gaussian_filter(above.astype(np.float32), 1.5)
    steep = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1))
    limit = float(np.percentile(steep, 88))
    share = np.clip((steep - limit) / max(float(steep.max()) - limit, 1e-6) * 4, 0, 1)[..., None]
    colour = np.array([255.0, 196.0, 0.0])
    return np.asarray(below[..., None] * (1 - share) + colour * share, dtype=np.uint8)
