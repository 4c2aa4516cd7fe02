"""Measure the speed of the project beside plain implementations, and what else needs a command of its own."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import device, has_bf16, machine, median, seconds, table, worker

Options = argparse.Namespace
Report = tuple[str, dict[str, Any]]


def train(options: Options) -> Report:
    """training pairs per second: ours, the loop of the course report, a Lightning template, limits of the machine"""
    common = {"data": options.data, "root": options.root, "batch": options.batch, "steps": options.steps}
    what = {"experiment": options.experiment}
    ways: dict[str, Callable[[], dict[str, Any]]] = {}
    if options.experiment.startswith("best/"):
        for bf16 in (False, True) if has_bf16() else (False,):
            name = f"plain PyTorch, {'bf16 autocast' if bf16 else 'float32'}"
            ways[name] = partial(worker, "plain_recipe", **common, **what, bf16=bf16)
    else:
        ways["course report's loop"] = partial(worker, "plain", **common)
        ways["template, 2 workers"] = partial(worker, "template", **common)
    first = next(iter(ways))
    for precision in options.precision.split(","):
        ways[f"ours, precision={precision}"] = partial(worker, "ours", **common, **what, precision=precision)
        if device().type == "cuda":
            graph = partial(worker, "ours", **common, **what, precision=precision, graphs=True)
            ways[f"ours, precision={precision}, CUDA graph"] = graph
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    limits: list[dict[str, Any]] = []
    for _ in range(options.repeats):  # in turn, so that a slow minute of the machine affects all of them
        limits.append(worker("limits", data=options.data, **what))
        for name, way in ways.items():
            runs[name].append(way())
    limit = {key: median([found[key] for found in limits]) for key in limits[0]}
    rate = {name: options.batch / median([s for run in found for s in run["seconds"]]) for name, found in runs.items()}
    peaks = {name: limit[f"{name}_matrix_gflops"] for name in ("fp32", "bf16") if f"{name}_matrix_gflops" in limit}
    rows = []
    for name, found in runs.items():
        gflops = rate[name] * limit["gflop_per_pair"]
        rows.append([
            name, found[0].get("arithmetic", "direct"), rate[name], rate[name] / rate[first],
            *(f"{gflops / peak:.0%}" for peak in peaks.values()), max(run["peak_mib"] for run in found),
        ])  # fmt: skip
    shares = [f"share of {name} matrix rate" for name in peaks]
    text = table(["way", "arithmetic", "pairs/s", "speedup", *shares, "peak MiB"], rows)
    text += (
        f"\n\nBatch {options.batch}; {limit['gflop_per_pair']:.2f} GFLOP a pair with direct convolutions (counted). "
        f"Limits: {', '.join(f'{name} {peak:.0f}' for name, peak in peaks.items())} GFLOP/s, "
        f"copies {limit['copy_gb_per_s']:.0f} GB/s."
    )
    return text, {"limits": limit, "pairs_per_second": rate, "runs": runs}


def losses(options: Options) -> Report:
    """losses of the first steps of our training and of a plain float32 loop on the same batches"""
    found = worker(
        "losses", data=options.data, root=options.root, batch=options.batch, steps=20, precision=options.precision,
        optimizer=options.optimizer,
    )  # fmt: skip
    names = {"ours": f"ours ({found['arithmetic']})", "plain": "plain", "plain_channels_last": "plain, channels-last"}
    steps = zip(*map(found.get, names), strict=True)
    rows = [[step, *map("{:.6f}".format, values)] for step, values in enumerate(steps, start=1)]
    largest = {
        name: max(abs(a - b) for a, b in zip(found[name], found["plain"], strict=True))
        for name in ("ours", "plain_channels_last")
    }
    text = table(["step", *names.values()], rows)
    text += "\n\nLargest difference from the plain loop: " + ", ".join(
        f"{names[name]} {difference:.1e}" for name, difference in largest.items()
    )
    return text, {**found, "largest_difference": largest}


def profile(options: Options) -> Report:
    """share of each operation, or on a GPU of each kernel (--graphs: in a CUDA graph), in the time of our steps"""
    found = worker(
        "profile", data=options.data, root=options.root, batch=options.batch, precision=options.precision,
        experiment=options.experiment, graphs=options.graphs,
    )  # fmt: skip
    rows = [[name, f"{share:.1%}"] for name, share in found["shares"].items()]
    return table(["operation", f"share of a step ({found['arithmetic']})"], rows), found


def data(options: Options) -> Report:
    """seconds to decode the images of View 1 into an array"""
    found = [worker("decoding", data=options.data, root=options.root) for _ in range(options.repeats)]
    names = {"one_by_one": "PIL, one by one", "cold": "ours, no cache", "warm": "ours, cached"}
    taken = {key: median([run[key] for run in found]) for key in names}
    rows = [[name, taken[key], taken["one_by_one"] / taken[key]] for key, name in names.items()]
    text = table(["way", "decoding seconds", "speedup"], rows) + f"\n\n{found[0]['images']} images."
    return text, {"seconds": taken, "images": found[0]["images"]}


def evaluation(options: Options) -> Report:
    """seconds to score the test pairs"""
    found = worker("scoring", data=options.data, root=options.root, repeats=options.repeats)
    taken = {name: median(times) for name, times in found["seconds"].items()}
    rows = [
        ["pair by pair", taken["pairwise"], 1.0],
        ["each image once", taken["once"], taken["pairwise"] / taken["once"]],
    ]
    text = table(["way", "scoring seconds", "speedup"], rows)
    text += (
        f"\n\n{found['pairs']} pairs of {found['images']} images; logits up to {found['largest_logit']:.2g} "
        f"differ by {found['largest_difference']:.1e} at most."
    )
    return text, found


def latency(options: Options) -> Report:
    """milliseconds per batch of photos and pairs, of a finished run (--run FOLDER) in PyTorch and of its exports"""
    if options.run is None:
        raise SystemExit("error: latency needs --run FOLDER, the folder of a finished run")
    found = worker("latency", run=str(options.run), batches=[1, 8, 32], repeats=options.repeats * 5)
    taken = {what: {way: median(s) for way, s in ways.items()} for what, ways in found["seconds"].items()}
    rows = [
        [what, *(1e3 * seconds for seconds in ways.values()),
         *(f"{ways['PyTorch'] / ways[way]:.2f}" for way in ways if way != "PyTorch")]
        for what, ways in taken.items()
    ]  # fmt: skip
    ways = list(next(iter(taken.values())))
    head = ["graph, inputs", *(f"{way}, ms" for way in ways), *(f"{way}, speedup" for way in ways[1:])]
    text = table(head, rows) + f"\n\nPyTorch in {'bf16' if found['bf16'] else 'float32'}, the exports in float32."
    return text, {"medians": taken, **found}


def domain(options: Options) -> Report:
    """share of 500 test pairs of --data below --root with a photo unlike the training images of a run (--run FOLDER)"""
    if options.run is None or not options.root:
        raise SystemExit(
            "error: domain needs --run FOLDER, --root FOLDER, and --data lfw or another set in LFW's layout"
        )
    from siamese import Verifier
    from siamese.data.layouts import LAYOUTS
    from siamese.data.lists import read_pairs
    from siamese.data.protocol import TEST_LIST
    from siamese.evaluation.intervals import wilson

    root, images = Path(options.root), LAYOUTS[options.data].images
    listed = read_pairs(root / TEST_LIST)
    pairs = listed[:: max(1, len(listed) // 500)]
    names = sorted({name for pair in pairs for name in (pair.image1, pair.image2)})
    verifier = Verifier.load(options.run)
    unusual = dict(zip(names, verifier.unusual(verifier.read(root / images / name) for name in names), strict=True))
    found = {
        "pairs": [bool(unusual[pair.image1] or unusual[pair.image2]) for pair in pairs],
        "photos": [bool(one) for one in unusual.values()],
    }
    rows = [
        [
            f"{sum(flags)} of {len(flags)} {what}",
            *(f"{100 * share:.1f} %" for share in (sum(flags) / len(flags), *ends)),
        ]
        for what, flags in found.items()
        for ends in [wilson(sum(flags), len(flags))]
    ]
    text = table(["unusual", "share", "95 % confidence interval from", "to"], rows)
    return f"{text}\n\n{options.run}: trained on {verifier.trained_on}; {root / images}.", {"unusual": found}


def alignment(options: Options) -> Report:
    """accuracy of a run (--run) on View 1's test photos (--data, --root), and on scenes with them, aligned or not"""
    if options.run is None or not options.root:
        raise SystemExit(
            "error: alignment needs --run FOLDER, --root FOLDER, and --data lfw_deepfunneled or another LFW"
        )
    from benchmarks.scenes import measure_alignment
    from siamese.data.layouts import LAYOUTS

    return measure_alignment(options.run, Path(options.root), LAYOUTS[options.data].images)


def copies(options: Options) -> Report:
    """copies of 1,000 photos of LFW that are found, and all photos that are reported in LFW (--data, --root)"""
    if not options.root:
        raise SystemExit("error: copies needs --root FOLDER, and --data lfw_deepfunneled or another LFW")
    from benchmarks.copies import measure_copies
    from siamese.data.layouts import LAYOUTS

    return measure_copies(Path(options.root) / LAYOUTS[options.data].images)


def few(options: Options) -> Report:
    """accuracy on new people after training on few photos, or on LFW (--run, a run of best/quick; --people)"""
    if options.run is None or not options.root:
        raise SystemExit("error: few needs --run FOLDER, --root FOLDER, and --data lfw_deepfunneled or another LFW")
    from benchmarks.few import measure_few
    from siamese.data.layouts import LAYOUTS

    return measure_few(options.run, Path(options.root), LAYOUTS[options.data].images, options.people, options.repeats)


def gallery(options: Options) -> Report:
    """time and memory to ask a gallery of --size photos like those of --data (--root), embedded by a run (--run)"""
    if options.run is None or not options.root:
        raise SystemExit("error: gallery needs --run FOLDER, --root FOLDER, and --data lfw_deepfunneled or another LFW")
    from benchmarks.gallery import measure_gallery
    from siamese.data.layouts import LAYOUTS

    return measure_gallery(options.run, Path(options.root) / LAYOUTS[options.data].images, options.size, options.folder)


def growth(options: Options) -> Report:
    """seconds and memory to load --images photos, drawn in --folder: first, again, one changed, other split"""
    if options.folder is None:
        raise SystemExit("error: growth needs --folder FOLDER with room for 45 KB an image")
    from benchmarks.growth import measure_growth

    return measure_growth(options.folder, [int(number) for number in options.images.split(",")])


def startup(options: Options) -> Report:
    """seconds until a command responds, and the time of a run with caches that is neither training nor scoring"""
    python = sys.executable
    commands = {
        "import torch, lightning": [python, "-c", "import torch, lightning"],
        "train.py --help": [python, "train.py", "--help"],
        "train.py, a wrong key": [python, "-c", "import subprocess, sys; sys.exit(subprocess.run("
                                  "[sys.executable, 'train.py', 'model.typo=1']).returncode != 2)"],
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.repeats + 1):
        for name, command in commands.items():
            times[name].append(seconds(*command))
    taken = {name: median(found[1:]) for name, found in times.items()}  # the first calls read files from disk
    rows = [[name, found, found / taken["import torch, lightning"]] for name, found in taken.items()]
    overheads = [_overhead(options, [f"seed={seed}"]) for seed in range(options.repeats)]
    text = table(["command", "response seconds", "of the imports"], rows)
    text += f"\n\nA run of two epochs with caches, minus training and scoring: {median(overheads):.1f} s."
    return text, {"seconds": taken, "warm_run_overhead": overheads}


def sweep(options: Options) -> Report:
    """seconds per job of a sweep, minus training and scoring"""
    jobs = 5
    found = []
    for _ in range(options.repeats):
        one = _overhead(options, ["-m", "seed=0"])
        many = _overhead(options, ["-m", "seed=" + ",".join(str(seed) for seed in range(jobs))])
        found.append((many - one) / (jobs - 1))
    text = f"Each additional job of a sweep: {median(found):.2f} s, minus training and scoring."
    return text, {"seconds_per_job": found}


def pages(options: Options) -> Report:
    """pages of a sweep of --jobs recorded jobs with --pairs test pairs each: size, seconds after a job and of report"""
    from benchmarks.recorded import measure_recorded

    return measure_recorded(options.jobs, options.pairs)


def _overhead(options: Options, arguments: list[str]) -> float:
    """Return the wall time of a run or a sweep of a small network, minus training and scoring."""
    where = [f"data.root={options.root}"] if options.root else []
    with tempfile.TemporaryDirectory() as folder:
        taken = seconds(
            sys.executable, "train.py", *arguments, f"data={options.data}", *where, "model.batchnorm=true",
            "model.widths=[8,8,8,16]", "max_epochs=2", f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}",
            "model.embedding_dim=4096",
        )  # fmt: skip
        results = [json.loads(file.read_text(encoding="utf-8")) for file in Path(folder).rglob("result.json")]
    return taken - sum(float(result["train_seconds"] + result["score_seconds"]) for result in results)


BENCHMARKS: dict[str, Callable[[Options], Report]] = {
    "train": train, "losses": losses, "profile": profile, "data": data, "eval": evaluation, "latency": latency,
    "domain": domain, "alignment": alignment, "copies": copies, "few": few, "gallery": gallery, "growth": growth,
    "startup": startup, "sweep": sweep, "pages": pages,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "benchmark", choices=BENCHMARKS, help="; ".join(f"{k}: {f.__doc__}" for k, f in BENCHMARKS.items())
    )
    parser.add_argument("--data", default="synthetic", help="data group: synthetic, lfw, lfw_a, ...")
    parser.add_argument("--root", default=os.environ.get("LFW_ROOT", ""), help="data.root; LFW_ROOT by default")
    parser.add_argument(
        "--experiment", default="", help="for train and profile, such as best/quick; without, Koch's network"
    )
    parser.add_argument("--graphs", action="store_true", help="profile with trainer.cuda_graphs=true")
    parser.add_argument("--batch", type=int, default=128, help="pairs per training step")
    parser.add_argument(
        "--steps",
        type=int,
        default=6,
        help="training steps per process, two of them uncounted",
    )
    parser.add_argument("--repeats", type=int, default=3, help="processes, or folders of few, per measurement")
    parser.add_argument(
        "--precision",
        default="auto",
        help="precision of our training; several for train: 32,bf16,auto",
    )
    parser.add_argument("--optimizer", default="adam", choices=["adam", "sgd"], help="optimizer for losses")
    parser.add_argument(
        "--run", type=Path, help="folder of a finished run, for latency, domain, alignment, few and gallery"
    )
    parser.add_argument("--size", type=int, default=1_000_000, help="photos of gallery")
    parser.add_argument("--folder", type=Path, help="where gallery and growth write; what is there is used again")
    parser.add_argument(
        "--people", default="val", choices=["val", "test"], help="people for few: of the validation or of the test set"
    )
    parser.add_argument("--jobs", type=int, default=500, help="recorded jobs for pages")
    parser.add_argument("--pairs", type=int, default=400, help="test pairs of each recorded job for pages")
    parser.add_argument("--images", default="10000,100000", help="numbers of photos for growth")
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    options = parser.parse_args()
    if options.data == "synthetic":
        options.root = ""
    text, figures = BENCHMARKS[options.benchmark](options)
    environment = machine()
    print(text)
    print("\n" + ", ".join(f"{key} {value}" for key, value in environment.items()))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "benchmark": options.benchmark,
            "options": {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
        }
        options.json.write_text(
            json.dumps({**record, "machine": environment, **figures}, indent=2) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
