"""Numbers and counts as a reader wants them: units, signs, n/a, singular and plural."""

from collections.abc import Mapping

from deepmir.labels import Finding
from deepmir.lesions import Lesion, Summary

NOUNS = {
    Finding.CMB: ("microbleed", "microbleeds"),
    Finding.IRON: ("iron deposit", "iron deposits"),
    Finding.CALCIFICATION: ("calcification", "calcifications"),
}


def fixed(value: float | None, digits: int = 1) -> str:
    """Write a number with fixed digits; ``n/a`` for None.

    Examples
    --------
    >>> fixed(3.14159), fixed(None)
    ('3.1', 'n/a')
    """
    return "n/a" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """Write a number with its sign, by a true minus; ``n/a`` for None.

    Examples
    --------
    >>> signed(0.25), signed(-0.25), signed(None)
    ('+0.250', '−0.250', 'n/a')
    """
    return "n/a" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """Share as per cent; ``n/a`` for None.

    Examples
    --------
    >>> percent(0.617), percent(None)
    ('62 %', 'n/a')
    """
    return "n/a" if value is None else f"{100 * value:.0f} %"


def count(value: int | None) -> str:
    """Count; ``n/a`` for None, which is not 0."""
    return "n/a" if value is None else str(value)


def counted(value: int | None, finding: Finding) -> str:
    """Count with its noun.

    Examples
    --------
    >>> counted(1, Finding.CMB), counted(0, Finding.IRON), counted(None, Finding.CALCIFICATION)
    ('1 microbleed', '0 iron deposits', 'calcifications n/a')
    """
    one, many = NOUNS[finding]
    if value is None:
        return f"{many} n/a"
    return f"{value} {one if value == 1 else many}"


def verdict(summary: Summary) -> tuple[str, ...]:
    """Say the three counts with their nouns, for the head of the page."""
    if summary.cmb is None:
        return ("regions only, because findings need SWI or QSM",)
    cmb = counted(summary.cmb, Finding.CMB)
    if summary.cmb_exceeding_10mm:
        cmb += f" ({summary.cmb_exceeding_10mm} above 10 mm)"
    return (
        cmb,
        counted(summary.iron, Finding.IRON),
        counted(summary.calcification, Finding.CALCIFICATION),
    )


def lesion_title(lesion: Lesion) -> str:
    """Grade and kind of a finding, such as ``Definite microbleed``."""
    return f"{lesion.certainty.value.capitalize()} {NOUNS[lesion.finding][0]}"


def capitalize_first(text: str) -> str:
    """Begin a sentence with a capital and leave the rest, such as CMB, as it is.

    Examples
    --------
    >>> capitalize_first("matching CMB")
    'Matching CMB'
    """
    return text[:1].upper() + text[1:]


def coordinates(place: tuple[float, float, float], digits: int = 1) -> str:
    """Three numbers, with true minus signs.

    Examples
    --------
    >>> coordinates((-1.25, 0.0, 30.0))
    '−1.2, 0.0, 30.0'
    """
    return ", ".join(f"{value:.{digits}f}".replace("-", "−") for value in place)


def settings_rows(settings: Mapping[str, Mapping[str, object]]) -> tuple[tuple[str, str], ...]:
    """(stage.setting, value) of a resolved config.

    Examples
    --------
    >>> settings_rows({"lesions": {"connectivity": 26}, "segment": {"thresholds": None}})
    (('lesions.connectivity', '26'), ('segment.thresholds', "the weights' own"))
    """
    return tuple(
        (f"{stage}.{name}", _setting(value))
        for stage, table in settings.items()
        for name, value in table.items()
    )


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "the weights' own" if value is None else str(value)
