"""Lesions: from a label map of findings to measured, located and graded instances.

A lesion is one connected component of one finding. This package sees arrays and grids only.

    findings ──measure_lesions──▶ MeasuredLesions ──mars_table, summarise──▶ tables
"""

from deepmir.lesions.instances import Connectivity, label_findings, label_instances
from deepmir.lesions.mars import MarsRow, SideCounts, covered_regions, mars_table
from deepmir.lesions.measure import (
    Certainty,
    Lesion,
    MeasuredLesions,
    SizeClass,
    measure_lesions,
    size_class,
)
from deepmir.lesions.summary import Summary, summarise, tellable_findings

__all__ = [
    "Certainty",
    "Connectivity",
    "Lesion",
    "MarsRow",
    "MeasuredLesions",
    "SideCounts",
    "SizeClass",
    "Summary",
    "covered_regions",
    "label_findings",
    "label_instances",
    "mars_table",
    "measure_lesions",
    "size_class",
    "summarise",
    "tellable_findings",
]
