"""Pictures to judge by what all findings rest on: brain mask, regions, registration."""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from deepmir.labels import BASAL_GANGLIA_BASES, LEFT_OFFSET, REGIONS
from deepmir.lesions.instances import bounding_box
from deepmir.report.cuts import Pixels, Plane, outline_path, sample
from deepmir.report.layers import Layer, Look, brain_box, brain_frame
from deepmir.report.picture import Outline, Panel, Picture, compose
from deepmir.report.view import SubjectView

REGION_COLOURS: dict[int, str] = {
    1: "#8c6d31",
    2: "#d6b656",
    3: "#b5179e",
    4: "#7b2cbf",
    5: "#4361ee",
    6: "#4cc9f0",
    7: "#f1f5f9",
    8: "#94a3b8",
    9: "#e63946",
    10: "#f3722c",
    11: "#2a9d8f",
    12: "#80b918",
    13: "#f9c74f",
    21: "#ff70a6",
    22: "#ffb385",
    23: "#e9ff70",
}
"""By base number; left and right share a colour."""

_PANEL_PX = 230
_OFF_MIDLINE_MM = 12.0  # where the sagittal plane shows cortex and ventricle
_EDGE_COLOUR = np.array([255.0, 196.0, 0.0])


def brain_picture(view: SubjectView, shown: Layer) -> Picture:
    """Draw three planes with the border of the brain mask, then with the regions in colour."""
    looks = brain_looks(view)
    outlined = [_panel(view, shown, look) for look in looks]
    coloured = [
        replace(panel, pixels=_over_regions(view, panel.pixels, look), outlines=())
        for panel, look in zip(outlined, looks, strict=True)
    ]
    present = {int(number) % LEFT_OFFSET for number in np.unique(view.regions)}
    legend = tuple(
        (REGION_COLOURS[region.base], region.name) for region in REGIONS if region.base in present
    )
    return compose([outlined + coloured], f"Brain mask and regions on the {shown.title}", legend)


def registration_picture(view: SubjectView, fixed: Layer, moved: Layer) -> Picture:
    """Draw two scans as a checkerboard, then the edges of the moved one over the fixed one."""
    looks = brain_looks(view)
    pairs = [(_panel(view, fixed, look), moved.grey(look)) for look in looks]
    checked = [
        replace(panel, pixels=_checkerboard(panel.pixels, other), outlines=())
        for panel, other in pairs
    ]
    edged = [
        replace(panel, pixels=_edges_over(panel.pixels, other), outlines=())
        for panel, other in pairs
    ]
    what = f"{moved.title} against {fixed.title}: checkerboard, then edges of the former"
    return compose([checked + edged], what)


def brain_looks(view: SubjectView) -> tuple[Look, ...]:
    """Three planes at the level of the basal ganglia, else through the middle of the brain."""
    box = brain_box(view)
    nuclei = np.isin(view.regions % LEFT_OFFSET, list(BASAL_GANGLIA_BASES))
    level = bounding_box(nuclei) if nuclei.any() else box
    off = round(_OFF_MIDLINE_MM / view.scans.reference.grid.spacing_mm[0])
    at = (
        min((box[0].start + box[0].stop) // 2 + off, box[0].stop - 1),
        (level[1].start + level[1].stop) // 2,
        (level[2].start + level[2].stop) // 2,
    )
    return tuple(
        Look(
            plane,
            at[plane.slice_axis],
            brain_frame(view, plane, width_px=_PANEL_PX, square=True),
        )
        for plane in Plane
    )


def _panel(view: SubjectView, layer: Layer, look: Look) -> Panel:
    border = outline_path(look.plane.cut(view.brain_mask, look.index) != 0, look.frame)
    return Panel(
        pixels=layer.grey(look),
        title=look.plane.title,
        letters=look.plane.letters,
        outlines=(Outline("brain", border),) if border else (),
    )


def _over_regions(view: SubjectView, grey: Pixels, look: Look) -> Pixels:
    numbers = look.plane.cut(view.regions, look.index)
    drawn = sample(numbers, look.frame, fill=0, smooth=False).astype(np.intp) % LEFT_OFFSET
    colours = np.zeros((LEFT_OFFSET, 3))
    for base, code in REGION_COLOURS.items():
        colours[base] = [int(code[n : n + 2], 16) for n in (1, 3, 5)]
    share = np.where(drawn > 0, 0.5, 0.0)[..., None]
    return np.asarray(grey[..., None] * (1 - share) + colours[drawn] * share, dtype=np.uint8)


def _checkerboard(first: Pixels, second: Pixels, *, squares: int = 8) -> Pixels:
    rows, columns = np.indices(first.shape)
    size = max(first.shape[1] // squares, 1)
    return np.where((rows // size + columns // size) % 2 == 0, first, second)


def _edges_over(below: Pixels, above: Pixels) -> Pixels:
    """Grey image with the strongest edges of another in colour."""
    smooth = ndimage.gaussian_filter(above.astype(np.float32), 1.5)
    steep = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1))
    limit = float(np.percentile(steep, 88))
    strength = (steep - limit) / max(float(steep.max()) - limit, 1e-6)
    share = np.clip(4 * strength, 0, 1)[..., None]
    return np.asarray(below[..., None] * (1 - share) + _EDGE_COLOUR * share, dtype=np.uint8)
