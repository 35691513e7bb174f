"""Make `src/deepmir/simulation/data/atlas.nii.gz` from the public atlases in the data folder.

    python benchmarks/build_atlas.py [SHARED_DATA]

The MARS map was drawn on the FSL MNI152, whose deep structures coincide with those of the MNI
2009c template; its surface lies up to 2 mm outside.  The template's own parcellation therefore
decides where it knows, as on every head, and the nearest MARS region fills the rest.
"""

import json
import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.nifti1 import Nifti1Image
from nibabel.processing import resample_from_to
from scipy import ndimage

from deepmir.simulation import anatomy, atlas

DATA = Path(__file__).parents[1] / "src/deepmir/simulation/data"
# number in the template's parcellation: FreeSurfer number
PARCELLATION = {
    1: 2, 2: 41, 3: 4, 4: 43, 5: 16, 34: 10, 35: 11, 36: 12, 37: 13, 39: 17, 40: 18, 41: 26,
    45: 49, 46: 50, 47: 51, 48: 52, 49: 53, 50: 54, 51: 58,
    **dict.fromkeys(range(101, 200, 2), 3), **dict.fromkeys(range(102, 200, 2), 42), 255: 8,
}  # fmt: skip
# CIT168 number: ours.  Caudate, putamen and pallidum override the coarser parcellation.
CIT168 = {
    13: 1001, 17: 1001, 14: 1002, 18: 1002, 15: 1003, 16: 1004, 1: 12, 2: 51,
    3: 11, 4: 50, 9: 13, 11: 13, 10: 52, 12: 52,
}  # fmt: skip
VENTRAL_CIT168 = (*range(13, 23), *range(27, 33))  # CIT168 numbers within FreeSurfer's 28, 60
# Cerebellar white matter is brighter than this on the template's T1.
CEREBELLAR_WHITE_T1 = 960
# Centre and half axes of the dentate's hull, after Diedrichsen 2011 (NeuroImage 54:1786). A QSM
# atlas puts the centre at 13.8, -55.8, -36.4 mm (He 2017, doi:10.1007/s12311-017-0872-7).
DENTATE_CENTRE_MM = (16.0, -58.0, -34.5)
DENTATE_HALF_MM = (5.0, 9.0, 6.5)

MARS_NOTICE = (
    "MIT License Copyright (c) 2023 vsundaresan Permission is hereby granted, free of charge, "
    "to any person obtaining a copy of this software and associated documentation files (the "
    '"Software"), to deal in the Software without restriction, including without limitation the '
    "rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of "
    "the Software, and to permit persons to whom the Software is furnished to do so, subject to "
    "the following conditions: The above copyright notice and this permission notice shall be "
    "included in all copies or substantial portions of the Software. THE SOFTWARE IS PROVIDED "
    '"AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO '
    "THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. "
    "IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR "
    "OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF "
    "OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."
)
ICBM_NOTICE = (
    "Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal "
    "Neurological Institute, McGill University. Permission to use, copy, modify, and distribute "
    "this software and its documentation for any purpose and without fee is hereby granted, "
    "provided that the above copyright notice appear in all copies. The authors and McGill "
    "University make no representations about the suitability of this software for any purpose. "
    'It is provided "as is" without express or implied warranty. The authors are not '
    "responsible for any data loss, equipment damage, property loss, or injury to subjects or "
    "patients resulting from the use or misuse of this software package."
)


def main() -> None:
    """Build the file, print what it holds."""
    shared = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["DEEPMIR_SHARED"])
    template = nib.load(shared / "templates/niivue_MNI152_2009_T1_brain_1mm.nii.gz")
    mars = mars_regions(shared, template)
    labels = template_labels(shared, template, mars)
    regions = anatomy.assign_regions(labels, mars)
    regions[np.isin(labels, atlas.NUCLEI[:4])] = 1
    stored = np.stack([to_stored(labels), regions], axis=-1).astype(np.uint8)
    image = Nifti1Image(stored, template.affine)
    image.set_qform(template.affine, 4)
    image.set_sform(template.affine, 4)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"deepmir: FreeSurfer labels, region numbers"
    DATA.mkdir(exist_ok=True)
    nib.save(image, DATA / "atlas.nii.gz")
    (DATA / "atlas.json").write_text(json.dumps(sidecar(), indent=2) + "\n", encoding="utf-8")
    print((DATA / "atlas.nii.gz").stat().st_size, "bytes")
    for volume in (labels, regions):
        print(dict(zip(*(a.tolist() for a in np.unique(volume, return_counts=True)), strict=True)))


def world_x(shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Millimetres to the right of the midline, (I, 1, 1); the template has no rotation."""
    return (affine[0, 0] * np.arange(shape[0]) + affine[0, 3])[:, None, None]


def template_labels(
    shared: Path, template: Nifti1Image, mars: npt.NDArray[np.uint16]
) -> npt.NDArray[np.uint16]:
    """FreeSurfer numbers and nuclei of the template, (I, J, K) uint16."""
    parcels = np.asanyarray(nib.load(shared / "templates/1mm_parc.nii.gz").dataobj)
    t1 = template.get_fdata()
    table = np.zeros(256, dtype=np.uint16)
    table[list(PARCELLATION)] = list(PARCELLATION.values())
    labels = table[parcels]
    brain = nib.load(shared / "templates/1mm_brainmask.nii.gz").get_fdata() > 0.5
    labels[brain & (labels == 0)] = 24
    labels[np.isin(labels, (2, 41, 24, 8)) & midbrain(shared, template)] = 28
    # The parcellation's last class is the cerebellum and whatever it has no name for.
    beyond = (labels == 8) & (ndimage.distance_transform_edt(mars != 2) > 4)
    labels[beyond] = 24
    smooth = ndimage.gaussian_filter(t1, 0.7)
    labels[(labels == 8) & (smooth > CEREBELLAR_WHITE_T1)] = 7
    cit = on_template(cit168(shared), template)
    for number in np.unique(cit[cit > 0]):
        labels[(cit == number)] = number
    pallidum_beyond = np.isin(labels, (13, 52)) & ~np.isin(cit, (13, 52))
    labels[pallidum_beyond] = np.where(labels[pallidum_beyond] == 13, 2, 41)
    right = np.broadcast_to(world_x(labels.shape, template.affine) > 0, labels.shape)
    for left_number, right_number in ((7, 46), (8, 47), (28, 60)):
        labels[right & (labels == left_number)] = right_number
    return with_dentate(labels, template.affine)


def cit168(shared: Path) -> Nifti1Image:
    """Likeliest nucleus where its probability is at least one half, as our numbers."""
    image = nib.load(shared / "atlases/CIT168/CIT168.nii.gz")
    coded = np.asanyarray(image.dataobj)
    # Parts of one nucleus (compacta and reticulata; externa and interna) share a voxel.
    table = np.zeros(256, dtype=np.uint16)
    table[list(CIT168)] = list(CIT168.values())
    first, second = table[coded["R"]], table[coded["G"]]
    probability = coded["B"].astype(int) + np.where(first == second, coded["A"].astype(int), 0)
    return Nifti1Image(np.where(probability >= 128, first, 0).astype(np.uint16), image.affine)


def midbrain(shared: Path, template: Nifti1Image) -> npt.NDArray[np.bool_]:
    """Ventral diencephalon: what lies between nigra, red and subthalamic nucleus, hypothalamus."""
    image = nib.load(shared / "atlases/CIT168/CIT168.nii.gz")
    coded = np.asanyarray(image.dataobj)
    nuclei = np.isin(coded["R"], VENTRAL_CIT168) & (coded["B"] >= 64)
    on_grid = on_template(Nifti1Image(nuclei.astype(np.uint8), image.affine), template) > 0
    near = ndimage.distance_transform_edt(~on_grid) <= 5
    return ndimage.distance_transform_edt(near) > 4


def on_template(image: Nifti1Image, template: Nifti1Image) -> npt.NDArray[np.uint16]:
    """Nearest-neighbour resampling onto the template's grid."""
    return np.asanyarray(resample_from_to(image, template, order=0).dataobj)


def with_dentate(
    labels: npt.NDArray[np.uint16], affine: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint16]:
    """Add the dentate nuclei: a crumpled shell, open towards the fourth ventricle."""
    ijk = np.stack(np.meshgrid(*(np.arange(n) for n in labels.shape), indexing="ij"), axis=-1)
    mm = ijk @ affine[:3, :3].T + affine[:3, 3]
    out = labels.copy()
    for number, side in ((1005, -1.0), (1006, 1.0)):
        offset = (mm - np.multiply(DENTATE_CENTRE_MM, (side, 1, 1))) * (side, 1, 1)
        # The hull lies along a line from front-medial to back-lateral, 20 degrees from sagittal.
        c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
        across = c * offset[..., 0] + s * offset[..., 1]
        along = c * offset[..., 1] - s * offset[..., 0]
        u = np.stack([across, along, offset[..., 2]], axis=-1) / DENTATE_HALF_MM
        radius = np.linalg.norm(u, axis=-1)
        angle = np.arctan2(u[..., 2], u[..., 0])
        folds = 0.10 * np.sin(9 * angle) + 0.07 * np.sin(7 * np.arctan2(u[..., 1], radius + 1e-6))
        shell = (radius < 1 + folds) & (radius > 0.50 + folds)
        hilus = (u[..., 0] < -0.25) & (u[..., 1] > -0.2) & (np.abs(u[..., 2]) < 0.6)
        out[shell & ~hilus & np.isin(labels, (7, 8, 46, 47))] = number
    return out


def mars_regions(shared: Path, template: Nifti1Image) -> npt.NDArray[np.uint16]:
    """MARS numbers 1 to 13 on the template's grid, (I, J, K); they are stored squared."""
    image = nib.load(shared / "atlases/MARS_regions/MARS_scale_parcellation_map_mni.nii.gz")
    mars = np.rint(np.sqrt(image.get_fdata())).astype(np.uint8)
    return on_template(Nifti1Image(mars, image.affine), template)


def to_stored(labels: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Renumber the nuclei 91 to 96, so that a byte holds them."""
    stored = labels.copy()
    for number, code in zip(atlas.NUCLEI, atlas.STORED_NUCLEI, strict=True):
        stored[labels == number] = code
    return stored


def sidecar() -> dict[str, object]:
    """Say what the file holds, where it comes from, on which terms."""
    return {
        "Description": "Atlas in MNI ICBM 2009c asymmetric space, 1 mm",
        "Volumes": [
            "FreeSurfer numbers; 91 to 96 are the nuclei of 'Nuclei'; 24 is CSF",
            "region numbers: MARS 1 to 13, left + 100, right + 200; 21 caudate, 22 putamen, "
            "23 pallidum",
        ],
        "Nuclei": {
            "91": "left substantia nigra", "92": "right substantia nigra",
            "93": "left red nucleus", "94": "right red nucleus",
            "95": "left dentate nucleus", "96": "right dentate nucleus",
        },
        "Changes": "resampled, thresholded, fitted to each other and relabelled; see "
        "benchmarks/build_atlas.py",
        "Sources": [
            {
                "Name": "CIT168 subcortical atlas (caudate, putamen, pallidum, nigra, red nucleus)",
                "Reference": "Pauli WM, Nili AN, Tyszka JM 2018, doi:10.1038/sdata.2018.63",
                "Licence": "CC-BY-4.0",
            },
            {
                "Name": "MARS scale parcellation map",
                "Reference": "Microbleed Anatomical Rating Scale: Gregoire 2009, "
                "doi:10.1212/WNL.0b013e3181c34a7d",
                "Licence": "MIT",
                "Notice": MARS_NOTICE,
            },
            {
                "Name": "ICBM 152 nonlinear asymmetric template 2009c, brain mask, parcellation",
                "Reference": "Fonov 2011, doi:10.1016/j.neuroimage.2010.07.033",
                "Licence": "ICBM notice",
                "Notice": ICBM_NOTICE,
            },
            {
                "Name": "Place and size of the dentate nucleus (drawn, not copied)",
                "Reference": "Diedrichsen 2011 (NeuroImage 54:1786); He 2017, "
                "doi:10.1007/s12311-017-0872-7, puts its centre at 13.8, -55.8, -36.4 mm",
                "Licence": "none needed",
            },
        ],
    }  # fmt: skip


if __name__ == "__main__":
    main()
