"""The section "How to read the results" of a run page: what the figures of this run do and do not show."""

from __future__ import annotations

from pathlib import Path

from siamese.report.load import Run
from siamese.report.text import number, percent
from siamese.text import count


def notes(run: Run) -> list[str]:
    """The notes that apply to a run, one paragraph each."""
    keys = run.result.as_dict().keys()
    is_tested = any(key.startswith("test/") for key in keys)
    is_scored = is_tested or any(key.startswith("val/") for key in keys)
    found = [_oneshot(run), _identification(run)]
    if is_tested:
        found += [_intervals(run), _variation(run)]
    if is_scored:
        found += [_development(run), _synthetic(run), _outside_data(run), _unrestricted(run), _folds(run)]
        found += [_losses(run), _threshold(run), _best_epoch(run), _continued(run)]
    return [note for note in found if note]


def _oneshot(run: Run) -> str:
    if not run.result.ways:
        return ""
    within = run.result.oneshot_within
    alike = "" if within is None else f", whose names agree before the last “{within}” (protocol.within)"
    intervals = (
        "Many trials are of few people, so the confidence intervals (Wilson) are over people: they say what to expect "
        "of other people."
        if run.result.oneshot_ci_over == "people"
        else "The confidence intervals (Wilson) treat the trials as independent, although they share photos."
    )
    return (
        "An N-way trial takes a photo of a test person and compares it with another photo of that person and one photo "
        f"of each of N - 1 other test people{alike}, all drawn at random. The trial is won if the photo of the same "
        f"person has the highest score. {intervals} For comparison, “Nearest pixels” chooses the photo with the "
        "smallest distance between the pixels."
    )


def _identification(run: Run) -> str:
    if run.result.figure("identification/rank1") is None:
        return ""
    draws, searched = run.result.identification_draws, run.result.identification_searched
    threshold = (
        " An ensemble has no threshold here: it would have to be chosen on validation pairs."
        if isinstance(run.result.run, list)
        else ""
    )
    galleries = count(draws or 1, "random gallery", "random galleries")
    open_set = (
        " Open set: the gallery lacks some people, the strangers; people with a single photo are chosen as strangers "
        "before others. The true positive identification rate (TPIR) is the share of the searches for people in the "
        "gallery in which the right person has the highest score and reaches the threshold. The false positive "
        "identification rate (FPIR) is the share of the searches for strangers in which any person reaches it. TPIR at "
        f"an FPIR is given if the number of strangers allows such a rate.{threshold}"
        if run.open_set
        else ""
    )
    return (
        "A gallery has one photo of each test person, drawn at random. A search compares another photo with it. Closed "
        "set: the gallery has all people, and the right person gets a rank. "
        f"{searched or 'Some'} people have another photo to search for.{open_set} The figures are means over "
        f"{galleries}; the confidence intervals (Wilson) are over people."
    )


def _intervals(run: Run) -> str:
    accuracy = "Wilson’s" if run.result.folds is None else "Student’s (over the folds)"
    if run.result.test_ci_over == "people":
        return (
            "Many test pairs come from few people, so the confidence intervals are over people: they say what to "
            "expect of other people, and are wider than intervals over pairs, in particular if only a few people have "
            f"errors. The interval of the accuracy is {accuracy}, those of AUC and equal error rate are Wilson’s, and "
            "that of the loss is Student’s. Wilson’s interval is computed for as many independent pairs as have the "
            "same variance."
        )
    return (
        "The confidence intervals treat the pairs as independent. They are not quite independent, because a person or "
        "an image can occur in several pairs, so the true uncertainty is somewhat larger. The interval of the "
        f"accuracy is {accuracy}, that of the AUC is DeLong’s, and that of the loss is Student’s. The interval of the "
        "equal error rate is a bootstrap over the pairs with 1,000 resamples."
    )


def _variation(run: Run) -> str:
    members = run.result.run
    if isinstance(members, list):
        weights = ""
        if (given := run.result.weights) is not None:
            shares = (f"{weight:.2f} ({Path(path).name})" for weight, path in zip(given, members, strict=True))
            weights = f" Their calibrated logits have the weights {', '.join(shares)}, fitted to the validation pairs."
        return (
            f"An ensemble of {count(len(members), 'run')}.{weights} The confidence intervals hold for these networks "
            "and do not include the variation between networks. The configuration and the seed on this page are those "
            "of the first run."
        )
    seed = "" if run.result.seed is None else f" ({run.result.seed})"
    return (
        f"One run with one seed{seed}: the confidence intervals do not include the variation between seeds. Train with "
        "several seeds to measure it."
    )


def _development(run: Run) -> str:
    if run.result.protocol != "view1" or not (run.result.dataset or "").startswith("lfw"):
        return ""
    return (
        "View 1 of LFW is meant for development. Do not compare these results with published results, which are on "
        "View 2."
    )


def _synthetic(run: Run) -> str:
    if run.result.dataset != "synthetic":
        return ""
    return "These faces are drawn by a program. The results say nothing about real faces."


def _outside_data(run: Run) -> str:
    if not run.result.outside_data:
        return ""
    return (
        "Outside data was used: images from outside LFW were used to align LFW's images or to pretrain the weights. "
        "Compare only with results that use outside data too."
    )


def _unrestricted(run: Run) -> str:
    if run.result.setting != "unrestricted":
        return ""
    return (
        "Unrestricted setting: additional training pairs were formed from the names of the training people. Compare "
        "only with results of this setting."
    )


def _folds(run: Run) -> str:
    result = run.result
    if result.folds is None:
        return ""
    return (
        f"Accuracy is the mean over {result.folds} folds; its standard error is {number(result.test_acc_se, percent)}. "
        "The network, the calibration and the threshold of each fold do not depend on the pairs of that fold. The "
        "training sets of the folds overlap, so their results vary a little less than with independent training sets. "
        "All other figures are computed on the pairs of all folds together; each fold's own calibration makes their "
        "scores comparable."
    )


def _losses(run: Run) -> str:
    objective = run.config.get("objective")
    if not run.history or not isinstance(objective, dict) or objective.get("name") == "bce":
        return ""
    return (
        f"The training loss is that of the objective {objective.get('name')}. Validation and test loss are the "
        "cross-entropy of the calibrated probabilities. Do not compare training loss and validation loss."
    )


def _threshold(run: Run) -> str:
    """Where the threshold comes from. A run that chooses its threshold records how, as ``threshold_origin``."""
    if run.threshold is None:
        return ""
    if origin := run.result.threshold_origin:
        return f"Threshold {run.threshold:.4g} on the probability: {origin}."
    if run.config.get("threshold") != run.threshold:
        return f"Threshold {run.threshold:g} on the probability: its origin is not recorded."
    if run.is_calibrated:
        return (
            f"Threshold {run.threshold:g} on the probability: fixed before training. The probabilities were calibrated "
            "on the validation pairs."
        )
    return (
        f"Threshold {run.threshold:g} on the probability: fixed by the configuration before training, not tuned on any "
        "pairs."
    )


def _continued(run: Run) -> str:
    scheduler = run.config.get("scheduler")
    if not run.result.continued_after or not isinstance(scheduler, dict) or scheduler.get("name") != "cosine":
        return ""
    epochs = ", ".join(map(str, run.result.continued_after))
    return (
        f"max_epochs was raised after epoch {epochs}, and the learning rate then followed the cosine for the new "
        "max_epochs. A run with this configuration from the start has other learning rates and another result."
    )


def _best_epoch(run: Run) -> str:
    monitor = run.config.get("monitor")
    if not monitor or run.result.best_epoch is None:
        return ""
    return (
        f"The tested weights are those of the epoch with the best {monitor}. This epoch was chosen on the validation "
        "pairs, so the results on them are slightly optimistic. The test pairs were not used for any choice."
    )
