"""What the page of one person shows; whoever has a result fills it, the page only reads it."""

from dataclasses import dataclass

from deepmir.evaluation.detection import Score
from deepmir.io.provenance import Provenance
from deepmir.labels import Finding
from deepmir.lesions import Lesion, MarsRow, MeasuredLesions, Summary
from deepmir.preprocessing.register import Alignment
from deepmir.volume import BoolMap, IntMap, Scans


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SubjectView:
    """Everything on the page of one person; all arrays lie on the reference scan's grid."""

    provenance: Provenance
    """Inputs, settings, versions, weights, times and notices."""
    measured: MeasuredLesions
    summary: Summary
    mars: tuple[MarsRow, ...]
    scans: Scans
    """On the reference grid, SWI and T2w as acquired, Chimap in ppm."""
    regions: IntMap  # (I, J, K), region numbers
    brain_mask: BoolMap  # (I, J, K)
    regions_seen: float | None
    """Share of the regions that are in the field of view, 0 to 1; None where it is not known."""
    alignments: tuple[Alignment, ...]
    thresholds: tuple[tuple[Finding, float], ...] = ()
    """Least probability of a finding."""
    weights_card: tuple[tuple[str, str], ...] = ()
    """(field, text) of the model card."""
    evaluation: Score | None = None
    """Against a known truth, as for a simulated person."""

    @property
    def subject(self) -> str:
        """Name of the person, such as ``sub-01``."""
        return self.provenance.subject

    @property
    def lesions(self) -> tuple[Lesion, ...]:
        """All findings."""
        return self.measured.lesions

    @property
    def pictured(self) -> tuple[Lesion, ...]:
        """Findings that get a picture each: the first ones, as many as the settings allow."""
        return self.lesions[: self.provenance.config.report.max_findings_pictured]

    @property
    def grades_by_probability(self) -> bool:
        """Tell whether the network graded the findings, rather than a person's hand."""
        return any(lesion.probability is not None for lesion in self.lesions)
