"""Explain the technical terms of a page: on hover, and in a list at its end for touch screens and keyboards."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

TERMS = {
    "AUC": "Area under the ROC curve: the probability that a same pair gets a higher score than a different pair. 1 "
    "is perfect, 0.5 is chance.",
    "bf16": "16-bit floating-point numbers (bfloat16) in the network's arithmetic; faster than 32 bits on many "
    "devices.",
    "Brier score": "Mean squared difference between the probability of “same person” and the label (1 or 0). 0 is "
    "perfect. Predicting 0.5 for every pair gives 0.25.",
    "calibration, calibrated": "Probabilities are calibrated if, for example, 80 % of the pairs with probability 0.8 "
    "are same pairs.",
    "chance": "The result of guessing, without looking at the images.",
    "confidence interval, CI": "A 95 % confidence interval is a range computed from the test pairs. If the test were "
    "repeated with new pairs (or, where it says so, new people) many times, 95 % of such ranges would contain the true "
    "value.",
    "cumulative match curve, CMC": "For each rank, the share of the searches in a gallery whose right person has this "
    "rank or a better one.",
    "cross-entropy": "The mean of -log(p), where p is the predicted probability of the true label. 0 is perfect. "
    "Predicting 0.5 for every pair gives 0.693.",
    "DET, detection error trade-off": "False negative rate over false positive rate for all thresholds, on scales that "
    "spread out low rates.",
    "DFT": "Discrete Fourier transform: the network's large convolutions are computed by Fourier transform instead of "
    "directly, if this is faster on the machine.",
    "ECE, expected calibration error": "Mean difference between the predicted probability and the share of same "
    "pairs, over ten bins of the probability, weighted by their pairs. 0 is perfect.",
    "ensemble": "Several networks that decide together: their calibrated logits are averaged.",
    "equal error rate, EER": "Error rate at the threshold where the share of wrong decisions is the same for same "
    "pairs and for different pairs. 0 % is perfect, 50 % is chance.",
    "false match rate, FMR": "Share of the different pairs that are predicted “same”, as the false positive rate; the "
    "word of biometric tests.",
    "false non-match rate, FNMR": "Share of the same pairs that are predicted “different”: 1 minus the true positive "
    "rate.",
    "false positive rate, FPR, FAR": "Share of the different pairs that are predicted “same”; also called false "
    "accept rate (FAR).",
    "false positive identification rate, FPIR": "Share of the searches for strangers in which any person of the "
    "gallery reaches the threshold; also called false alarm rate.",
    "fold": "One of the parts of the pairs in View 2. Each is tested with a network that was trained on the others.",
    "McNemar": "McNemar's test compares two networks on the same test pairs. A small p means that a difference this "
    "large would be rare between equally good networks.",
    "one-shot": "N-way one-shot identification: find the photo of the same person among one photo each of N people.",
    "outside data": "Images from outside the data set that were used to align its images or to pretrain the weights.",
    "people held out": "Protocol for your own photos: nobody in the test pairs is in the training set.",
    "restricted": "Setting in which training uses only the listed pairs and their labels, not the "
    "identities of the people.",
    "ROC": "Receiver operating characteristic: the true positive rate over the false positive rate, for all "
    "thresholds.",
    "seed": "Number that determines the initial weights, the order of the data and dropout.",
    "standard error": "Standard deviation of a mean: how much it would vary if it were measured again.",
    "threshold": "A pair is predicted “same” if its probability of “same person” is at least the threshold.",
    "true positive identification rate, TPIR": "Share of the searches for people in the gallery in which the right "
    "person has the highest score and reaches the threshold; also called detection and identification rate.",
    "true positive rate, TPR, TAR": "Share of the same pairs that are predicted “same”; also called true accept rate "
    "(TAR).",
    "unrestricted": "Setting in which training may also use the identities of the people, to form more pairs.",
    "View 1": "LFW's split for development: one list of training pairs, one of test pairs.",
    "View 2": "LFW's ten folds for reporting results: each fold is tested with a network that was trained on the "
    "other nine, and the accuracy is the mean over the folds.",
    "Wilson, DeLong, Student, bootstrap": "Methods for confidence intervals: Wilson's for shares, DeLong's for the "
    "AUC, Student's for means; the bootstrap recomputes a figure on resampled pairs.",
}
"""Term, with other words for it after commas -> its explanation, plain text."""

_TITLES = {form: title for title in TERMS for word in title.split(", ") for form in (word, word[0].upper() + word[1:])}
"""Words as they occur on a page -> the key of `TERMS`."""
_WORDS = "|".join(map(re.escape, sorted(_TITLES, key=len, reverse=True)))
# In the plural too, but not within a longer word, in a key such as model.threshold, or in key=value.
_TERM = re.compile(rf"(?<![\w./=])({_WORDS})s?(?![\w/=]|\.\w)")

_PLAIN = frozenset({"a", "button", "code", "h1", "h2", "h3", "h4", "pre", "script", "style", "summary", "svg", "td"})
"""Elements without links to the list: values from files, headings, and what cannot hold a link."""
_FILES = frozenset({"code", "pre", "script", "style"})
"""Elements whose words are not those of the page."""


def explained(page: str) -> Markup:
    """Link the terms in a page to their explanations, and append the list of those that occur.

    In each ``<section>``, the first occurrence of a term becomes a link, which shows the explanation on hover. Texts in
    pictures, headings and cells of tables are not linked, but their terms are on the list.

    Args:
        page: well-formed HTML, in which ``<`` and ``>`` in texts and attributes are escaped.
    """
    found: set[str] = set()
    linked: set[str] = set()  # since the last <section>
    inside: list[str] = []

    def link(match: re.Match[str]) -> str:
        title = _TITLES[match[1]]
        found.add(title)
        if inside or title in linked:
            return match[0]
        linked.add(title)
        return f'<a class="term" href="#{_anchor(title)}" title="{escape(TERMS[title])}">{match[0]}</a>'

    parts = re.split(r"(<[^>]+>)", page)
    for i, part in enumerate(parts):
        if not part.startswith("<"):
            if not _FILES.intersection(inside):
                parts[i] = _TERM.sub(link, part)
            continue
        name = re.split(r"[\s>]", part, maxsplit=1)[0]
        if name == "<section":
            linked.clear()
        elif name[1:] in _PLAIN:
            inside.append(name[1:])
        elif name[2:] in _PLAIN:
            inside.pop()
    return Markup("".join(parts)) + _list(found)


def _anchor(title: str) -> str:
    return "term-" + re.sub(r"\W+", "-", title.partition(",")[0].lower())


def _list(titles: set[str]) -> Markup:
    if not titles:
        return Markup()
    entry = Markup('<div id="{}"><dt>{}</dt><dd>{}</dd></div>\n')
    entries = (entry.format(_anchor(title), title, TERMS[title]) for title in sorted(titles, key=str.casefold))
    return Markup('<section>\n<h2>Terms</h2>\n<dl class="terms">\n{}</dl>\n</section>\n').format(Markup().join(entries))
