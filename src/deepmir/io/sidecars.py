"""What the JSON sidecars say of an image, by the inheritance principle of BIDS.

A sidecar may lie beside the image or in any folder above it, up to the top of the data set, and
describes each image whose name has its suffix and all of its entities: ``MEGRE.json`` at the top
holds for every raw gradient echo, ``sub-01/sub-01_echo-1_MEGRE.json`` for the first echo of one
person. What a nearer sidecar says goes over what one above it says, key by key.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from deepmir.errors import InputError
from deepmir.io.bids import sidecar_path


@dataclass(frozen=True, slots=True)
class Entry:
    """One value, and the sidecar that says it."""

    key: str
    value: Any  # as JSON has it
    sidecar: Path

    def numbers(self) -> tuple[float, ...]:
        """Return the number, or the numbers of a list.

        Raises
        ------
        InputError
            If it is anything else.
        """
        values = self.value if isinstance(self.value, list) else [self.value]
        if not all(_is_number(value) for value in values):
            raise InputError(
                f'"{self.key}" in {self.sidecar} is {json.dumps(self.value)}; wanted a number or '
                "a list of numbers: correct or remove it"
            )
        return tuple(float(value) for value in values)


def read_sidecars(image: Path) -> dict[str, Entry]:
    """Everything that the sidecars of an image say, by key; empty where there are none.

    An image whose name does not begin with ``sub-`` has only the sidecar of its own name.

    Raises
    ------
    InputError
        If a sidecar cannot be read or is no JSON object, or two of one folder describe the image.
    """
    entries: dict[str, Entry] = {}
    for folder in reversed(_levels(image)):
        sidecar = _sidecar_in(folder, image)
        if sidecar is not None:
            found = _read_object(sidecar)
            entries |= {key: Entry(key, value, sidecar) for key, value in found.items()}
    return entries


def _levels(image: Path) -> list[Path]:
    """Folder of the image, and those above it up to the one that holds the person's folder."""
    person = image.name.split("_")[0]
    folders = list(image.absolute().parents)
    tops = [number for number, folder in enumerate(folders) if folder.name == person]
    return folders[: tops[0] + 2] if tops else folders[:1]


def _sidecar_in(folder: Path, image: Path) -> Path | None:
    own = sidecar_path(image).name
    if not own.startswith("sub-"):
        return folder / own if (folder / own).exists() else None
    *entities, suffix = own.split("_")
    found = [
        path
        for path in sorted(folder.glob("*.json"))
        if path.name.split("_")[-1] == suffix and {*path.name.split("_")[:-1]} <= {*entities}
    ]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise InputError(
            f"{folder} holds {names}, which all describe {image.name}; BIDS allows one sidecar a "
            "folder for an image: join them, or move the more general one to a folder above"
        )
    return found[0] if found else None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the sidecar {path}: {error}; correct or remove it"
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"the sidecar {path} holds no JSON object; correct or remove it")
    return cast(dict[str, Any], found)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
