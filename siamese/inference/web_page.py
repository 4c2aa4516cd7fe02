"""A local web page for a finished run: drop two photos, see the decision and the occlusion maps (gradio)."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siamese.errors import ConfigError, MissingPackageError, UserError
from siamese.inference.occlusion import occlusion_maps, overlay
from siamese.inference.verifier import Verification, Verifier, several_faces
from siamese.report.examples import as_data_uri, load_photo
from siamese.report.figures import score_figure, to_svg
from siamese.report.html import render_page
from siamese.report.load import Run, read_run
from siamese.runs.signals import Interrupted
from siamese.runs.tables import Prediction

if TYPE_CHECKING:
    from fastapi import FastAPI
    from gradio import Blocks

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
"""The page is only served to this machine, because the photos show people."""

NEAREST = 6
"""Test pairs with similar scores that are shown."""

WHICH = ("First", "Second")
"""The two photos."""

PHOTO_BYTES = "50mb"
"""Largest file that is accepted."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "frame-ancestors 'none'; form-action 'self'"
)
"""What the browser may load: only files of this server, although gradio's pages link to other servers."""


@dataclass(frozen=True)
class ScoreRank:
    """How a score compares with the scores of the test pairs.

    Attributes:
        same_below: share of the same pairs with a lower score; None if there are no same pairs.
        different_below: share of the different pairs with a lower score; None if there are no different pairs.
        nearest: the pairs with the most similar scores, most similar first.
    """

    same_below: float | None
    different_below: float | None
    nearest: tuple[Prediction, ...]


def rank_score(score: float, tested: Sequence[Prediction], nearest: int = NEAREST) -> ScoreRank:
    """Compare a score with the scores of the test pairs."""

    def below(label: int) -> float | None:
        scores = [one.score for one in tested if one.label == label]
        return float(np.mean(np.array(scores) < score)) if scores else None

    by_distance = sorted(tested, key=lambda one: abs(one.score - score))
    return ScoreRank(below(1), below(0), tuple(by_distance[:nearest]))


class PairView:
    """Show the decision about two photos as HTML, together with the test pairs of the run.

    Args:
        run: folder of a finished run.
        align: as for `Verifier.load`.

    Raises:
        UserError: as of `Verifier.load`.
    """

    def __init__(self, run: Path, align: bool = False) -> None:
        self.verifier = Verifier.load(run, align=align)
        self.run: Run = read_run(run)
        self.tested = self.run.split("test")
        self.image_root = Path(self.run.result.image_root or "")

    def render(self, verification: Verification) -> str:
        """The decision and its rank among the test pairs, as an HTML fragment; values from files are escaped."""
        rank = rank_score(verification.score, self.tested)
        histogram = None
        if self.tested:
            scores = [one.probability for one in self.tested]
            labels = [one.label for one in self.tested]
            figure = score_figure(scores, labels, verification.threshold, mark=verification.probability)
            histogram = to_svg(figure, "Histogram of the probabilities of the test pairs, with these photos marked")
        names = "the first photo", "the second photo"
        return render_page(
            "answer.html.j2",
            found=verification,
            cautions=[
                *filter(None, map(several_faces, names, verification.faces, verification.face)),
                *self.verifier.cautions(verification, *names),
            ],
            checks_photos=self.verifier.domain is not None,
            rank=rank,
            tested=len(self.tested),
            histogram=histogram,
            nearest=[{"pair": one, "photos": self._photos_of(one)} for one in rank.nearest],
        )

    def _photos_of(self, pair: Prediction) -> list[str | None]:
        read = [load_photo(self.image_root / name) for name in (pair.image1, pair.image2)]
        return [None if photo is None else as_data_uri(photo) for photo in read]


def build_page(view: PairView) -> Blocks:
    """Build the page: two photos, and below them the decision as soon as both have been dropped."""
    import gradio as gr

    def decide(
        first: str | None, second: str | None, face1: int | None, face2: int | None
    ) -> Iterator[tuple[str, Any, Any, Any]]:
        hidden = gr.update(visible=False)
        faces = (face1, face2) if aligned else (None, None)
        for which, photo, face in zip(("first", "second"), (first, second), faces, strict=True):
            try:
                if photo is not None:
                    view.verifier.read(photo, face)
            except UserError as error:
                reason = str(error).removeprefix(f"{photo}: ")  # the name is a temporary one of gradio
                yield render_page("refused.html.j2", which=which, reason=reason), hidden, None, None
                return
        if first is None or second is None:
            yield "", hidden, None, None
            return
        html = view.render(view.verifier.verify(first, second, faces))
        yield html, hidden, None, None  # shown before the maps, which take longer
        map1, map2 = overlay(occlusion_maps(view.verifier, first, second, faces))
        yield html, gr.update(visible=True), map1, map2

    def as_dropped(payload: Any) -> str | None:
        return None if payload is None else str(payload.path)

    options: dict[str, Any] = {"sources": ["upload", "clipboard"], "buttons": [], "height": 260}
    run, aligned = view.run, view.verifier.options.align is not None
    page: Blocks
    with gr.Blocks(title="The same person?", analytics_enabled=False, delete_cache=(600, 600)) as page:
        gr.HTML(render_page("page_head.html.j2", run=run, trained_on=view.verifier.trained_on))
        with gr.Row():
            photos = [gr.Image(label=f"{which} photo", elem_id=which.lower(), **options) for which in WHICH]
        for photo in photos:
            # Not opened by gradio, whose message about a file that is no image is a traceback: `decide` says what is
            # wrong. (A subclass would do the same, but gradio writes a .pyi file beside each module that has one.)
            photo.preprocess = as_dropped  # type: ignore[method-assign]
        with gr.Row(visible=aligned):
            chosen = [
                gr.Number(value=1, precision=0, minimum=1, label=f"Face of the {which.lower()} photo (1: the largest)",
                          elem_id=f"face-{k}")
                for k, which in enumerate(WHICH, start=1)
            ]  # fmt: skip
        answer = gr.HTML(elem_id="answer")
        with gr.Group(visible=False, elem_id="maps") as group:
            gr.HTML("<h3>Occlusion maps</h3><p>Green parts raise the probability of “same person”, magenta parts lower "
                    "it.</p>", padding=True)  # fmt: skip
            with gr.Row():
                maps = [
                    gr.Image(label=which, format="png", interactive=False, buttons=[], height=260, elem_id=f"map-{k}")
                    for k, which in enumerate(WHICH, start=1)
                ]
        inputs: tuple[gr.Image | gr.Number, ...] = (*photos, *chosen)
        for given in inputs:
            shown = [answer, group, *maps]
            given.change(decide, list(inputs), shown, show_progress="minimal", api_visibility="private")
    return page


def build_app(view: PairView) -> FastAPI:
    """Build the web application; it only accepts requests for 127.0.0.1 and localhost."""
    import gradio as gr
    from fastapi import FastAPI, Request, Response
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(openapi_url=None)
    # Against DNS rebinding: another site could let its own name resolve to this machine.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])

    async def guard(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    # Not as a decorator: mypy calls it untyped if the extra is not installed.
    app.middleware("http")(guard)

    # gradio's default fonts would be loaded from the network.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    mounted: FastAPI = gr.mount_gradio_app(
        app, build_page(view), path="/", server_name=HOST, theme=theme, css=CSS, max_file_size=PHOTO_BYTES,
        footer_links=[], ssr_mode=False, show_error=False, pwa=False,
    )  # fmt: skip
    return mounted


def serve(run: Path, port: int, align: bool = False) -> None:
    """Serve the web page of a run until it is interrupted, then delete the dropped photos.

    Args:
        run: folder of a finished run.
        port: local port to listen on; 0 picks a free one.
        align: as for `Verifier.load`.

    Raises:
        UserError: the run cannot be used, gradio is not installed, or the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="siamese-page-") as dropped:
        # gradio reads these when it is imported.
        os.environ |= {"GRADIO_TEMP_DIR": dropped, "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            import gradio  # noqa: F401
            import uvicorn
        except ModuleNotFoundError as error:
            raise MissingPackageError("the web page", str(error.name), "page") from None
        try:
            listening = socket.create_server((HOST, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"--port {port}: {reason}; give another port, or 0 to pick a free one") from None
        with listening, suppress(KeyboardInterrupt, Interrupted):
            server = uvicorn.Server(uvicorn.Config(build_app(PairView(run, align)), log_level="warning"))
            log.info("http://%s:%d (stop with Ctrl-C)", HOST, listening.getsockname()[1])
            server.run(sockets=[listening])


CSS = """
.verdict { font-size: 1.6em; font-weight: 600; margin: .2em 0; }
.scale { position: relative; height: 14px; border-radius: 7px; background: var(--background-fill-secondary);
         border: 1px solid var(--border-color-primary); max-width: 420px; }
.scale .value { position: absolute; inset: 0 auto 0 0; border-radius: 7px; background: #0072b2; }
.scale .threshold { position: absolute; top: -4px; bottom: -4px; width: 2px; background: var(--body-text-color); }
.answer { display: flex; flex-wrap: wrap; gap: 24px; align-items: flex-start; }
.answer > div { flex: 1 1 320px; }
.answer svg { max-width: min(420px, 100%); height: auto; background: white; border-radius: 6px; }
.nearest { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 12px; }
.nearest figure { margin: 0; }
.nearest img { height: 90px; border-radius: 4px; display: inline-block; }
.nearest figcaption { font-size: .85em; overflow-wrap: anywhere; }
.refused { font-weight: 600; }
.caution { border-left: 4px solid #d55e00; padding-left: .6em; font-weight: 600; }
"""
