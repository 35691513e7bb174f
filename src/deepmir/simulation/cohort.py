"""Simulated persons as a BIDS raw data set, with the truth as its derivatives."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from deepmir.geometry import Affine
from deepmir.io.atomic import stage_outputs, write_text
from deepmir.io.bids import (
    DatasetKind,
    ScanParameters,
    SubjectOutputs,
    raw_scan,
    raw_sidecar_text,
    sidecar_path,
    write_dataset_files,
    write_lookup_table,
)
from deepmir.io.nifti import write_map
from deepmir.simulation.anatomy import Anatomy, built_in_anatomy, load_anatomy, read_anatomy
from deepmir.simulation.lesions import Counts, realistic_counts
from deepmir.simulation.person import SimulatedPerson, parameters_text, simulate_person
from deepmir.simulation.truth import DEPOSIT_NUMBERS, Mimic, deposit_map
from deepmir.volume import FloatMap, IntMap, Modality, Volume

DATASET_NAME = "deepmir simulated persons"
TRUTH_NAME = "deepmir simulation: true findings and regions"
TRUTH_FOLDER = Path("derivatives", "truth")

Progress = Callable[[str, float], None]


def simulate_cohort(  # noqa: PLR0913 - one keyword for each choice a user has
    out: Path,
    *,
    subjects: int,
    seed: int,
    anatomies: Sequence[Path] | None = None,
    protocol: str | None = None,
    counts: Callable[[np.random.Generator], Counts] = realistic_counts,
    age_years: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Write `subjects` simulated persons; person n is a pure function of the seed and n.

    Parameters
    ----------
    out : Path
        Folder of the BIDS raw data set; the truth goes to ``derivatives/truth``.
    anatomies : sequence of Path, optional
        Label maps with FreeSurfer numbers (NIfTI) or stored anatomies (``.npz``), used in turn;
        without them the built-in template head.
    protocol : str, optional
        ``random`` (one drawn for each person; the default) or ``mesa-like``.
    counts : function of a random generator
        How many deposits of each kind; by default as in a cohort, where half of the people have
        no microbleed.
    age_years : float, optional
        Of everyone; by default each person's is drawn.

    Raises
    ------
    InputError
        If a label map is missing or is no head.
    OutputError
        If a person is there already, or writing fails.
    ConfigError
        If the protocol is unknown.
    """
    for n in range(subjects):
        label = person_label(seed, n)
        if progress is not None:
            progress(f"simulate sub-{label}", n / subjects)
        anatomy = open_anatomy(anatomies[n % len(anatomies)] if anatomies else None)
        person = simulate_person(
            anatomy,
            seed=person_seed(seed, n),
            protocol=protocol or "random",
            counts=counts,
            whole_head=True,
            age_years=age_years,
        )
        write_person(person, out, subject=label)
    if progress is not None:
        progress("simulated", 1.0)


def person_label(seed: int, n: int) -> str:
    """BIDS label, without "sub-", of person n (from 0) of a cohort.

    Examples
    --------
    >>> person_label(7, 0)
    'sim7x001'
    """
    return f"sim{seed}x{n + 1:03d}"


def person_seed(seed: int, n: int) -> int:
    """Seed of person n of a cohort: cohorts of neighbouring seeds share no person."""
    return int(np.random.SeedSequence([seed, n]).generate_state(1)[0])


def open_anatomy(path: Path | None) -> Anatomy:
    """Read a stored anatomy or a label map; None is the built-in head.

    Raises
    ------
    InputError
        If the file is missing or is no head.
    """
    if path is None:
        return built_in_anatomy()
    return load_anatomy(path) if path.suffix == ".npz" else read_anatomy(path)


def write_person(person: SimulatedPerson, out: Path, *, subject: str) -> None:
    """Write one person's scans and truth; they appear only when complete.

    Raises
    ------
    OutputError
        If the person is there already, or writing fails.
    """
    truth = SubjectOutputs(subject)
    truth_files = (
        truth.findings,
        truth.regions,
        truth.brain_mask,
        _truth_path(subject, "desc-mimics_dseg.nii.gz"),
        _truth_path(subject, "desc-deposits_dseg.nii.gz"),
        _truth_path(subject, "desc-true_Chimap.nii.gz"),
        _truth_path(subject, "desc-simulation_parameters.json"),
    )
    scans = _scans(person, subject)
    own = [
        *(TRUTH_FOLDER / path for path in truth_files),
        *(path for path, _, _ in scans),
        *(sidecar_path(path) for path, _, _ in scans),
    ]
    with stage_outputs(out, own=own, overwrite=False) as staging:
        for path, volume, parameters in scans:
            write_map(volume.data, volume, staging / path, dtype=np.float32)
            write_text(staging / sidecar_path(path), raw_sidecar_text(parameters))
        _write_truth(person, staging / TRUTH_FOLDER, subject, out / TRUTH_FOLDER)
        write_dataset_files(staging, kind=DatasetKind.RAW, name=DATASET_NAME, out=out)


def _scans(person: SimulatedPerson, subject: str) -> list[tuple[Path, Volume, ScanParameters]]:
    scan, protocol = person.acquisition, person.protocol
    swi = ScanParameters(
        echo_time_s=protocol.echo_times_s[protocol.swi.echo],
        repetition_time_s=protocol.repetition_time_s,
        flip_angle_deg=protocol.flip_deg,
        field_strength_t=protocol.b0_t,
    )
    t2w = ScanParameters(
        echo_time_s=protocol.t2w_echo_time_s,
        repetition_time_s=protocol.t2w_repetition_time_s,
        field_strength_t=protocol.b0_t,
    )
    chimap = ScanParameters(
        units="ppm", field_strength_t=protocol.b0_t, field_direction=scan.echoes.b0_direction
    )
    scale = np.float32(1000 / max(float(np.percentile(person.swi, 99)), 1e-12))
    scans = [
        (raw_scan(subject, "swi"), _volume(person.swi * scale, scan.affine, Modality.SWI), swi),
        (
            raw_scan(subject, "Chimap"),
            _volume(person.chi_ppm, scan.affine, Modality.CHIMAP),
            chimap,
        ),
        (
            raw_scan(subject, "T2w"),
            _volume(scan.t2w * np.float32(1000), scan.t2w_affine, Modality.T2W),
            t2w,
        ),
    ]
    return scans + _raw_echoes(person, subject, scale)


def _raw_echoes(
    person: SimulatedPerson, subject: str, scale: np.float32
) -> list[tuple[Path, Volume, ScanParameters]]:
    scan, protocol = person.acquisition, person.protocol
    files = []
    for n, (signal, echo_time) in enumerate(
        zip(scan.echoes.signals, scan.echoes.echo_times_s, strict=True), start=1
    ):
        for part, image, units in (
            ("mag", np.abs(signal) * scale, "arbitrary"),
            ("phase", np.angle(signal), "rad"),
        ):
            parameters = ScanParameters(
                echo_time_s=echo_time,
                repetition_time_s=protocol.repetition_time_s,
                flip_angle_deg=protocol.flip_deg,
                field_strength_t=protocol.b0_t,
                field_direction=scan.echoes.b0_direction,
                units=units,
            )
            path = raw_scan(subject, "MEGRE", echo=n, part="mag" if part == "mag" else "phase")
            files.append((path, _volume(image, scan.affine, Modality.SWI), parameters))
    return files


def _write_truth(person: SimulatedPerson, folder: Path, subject: str, out: Path) -> None:
    names, scan = SubjectOutputs(subject), person.acquisition
    grid = _volume(person.swi, scan.affine, Modality.SWI)
    for path, image in (
        (names.findings, person.findings),
        (names.regions, scan.regions),
        (names.brain_mask, scan.brain),
        (_truth_path(subject, "desc-mimics_dseg.nii.gz"), person.mimics),
        (_truth_path(subject, "desc-deposits_dseg.nii.gz"), _deposits(person)),
    ):
        write_map(image.astype(np.uint8), grid, folder / path, dtype=np.uint8)
    true_chi = folder / _truth_path(subject, "desc-true_Chimap.nii.gz")
    write_map(scan.chi_ppm, grid, true_chi, dtype=np.float32)
    parameters = folder / _truth_path(subject, "desc-simulation_parameters.json")
    write_text(parameters, parameters_text(person))
    write_lookup_table(folder, "mimics", [(int(kind), kind.name) for kind in Mimic])
    kinds = [(number, kind.name) for kind, number in DEPOSIT_NUMBERS.items()]
    write_lookup_table(folder, "deposits", kinds)
    write_dataset_files(folder, kind=DatasetKind.DERIVATIVE, name=TRUTH_NAME, out=out)


def _deposits(person: SimulatedPerson) -> IntMap:
    scan = person.acquisition
    return deposit_map(list(person.deposits), scan.effects, scan.chi_ppm.shape)


def _truth_path(subject: str, name: str) -> Path:
    return Path(f"sub-{subject}", "anat", f"sub-{subject}_{name}")


def _volume(data: FloatMap, affine: Affine, modality: Modality) -> Volume:
    return Volume(data=data.astype(np.float32), affine=affine, modality=modality)
