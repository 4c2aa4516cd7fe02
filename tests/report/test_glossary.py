"""The terms of a page and their explanations."""

from __future__ import annotations

import re

import pytest

from siamese.report.glossary import TERMS, explained


def linked(page: str) -> list[str]:
    return re.findall(r'<a class="term"[^>]*>([^<]*)</a>', explained(page))


def listed(page: str) -> list[str]:
    return re.findall(r"<dt>([^<]*)</dt>", explained(page))


def test_a_term_is_linked_to_its_explanation_and_listed():
    page = explained("<p>Test AUC: 0.93</p>")
    link = re.search(r'<p>Test <a class="term" href="#([^"]*)" title="Area under [^"]*">AUC</a>: 0.93</p>', page)
    assert link
    assert f'<div id="{link[1]}"><dt>AUC</dt>' in page


def test_only_terms_that_occur_are_listed_in_alphabetical_order():
    assert listed("<p>View 1, restricted, dft, AUC, Brier score</p>") == ["AUC", "Brier score", "restricted", "View 1"]
    assert explained("<p>nothing to explain</p>") == "<p>nothing to explain</p>"


@pytest.mark.parametrize("text", ["Equal error rate 3 %", "equal error rates", "the EER.", "(EER)", "x<b>EER</b>"])
def test_other_forms_of_a_term(text):
    assert listed(text) == ["equal error rate, EER"]
    assert len(linked(text)) == 1


@pytest.mark.parametrize(
    "text", ["unthresholds", "threshold=0.5", "model.threshold", "threshold.rule", "/fold/", "auc"]
)
def test_keys_and_other_words_are_no_terms(text):
    assert explained(text) == text


def test_each_section_links_a_term_once():
    page = "<section><p>AUC</p><p>AUC</p></section><section><p>AUC</p></section>"
    assert len(linked(page)) == 2
    assert listed(page) == ["AUC"]


@pytest.mark.parametrize("tag", ["a", "button", "h2", "svg", "td"])
def test_some_elements_are_not_linked_but_listed(tag):
    page = f'<p><{tag} class="x">AUC<br></{tag}>ROC</p>'
    assert linked(page) == ["ROC"]
    assert listed(page) == ["AUC", "ROC"]


def test_attributes_and_the_text_of_files_are_left_alone():
    page = '<pre>AUC</pre><img alt="AUC"><script>AUC</script>'
    assert explained(page) == page


def test_titles_differ_and_explanations_are_sentences():
    words = [word for title in TERMS for word in title.split(", ")]
    assert len(set(words)) == len(words)
    assert all(text.endswith((".", ")")) for text in TERMS.values())
