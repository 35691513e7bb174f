"""One person's raw gradient echo in, SWI, minIP, Chimap and R2* out, with all that was decided.

read ─► brain mask ─► local field ─► sign ─► inversion ─► reference
                   └► SWI ─► minIP        └► R2*
"""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deepmir.config import Config, ReconstructConfig, read_config
from deepmir.errors import InputError
from deepmir.io.atomic import stage_outputs, write_text, writing
from deepmir.io.bids import (
    DERIVATIVE_NAME,
    DatasetKind,
    ReconstructionOutputs,
    check_dataset_folder,
    check_subject,
    derivative_sidecar_text,
    sidecar_path,
    write_dataset_files,
)
from deepmir.io.nifti import read_mask, write_map
from deepmir.io.provenance import (
    InputFile,
    Provenance,
    StageTimer,
    WeightsUsed,
    describe_input,
    describe_software,
    peak_memory_bytes,
    provenance_text,
)
from deepmir.io.raw import RawScan
from deepmir.labels import NUCLEUS_BASES
from deepmir.model.predict import open_network
from deepmir.model.weights import Weights, load_weights
from deepmir.preprocessing.anatomy import find_anatomy
from deepmir.preprocessing.plausibility import nucleus_contrast_ppm
from deepmir.preprocessing.run import Progress, ignore_progress
from deepmir.reconstruction.echoes import ReadEchoes, read_echoes
from deepmir.reconstruction.inversion import MAX_ITERATIONS, Inversion, InversionMethod
from deepmir.reconstruction.readout import SignEvidence, tell_sign
from deepmir.reconstruction.relaxation import fit_r2star, ventricles
from deepmir.reconstruction.run import (
    ChimapSettings,
    GradientEchoes,
    LocalField,
    SwiSettings,
    invert_local_field,
    reconstruct_local_field,
    reconstruct_swi,
    torn_share,
)
from deepmir.reconstruction.swi import minimum_intensity_projection
from deepmir.volume import BoolMap, FloatMap, IntMap, Modality, Notice, Scans, Volume

TORN_FROM = 0.003
"""Share of the brain. Real and simulated single echoes: 0.001 at most; badly added coils: 0.016."""

DEFAULT_STRENGTH: dict[InversionMethod, float] = {"tkd": 0.15, "closed-form": 0.003, "medi": 3e-4}
"""Chosen by ``benchmarks/reconstruction.py``."""
BEST_TE_B0 = 0.06
"""Echo time × field strength, s·T, at which veins are dark and phase has not wrapped in them."""
_SWI_SCALE = 1000.0  # 99th percentile of the SWI as written


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reconstruction:
    """What was made of one person's raw gradient echo; nothing of it is written yet."""

    subject: str  # label without "sub-"
    swi: Volume
    minip: Volume
    chimap: Volume  # ppm, 0 outside the mask
    r2starmap: Volume | None  # 1/s; None: a single echo
    mask: BoolMap  # (I, J, K) where the Chimap holds
    sign: SignEvidence | None  # None: the user said it
    provenance: Provenance

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What a user must be told."""
        return self.provenance.notices

    @property
    def outputs(self) -> ReconstructionOutputs:
        """Names of this person's files, relative to the output folder."""
        return ReconstructionOutputs(self.subject)


def reconstruct(
    scan: RawScan,
    *,
    brain_mask: Path | str | BoolMap | None = None,
    subject: str | None = None,
    config: Config | Path | str | None = None,
    weights: Path | str | None = None,
    progress: Progress = ignore_progress,
) -> Reconstruction:
    """Make SWI, minIP, Chimap and R2* of one person's raw gradient-echo magnitude and phase.

    Parameters
    ----------
    scan : RawScan
        Files, and what the user says about them.
    brain_mask : path or (I, J, K) bool array, optional
        On the scan's grid; by default the network finds the brain on the magnitude.
    subject : str, optional
        Label of the person; by default taken from the first file's name.
    config : Config or path of a TOML file, optional
        Settings; those of ``[reconstruct]`` matter.
    weights : path, optional
        Folder of another network than the released one.
    progress : callable, optional
        Told the stage at work and the share of it that is done, 0 to 1.

    Returns
    -------
    Reconstruction
        Nothing is written; :func:`write_reconstruction` does.

    Raises
    ------
    InputError, GeometryError
        If a file is unreadable or not what it is said to be; phase is constant, unwrapped or of
        an unknown unit; echo times, field strength or direction of B0 are not known; grids or
        numbers of echoes differ; no brain is found.
    ConfigError
        If a setting is unknown or out of range.
    WeightsError
        If the network is missing or damaged.
    """
    settings = config if isinstance(config, Config) else read_config(_path(config))
    run = _Run(
        scan=scan,
        subject=check_subject(scan.subject if subject is None else subject),
        settings=settings,
        network=load_weights(_path(weights)),
        timer=StageTimer(),
        progress=progress,
    )
    with run.stage("read"):
        read = read_echoes(scan)
        check_echo_number(settings.reconstruct, read.echoes)
        brain, files = _read_mask(brain_mask, read.like)
    with run.stage("brain mask"):
        brain, regions = _brain(read, brain, run.network, settings)
    with run.stage("field"):
        local, field_notices = _local_field(read, brain, settings.reconstruct)
        sign, evidence = _resolve_sign(scan, read.echoes, local, regions)
        if sign < 0:
            local = local.negated()
    echoes = read.echoes if sign > 0 else _conjugated(read.echoes)
    swi, minip, r2star = _weighted_images(run, echoes)
    chi, chi_notices = _chimap(run, echoes, local, r2star)
    sign_notices = _sign_notices(scan, evidence, positive=sign > 0)
    notices = (*read.notices, *field_notices, *chi_notices, *sign_notices)
    like = read.like
    return Reconstruction(
        subject=run.subject,
        swi=_volume(swi, like, Modality.SWI, ""),
        minip=_volume(minip, like, Modality.MINIP, ""),
        chimap=_volume(chi, like, Modality.CHIMAP, "ppm"),
        r2starmap=None if r2star is None else _volume(r2star, like, Modality.R2STARMAP, "1/s"),
        mask=local.mask,
        sign=evidence,
        provenance=run.provenance((*_describe(scan), *files), notices),
    )


def write_reconstruction(
    result: Reconstruction, out: Path | str, *, overwrite: bool = False
) -> None:
    """Write one person's reconstruction as BIDS derivatives: all of its files, or none.

    Parameters
    ----------
    result : Reconstruction
    out : Path or str
        Folder of the results; made when absent.
    overwrite : bool
        Replace an earlier reconstruction of this person.

    Raises
    ------
    OutputError
        If the result is there already, the folder holds another data set, or writing fails.
    """
    with _reserved(Path(out), result.subject, overwrite=overwrite) as staging:
        _write(result, staging, Path(out))


def reconstruct_to_files(  # noqa: PLR0913 - what `reconstruct` takes, and where to write
    scan: RawScan,
    out: Path,
    *,
    overwrite: bool = False,
    brain_mask: Path | str | BoolMap | None = None,
    subject: str | None = None,
    config: Config | Path | str | None = None,
    weights: Path | str | None = None,
    progress: Progress = ignore_progress,
) -> Reconstruction:
    """Reconstruct and write; what cannot be written is said before anything is computed.

    Raises
    ------
    DeepmirError
        As :func:`reconstruct` and :func:`write_reconstruction`.
    """
    label = check_subject(scan.subject if subject is None else subject)
    with _reserved(out, label, overwrite=overwrite) as staging:
        result = reconstruct(
            scan,
            brain_mask=brain_mask,
            subject=label,
            config=config,
            weights=weights,
            progress=progress,
        )
        progress("write", 0.0)
        _write(result, staging, out)
    return result


def chimap_settings(config: ReconstructConfig) -> ChimapSettings:
    """Return the settings of the Chimap, with the method's own strength where none is set."""
    return ChimapSettings(
        method=config.inversion,
        strength=config.strength or DEFAULT_STRENGTH[config.inversion],
        largest_sphere_mm=config.largest_sphere_mm,
        erosion_mm=config.erosion_mm + 1.0,  # V-SHARP itself takes the last millimetre
        reference=config.reference,
        unwrap=config.unwrap,
        background=config.background,
        vsharp_threshold=config.vsharp_threshold,
        pdf_tolerance=config.pdf_tolerance,
        tolerance=config.tolerance,
        refinements=config.refinements,
    )


def swi_settings(config: ReconstructConfig, echoes: GradientEchoes) -> SwiSettings:
    """Return the settings of the SWI; without one set, its TE is nearest to 60 ms over tesla."""
    best_s = BEST_TE_B0 / echoes.b0_t
    nearest = int(np.argmin(np.abs(np.array(echoes.echo_times_s) - best_s)))
    return SwiSettings(
        echo=nearest if config.swi_echo is None else config.swi_echo - 1,
        phase=config.swi_phase,
        filter_size=config.swi_filter,
        power=config.swi_power,
    )


def check_echo_number(config: ReconstructConfig, echoes: GradientEchoes) -> None:
    """Check that the echo of the SWI is there.

    Raises
    ------
    InputError
        If it is not.
    """
    if config.swi_echo is not None and config.swi_echo > len(echoes.signals):
        raise InputError(
            f"the setting reconstruct.swi_echo is {config.swi_echo}, but the scan has "
            f"{len(echoes.signals)} echoes; set a smaller one or leave it out"
        )


# ---- stages ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What all stages of one run share."""

    scan: RawScan
    subject: str
    settings: Config
    network: Weights
    timer: StageTimer
    progress: Progress

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Tell that a stage begins, and time it."""
        self.progress(name, 0.0)
        with self.timer.stage(name):
            yield

    def provenance(self, inputs: tuple[InputFile, ...], notices: tuple[Notice, ...]) -> Provenance:
        """Return what was decided."""
        manifest = self.network.manifest
        return Provenance(
            subject=f"sub-{self.subject}",
            command_line=tuple(sys.argv),
            started=self.timer.started,
            inputs=inputs,
            config=self.settings,
            weights=WeightsUsed(manifest.name, manifest.version, self.network.sha256),
            software=describe_software(),
            stages=self.timer.stages,
            peak_memory_bytes=peak_memory_bytes(),
            notices=notices,
        )


def _weighted_images(
    run: _Run, echoes: GradientEchoes
) -> tuple[FloatMap, FloatMap, FloatMap | None]:
    """SWI, its minimum-intensity projection, and R2* where there are two echoes or more."""
    config = run.settings.reconstruct
    with run.stage("swi"):
        swi = reconstruct_swi(echoes, swi_settings(config, echoes))
        swi *= np.float32(_SWI_SCALE / max(float(np.percentile(swi, 99)), 1e-20))
        minip = minimum_intensity_projection(swi, echoes.spacing_mm, slab_mm=config.minip_mm)
        if len(echoes.signals) < 2:
            return swi, minip, None
        magnitudes = [np.abs(signal).astype(np.float32) for signal in echoes.signals]
        return swi, minip, fit_r2star(magnitudes, echoes.echo_times_s)


def _chimap(
    run: _Run, echoes: GradientEchoes, local: LocalField, r2star: FloatMap | None
) -> tuple[FloatMap, tuple[Notice, ...]]:
    with run.stage("chimap"):
        config = run.settings.reconstruct
        csf, notices = _csf(config, r2star, local, echoes)
        inversion = invert_local_field(local, echoes, chimap_settings(config), csf=csf)
        return inversion.chi_ppm, (*notices, *_end_notices(inversion, config))


def _resolve_sign(
    scan: RawScan, echoes: GradientEchoes, local: LocalField, regions: IntMap
) -> tuple[int, SignEvidence | None]:
    """Sign of phase, 1 or −1, as the user says or as the brain shows."""
    if scan.phase_sign != "auto":
        return (1 if scan.phase_sign == "positive" else -1), None
    evidence = _tell_sign(echoes, local, regions)
    return (1 if evidence.positive else -1), evidence


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)


def _describe(scan: RawScan) -> tuple[InputFile, ...]:
    described = [
        describe_input(role, path)
        for role, paths in (
            ("magnitude", scan.magnitude),
            ("phase", scan.phase),
            ("real part", scan.real),
            ("imaginary part", scan.imaginary),
        )
        for path in paths
    ]
    return tuple(described)


def _read_mask(
    given: Path | str | BoolMap | None, like: Volume
) -> tuple[BoolMap | None, tuple[InputFile, ...]]:
    if given is None:
        return None, ()
    if isinstance(given, np.ndarray):
        if given.shape != like.data.shape:
            raise InputError(
                f"the brain mask is {given.shape}, the scan {like.name} {like.data.shape}; "
                "make the mask on the scan's grid"
            )
        digest = hashlib.sha256(np.ascontiguousarray(given).tobytes()).hexdigest()
        mask, file = given, InputFile("brain mask", "an image in memory", given.nbytes, digest)
    else:
        mask = read_mask(Path(given), like)
        file = describe_input("brain mask", Path(given))
    if not mask.any():
        raise InputError("the brain mask is empty; leave it out, and the network finds the brain")
    return mask, (file,)


def _brain(
    read: ReadEchoes, brain: BoolMap | None, network: Weights, settings: Config
) -> tuple[BoolMap, IntMap]:
    """Brain mask and regions, by the network on the magnitude of the latest echo."""
    magnitude = np.abs(read.echoes.signals[-1]).astype(np.float32)
    scan = _volume(magnitude, read.like, Modality.SWI, "")
    anatomy = find_anatomy(
        Scans(swi=scan), open_network(network, "anatomy", settings.segment), brain_mask=brain
    )
    return anatomy.brain_mask, anatomy.regions


def _tell_sign(echoes: GradientEchoes, local: LocalField, regions: IntMap) -> SignEvidence:
    quick = ChimapSettings(method="tkd", strength=DEFAULT_STRENGTH["tkd"])
    chi = invert_local_field(local, echoes, quick).chi_ppm
    contrast = nucleus_contrast_ppm(chi, regions, bases=NUCLEUS_BASES, spacing_mm=echoes.spacing_mm)
    return tell_sign(chi, local.mask, nucleus_contrast_ppm=contrast, echoes=echoes)


def _conjugated(echoes: GradientEchoes) -> GradientEchoes:
    return replace(echoes, signals=tuple(np.conj(signal) for signal in echoes.signals))


def _csf(
    config: ReconstructConfig,
    r2star: FloatMap | None,
    local: LocalField,
    echoes: GradientEchoes,
) -> tuple[BoolMap | None, tuple[Notice, ...]]:
    if config.reference != "csf":
        return None, ()
    found = None if r2star is None else ventricles(r2star, local.mask, echoes.spacing_mm)
    if found is not None:
        return found, ()
    text = "no CSF of the ventricles was found by its slow decay: the brain's mean is the reference"
    return None, (Notice("reconstruct", text),)


def _local_field(
    read: ReadEchoes, brain: BoolMap, config: ReconstructConfig
) -> tuple[LocalField, tuple[Notice, ...]]:
    """Local field as the config says, but unwrapped by its Laplacian where paths tear it."""
    settings = chimap_settings(config)
    local = reconstruct_local_field(read.echoes, brain, settings)
    torn = torn_share(local, read.echoes) if settings.unwrap == "path" else 0.0
    if torn < TORN_FROM:
        return local, ()
    text = (
        f"the phase of {read.like.name} turns round lines, as where coils were added without "
        f"aligning them: unwrapped along paths it jumps by a whole turn over {torn:.1%} of the "
        "brain, so it was unwrapped by its Laplacian; broad shades may remain in the Chimap"
    )
    smooth = replace(settings, unwrap="laplacian")
    return reconstruct_local_field(read.echoes, brain, smooth), (Notice("reconstruct", text),)


def _end_notices(inversion: Inversion, config: ReconstructConfig) -> tuple[Notice, ...]:
    if inversion.unsettled is None:
        return ()
    text = (
        f"the inversion ended after {MAX_ITERATIONS} iterations, and the last one still changed χ "
        f"by {inversion.unsettled:.2%}; wanted {config.tolerance:.2%} or less "
        "(reconstruct.tolerance): look at the Chimap before you trust it"
    )
    return (Notice("reconstruct", text),)


def _sign_notices(
    scan: RawScan, evidence: SignEvidence | None, *, positive: bool
) -> tuple[Notice, ...]:
    word = "positive" if positive else "negative"
    if evidence is None:
        return (Notice("reconstruct", f"phase taken as {word}, as said (--phase-sign)", "info"),)
    if evidence.certain:
        return (Notice("reconstruct", f"phase is {word}: {evidence.reason}", "info"),)
    text = f"phase taken as {word}: {evidence.reason}; --phase-sign says it"
    name = scan.parts[1][0]
    return (Notice("reconstruct", f"the sign of the phase of {name} is not sure; {text}"),)


def _volume(data: FloatMap, like: Volume, modality: Modality, unit: str) -> Volume:
    name = f"{modality} made of {like.name}"
    return Volume(data, like.affine, modality, unit, name=name, native=like.native)


# ---- files -----------------------------------------------------------------


@contextmanager
def _reserved(out: Path, subject: str, *, overwrite: bool) -> Iterator[Path]:
    """Give a folder whose content becomes this person's reconstruction when the block ends."""
    with writing(out):
        check_dataset_folder(out, DatasetKind.DERIVATIVE)
    own = ReconstructionOutputs(subject).files
    with stage_outputs(out, own=own, overwrite=overwrite) as staging:
        yield staging


def _write(result: Reconstruction, staging: Path, out: Path) -> None:
    names = result.outputs
    for name, volume, text in _maps(result):
        write_map(volume.data, volume, staging / name, dtype=np.float32)
        _write_sidecar(result, staging / name, text, units=volume.unit or "arbitrary")
    write_map(result.mask, result.chimap, staging / names.mask, dtype=np.uint8)
    _write_sidecar(result, staging / names.mask, "Where the Chimap holds", mask=True)
    write_dataset_files(staging, kind=DatasetKind.DERIVATIVE, name=DERIVATIVE_NAME, out=out)
    write_text(staging / names.provenance, provenance_text(result.provenance))


def _maps(result: Reconstruction) -> list[tuple[Path, Volume, str]]:
    names, reference = result.outputs, result.provenance.config.reconstruct.reference
    maps = [
        (names.swi, result.swi, "Susceptibility-weighted image"),
        (names.minip, result.minip, "Minimum-intensity projection of the SWI over some slices"),
        (names.chimap, result.chimap, f"Magnetic susceptibility, 0 is the mean of the {reference}"),
    ]
    if result.r2starmap is not None:
        maps.append((names.r2starmap, result.r2starmap, "Effective transverse relaxation rate"))
    return maps


def _write_sidecar(
    result: Reconstruction, image: Path, text: str, *, units: str | None = None, mask: bool = False
) -> None:
    paths = [Path(file.path) for file in result.provenance.inputs]
    sources = [path for path in paths if path.is_absolute()]
    content = derivative_sidecar_text(
        text, sources=sources, reference=sources[0], mask=mask, units=units
    )
    write_text(sidecar_path(image), content)
