"""One small person to draw: 0.9 x 0.8 x 2 mm, with findings of all three kinds."""

from dataclasses import replace

import numpy as np
import pytest

from deepmir.config import Config
from deepmir.io.provenance import InputFile, Provenance, Software, StageTime, WeightsUsed
from deepmir.labels import Finding
from deepmir.lesions import covered_regions, mars_table, measure_lesions, summarise
from deepmir.preprocessing.register import Alignment
from deepmir.report.view import SubjectView
from deepmir.volume import Modality, Notice, Scans, Volume

SHAPE = (40, 48, 20)
AFFINE = np.array([[0.9, 0, 0, -18], [0, 0.8, 0, -20], [0, 0, 2.0, -10], [0, 0, 0, 1.0]])


def findings_map() -> np.ndarray:
    findings = np.zeros(SHAPE, dtype=np.uint8)
    findings[10:13, 20:23, 6:8] = Finding.CMB
    findings[30, 30, 12] = Finding.CMB
    findings[15:17, 25:28, 10:12] = Finding.IRON
    findings[30:32, 10:13, 15] = Finding.CALCIFICATION
    return findings


def brain() -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[4:36, 4:44, 2:18] = True
    return mask


def regions_map() -> np.ndarray:
    regions = np.where(brain(), 209, 0).astype(np.uint8)
    regions[4:20, 4:44, 2:18] = 109
    regions[14:18, 24:30, 9:13] = 122
    return regions


def provenance(config: Config) -> Provenance:
    return Provenance(
        subject="sub-01",
        command_line=("deepmir", "segment", "--out", "results <b>"),
        started="2026-01-02T03:04:05+00:00",
        inputs=(InputFile("swi", "/data/sub-01_swi.nii.gz", 10, "ab" * 32),),
        config=config,
        weights=WeightsUsed("released", "0.1.0", "cd" * 32),
        software=Software("0.1.0", "3.11.0", "Linux", {"numpy": "2.0"}),
        stages=(StageTime("read", 1.0),),
        peak_memory_bytes=2_000_000_000,
        notices=(Notice("read", "unit was <i>ppb</i>"), Notice("segment", "all well", "info")),
    )


def scans() -> Scans:
    rng = np.random.default_rng(0)
    inside = brain()

    def volume(modality: Modality, values: np.ndarray) -> Volume:
        return Volume(values.astype(np.float32), AFFINE, modality, name=f"sub-01_{modality}")

    swi = np.where(inside, rng.normal(100, 5, SHAPE), 0)
    swi[findings_map() > 0] = 20
    chi = np.where(inside, rng.normal(0, 0.01, SHAPE), 0)
    chi[findings_map() > 0] = 0.3
    return Scans(
        t2w=volume(Modality.T2W, rng.normal(500, 20, SHAPE)),
        swi=volume(Modality.SWI, swi),
        chimap=volume(Modality.CHIMAP, chi),
    )


def make_view(given: Scans, *, findings: np.ndarray, config: Config | None = None) -> SubjectView:
    config = config or Config()
    regions = regions_map()
    measured = measure_lesions(
        findings,
        scans=given,
        regions=regions,
        probabilities=np.full((3, *SHAPE), 0.9, dtype=np.float32),
        config=replace(config.lesions, min_volume_mm3=0.0),
    )
    told = given.swi is not None or given.chimap is not None
    covered = covered_regions(regions)
    return SubjectView(
        provenance=provenance(config),
        measured=measured,
        summary=summarise(measured.lesions, present=given.present),
        mars=mars_table(measured.lesions, covered=covered, microbleeds_told=told),
        scans=given,
        regions=regions,
        brain_mask=brain(),
        regions_seen=0.9,
        alignments=(
            Alignment(Modality.SWI, "identity", 1.0),
            Alignment(Modality.T2W, "rigid", 0.1, 2.5, 1.5, poor=True),
        ),
        thresholds=((Finding.CMB, 0.45),),
        weights_card=(("licence", "Apache-2.0"),),
    )


@pytest.fixture
def view() -> SubjectView:
    return make_view(scans(), findings=findings_map())


@pytest.fixture
def view_of():
    """Make a view with only some scans, other findings or other settings."""

    def make(*kept: str, findings: np.ndarray | None = None, config: Config | None = None):
        everything = scans()
        given = Scans(**{name: getattr(everything, name) for name in kept})
        return make_view(
            given, findings=findings_map() if findings is None else findings, config=config
        )

    return make
