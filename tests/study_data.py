"""A study of phantoms as a BIDS data set, and recipes so small that they train in seconds."""

from nibabel.nifti1 import Nifti1Image

PAPER_TEXT = """
name = "tiny-paper"
part = "slices"
[network]
in_channels = 2
out_channels = 3
filters = [2, 3]
strides = [[1, 1, 1], [2, 2, 1]]
kernels = [[3, 3, 1], [3, 3, 1]]
norm = "batch"
dimensions = 2
activation = "relu"
down = "maxpool"
[optimisation]
epochs = 1
batch_size = 8
learning_rate = 0.01
decay = "constant"
warmup_steps = 0
weight_decay = 0.0
ema_decay = 0.0
[schedule]
best_by = "loss"
[slices]
inputs = ["swi", "Chimap"]
size = 48
slices_per_epoch = 24
"""
"""A recipe of the slices part: an epoch takes a second."""
PATCH_TEXT = """
name = "tiny-patches"
part = "findings"
[network]
in_channels = 8
out_channels = 4
filters = [2, 2]
strides = [[1, 1, 1], [2, 2, 1]]
kernels = [[3, 3, 3], [3, 3, 3]]
norm = "batch"
[optimisation]
steps = 4
batch_size = 2
learning_rate = 0.01
warmup_steps = 1
[schedule]
validate_every = 4
[findings]
shape = [16, 16, 4]
"""
"""A recipe of the findings part."""


def write_image(path, data, affine):
    """Write a NIfTI file with both affines."""
    image = Nifti1Image(data, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)


def write_study(data, phantom_person, *, persons=6):
    """Write phantoms with a CMB, an iron deposit and a calcification; the last has none."""
    for number in range(1, persons + 1):
        label = f"{number:02d}"
        radius_mm = 0.0 if number == persons else 2.0 + 0.3 * number
        person = phantom_person(seed=number, radius_mm=radius_mm)
        affine = person.scans.swi.affine
        for kind, volume in (
            ("swi", person.scans.swi),
            ("Chimap", person.scans.chimap),
            ("T2w", person.scans.t2w),
        ):
            name = f"sub-{label}_{kind}.nii.gz"
            write_image(data / f"sub-{label}" / "anat" / name, volume.data, affine)
        name = f"sub-{label}_desc-findings_dseg.nii.gz"
        folder = data / "derivatives" / "truth" / f"sub-{label}" / "anat"
        write_image(folder / name, person.findings, affine)
    return data
