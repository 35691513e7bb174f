"""Find the label maps of two sides, person by person: folders, BIDS derivatives, single files.

A person is known by the entities ``sub-`` and ``ses-`` of the file's name or folder, else by the
name of the file. No person is dropped: who is on one side only is listed.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deepmir.errors import InputError
from deepmir.io.tables import read_table
from deepmir.labels import Finding

_ENTITY = {name: re.compile(rf"(?:^|_){name}-([0-9A-Za-z+]+)(?=_|\.|$)") for name in ("sub", "ses")}
_SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True, slots=True)
class FilePair:
    """The two label maps of one person."""

    person: str
    prediction: Path
    reference: Path


@dataclass(frozen=True, slots=True)
class Pairing:
    """Persons with both sides, and those with one."""

    pairs: tuple[FilePair, ...]
    only_prediction: tuple[str, ...]
    only_reference: tuple[str, ...]


def pair_label_maps(prediction: Path, reference: Path, *, pattern: str | None = None) -> Pairing:
    """Pair label maps by person.

    Parameters
    ----------
    prediction, reference : Path
        A label map each, or a folder each.
    pattern : str, optional
        Which files of the folders are meant, such as ``**/*_pred.nii.gz``; without it the
        findings of a BIDS derivative, else other label maps or masks, else every NIfTI file.

    Raises
    ------
    InputError
        If a path does not exist, a folder holds no label map, a person has two of them, or no
        person has both sides.

    """
    if prediction.is_file() and reference.is_file():
        person = person_of(reference if _has_entity(reference) else prediction)
        return Pairing((FilePair(person, prediction, reference),), (), ())
    found, true = (label_maps(side, pattern=pattern) for side in (prediction, reference))
    both = sorted(found.keys() & true.keys())
    if not both:
        raise InputError(
            f"no person is in both {prediction} ({_some(found)}) and {reference} ({_some(true)}); "
            "name the files alike, best by sub- entities as BIDS does"
        )
    return Pairing(
        tuple(FilePair(person, found[person], true[person]) for person in both),
        only_prediction=tuple(sorted(found.keys() - true.keys())),
        only_reference=tuple(sorted(true.keys() - found.keys())),
    )


def label_maps(side: Path, *, pattern: str | None = None) -> dict[str, Path]:
    """Label map of each person: of a folder, or of one file.

    Raises
    ------
    InputError
        As :func:`pair_label_maps`.
    """
    files = _files(side, pattern)
    kinds: tuple[Callable[[str], bool], ...] = (
        lambda name: "_desc-findings_dseg." in name,
        lambda name: "_dseg." in name and "_desc-regions_" not in name,
        lambda name: "_mask." in name and "_desc-brain_" not in name,
        lambda name: "_probseg." not in name,
    )
    for is_meant in kinds if pattern is None else (lambda _: True,):
        chosen = [path for path in files if is_meant(path.name)]
        if chosen:
            return _by_person(chosen)
    wanted = pattern or "*_desc-findings_dseg.nii.gz, or other label maps (.nii, .nii.gz)"
    raise InputError(f"{side} holds no label map; wanted one a person there: {wanted}")


def probability_maps(side: Path) -> dict[str, dict[Finding, Path]]:
    """Find maps of probability, person by person: ``desc-CMB_probseg`` …, else of microbleeds.

    Raises
    ------
    InputError
        If the path does not exist, or a person has two maps of one finding.
    """
    files = _files(side, None)
    meant = [path for path in files if "_probseg." in path.name] or files
    if not meant:
        raise InputError(f"{side} holds no map of probabilities; wanted *_probseg.nii.gz there")
    found: dict[str, dict[Finding, Path]] = {}
    for finding in Finding:
        ours = [path for path in meant if _finding_of(path) is finding]
        for person, path in _by_person(ours).items():
            found.setdefault(person, {})[finding] = path
    return found


def other_maps(side: Path, endings: Iterable[str]) -> dict[str, Path]:
    """Files of each person whose name ends as one of `endings` says, the first that is there.

    Parameters
    ----------
    side : Path
        A file or a folder.
    endings : iterable of str
        Such as ``_swi``, without the type; a file given by itself always fits.

    Raises
    ------
    InputError
        If the path does not exist, or a person has two such files.
    """
    files = _files(side, None)
    if side.is_file():
        return {person_of(side): side}
    for ending in endings:
        chosen = [path for path in files if _stem(path).endswith(ending)]
        if chosen:
            return _by_person(chosen)
    return {}


def read_groups(path: Path, column: str) -> dict[str, str]:
    """Group of each person (``sub-…``) from a table such as BIDS' ``participants.tsv``.

    Raises
    ------
    InputError
        If the table cannot be read, has no such column or no ``participant_id``, or lists a
        person twice.
    """
    table = read_table(path)
    persons, groups = table.column("participant_id"), table.column(column)
    named = [person if (person or "").startswith("sub-") else f"sub-{person}" for person in persons]
    twice = sorted({person for person in named if named.count(person) > 1 and person})
    if twice:
        raise InputError(f"{path} lists {twice[0]} twice; wanted one line a person")
    return {person: group or "n/a" for person, group in zip(named, groups, strict=True) if person}


def group_of(person: str, groups: Mapping[str, str]) -> str:
    """Group of a person, whatever the session; ``n/a`` for who is not in the table."""
    if not groups:
        return ""
    return groups.get(person, groups.get(person.partition("_")[0], "n/a"))


def person_of(path: Path) -> str:
    """Name of the person that a file is about.

    Examples
    --------
    >>> person_of(Path("sub-07_ses-2_desc-findings_dseg.nii.gz"))
    'sub-07_ses-2'
    >>> person_of(Path("out/sub-07/lesions.nii.gz")), person_of(Path("case_12.nii"))
    ('sub-07', 'case_12')
    """
    named = [f"{name}-{value}" for name, value in _entities(path).items() if value]
    return "_".join(named) if _entities(path)["sub"] else _stem(path)


def _entities(path: Path) -> dict[str, str | None]:
    """Entities of the file's name, else of the folders that it lies in."""
    found: dict[str, str | None] = {}
    for name, pattern in _ENTITY.items():
        matches = (pattern.search(part) for part in reversed(path.parts))
        found[name] = next((match.group(1) for match in matches if match), None)
    return found


def _has_entity(path: Path) -> bool:
    return _entities(path)["sub"] is not None


def _stem(path: Path) -> str:
    for suffix in _SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def _finding_of(path: Path) -> Finding:
    for finding in Finding:
        if f"desc-{finding.name}_" in path.name:
            return finding
    return Finding.CMB


def _files(side: Path, pattern: str | None) -> list[Path]:
    if side.is_file():
        return [side]
    if not side.is_dir():
        raise InputError(f"there is no file or folder {side}; check the path")
    files = sorted(side.glob(pattern or "**/*"))
    return [
        path
        for path in files
        if path.name.endswith(_SUFFIXES)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(side).parts)
    ]


def _by_person(files: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files:
        person = person_of(path)
        if person in found:
            raise InputError(
                f"{person} has two label maps, {found[person]} and {path}; wanted one: choose "
                "by --pattern, or move one away"
            )
        found[person] = path
    return found


def _some(found: Mapping[str, Path]) -> str:
    shown = ", ".join(sorted(found)[:3])
    return f"{shown}, …" if len(found) > 3 else shown
