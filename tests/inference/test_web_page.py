"""The web page of a run: its content, which requests it accepts, and the whole page in a browser."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, noise_photo, read_rows
from hypothesis import given
from hypothesis import strategies as st

from siamese.command.main import main
from siamese.inference.web_page import PairView, rank_score
from siamese.runs.tables import Prediction

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ALONE = [  # otherwise Chromium contacts its vendor's servers at every start
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def scored(*pairs: tuple[float, int]) -> list[Prediction]:
    return [Prediction("test", "a.jpg", "b.jpg", label, score, 0.5, 1) for score, label in pairs]


@given(st.lists(st.tuples(st.floats(-10, 10), st.integers(0, 1)), max_size=30), st.floats(-10, 10), st.integers(0, 8))
def test_rank_of_a_score(pairs: list[tuple[float, int]], score: float, number: int) -> None:
    rank = rank_score(score, scored(*pairs), number)
    for label, share in ((1, rank.same_below), (0, rank.different_below)):
        of_label = [one for one, other in pairs if other == label]
        assert (share is None) == (not of_label)
        if share is not None:
            assert share == pytest.approx(sum(one < score for one in of_label) / len(of_label))
    assert len(rank.nearest) == min(number, len(pairs))
    distances = sorted(abs(one - score) for one, _ in pairs)
    assert [abs(one.score - score) for one in rank.nearest] == distances[:number]


@pytest.mark.integration
def test_decision_is_that_of_verify_and_escaped(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    text = (run / "predictions.csv").read_text()
    row = next(row for row in read_rows(run / "predictions.csv") if row["split"] == "test")
    of_row = f"test,{row['image1']},{row['image2']},"
    assert text.count(of_row) == 1
    (run / "predictions.csv").write_text(text.replace(of_row, f"test,<script>alert(1)</script>.jpg,{row['image2']},"))
    view = PairView(run)
    root = view.image_root
    found = view.verifier.verify(root / row["image1"], root / row["image2"])
    shown = view.render(found)
    assert f"p = {found.probability:.3f}" in shown
    assert ("Same person" if found.same else "Different people") in shown
    assert "<script>" not in shown
    assert "&lt;script&gt;alert(1)" in shown  # the pair itself has the most similar score
    assert shown.count("<img ") == 2 * 6 - 1  # its first photo is missing
    assert "<svg" in shown


@pytest.mark.integration
def test_cautions_stand_before_the_probability(finished: Path, tmp_path: Path) -> None:
    view = PairView(finished)
    photo = next(view.image_root.rglob("*.jpg"))
    noise = noise_photo(tmp_path / "noise.png", size=(40, 40))
    shown = view.render(view.verifier.verify(photo, photo))
    assert shown.index("The first photo and the second photo are the same image") < shown.index("Probability")
    shown = view.render(view.verifier.verify(photo, noise))
    assert shown.index("The second photo is unlike the images this network was trained on") < shown.index("Probability")
    assert "It is unknown" not in shown
    view.verifier.domain = None
    assert "It is unknown whether the photos are like" in view.render(view.verifier.verify(photo, noise))


@pytest.mark.integration
def test_several_faces_are_named(finished: Path) -> None:
    view = PairView(finished)
    photo = next(view.image_root.rglob("*.jpg"))
    answer = view.verifier.verify(photo, photo)._replace(faces=(1, 3), face=(1, 2))
    shown = view.render(answer)
    assert "The second photo shows 3 faces; face 2 was used (1 is the largest)." in shown
    assert "The first photo shows" not in shown


@pytest.mark.integration
def test_without_test_pairs_there_is_still_a_decision(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    photos = PairView(run).image_root
    row = read_rows(run / "predictions.csv")[0]
    (run / "predictions.csv").unlink()
    view = PairView(run)
    shown = view.render(view.verifier.verify(photos / row["image1"], photos / row["image2"]))
    assert "no test pairs to compare with" in shown
    assert "<svg" not in shown


def test_without_gradio_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["page", "run"]) == 2
    assert capsys.readouterr().err == (
        "error: the web page needs gradio, which is not installed; in the clone run: pip install -e '.[page]' "
        "(without a clone: pip install gradio)\n"
    )


@pytest.mark.integration  # importing gradio takes seconds
@pytest.mark.parametrize("port", ["taken", "-1", "70000"])
def test_unusable_port(capsys: pytest.CaptureFixture[str], port: str) -> None:
    pytest.importorskip("gradio", reason="an extra")
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = str(other.getsockname()[1]) if port == "taken" else port
        assert main(["page", "run", "--port", number]) == 2
    assert re.fullmatch(rf"error: --port {number}: .*; give another port, or 0 .*\n", capsys.readouterr().err)


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Serve the page of a run in another process; returns its address and its folder for temporary files."""
    pytest.importorskip("gradio", reason="an extra")
    temporary = tmp_path_factory.mktemp("temporary")
    served = subprocess.Popen(
        [sys.executable, "-c", "import tempfile, sys; tempfile.tempdir = sys.argv.pop(1);"
         "from siamese.command.main import main; sys.exit(main())",
         str(temporary), "page", str(finished), "--port", "0"],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert served.stderr is not None
    lines = []
    for line in served.stderr:
        lines.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            break
    else:
        pytest.fail(f"the page did not start: {''.join(lines)}")
    yield found[0], temporary
    served.send_signal(signal.SIGINT)
    rest = served.communicate(timeout=30)[1]
    assert served.returncode == 0, rest
    assert "Traceback" not in rest
    assert not list(temporary.iterdir())  # the photos were deleted


@pytest.mark.integration
def test_only_local_requests_are_accepted(page: tuple[str, Path]) -> None:
    httpx = pytest.importorskip("httpx")
    address, _ = page
    port = int(address.rpartition(":")[2])
    answer = httpx.get(address)
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert httpx.get(address, headers={"Host": f"elsewhere.example:{port}"}).status_code == 400
    own = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, type=socket.SOCK_STREAM)}
    for other in own - {"127.0.0.1"}:
        with pytest.raises(OSError):  # noqa: PT011 - refused, unreachable, ...
            socket.create_connection((other, port), timeout=2).close()


@pytest.mark.integration
def test_in_a_browser(page: tuple[str, Path], finished: Path, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="an extra")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    address, temporary = page
    tested = PairView(finished)
    rows = [row for row in read_rows(finished / "predictions.csv") if row["split"] == "test"]
    one, other = (tested.image_root / rows[0][key] for key in ("image1", "image2"))
    found = tested.verifier.verify(one, other)
    asked: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ALONE)
        view = browser.new_page()
        view.on("request", lambda request: asked.append(request.url))
        view.goto(address)
        for place, photo in (("first", one), ("second", other)):
            view.set_input_files(f"#{place} input[type=file]", photo)
        view.wait_for_selector("#answer .verdict", timeout=60_000)
        assert view.inner_text("#answer .verdict") == ("Same person" if found.same else "Different people")
        assert f"p = {found.probability:.3f}" in view.inner_text("#answer")
        assert view.locator("#answer .nearest img").count() == 12
        for k in (1, 2):  # each map has been drawn
            view.wait_for_function(f"document.querySelector('#map-{k} img')?.naturalWidth > 0", timeout=60_000)
        assert any(temporary.rglob("*.jpg"))  # the dropped photos are in the folder that is deleted at the end

        broken, text = tmp_path / "broken.png", tmp_path / "text.jpg"
        broken.write_bytes(noise_photo(tmp_path / "whole.png").read_bytes()[:200])
        text.write_text("no image")
        for photo in (broken, text):  # reported before a second photo is there
            view.reload()
            view.set_input_files("#first input[type=file]", photo)
            view.wait_for_selector("#answer .refused", timeout=60_000)
            assert view.inner_text("#answer .refused").startswith("The first photo cannot be used: ")
            assert str(temporary) not in view.inner_text("#answer")
        browser.close()
    others = {url for url in asked if not url.startswith((address, "data:", "blob:"))}
    assert not others
