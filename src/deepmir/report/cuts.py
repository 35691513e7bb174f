"""Planes through a volume, as they are drawn: radiological convention, pixels of equal size.

A cut is a 2-D array (rows downwards, columns to the right) taken along the scan's own axes.
Columns run from the patient's right to the left on axial and coronal cuts (the patient's
right is on the picture's left), and from front to back on sagittal ones.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt
from PIL import Image

from deepmir.volume import BoolMap

Cut = npt.NDArray[np.generic]
"""(rows, columns) of one plane."""
Pixels = npt.NDArray[np.uint8]
"""(height, width) grey or (height, width, 3) colour."""
Voxel = tuple[int, int, int]


class Plane(Enum):
    """The three planes: name, axes of rows, columns and slices, letters at left and right."""

    AXIAL = ("axial", 1, 0, 2, "RL")
    CORONAL = ("coronal", 2, 0, 1, "RL")
    SAGITTAL = ("sagittal", 2, 1, 0, "AP")

    @property
    def title(self) -> str:
        """Name of the plane."""
        return self.value[0]

    @property
    def axes(self) -> tuple[int, int]:
        """Array axes of the rows and the columns."""
        return self.value[1], self.value[2]

    @property
    def slice_axis(self) -> int:
        """Array axis along which planes are counted."""
        return self.value[3]

    @property
    def letters(self) -> str:
        """Where the picture's left and right edges point in the patient."""
        return self.value[4]

    def cut(self, data: npt.NDArray[np.generic], index: int) -> Cut:
        """Take plane number `index` out of RAS+ `data` (I, J, K)."""
        plane: Cut = np.take(data, index, axis=self.slice_axis)
        rows_first = plane.T if self.axes[0] > self.axes[1] else plane
        return np.flip(rows_first)

    def place(self, voxel: npt.NDArray[np.float64], shape: tuple[int, ...]) -> tuple[float, float]:
        """Row and column, in cells of the cut, of the centre of a voxel (i, j, k)."""
        row, column = (shape[axis] - 1 - float(voxel[axis]) for axis in self.axes)
        return row + 0.5, column + 0.5

    def spacing(self, spacing_mm: tuple[float, float, float]) -> tuple[float, float]:
        """Height and width of a cell in mm."""
        return spacing_mm[self.axes[0]], spacing_mm[self.axes[1]]


@dataclass(frozen=True, slots=True)
class Frame:
    """The part of a cut that is drawn, in cells of the cut, and its size in pixels."""

    top: float
    left: float
    cells_down: float
    cells_across: float
    height: int
    width: int

    @classmethod
    def around(
        cls,
        centre: tuple[float, float],
        *,
        field_mm: tuple[float, float],
        cell_mm: tuple[float, float],
        pixels_per_mm: float,
    ) -> "Frame":
        """Frame of a given field (height, width) around a place (row, column)."""
        down, across = field_mm[0] / cell_mm[0], field_mm[1] / cell_mm[1]
        return cls(
            top=centre[0] - down / 2,
            left=centre[1] - across / 2,
            cells_down=down,
            cells_across=across,
            height=round(field_mm[0] * pixels_per_mm),
            width=round(field_mm[1] * pixels_per_mm),
        )

    def pixel(self, row: float, column: float) -> tuple[float, float]:
        """(x, y) in pixels of a place in the cut."""
        x = (column - self.left) * self.width / self.cells_across
        y = (row - self.top) * self.height / self.cells_down
        return x, y


def sample(cut: Cut, frame: Frame, *, fill: float, smooth: bool = True) -> npt.NDArray[np.float32]:
    """Draw a frame of a cut: (height, width), bicubic or nearest; `fill` outside the cut."""
    first = np.floor([frame.top, frame.left]).astype(int) - 2
    last = np.ceil([frame.top + frame.cells_down, frame.left + frame.cells_across]).astype(int) + 2
    patch = np.full(last - first, fill, dtype=np.float32)
    start, stop = np.maximum(first, 0), np.minimum(last, cut.shape)
    if (start < stop).all():
        inside = tuple(slice(a, b) for a, b in zip(start - first, stop - first, strict=True))
        patch[inside] = cut[start[0] : stop[0], start[1] : stop[1]]
    left, top = frame.left - float(first[1]), frame.top - float(first[0])
    drawn = Image.fromarray(patch).resize(
        (frame.width, frame.height),
        Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST,
        box=(left, top, left + frame.cells_across, top + frame.cells_down),
    )
    return np.asarray(drawn, dtype=np.float32)


def outline_path(mask: BoolMap, frame: Frame) -> str:
    """SVG path along the voxel edges of a mask's border, in pixels of the frame.

    Only what lies in the frame is drawn; an empty string where that is nothing.
    """
    top, left = max(int(frame.top) - 1, 0), max(int(frame.left) - 1, 0)
    bottom = max(int(np.ceil(frame.top + frame.cells_down)) + 1, 0)
    right = max(int(np.ceil(frame.left + frame.cells_across)) + 1, 0)
    part = np.pad(mask[top:bottom, left:right], 1)
    if not part.any():
        return ""
    steps = []
    for row, start, stop in _runs(part[1:] != part[:-1]):
        x, y = frame.pixel(row + top, start - 1 + left)
        steps.append(f"M{x:.1f} {y:.1f}h{(stop - start) * frame.width / frame.cells_across:.1f}")
    for column, start, stop in _runs((part[:, 1:] != part[:, :-1]).T):
        x, y = frame.pixel(start - 1 + top, column + left)
        steps.append(f"M{x:.1f} {y:.1f}v{(stop - start) * frame.height / frame.cells_down:.1f}")
    return "".join(steps)


def _runs(edges: BoolMap) -> list[tuple[int, int, int]]:
    """Rows, first and one-after-last columns of the runs of True."""
    change = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, stops = np.argwhere(change == 1), np.argwhere(change == -1)
    return [
        (int(row), int(start), int(stop))
        for (row, start), (_, stop) in zip(starts, stops, strict=True)
    ]
