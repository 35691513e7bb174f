"""Pictures of what was missed and of what is false, on the scan that it was looked for in."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from deepmir.evaluation.person import ScoredLesion
from deepmir.report.cuts import Frame, Plane, Voxel, outline_path
from deepmir.report.layers import Layer, Look, window_of
from deepmir.report.picture import Crosshair, Outline, Panel, Picture, bar_px, compose
from deepmir.volume import BoolMap, IntMap, Volume

FIELD_MM = 40.0
"""Side of the square field shown around a lesion."""

_PANEL_PX = 200


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One person's scan with both label maps, on one grid."""

    image: Volume
    prediction: IntMap  # (I, J, K)
    reference: IntMap  # (I, J, K)


@dataclass(frozen=True, slots=True)
class ErrorCard:
    """One missed or false lesion with its picture."""

    person: str
    lesion: ScoredLesion
    picture: Picture


def error_card(person: str, lesion: ScoredLesion, scene: Scene) -> ErrorCard:
    """Draw three planes through a lesion: prediction with solid outline, reference with dashed."""
    grid = scene.image.grid
    voxel = np.linalg.inv(grid.affine) @ np.array([*lesion.centroid_mm, 1.0])
    i, j, k = (
        int(np.clip(np.rint(at), 0, size - 1))
        for at, size in zip(voxel[:3], grid.shape, strict=True)
    )
    layer = Layer(scene.image, window_of(scene.image, _head(scene.image)))
    panels = [_panel(scene, layer, plane, anchor=(i, j, k)) for plane in Plane]
    panels[0] = replace(panels[0], bar_text="10 mm")
    what = f"{lesion.status} {lesion.finding.name} of {person}"
    return ErrorCard(person, lesion, compose([panels], f"{what}: axial, coronal, sagittal plane"))


def _head(image: Volume) -> BoolMap:
    head: BoolMap = np.asarray(image.data.astype(np.float32) > 0)
    return head


def _panel(scene: Scene, layer: Layer, plane: Plane, *, anchor: Voxel) -> Panel:
    grid = scene.image.grid
    cell = plane.spacing(grid.spacing_mm)
    place = plane.place(np.array(anchor, dtype=float), grid.shape)
    frame = Frame.around(
        place, field_mm=(FIELD_MM, FIELD_MM), cell_mm=cell, pixels_per_mm=_PANEL_PX / FIELD_MM
    )
    look = Look(plane, anchor[plane.slice_axis], frame)
    x, y = frame.pixel(*place)
    return Panel(
        pixels=layer.grey(look),
        title=plane.title,
        letters=plane.letters,
        outlines=tuple(_outlines(scene, look)),
        crosshair=Crosshair(x, y, gap_x=_PANEL_PX / 4, gap_y=_PANEL_PX / 4),
        bar_px=bar_px(frame, 10.0, cell[1]),
    )


def _outlines(scene: Scene, look: Look) -> Iterator[Outline]:
    for kind, labels in (("reference", scene.reference), ("prediction", scene.prediction)):
        cut: BoolMap = np.asarray(look.plane.cut(labels, look.index), dtype=np.bool_)
        if path := outline_path(cut, look.frame):
            yield Outline(kind, path)
