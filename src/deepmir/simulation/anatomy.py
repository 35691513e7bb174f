"""Anatomy of a head: what every millimetre is made of, and which region it belongs to.

A head comes from a FreeSurfer-style label map (`read_anatomy`) or from the template that
nilearn brings along (`built_in_anatomy`).  The head's own labels decide where they know
(nuclei, thalamus, brain stem, cerebellum, cortex against white matter, left against right);
the atlas, warped onto the head, decides elsewhere: lobes, internal and external capsule, corpus
callosum, deep white matter, and the nuclei that FreeSurfer does not label.

    label map ──clean──▶ labels ──class_maps, fit_warp──▶ warped atlas ──▶ regions, nuclei
"""

import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from scipy import ndimage

from deepmir.errors import GeometryError, InputError, MissingPartError
from deepmir.geometry import Affine, Grid, check_affine, spacing_mm
from deepmir.labels import LEFT_OFFSET, RIGHT_OFFSET
from deepmir.simulation.atlas import (
    DENTATE_LEFT,
    NUCLEI,
    Atlas,
    LabelMap,
    Number,
    RegionMap,
    carry,
    class_maps,
    fit_warp,
    load_atlas,
    padded_box,
)
from deepmir.simulation.vessels import ARTERY, SINUS
from deepmir.volume import BoolMap, FloatMap

BONE, SKIN, SOFT_TISSUE = 515, 511, 507
"""Numbers of what lies outside the brain, as the training heads have them."""
EXTRACRANIAL = (0, 506, SOFT_TISSUE, 508, 509, SKIN, 512, BONE, 516, 530)
"""What lies outside the skull's inner table: air, eyes, muscle, mucosa, skin, bone, nerves."""

_CORTEX, _WHITE = (3, 42), (2, 41, 25, 57)
_CEREBELLUM = (7, 8, 46, 47)
_STEM = (16,)
_VENTRAL_DC = (28, 60)
_VENTRICLES = (4, 5, 14, 15, 43, 44)
_CSF = 24
_REGION_OF: dict[int, tuple[int, ...]] = {  # base number of the region: FreeSurfer numbers
    1: (*_STEM, *NUCLEI[:4]),
    2: (*_CEREBELLUM, *NUCLEI[4:]),
    3: (26, 58),
    4: (10, 49),
    11: (17, 18, 53, 54),
    21: (11, 50),
    22: (12, 51),
    23: (13, 52),
}
_LEFT = (2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 17, 18, 25, 26, 28, 1001, 1003, 1005)
_RIGHT = (41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 57, 58, 60, 1002, 1004, 1006)
_PARENCHYMA = (*_LEFT, *_RIGHT, *_STEM, 14, 15)
_NEEDED = (2, 3, 4, 10, 11, 12, 13, 41, 42, 43, 49, 50, 51, 52, 16, 8, 47)
_ODD = (136, 137, 163, 164)  # parts beside the ventricles without a meaning of their own
_UNPAIRED = (1, 7)
_IN_CORTEX = (9, 10, 11, 12, 13)
_IN_WHITE = (5, 6, 7, 8, 9, 10, 11, 12, 13)
_CISTERN_MM = 5  # CSF between parts of the brain closer than twice this belongs to its mask
_TEMPLATE_CSF = 122  # darker than this is CSF on the template's T1
_SHELLS_MM = ((2.5, _CSF), (9.0, BONE), (15.0, SOFT_TISSUE))  # outer distance from the brain
_SKIN_MM = 3
_SHELL_PAD = 19  # voxels added on every side for the shells, and a neck below
_AIR_MM = (  # centre and half axes, MNI: sphenoid sinus, nasal cavity
    ((0.0, 22.0, -38.0), (11.0, 13.0, 9.0)),
    ((0.0, 52.0, -52.0), (9.0, 26.0, 20.0)),
)
_MARGIN = 4  # mm of air kept around the head
_SMALLEST_AIR_MM3 = 8  # a voxel of the grid of the background field
_SMALLEST_VESSEL_MM3 = 60


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """One head on a 1 mm grid, RAS+."""

    labels: LabelMap  # (I, J, K) FreeSurfer numbers, 500 and more outside the brain, NUCLEI
    regions: RegionMap  # (I, J, K) region numbers of deepmir.labels, 0 = none
    brain: BoolMap  # (I, J, K) everything inside the pia, with ventricles and cisterns
    affine: Affine
    name: str = ""

    @property
    def grid(self) -> Grid:
        """The grid of all three maps."""
        i, j, k = self.labels.shape
        return Grid((i, j, k), self.affine)


def read_anatomy(path: Path) -> Anatomy:
    """Read a FreeSurfer-style label map and give it regions; takes about a minute.

    Any orientation and voxel size; the result is RAS+ at 1 mm, cropped to the head. A map
    without skull and skin gets synthetic ones.

    Raises
    ------
    InputError
        If the file is missing, not an image, not integers, or lacks needed labels.
    GeometryError
        If it is not 3-D or its affine is singular.
    """
    labels, affine = _read_labels(path)
    labels = merge_odd_labels(labels)
    missing = sorted(set(_NEEDED) - set(np.unique(labels).tolist()))
    if missing:
        raise InputError(
            f"{path} has no voxel with FreeSurfer number {', '.join(map(str, missing))}; "
            "wanted a whole-brain label map such as aseg.mgz or SynthSeg writes"
        )
    if labels.max() < 500:
        labels, affine = _add_shells(labels, affine)
    box = padded_box(labels > 0, margin=_MARGIN)
    return complete_anatomy(fill_islands(labels[box]), _moved(affine, box), name=path.name)


def built_in_anatomy() -> Anatomy:
    """Head of the ICBM 2009a template that nilearn's wheel holds, for the demo.

    The template has no skull: the layers around the brain, face and neck are made up.
    Fonov 2011, doi:10.1016/j.neuroimage.2010.07.033.

    Raises
    ------
    MissingPartError
        If nilearn, or its template, is not installed.
    InputError
        If the template or the package's atlas cannot be read.
    """
    t1, affine = _read_template("t1")
    box = padded_box(t1 > 0, margin=_CISTERN_MM + 2)
    t1, affine = t1[box], _moved(affine, box)
    is_white = _read_template("wm")[0][box] > _read_template("gm")[0][box]
    atlas = load_atlas()
    to_atlas = np.linalg.inv(atlas.affine) @ affine
    overlaid = ndimage.affine_transform(
        atlas.labels, to_atlas, output_shape=t1.shape, output=np.uint16, order=0
    )
    overlaid_regions = ndimage.affine_transform(
        atlas.regions, to_atlas, output_shape=t1.shape, output=np.uint8, order=0
    )
    labels = _tissue_labels(t1, overlaid, is_white=is_white)
    regions = assign_regions(labels, overlaid_regions)
    whole, moved = _add_shells(labels, affine)
    return Anatomy(
        labels=_with_nasal_air(whole, moved),
        regions=np.pad(regions, _SHELL_PAD),
        brain=np.pad(brain_of(labels), _SHELL_PAD),
        affine=moved,
        name="built-in",
    )


def complete_anatomy(
    labels: LabelMap, affine: Affine, *, name: str, atlas: Atlas | None = None
) -> Anatomy:
    """Find regions and small nuclei of a clean label map at 1 mm.

    Parameters
    ----------
    labels : (I, J, K) uint16 array
        FreeSurfer numbers, as `merge_odd_labels` leaves them.
    affine : (4, 4) array
    atlas : Atlas, optional
        None: the one that comes with the package.

    Raises
    ------
    InputError
        If the labels hold no brain.
    """
    atlas = atlas or load_atlas()
    warp = fit_warp(class_maps(labels, affine), class_maps(atlas.labels, atlas.affine))
    box = padded_box(np.isin(labels, _PARENCHYMA), margin=_CISTERN_MM + 2)
    core, core_affine = labels[box], _moved(affine, box)
    target = Grid(core.shape, core_affine)
    core = place_nuclei(core, carry(atlas.labels, atlas.affine, warp, target))
    whole, regions = labels.copy(), np.zeros(labels.shape, dtype=np.uint8)
    whole[box] = core
    regions[box] = assign_regions(core, carry(atlas.regions, atlas.affine, warp, target))
    brain = np.zeros(labels.shape, dtype=bool)
    brain[box] = brain_of(core)
    return Anatomy(whole, regions, brain, affine, name)


def merge_odd_labels(labels: LabelMap) -> LabelMap:
    """Give every number of a finer or odd FreeSurfer scheme one of the plain ones."""
    table = np.arange(65536, dtype=np.uint16)
    for first, last, plain in _FINER:
        table[first : last + 1] = plain
    merged = table[labels]
    nearest = merged == _TO_NEAREST
    if nearest.any():
        known = np.isin(merged, _PARENCHYMA)
        merged[nearest] = _fill_nearest(merged, known=known, wanted=nearest)
    return merged


def fill_islands(labels: LabelMap) -> LabelMap:
    """Give specks of air, bone, soft tissue or blood the label of what is around them.

    Automatic label maps hold hundreds of them, most of one voxel and unlabelled, which means air.
    A bubble has the field of a microbleed, a splinter of bone that of a calcification, and a
    speck of a vein is a drop of blood, so that a simulated scan of such a head would show
    findings which its truth does not know.

    Air that tissue encloses is filled where it is smaller than a voxel of the grid of the
    background field, or borders on more of what is inside the skull than of what is outside;
    vessels where they hang together in less than 60 mm³.
    """
    filled = labels.copy()
    for specks in (_bubbles(labels), _drops(labels)):
        filled[specks] = _fill_nearest(filled, known=(filled > 0) & ~specks, wanted=specks)
    outside = np.isin(filled, EXTRACRANIAL)
    # Air around the array makes one piece of all that reaches its edge.
    pieces, _ = ndimage.label(np.pad(outside, 1, constant_values=True))
    islands = outside & (pieces != pieces[0, 0, 0])[1:-1, 1:-1, 1:-1]
    filled[islands] = _fill_nearest(filled, known=~outside, wanted=islands)
    return filled


def _bubbles(labels: LabelMap) -> BoolMap:
    """Enclosed air that is tiny, or lies inside the skull by most of its surface."""
    pieces, count = ndimage.label(np.pad(labels == 0, 1, constant_values=True))
    open_air = pieces[0, 0, 0]
    pieces = pieces[1:-1, 1:-1, 1:-1]
    size = np.bincount(pieces.ravel(), minlength=count + 1)
    bubble = size < _SMALLEST_AIR_MM3
    for n, box in enumerate(ndimage.find_objects(pieces), 1):
        if n == open_air or bubble[n]:
            continue
        around = tuple(slice(max(axis.start - 1, 0), axis.stop + 1) for axis in box)
        piece = pieces[around] == n
        surface = labels[around][ndimage.binary_dilation(piece) & ~piece]
        bubble[n] = np.isin(surface, EXTRACRANIAL).mean() < 0.5
    bubble[[0, open_air]] = False
    return np.asarray(bubble[pieces])


def _drops(labels: LabelMap) -> BoolMap:
    """Labelled arteries and veins that hang together with too little to be a vessel."""
    drops = np.zeros(labels.shape, dtype=bool)
    for number in (ARTERY, SINUS):
        pieces, _ = ndimage.label(labels == number, np.ones((3, 3, 3)))
        small = np.bincount(pieces.ravel()) < _SMALLEST_VESSEL_MM3
        small[0] = False
        drops |= small[pieces]
    return drops


_TO_NEAREST = 65535
_FINER: tuple[tuple[int, int, int], ...] = (  # first and last number, the plain one
    (1000, 1999, 3), (2000, 2999, 42), (3000, 3999, 2), (4000, 4999, 41), (5001, 5001, 2),
    (5002, 5002, 41), (11100, 11199, 3), (12100, 12199, 42), (13100, 13199, 2), (14100, 14199, 41),
    (31, 31, 4), (63, 63, 43), (72, 72, 14), (78, 78, 2), (79, 79, 41), (19, 19, 3), (55, 55, 42),
    (77, 77, _TO_NEAREST), (80, 80, _TO_NEAREST), (251, 255, _TO_NEAREST),
    *((odd, odd, _TO_NEAREST) for odd in _ODD),
)  # fmt: skip


def assign_regions(labels: LabelMap, warped: RegionMap) -> RegionMap:
    """Region numbers of a head from its labels and the atlas brought onto it.

    Parameters
    ----------
    labels : (I, J, K) uint16 array
        FreeSurfer numbers.
    warped : (I, J, K) uint8 array
        Region numbers of the atlas on the head's grid; their sides are not used.
    """
    base = warped % LEFT_OFFSET
    found = np.zeros(labels.shape, dtype=np.uint8)
    for region, numbers in _REGION_OF.items():
        found[np.isin(labels, numbers)] = region
    for numbers, allowed in ((_CORTEX, _IN_CORTEX), (_WHITE, _IN_WHITE), (_VENTRAL_DC, (1, 4))):
        wanted = np.isin(labels, numbers)
        found[wanted] = _fill_nearest(base, known=np.isin(base, allowed), wanted=wanted)
    paired = (found > 0) & ~np.isin(found, _UNPAIRED)
    found[paired & np.isin(labels, _LEFT)] += LEFT_OFFSET
    found[paired & np.isin(labels, _RIGHT)] += RIGHT_OFFSET
    return found


def place_nuclei(labels: LabelMap, warped: LabelMap) -> LabelMap:
    """Write nigra, red nucleus and dentate of the warped atlas where the head allows them."""
    placed = labels.copy()
    midbrain = np.isin(labels, (*_STEM, *_VENTRAL_DC))
    cerebellum = {DENTATE_LEFT: (7, 8), DENTATE_LEFT + 1: (46, 47)}
    for number in NUCLEI:
        home = np.isin(labels, cerebellum[number]) if number in cerebellum else midbrain
        placed[(warped == number) & home] = number
    return placed


def brain_of(labels: LabelMap) -> BoolMap:
    """Mask of the brain: its parts, the CSF enclosed by them, and the holes in between."""
    parts = np.isin(labels, (*_PARENCHYMA, 30, 62))
    far = np.pad(~parts, _CISTERN_MM + 1, constant_values=True)
    # Closing by a ball, written with distances: it is many times faster.
    grown = ndimage.distance_transform_edt(far) <= _CISTERN_MM
    closed = ndimage.distance_transform_edt(grown) > _CISTERN_MM
    inner = (slice(_CISTERN_MM + 1, -_CISTERN_MM - 1),) * 3
    enclosed = closed[inner] & np.isin(labels, (_CSF, 0, 30, 62, 85, 502))
    return np.asarray(ndimage.binary_fill_holes(parts | enclosed))


def _fill_nearest(
    values: npt.NDArray[Number], *, known: BoolMap, wanted: BoolMap
) -> npt.NDArray[Number]:
    """Value of the nearest `known` voxel at each `wanted` voxel, in their order: (n,)."""
    if not known.any() or not wanted.any():
        return np.zeros(int(wanted.sum()), dtype=values.dtype)
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(values[tuple(axis[wanted] for axis in nearest)], dtype=values.dtype)


def save_anatomy(anatomy: Anatomy, path: Path) -> None:
    """Store a finished anatomy (.npz), so that it is registered once only.

    Raises
    ------
    InputError
        If the name does not end in .npz.
    """
    if path.suffix != ".npz":
        raise InputError(f"an anatomy is stored as .npz, got {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.unfinished.npz")
    np.savez_compressed(
        unfinished,
        labels=anatomy.labels,
        regions=anatomy.regions,
        brain=anatomy.brain,
        affine=anatomy.affine,
        name=np.array(anatomy.name),
    )
    unfinished.replace(path)


def load_anatomy(path: Path) -> Anatomy:
    """Read what `save_anatomy` stored.

    Raises
    ------
    InputError
        If the file is missing or is no stored anatomy.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Anatomy(
                labels=stored["labels"],
                regions=stored["regions"],
                brain=stored["brain"],
                affine=stored["affine"],
                name=str(stored["name"]),
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is not a stored anatomy ({error}); make it anew with save_anatomy"
        ) from error


def _moved(affine: Affine, box: tuple[slice, slice, slice]) -> Affine:
    """Affine of the part of an array that a box cuts out."""
    out = affine.copy()
    out[:3, 3] += affine[:3, :3] @ np.array([axis.start for axis in box], dtype=float)
    return out


def _read_labels(path: Path) -> tuple[LabelMap, Affine]:
    """Labels on an RAS+ grid of 1 mm, whatever the file's orientation and voxel size."""
    try:
        image = nib.as_closest_canonical(nib.load(path))
        data = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from error
    affine = np.asarray(image.affine, dtype=float)
    check_affine(affine)
    if data.ndim != 3:
        raise GeometryError(f"{path} is {data.ndim}-D {data.shape}; a label map must be 3-D")
    whole = np.rint(np.nan_to_num(data, nan=-1.0)) if data.dtype.kind == "f" else data
    if not np.array_equal(whole, data) or whole.min() < 0 or whole.max() > 65000:
        raise InputError(f"{path} holds values that are not labels; wanted integers 0 to 65000")
    return _to_millimetres(whole.astype(np.uint16), affine)


def _to_millimetres(labels: LabelMap, affine: Affine) -> tuple[LabelMap, Affine]:
    """Nearest-neighbour resampling onto voxels of 1 mm, unless they are that already."""
    spacing = np.array(spacing_mm(affine))
    if np.abs(spacing - 1).max() < 0.01:
        return labels, affine
    shape = tuple(int(n) for n in np.ceil(np.array(labels.shape) * spacing))
    scaled = affine @ np.diag([*(1 / spacing), 1])
    # The first voxel's outer corner stays where it is.
    scaled[:3, 3] += affine[:3, :3] @ (0.5 / spacing - 0.5)
    to_old = np.linalg.inv(affine) @ scaled
    return ndimage.affine_transform(labels, to_old, output_shape=shape, order=0), scaled


def _read_template(kind: str) -> tuple[npt.NDArray[np.uint8], Affine]:
    """One image of nilearn's template: "t1", "gm" or "wm", (I, J, K), with its affine."""
    found = find_spec("nilearn")  # does not import it
    if found is None or found.origin is None:
        raise MissingPartError(
            "the built-in anatomy needs nilearn's template, and nilearn is not installed; "
            "install it with `pip install nilearn`, or pass a label map of your own"
        )
    path = (
        Path(found.origin).parent
        / f"datasets/data/mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    )
    if not path.is_file():
        raise MissingPartError(
            f"this nilearn has no template {path.name}, which the built-in anatomy is made of; "
            "install nilearn 0.11 or later, or pass a label map of your own"
        )
    image = nib.as_closest_canonical(nib.load(path))
    return np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=float)


def _tissue_labels(t1: npt.NDArray[np.uint8], overlaid: LabelMap, *, is_white: BoolMap) -> LabelMap:
    """FreeSurfer numbers of the template from its tissue and the atlas laid over it."""
    brain = ndimage.binary_fill_holes(t1 > 0)
    zone = np.zeros(t1.shape, dtype=np.uint16)
    named = np.isin(overlaid, (*_PARENCHYMA,)) & ~np.isin(overlaid, _VENTRICLES)
    zone[brain] = _fill_nearest(overlaid, known=named, wanted=brain)
    for white, cortex in ((2, 3), (41, 42), (7, 8), (46, 47)):
        here = np.isin(zone, (white, cortex))
        zone[here & is_white] = white
        zone[here & ~is_white] = cortex
    csf = brain & (t1 < _TEMPLATE_CSF)
    zone[csf] = _CSF
    return _with_ventricles(zone, overlaid, csf)


def _with_ventricles(zone: LabelMap, overlaid: LabelMap, csf: BoolMap) -> LabelMap:
    """Tell ventricles from other CSF by what they lie beside."""
    whole = zone.copy()
    box = padded_box(np.isin(overlaid, (4, 43, *_STEM)), margin=10)
    out, laid, csf = whole[box], overlaid[box], csf[box]
    apart = {
        numbers: ndimage.distance_transform_edt(~np.isin(out, numbers))
        for numbers in ((10,), (49,), _STEM, (7, 8), (46, 47))
    }
    lateral = csf & (ndimage.distance_transform_edt(~np.isin(laid, (4, 43))) <= 3)
    out[csf & (apart[10,] <= 5) & (apart[49,] <= 5)] = 14
    out[csf & (apart[_STEM] <= 6) & (apart[7, 8] <= 9) & (apart[46, 47] <= 9)] = 15
    out[lateral] = _fill_nearest(laid, known=np.isin(laid, (4, 43)), wanted=lateral)
    return whole


def _add_shells(labels: LabelMap, affine: Affine) -> tuple[LabelMap, Affine]:
    """Wrap a bare brain into CSF, bone, soft tissue and skin; face and neck are a plain block.

    Returns the labels on a larger grid and its affine.
    """
    out = np.pad(labels, _SHELL_PAD)
    moved = affine.copy()
    moved[:3, 3] -= affine[:3, :3] @ np.full(3, _SHELL_PAD)
    distance = _distance_to_hull(out > 0)
    head = distance <= _SHELLS_MM[-1][0]
    head |= _face_and_neck(head)
    outside = head & (out == 0)
    out[outside] = SOFT_TISSUE
    # The neck is cut, not covered with skin, at the array's lower end.
    out[outside & ~ndimage.binary_erosion(head, iterations=_SKIN_MM, border_value=1)] = SKIN
    inner = 0.0
    for reach, number in _SHELLS_MM[:-1]:
        out[outside & (distance > inner) & (distance <= reach)] = number
        inner = reach
    out[outside & (distance <= 0)] = _CSF
    return out, moved


def _distance_to_hull(brain: BoolMap, closing_mm: int = 10) -> FloatMap:
    """Distance in mm from the brain with its fissures closed; not positive inside.

    Found on every second voxel: the shells are smooth, and it is eight times faster.
    """
    coarse = brain[::2, ::2, ::2]
    grown = 2 * ndimage.distance_transform_edt(~coarse) <= closing_mm
    closed = (2 * ndimage.distance_transform_edt(grown) > closing_mm) | coarse
    distance = 2 * (
        ndimage.distance_transform_edt(~closed) - ndimage.distance_transform_edt(closed)
    )
    half = np.full(3, 0.5)
    smooth = ndimage.gaussian_filter(distance.astype(np.float32), 0.7)
    return np.asarray(
        ndimage.affine_transform(
            smooth, half, output_shape=brain.shape, output=np.float32, order=1, mode="nearest"
        )
    )


def _face_and_neck(head: BoolMap) -> BoolMap:
    """Continue the head's widest axial outline down to the lower end of the array."""
    areas = head.sum(axis=(0, 1))
    widest = int(areas.argmax())
    depth = ndimage.distance_transform_edt(head[:, :, widest])
    out = np.zeros_like(head)
    for k in range(widest):
        # Cheeks and neck taper: 1 mm inwards for every 4 mm downwards.
        out[:, :, k] = depth > (widest - k) / 4
    return out


def _with_nasal_air(labels: LabelMap, affine: Affine) -> LabelMap:
    """Put air where nose and sphenoid sinus lie in MNI space, below the skull base."""
    mm = [
        (affine[axis, axis] * np.arange(size) + affine[axis, 3]).reshape(
            [-1 if n == axis else 1 for n in range(3)]
        )
        for axis, size in enumerate(labels.shape)
    ]
    out = labels.copy()
    for centre, half in _AIR_MM:
        inside = sum(((x - c) / h) ** 2 for x, c, h in zip(mm, centre, half, strict=True)) < 1
        out[inside & np.isin(labels, (SOFT_TISSUE, BONE))] = 0
    return out
