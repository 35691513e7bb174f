"""Pictures of the findings: three planes of each, and the overview of all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.labels import Finding
from deepmir.lesions import Lesion
from deepmir.report.cuts import Frame, Plane, Voxel, outline_path
from deepmir.report.layers import Layer, Look, brain_box, brain_frame
from deepmir.report.picture import Crosshair, Mark, Outline, Panel, Picture, bar_px, compose
from deepmir.report.view import SubjectView
from deepmir.volume import BoolMap

FIELD_MM = 40.0
"""Side of the square field shown around a finding."""

_PANEL_PX = 240
_LOCATOR_PX = 230
_TILE_PX = 220
_TILES_ACROSS = 6
_MIN_TILES = 12
_MAX_TILES = 30


@dataclass(frozen=True, slots=True)
class _Subject:
    """The finding that a picture is about."""

    lesion: Lesion
    anchor: Voxel


def anchor_voxels(view: SubjectView) -> dict[int, Voxel]:
    """Voxel of each finding, by its number, that lies nearest to its centroid."""
    spacing = np.array(view.scans.reference.grid.spacing_mm)
    anchors: dict[int, Voxel] = {}
    for index, box in enumerate(ndimage.find_objects(view.measured.instances), start=1):
        inside = np.argwhere(view.measured.instances[box] == index)
        away = np.linalg.norm((inside - inside.mean(axis=0)) * spacing, axis=1)
        nearest = inside[away.argmin()]
        i, j, k = (int(part.start + step) for part, step in zip(box, nearest, strict=True))
        anchors[index] = (i, j, k)
    return anchors


def finding_picture(
    view: SubjectView, lesion: Lesion, *, anchor: Voxel, shown: Sequence[Layer]
) -> Picture:
    """Draw three planes through a finding on every scan, with outline and crosshair."""
    subject = _Subject(lesion, anchor)
    rows = [[_panel(view, subject, layer, plane=plane) for plane in Plane] for layer in shown]
    rows[0] = [
        replace(panel, title=f"{panel.title} · {plane.title}", bar_text="10 mm")
        for panel, plane in zip(rows[0], Plane, strict=True)
    ]
    names = ", ".join(layer.title for layer in shown)
    return compose(rows, f"Finding {lesion.index} on {names}: axial, coronal and sagittal plane")


def locator(view: SubjectView, shown: Layer, *, anchor: Voxel) -> Picture:
    """Draw the axial slice of a finding, with the field of its picture as a box."""
    grid = view.scans.reference.grid
    frame = brain_frame(view, Plane.AXIAL, width_px=_LOCATOR_PX, square=False)
    look = Look(Plane.AXIAL, anchor[2], frame)
    x, y = frame.pixel(*Plane.AXIAL.place(np.array(anchor, dtype=float), grid.shape))
    side = bar_px(frame, FIELD_MM, Plane.AXIAL.spacing(grid.spacing_mm)[1])
    box = f"M{x - side / 2:.1f} {y - side / 2:.1f}h{side:.1f}v{side:.1f}h{-side:.1f}z"
    panel = Panel(
        pixels=shown.grey(look),
        title=f"slice {anchor[2] + 1}",
        letters=Plane.AXIAL.letters,
        outlines=(Outline("field", box),),
        crosshair=Crosshair(x, y, gap_x=side / 2, gap_y=side / 2),
    )
    return compose([[panel]], f"Place of the finding on axial slice {anchor[2] + 1}")


def overview(view: SubjectView, shown: Layer, *, anchors: Mapping[int, Voxel]) -> Picture:
    """Draw axial slices with each finding ringed and numbered on the slice nearest to it."""
    slices = choose_slices([anchor[2] for anchor in anchors.values()], brain_box(view)[2])
    frame = brain_frame(view, Plane.AXIAL, width_px=_TILE_PX, square=False)
    on_slice: dict[int, list[_Subject]] = {k: [] for k in slices}
    for lesion in view.lesions:
        anchor = anchors[lesion.index]
        on_slice[_nearest(slices, anchor[2])].append(_Subject(lesion, anchor))
    tiles = [_tile(view, shown, Look(Plane.AXIAL, k, frame), subjects=on_slice[k]) for k in slices]
    rows = [tiles[n : n + _TILES_ACROSS] for n in range(0, len(tiles), _TILES_ACROSS)]
    return compose(rows, f"Overview of {len(tiles)} axial slices of the {shown.title}")


def choose_slices(wanted: Sequence[int], brain: slice) -> list[int]:
    """Choose axial slices: those with findings, filled up evenly to full rows.

    With more such slices than there is room for, an even choice of them is taken.

    Examples
    --------
    >>> choose_slices([40], slice(0, 100))
    [4, 9, 19, 29, 40, 47, 55, 62, 70, 77, 85, 92]
    """
    chosen = sorted(set(wanted))
    if len(chosen) > _MAX_TILES:
        even = np.linspace(0, len(chosen) - 1, _MAX_TILES).round().astype(int)
        return [chosen[n] for n in even]
    full_rows = -(-len(chosen) // _TILES_ACROSS) * _TILES_ACROSS
    free = [k for k in range(brain.start, brain.stop) if k not in chosen]
    while free and len(chosen) < max(full_rows, _MIN_TILES):
        taken = [*chosen, brain.start - 1, brain.stop]
        distances = [min(abs(k - other) for other in taken) for k in free]
        chosen.append(free.pop(int(np.argmax(distances))))
    return sorted(chosen)


def _nearest(slices: Sequence[int], k: int) -> int:
    return min(slices, key=lambda other: abs(other - k))


def _panel(view: SubjectView, subject: _Subject, layer: Layer, *, plane: Plane) -> Panel:
    grid = view.scans.reference.grid
    cell = plane.spacing(grid.spacing_mm)
    place = plane.place(np.array(subject.anchor, dtype=float), grid.shape)
    frame = Frame.around(
        place, field_mm=(FIELD_MM, FIELD_MM), cell_mm=cell, pixels_per_mm=_PANEL_PX / FIELD_MM
    )
    look = Look(plane, subject.anchor[plane.slice_axis], frame)
    instances = plane.cut(view.measured.instances, look.index)
    return Panel(
        pixels=layer.grey(look),
        title=layer.title,
        letters=plane.letters,
        outlines=tuple(_outlines(view, instances, frame, own=subject.lesion.index)),
        crosshair=_crosshair(instances == subject.lesion.index, frame, place),
        bar_px=bar_px(frame, 10.0, cell[1]),
    )


def _crosshair(mask: BoolMap, frame: Frame, place: tuple[float, float]) -> Crosshair:
    x, y = frame.pixel(*place)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    left, top = frame.pixel(rows[0], columns[0])
    right, bottom = frame.pixel(rows[-1] + 1, columns[-1] + 1)
    return Crosshair(x, y, gap_x=max(x - left, right - x) + 10, gap_y=max(y - top, bottom - y) + 10)


def _outlines(
    view: SubjectView, instances: npt.NDArray[np.generic], frame: Frame, *, own: int
) -> Iterator[Outline]:
    """Outlines of all findings in a cut, that of number `own` last and marked as such."""
    kinds = np.array([0, *(lesion.finding for lesion in view.lesions)])
    others = kinds[np.where(instances == own, 0, instances).astype(np.intp)]
    for finding in Finding:
        if path := outline_path(others == finding, frame):
            yield Outline(f"{finding.name.lower()} other", path)
    if own and (path := outline_path(instances == own, frame)):
        yield Outline(f"{Finding(kinds[own]).name.lower()} own", path)


def _tile(view: SubjectView, shown: Layer, look: Look, *, subjects: Sequence[_Subject]) -> Panel:
    instances = look.plane.cut(view.measured.instances, look.index)
    return Panel(
        pixels=shown.grey(look),
        title=f"slice {look.index + 1}",
        letters=look.plane.letters,
        outlines=tuple(_outlines(view, instances, look.frame, own=0)),
        marks=tuple(_mark(view, subject, look) for subject in subjects),
    )


def _mark(view: SubjectView, subject: _Subject, look: Look) -> Mark:
    grid = view.scans.reference.grid
    x, y = look.frame.pixel(*look.plane.place(np.array(subject.anchor, dtype=float), grid.shape))
    cell_mm = look.plane.spacing(grid.spacing_mm)[1]
    lesion = subject.lesion
    return Mark(
        x=x,
        y=y,
        radius=bar_px(look.frame, lesion.diameter_mm / 2 + 3.0, cell_mm),
        kind=lesion.finding.name.lower(),
        text=str(lesion.index),
        link=f"#finding-{lesion.index}" if lesion in view.pictured else "#findings",
    )
