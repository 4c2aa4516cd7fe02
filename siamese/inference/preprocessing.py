"""Describe how a run turns a photo into pixels, and pixels into a probability, for programs in other languages.

The description is complete: tests/independent.py computes the same with NumPy and OpenCV from nothing else.
"""

from __future__ import annotations

from typing import Any

from siamese.config.data import ImageOptions
from siamese.data import faces, images
from siamese.inference.verifier import Verifier
from siamese.runs.finished import PREPROCESSING

FILTERS = {
    "nearest": {"support": 0, "kernel": "the pixel at floor((i + 0.5) * scale)"},
    "bilinear": {"support": 1, "kernel": "1 - |x|"},
    "bicubic": {"support": 2, "kernel": "cubic convolution (Keys 1981) with a = -0.5"},
    "lanczos": {"support": 3, "kernel": "sinc(x) * sinc(x / 3) with sinc(x) = sin(pi x) / (pi x)"},
}  # fmt: skip
"""Kernels of ``data.interpolation``: half their width, and their values at a distance of x pixels."""


def describe_preprocessing(verifier: Verifier) -> dict[str, Any]:
    """Return the content of ``preprocessing.json``."""
    options, network, decision = verifier.options, verifier.network, verifier.decision
    return {
        **{key: getattr(options, key) for key in PREPROCESSING},
        "threshold": decision.threshold,
        "embedding_dim": network.encoder.embedding_dim,
        "layout": "NCHW uint8, RGB or grey",
        "precision": {"graphs": "32", "run": "bf16" if verifier.bf16 else "32"},
        "steps": _steps(options),
        "encoder": {
            "input": {"name": "pixels", "dtype": "uint8", "shape": ["N", options.channels, *[options.image_size] * 2]},
            "output": {"name": "embedding", "dtype": "float32", "shape": ["N", network.encoder.embedding_dim]},
            "in_the_graph": {
                "normalization": {"scale": 1 / 255, "mean": 0.0, "std": 1.0},
                "flip_average": network.flip_average,
                "crop_average": network.crop_average,
            },
        },
        "scorer": {
            "input": {"names": ["first", "second"], "do": "the embeddings of both photos, as the encoder returns them"},
            "output": {"names": ["score", "probability"], "dtype": "float32", "shape": ["N"]},
            "in_the_graph": {
                "probability": "1 / (1 + exp(-(slope * score + intercept)))",
                "slope": decision.calibration.slope,
                "intercept": decision.calibration.intercept,
            },
        },
        "decision": "same person if probability >= threshold",
    }


def _steps(options: ImageOptions) -> list[dict[str, Any]]:
    """The steps from a file to the input of the encoder, in this order."""
    side, kernel = options.image_size, FILTERS[options.interpolation]
    if options.crop is None:
        crop = "nothing is cut off"
    elif isinstance(options.crop, int):
        crop = "cut out the central square with this side in pixels; a smaller photo is refused"
    else:
        crop = (
            "cut out the central square whose side is this fraction of the shorter side, rounded to the nearest "
            "integer (a half to the even one), at least 1"
        )
    return [
        {
            "step": "decode",
            "do": "read the first frame. Ignore colour profiles, except of Lab images, which become sRGB. A JPEG is "
            "decoded at the larger of two fractions, with the scaled inverse DCT: the first in reduce_by that gives at "
            "most most_pixels (or the last); and, if it has more pixels than reduce_above, the last in reduce_by at "
            "which the shorter side of what the step crop leaves has at least least_side pixels (or the first). "
            "Later sizes in pixels of the photo refer to the full size",
            "reduce_by": [1, 2, 4, 8], "most_pixels": images.LARGEST_WHOLE,
            "reduce_above": None if options.align else images.REDUCED_FROM, "least_side": images.GAP * side,
        },
        {"step": "depth", "do": "more than 8 bits: keep the upper 8 bits (value >> (bits - 8)); 1 bit: 0 and 255",
         "bits": 8},
        {"step": "transparency", "do": "blend with the background: (alpha * value + (255 - alpha) * background) / 255",
         "background": [255, 255, 255]},
        {"step": "orient", "do": "turn the photo by the EXIF orientation: mirror left and right if mirrored, then "
         "rotate clockwise by the angle in degrees", "tag": 0x0112,
         "mirrored": [2, 4, 5, 7], "degrees": {"3": 180, "4": 180, "5": 270, "6": 90, "7": 90, "8": 270}},
        {"step": "rgb", "do": "to RGB, unless the photo is grey. Palette: its colours. CMYK: R = (255 - C) (255 - K) / "
         "255 and so on, with 255 = full ink. YCbCr of JPEG: ITU-R BT.601, full range"},
        *([_alignment()] if options.align else []),
        {"step": "color", "do": "repeat a grey photo for R, G and B"} if options.color else
        {"step": "grey", "do": "round(0.299 R + 0.587 G + 0.114 B), ITU-R BT.601; a grey photo stays as it is",
         "weights": [0.299, 0.587, 0.114]},
        {"step": "crop", "do": f"{crop}; left = floor((width - side) / 2), upper = floor((height - side) / 2)",
         "crop": options.crop},
        {
            "step": "resize",
            "do": "first each row, then each column; round to integers in 0 to 255 after each. Output pixel i is "
            "the mean of the input pixels j within support * max(scale, 1) of (i + 0.5) * scale, weighted by "
            "kernel((j + 0.5 - (i + 0.5) * scale) / max(scale, 1)), with scale = input size / output size (a kernel "
            "that widens with the scale is called antialiasing)",
            "width": side, "height": side, "filter": options.interpolation, **kernel,
            "antialias": options.interpolation != "nearest",
        },
        {"step": "refuse", "do": "a photo whose pixels are all equal gets no answer"},
        {"step": "array", "do": "stack the photos", "dtype": "uint8", "layout": "NCHW",
         "channels": "RGB" if options.color else "grey"},
    ]  # fmt: skip


def _alignment() -> dict[str, Any]:
    return {
        "step": "align",
        "do": "find the faces on the RGB photo, take one, find its eyes more exactly, and warp the photo so that they "
        "come to lie at eyes. Positions are x, y in pixels; the centre of the first pixel is 0, 0",
        "detector": {
            "model": faces.MODEL, "url": faces.MODEL_URL, "sha256": faces.MODEL_SHA256,
            "do": "cv2.FaceDetectorYN (OpenCV 5) on BGR pixels 0 to 255; of its 15 columns, 0 to 3 are the box, and 4 "
            "to 7 the positions of both eyes, here ordered by x",
            "score_threshold": faces.LEAST_SCORE, "nms_threshold": faces.OVERLAP, "top_k": faces.CANDIDATES,
        },
        "search": {
            "do": "scale the photo so that its longer side is the first of sides (never up; width and height rounded; "
            "bilinear filter with antialiasing), detect, and divide the positions by the scale. If there is no face "
            "and the photo is larger, use the next of sides. No face: the photo is refused. Face 1 has the largest box "
            "(width * height), and is the default",
            "sides": list(faces.SIDES),
        },
        "refine": {
            "do": "passes times: warp the photo, find the eyes in the warped photo, and map them back to the photo. To "
            "find them, resize the warped photo to each of sizes (squares; bicubic filter with antialiasing), and "
            "detect in it and in its mirror image. Of each, take the eyes of the largest face whose mean is less than "
            "within from the mean of eyes (x of a mirrored photo is size - 1 - x), scaled by frame / size. Take the "
            "mean over all; if there is none, eyes",
            "passes": faces.PASSES, "sizes": list(faces.SIZES), "within": faces.NEAR,
        },
        "warp": {
            "do": "the pixel at u, v of the square is the photo at x + i y = turn (u + i v) + shift, a complex number, "
            "with turn = (right - left) / (eyes[1] - eyes[0]) and shift = left - turn * eyes[0], if left and right are "
            "the eyes in the photo. If factor = floor(|turn|) > 1, first replace each block of factor x factor pixels "
            "by its mean, rounded, a half up (incomplete blocks at the right and lower edge too), and divide turn and "
            "shift by factor. Interpolate by cubic convolution (Keys 1981) with a = cubic_a over 4 x 4 pixels, "
            "repeating those at the edge, and drop the decimals. A position more than half a pixel outside the photo "
            "is outside",
            "frame": faces.FRAME, "eyes": [list(eye) for eye in faces.EYES], "cubic_a": -1.0, "outside": [0, 0, 0],
        },
    }  # fmt: skip
