"""The pages' common ground: where templates lie, how numbers are written in them."""

from functools import cache

import jinja2

from deepmir.evaluation import tables
from deepmir.report import wording


def template(name: str) -> jinja2.Template:
    """Return a template of this package, such as ``subject.html.j2``."""
    return _environment().get_template(name)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deepmir.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        fixed=wording.fixed,
        signed=wording.signed,
        percent=wording.percent,
        count=wording.count,
        coordinates=wording.coordinates,
        lesion_title=wording.lesion_title,
        capitalize_first=wording.capitalize_first,
    )
    environment.globals.update(
        detection_head=tables.DETECTION_HEAD,
        detection_rows=tables.detection_rows,
        confusion_head=tables.CONFUSION_HEAD,
        confusion_rows=tables.confusion_rows,
        rule_text=tables.rule_text,
    )
    return environment
