"""The page: everything on it, nothing from elsewhere, the same each time."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from deepmir.config import Config, ReportConfig
from deepmir.errors import GeometryError
from deepmir.evaluation.detection import evaluate_person
from deepmir.report.subject import render_subject
from deepmir.report.wording import verdict
from deepmir.volume import Scans

VOID = {"meta", "br", "input", "image", "path", "circle"}


class Balance(HTMLParser):
    """Follows open tags; fails on a close tag that does not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        """Open a tag."""
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Close the tag that was opened last."""
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):  # noqa: ARG002
        """Allow only what has no content to close itself."""
        assert tag in VOID


def text_of(html: str) -> str:
    return " ".join(
        re.sub(r"<style.*?</style>|<script.*?</script>|<[^>]+>", " ", html, flags=re.S).split()
    )


def test_every_finding_has_a_row_and_a_picture(view):
    page = render_subject(view)
    assert page.count("<article") == 4
    assert page.count('<span class="chip') == 4 + 3  # the table's rows and the legend
    assert all(f'id="finding-{index}"' in page for index in (1, 2, 3, 4))
    assert "sub-01: 2 microbleeds, 1 iron deposit, 1 calcification" in text_of(page)


def test_the_page_is_well_formed_and_its_links_lead_somewhere(view):
    page = render_subject(view)
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(parser.ids)


def test_nothing_is_loaded_from_elsewhere(view):
    page = render_subject(view)
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(source.startswith(("#", "data:image/jpeg;base64,")) for source in sources)
    assert "@import" not in page
    assert not re.search(r"url\(", page)


def test_the_same_view_gives_the_same_page(view):
    assert render_subject(view) == render_subject(view)


def test_what_users_give_is_escaped(view):
    page = render_subject(view)
    assert "unit was &lt;i&gt;ppb&lt;/i&gt;" in page
    assert "results &lt;b&gt;" in page


def test_settings_versions_and_limits_are_there(view):
    text = text_of(render_subject(view))
    for wanted in (
        "Research use only, not a medical device",
        "lesions.connectivity 26",
        "SHA-256 " + "ab" * 32,
        "least probability, CMB 0.450",
        "licence Apache-2.0",
        "peak memory 2.00 GB",
        "poor: check",
        "90 % of the regions seen",
        "the patient's right (R) is on the left",
    ):
        assert wanted.replace("'", "&#39;") in text or wanted in text


def test_t2w_alone_says_that_findings_need_swi_or_qsm(view_of):
    nothing = np.zeros((40, 48, 20), dtype=np.uint8)
    text = text_of(render_subject(view_of("t2w", findings=nothing)))
    assert "sub-01: regions only, because findings need SWI or QSM" in text
    assert "n/a does not mean none" in text
    assert "<article" not in text


def test_swi_alone_says_that_calcification_cannot_be_told(view_of):
    text = text_of(render_subject(view_of("swi")))
    assert "calcifications n/a" in text
    assert "every microbleed is therefore graded possible" in text
    assert "Mean χ ppm" in text


def test_qsm_alone_says_which_size_it_gives(view_of):
    text = text_of(render_subject(view_of("chimap")))
    assert "all sizes are those on the QSM" in text
    assert "QSM is the reference grid" in text


def test_no_finding_is_said(view_of):
    nothing = np.zeros((40, 48, 20), dtype=np.uint8)
    text = text_of(render_subject(view_of("swi", "chimap", findings=nothing)))
    assert "sub-01: 0 microbleeds, 0 iron deposits, 0 calcifications" in text
    assert "No finding on these scans" in text


def test_only_as_many_findings_are_pictured_as_the_settings_allow(view_of):
    config = Config(report=ReportConfig(max_findings_pictured=1))
    page = render_subject(view_of("swi", "chimap", config=config))
    assert page.count("<article") == 1
    assert "The first 1 of 4 findings are pictured" in page
    without = render_subject(
        view_of("swi", config=Config(report=ReportConfig(max_findings_pictured=0)))
    )
    assert "<article" not in without


def test_a_microbleed_above_10_mm_is_never_silent(view_of):
    large = np.zeros((40, 48, 20), dtype=np.uint8)
    large[8:22, 10:25, 5:12] = 1
    text = text_of(render_subject(view_of("swi", "chimap", findings=large)))
    assert "1 microbleed (1 above 10 mm)" in text
    assert "by definition no microbleed" in text


def test_a_known_truth_adds_its_scores(view):
    findings = view.measured.findings()
    score = evaluate_person(findings, findings, connectivity=26, rule="any-overlap")
    text = text_of(render_subject(replace(view, evaluation=score)))
    assert "Matching any-overlap, 26-connectivity, 1 person" in text
    assert "CMB 2 2 2 2 1.00 1.00 1.00 0.00" in text
    assert "known truth" not in text_of(render_subject(view))


def test_hand_made_findings_say_so(view):
    drawn = replace(
        view,
        measured=replace(
            view.measured,
            lesions=tuple(replace(lesion, probability=None) for lesion in view.lesions),
        ),
        provenance=replace(view.provenance, weights=None, notices=()),
    )
    text = text_of(render_subject(drawn))
    assert "drawn or corrected by a person" in text
    assert "No network was used" in text


def test_without_a_scan_there_is_no_page(view):
    with pytest.raises(GeometryError, match="at least one"):
        render_subject(replace(view, scans=Scans()))


def test_verdict_counts_in_words(view):
    assert verdict(view.summary) == ("2 microbleeds", "1 iron deposit", "1 calcification")
