"""The page of one person: one HTML file that needs no network and prints well."""

from dataclasses import dataclass

from deepmir.config import as_dict
from deepmir.lesions import Lesion
from deepmir.preprocessing.register import Alignment
from deepmir.report import wording
from deepmir.report.findings import FIELD_MM, anchor_voxels, finding_picture, locator, overview
from deepmir.report.layers import Layer, layers
from deepmir.report.pages import template
from deepmir.report.picture import Picture
from deepmir.report.quality import brain_picture, registration_picture
from deepmir.report.view import SubjectView
from deepmir.volume import Volume


@dataclass(frozen=True, slots=True)
class _FindingCard:
    lesion: Lesion
    picture: Picture
    locator: Picture


@dataclass(frozen=True, slots=True)
class _RegistrationCard:
    alignment: Alignment
    title: str
    picture: Picture


@dataclass(frozen=True, slots=True)
class _Pictures:
    """All pictures of a page."""

    findings: tuple[_FindingCard, ...]
    overview: Picture
    brain: Picture
    registrations: tuple[_RegistrationCard, ...]


def render_subject(view: SubjectView) -> str:
    """Render the page of one person.

    Parameters
    ----------
    view : SubjectView
        All arrays on the reference scan's grid, in RAS+ voxel order.

    Returns
    -------
    str
        HTML with all styles and pictures inside. The same view gives the same text.

    Raises
    ------
    GeometryError
        If there is no scan.
    """
    shown = layers(view)
    reference = _layer_of(view.scans.reference, shown)
    return template("subject.html.j2").render(
        view=view,
        record=view.provenance,
        reference=reference,
        layers=shown,
        pictures=_pictures(view, shown, reference),
        verdict=wording.verdict(view.summary),
        settings=wording.settings_rows(as_dict(view.provenance.config)),
        field_mm=FIELD_MM,
    )


def _pictures(view: SubjectView, shown: tuple[Layer, ...], reference: Layer) -> _Pictures:
    anchors = anchor_voxels(view)
    return _Pictures(
        findings=tuple(
            _FindingCard(
                lesion,
                finding_picture(view, lesion, anchor=anchors[lesion.index], shown=shown),
                locator(view, reference, anchor=anchors[lesion.index]),
            )
            for lesion in view.pictured
        ),
        overview=overview(view, reference, anchors=anchors),
        brain=brain_picture(view, reference),
        registrations=tuple(
            _RegistrationCard(alignment, moved.title, registration_picture(view, reference, moved))
            for moved in shown
            if moved is not reference
            for alignment in view.alignments
            if alignment.modality is moved.volume.modality and alignment.method != "identity"
        ),
    )


def _layer_of(volume: Volume, shown: tuple[Layer, ...]) -> Layer:
    return next(layer for layer in shown if layer.volume is volume)
