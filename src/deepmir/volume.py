"""A volume: an image array that travels with its grid, its modality and its unit."""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from deepmir.errors import GeometryError
from deepmir.geometry import Affine, Grid

FloatMap = npt.NDArray[np.float32]
"""Image of (I, J, K) or stack of (C, I, J, K), float32."""
BoolMap = npt.NDArray[np.bool_]
IntMap = npt.NDArray[np.integer]
Present = tuple[bool, bool, bool]
"""Whether T2w, swi and Chimap are there."""


class Modality(StrEnum):
    """Contrasts by their BIDS suffix; the order of T2W, SWI, CHIMAP is the network's."""

    T2W = "T2w"
    SWI = "swi"
    CHIMAP = "Chimap"
    MASK = "mask"
    DSEG = "dseg"
    MEGRE = "MEGRE"  # one echo of a gradient echo, magnitude or phase
    MINIP = "minIP"
    R2STARMAP = "R2starmap"


CHANNELS: tuple[Modality, Modality, Modality] = (Modality.T2W, Modality.SWI, Modality.CHIMAP)
"""Order of the network's image channels; part of every checkpoint."""


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """One 3-D image in RAS+ voxel order, with the way back to how it was stored.

    `data` is indexed (I, J, K) with I towards right, J anterior, K superior (closest
    canonical orientation; the affine keeps any obliqueness). `native` is the grid as the
    file had it, onto which results are written back without interpolation.
    """

    data: npt.NDArray[np.generic]  # (I, J, K)
    affine: Affine
    modality: Modality
    unit: str = ""  # of a Chimap, as its sidecar has it; "" where arbitrary or not said
    name: str = ""  # path or description, for messages
    native: Grid | None = None  # None: the array is its own native grid

    def __post_init__(self) -> None:
        if self.data.ndim != 3:
            raise GeometryError(f"{self.name or self.modality} must be 3-D, got {self.data.shape}")

    @property
    def grid(self) -> Grid:
        """The grid of `data`."""
        i, j, k = self.data.shape
        return Grid((i, j, k), self.affine)

    def with_data(self, data: npt.NDArray[np.generic]) -> "Volume":
        """Return the same volume with other values on the same grid.

        Raises
        ------
        GeometryError
            If the shape differs.
        """
        if data.shape != self.data.shape:
            raise GeometryError(
                f"new values for {self.name or self.modality} have shape {data.shape}, "
                f"wanted {self.data.shape}"
            )
        return replace(self, data=data)


@dataclass(frozen=True, slots=True, eq=False)
class Scans:
    """The scans of one person, each on its own grid; absent ones are None."""

    t2w: Volume | None = None
    swi: Volume | None = None
    chimap: Volume | None = None

    @property
    def reference(self) -> Volume:
        """The scan on whose grid results are written: SWI, else Chimap, else T2w.

        Raises
        ------
        GeometryError
            If there is no scan at all.
        """
        for volume in (self.swi, self.chimap, self.t2w):
            if volume is not None:
                return volume
        raise GeometryError("a person needs at least one of SWI, QSM and T2w; none was given")

    @property
    def present(self) -> Present:
        """Which channels (T2w, swi, Chimap) there are, in the network's order."""
        return self.t2w is not None, self.swi is not None, self.chimap is not None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a user must be told about one person: shown, stored and reported."""

    stage: str  # "read", "preprocess", "segment", "lesions"
    message: str
    level: str = "warning"  # or "info"
