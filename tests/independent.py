"""Preprocessing from ``preprocessing.json`` alone, with NumPy and OpenCV; nothing here imports our package or Pillow.

Images are uint8 [H, W] (grey) or [H, W, 3] (RGB).
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
Eyes = NDArray[np.float64]

KERNELS = {
    "bilinear": lambda x: np.maximum(0, 1 - x),
    "bicubic": lambda x: cubic(x, -0.5),
    "lanczos": lambda x: np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0),
}


def pixels_of(content: bytes, described: dict[str, Any], face: int = 1, detector_file: str = "") -> Image:
    """Follow the steps of a description, from the content of a file to uint8 [C, H, W]."""
    steps = {step["step"]: step for step in described["steps"]}
    image, scale = decoded(content, steps["decode"], steps["crop"]["crop"])
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 3 and image.shape[2] == 4:
        alpha = image[..., 3:].astype(float)
        mixed = (alpha * image[..., :3] + (255 - alpha) * np.array(steps["transparency"]["background"])) / 255
        image = mixed.round().astype(np.uint8)
    image = oriented(image, orientation(content), steps["orient"])
    if "align" in steps:
        image, scale = aligned(image, steps["align"], face, detector_file), 1.0
    if image.ndim == 3 and "grey" in steps:
        image = (image @ np.array(steps["grey"]["weights"])).round().astype(np.uint8)
    image = cropped(image, steps["crop"]["crop"], scale)
    resize = steps["resize"]
    image = resized(image, resize["width"], resize["height"], resize["filter"])
    if "color" in steps and image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    return image[None] if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))


def decoded(content: bytes, step: dict[str, Any], crop: float | None) -> tuple[Image, float]:
    """Decode a file, without turning it; also how many times smaller than the photo the image is."""
    bytes_N = np.frombuffer(content, np.uint8)
    image = cv2.imdecode(bytes_N, cv2.IMREAD_UNCHANGED)
    pixels, scale = image.shape[0] * image.shape[1], 1.0
    fraction = next((by for by in step["reduce_by"] if pixels <= step["most_pixels"] * by * by), 8)
    if step["reduce_above"] is not None and pixels > step["reduce_above"]:
        side = shorter = min(image.shape[:2])
        if crop is not None:
            side = crop if isinstance(crop, int) else max(1, round(crop * shorter))
        fraction = max(fraction, *(by for by in step["reduce_by"] if by == 1 or side // by >= step["least_side"]))
    if content.startswith(b"\xff\xd8") and fraction > 1:
        flag = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}[fraction]
        reduced = cv2.imdecode(bytes_N, flag | cv2.IMREAD_IGNORE_ORIENTATION)
        image, scale = reduced, max(image.shape) / max(reduced.shape)
    if image.ndim == 3:  # OpenCV's order is blue, green, red
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    return image, scale


def orientation(content: bytes) -> int:
    start = content.find(b"Exif\0\0")
    if start < 0:
        return 1
    tiff = content[start + 6 :]
    order = "little" if tiff[:2] == b"II" else "big"
    first = int.from_bytes(tiff[4:8], order)  # type: ignore[arg-type]
    for at in range(first + 2, first + 2 + 12 * int.from_bytes(tiff[first : first + 2], order), 12):  # type: ignore[arg-type]
        if int.from_bytes(tiff[at : at + 2], order) == 0x0112:  # type: ignore[arg-type]
            return int.from_bytes(tiff[at + 8 : at + 10], order)  # type: ignore[arg-type]
    return 1


def oriented(image: Image, value: int, step: dict[str, Any]) -> Image:
    if value in step["mirrored"]:
        image = image[:, ::-1]
    return np.rot90(image, -step["degrees"].get(str(value), 0) // 90)


def cropped(image: Image, crop: float | None, scale: float) -> Image:
    if crop is None:
        return image
    height, width = (round(scale * side) for side in image.shape[:2])
    side = crop if isinstance(crop, int) else max(1, round(crop * min(height, width)))
    left, top = (width - side) // 2, (height - side) // 2
    left, top, right, bottom = (round(edge / scale) for edge in (left, top, left + side, top + side))
    return image[top:bottom, left:right]


def resized(image: Image, width: int, height: int, name: str) -> Image:
    for axis, size in ((1, width), (0, height)):
        if image.shape[axis] == size:
            continue
        rows = np.moveaxis(image, axis, 0)
        scale = len(rows) / size
        middle = (np.arange(size) + 0.5) * scale
        if name == "nearest":
            image = np.moveaxis(rows[np.floor(middle).astype(int)], 0, axis)
            continue
        distance = np.abs(np.arange(len(rows)) + 0.5 - middle[:, None]) / max(scale, 1)
        weights = KERNELS[name](distance)
        weights /= weights.sum(1, keepdims=True)
        image = np.moveaxis(np.tensordot(weights, rows.astype(float), 1), 0, axis).round().clip(0, 255).astype(np.uint8)
    return image


def cubic(x: NDArray[Any], a: float) -> NDArray[Any]:
    """Cubic convolution (Keys 1981) at distances x >= 0."""
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def aligned(image: Image, step: dict[str, Any], face: int, detector_file: str) -> Image:
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    find, warp, refine = step["search"], step["warp"], step["refine"]
    found: list[tuple[float, Eyes]] = []
    for side in find["sides"]:
        scale = min(1.0, side / max(rgb.shape))
        height, width = (max(1, round(scale * one)) for one in rgb.shape[:2])
        found = [
            (area, eyes / scale)
            for area, eyes in detected(resized(rgb, width, height, "bilinear"), step, detector_file)
        ]
        if found:
            break
    eyes = found[face - 1][1]
    target = np.array(warp["eyes"])
    for _ in range(refine["passes"]):
        first = warped(rgb, eyes, warp)
        located = []
        for size in refine["sizes"]:
            square = resized(first, size, size, "bicubic")
            for mirrored in (False, True):
                for _, one in detected(square[:, ::-1] if mirrored else square, step, detector_file):
                    if mirrored:
                        one[:, 0] = size - 1 - one[:, 0]
                    one = one[one[:, 0].argsort()] * warp["frame"] / size
                    if math.dist(one.mean(0), target.mean(0)) < refine["within"]:
                        located.append(one)
                        break
        turn, shift = similarity(eyes, target)
        better = (np.mean(located, axis=0) if located else target) @ [1, 1j] * turn + shift
        eyes = np.stack([better.real, better.imag], axis=1)
    return warped(image, eyes, warp)


def detected(rgb: Image, step: dict[str, Any], file: str) -> list[tuple[float, Eyes]]:
    """Areas and eyes of the faces, the largest first."""
    given = step["detector"]
    size = rgb.shape[1::-1]
    detector = cv2.FaceDetectorYN.create(
        file, "", size, given["score_threshold"], given["nms_threshold"], given["top_k"]
    )
    rows = detector.detect(np.ascontiguousarray(rgb[..., ::-1]))[1]
    faces = []
    for row in () if rows is None else rows:
        eyes = row[4:8].reshape(2, 2).astype(float)
        faces.append((float(row[2] * row[3]), eyes[eyes[:, 0].argsort()]))
    return sorted(faces, key=lambda one: -one[0])


def similarity(eyes: Eyes, target: Eyes) -> tuple[complex, complex]:
    (left, right), (first, second) = eyes @ [1, 1j], target @ [1, 1j]
    turn = (right - left) / (second - first)
    return turn, left - turn * first


def warped(image: Image, eyes: Eyes, warp: dict[str, Any]) -> Image:
    turn, shift = similarity(eyes, np.array(warp["eyes"]))
    factor = math.floor(abs(turn))
    if factor > 1:
        starts = [np.arange(0, side, factor) for side in image.shape[:2]]
        sums = np.add.reduceat(np.add.reduceat(image.astype(float), starts[0], axis=0), starts[1], axis=1)
        sizes = np.outer(*(np.diff([*start, side]) for start, side in zip(starts, image.shape[:2], strict=True)))
        image = np.floor(sums / sizes.reshape(*sizes.shape, *[1] * (image.ndim - 2)) + 0.5).astype(np.uint8)
        turn, shift = turn / factor, shift / factor
    v, u = np.mgrid[: warp["frame"], : warp["frame"]]
    place = turn * (u + 1j * v) + shift
    x, y = place.real, place.imag
    height, width = image.shape[:2]
    result = np.zeros((*x.shape, *image.shape[2:]))
    for j in range(-1, 3):
        for i in range(-1, 3):
            column, row = np.floor(x) + i, np.floor(y) + j
            weight = cubic(np.abs(x - column), warp["cubic_a"]) * cubic(np.abs(y - row), warp["cubic_a"])
            value = image[row.clip(0, height - 1).astype(int), column.clip(0, width - 1).astype(int)]
            result += weight.reshape(*weight.shape, *[1] * (image.ndim - 2)) * value
    outside = (x < -0.5) | (x >= width - 0.5) | (y < -0.5) | (y >= height - 0.5)
    result[outside] = warp["outside"][0]
    return (result + 1e-9).clip(0, 255).astype(np.uint8)  # 110, not 109.999... in even areas
