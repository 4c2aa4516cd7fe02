"""Make one measurement in a separate process: ``python -m benchmarks.worker NAME '{"option": value}'`` prints JSON."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamese.command.memory import keep_freed_memory

if TYPE_CHECKING:
    from benchmarks.reference import StepTimes
    from siamese.config.schema import TrainConfig
    from siamese.data.dataset import PairDataset
    from siamese.scoring.precision import Arithmetic

WARM_UP = 2
"""First steps that are not counted: they choose kernels and touch new memory."""


def main() -> None:
    name, options = sys.argv[1], json.loads(sys.argv[2])
    if name in ("ours", "profile", "losses", "scoring"):
        keep_freed_memory()  # as train.py does; the other measurements use Python's defaults
    report = globals()[name](**options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**report, "peak_mib": round(peak)}))


def configuration(data: str, root: str, *overrides: str, experiment: str = "") -> TrainConfig:
    """The configuration of an experiment, or of the course report's second model, on a data set."""
    from siamese.config.load import compose_train

    where = [f"data.root={root}"] if root else []
    what = [f"experiment={experiment}"] if experiment else ["model.batchnorm=true"]
    return compose_train([*what, f"data={data}", *where, *overrides])


def data_set(data: str, root: str, experiment: str = "") -> PairDataset:
    """The images and pairs of View 1."""
    from siamese.data.dataset import load_dataset

    config = configuration(data, root, experiment=experiment)
    return load_dataset(config.data, config.protocol, config.sampling)


def ours(
    data: str, root: str, batch: int, steps: int, precision: str, experiment: str = "", graphs: bool = False
) -> dict[str, Any]:
    """Time the steps of our training."""
    times, arithmetic = fit(data, root, batch, steps, precision, experiment=experiment, graphs=graphs)
    return {"seconds": times.seconds[WARM_UP:], "arithmetic": " ".join(arithmetic)}


def fit(
    data: str, root: str, batch: int, steps: int, precision: str, profiler: Any = None, optimizer: str = "",
    experiment: str = "", graphs: bool = False,
) -> tuple[StepTimes, Arithmetic]:  # fmt: skip
    """Train for a number of steps with our module and Trainer; ``profiler`` is a further callback."""
    import lightning as L

    from benchmarks.reference import StepTimes
    from siamese.models.build import network_of
    from siamese.runs.folder import RunFolder
    from siamese.scoring.device import exact_convolutions, pick_device
    from siamese.scoring.precision import choose_arithmetic
    from siamese.training import build
    from siamese.training.callbacks import StepSeed
    from siamese.training.global_settings import global_settings
    from siamese.training.loggers import build_logger

    changes = [f"precision={precision}", f"batch_size={batch}", "checkpoint=none"]
    changes += [f"trainer.cuda_graphs={str(graphs).lower()}"]
    changes += [f"optimizer={optimizer}"] if optimizer else []
    config = configuration(data, root, *changes, experiment=experiment)
    device = pick_device(config)
    arithmetic = choose_arithmetic(config, device)
    L.seed_everything(config.seed, verbose=False)
    network = network_of(config, arithmetic.dft)
    dataset = data_set(data, root, experiment)
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder, global_settings(), exact_convolutions(device):
        io = build.build_checkpoint_io(config)
        logger, _ = build_logger(config.logger, Path(folder), config.name)
        trainer = build.build_trainer(config, RunFolder(Path(folder)), device, arithmetic, io, logger)
        # Steps only: the benchmarks of whole runs include epochs, validation and records.
        callbacks = [StepSeed(config.seed), times, *([profiler] if profiler else [])]
        vars(trainer)["callbacks"] = callbacks
        trainer.limit_val_batches = 0
        trainer.fit_loop.epoch_loop.max_steps = steps
        trainer.fit(build.build_module(config, network, dataset), build.build_data_module(config, dataset))
    return times, arithmetic


def latency(run: str, batches: list[int], repeats: int) -> dict[str, Any]:
    """Time a call of a finished run in PyTorch and of its exports, in turn, for several batch sizes."""
    import numpy as np
    import torch

    from siamese import Verifier
    from siamese.inference.export import FORMATS, export, load_graph

    verifier = Verifier.load(run)
    verifier.network.to("cpu")
    options = verifier.options
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for kind in FORMATS:
            export(Path(run), Path(folder), kind)
        encoders: dict[str, Any] = {"PyTorch": lambda x: verifier.embed_pixels(torch.from_numpy(x))}
        scorers: dict[str, Any] = {"PyTorch": lambda a, b: verifier.compare(np.concatenate([a, b]), _facing(len(a)))}
        for kind, name in (("onnx", "ONNX Runtime"), ("pt2", "torch.export")):
            encoders[name] = load_graph(Path(folder) / f"encoder.{kind}")
            scorers[name] = load_graph(Path(folder) / f"scorer.{kind}")
        found: dict[str, dict[str, list[float]]] = {}
        for n in batches:
            pixels = rng.integers(0, 256, (n, options.channels, options.image_size, options.image_size), dtype=np.uint8)
            z = np.asarray(encoders["PyTorch"](pixels))
            for part, ways, inputs in (("encoder", encoders, (pixels,)), ("scorer", scorers, (z, z[::-1].copy()))):
                taken: dict[str, list[float]] = {name: [] for name in ways}
                for turn in range(repeats + WARM_UP):
                    for name, way in ways.items():
                        started = time.perf_counter()
                        way(*inputs)
                        if turn >= WARM_UP:
                            taken[name].append(time.perf_counter() - started)
                found[f"{part}, {n}"] = taken
    return {"seconds": found, "bf16": verifier.bf16}


def _facing(n: int) -> list[tuple[int, int]]:
    return [(k, n + k) for k in range(n)]


def losses(data: str, root: str, batch: int, steps: int, precision: str, optimizer: str) -> dict[str, Any]:
    """Compare the losses of our training with those of plain loops that have the same weights and batches.

    The second plain loop differs from the first only in the memory layout of its images. Their difference shows the
    precision of float32.
    """
    times, arithmetic = fit(data, root, batch, steps, precision, optimizer=optimizer)
    found = {"ours": [float(loss) for loss in times.losses], "arithmetic": " ".join(arithmetic)}
    for name, channels_last in (("plain", False), ("plain_channels_last", True)):
        found[name] = _plain_losses(data, root, batch, steps, optimizer, channels_last)
    return found


def _plain_losses(data: str, root: str, batch: int, steps: int, optimizer: str, channels_last: bool) -> list[float]:
    import torch

    from benchmarks.reference import PlainNetwork
    from siamese.training.data_module import PairDataModule

    dataset, network = data_set(data, root), PlainNetwork()
    weights = initial_weights(data, root).values()
    network.load_state_dict(dict(zip(network.state_dict(), weights, strict=True)))
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    parameters = network.parameters()
    step = torch.optim.Adam(parameters, lr=1e-4) if optimizer == "adam" else torch.optim.SGD(parameters, 1e-4, 0.9)
    x = dataset.pixels.to("cpu").float() / 255
    loader: Any = PairDataModule(dataset, batch, seed=0).train_dataloader()
    criterion, found, epoch = torch.nn.BCELoss(), list[float](), 0
    while True:
        loader.sampler.set_epoch(epoch)
        epoch += 1
        for rows, label in loader:
            loss = criterion(network(x[rows[:, 0]], x[rows[:, 1]]), label.float())
            step.zero_grad()
            loss.backward()
            step.step()
            found.append(loss.item())
            if len(found) == steps:
                return found


def initial_weights(data: str, root: str) -> dict[str, Any]:
    """The weights that our training starts with, for seed 0."""
    import lightning as L

    from siamese.models.build import network_of

    config = configuration(data, root)
    L.seed_everything(config.seed, verbose=False)
    return dict(network_of(config).state_dict())


def plain_recipe(data: str, root: str, batch: int, steps: int, experiment: str, bf16: bool) -> dict[str, Any]:
    """Time the steps of a recipe in plain PyTorch."""
    from benchmarks.common import device
    from benchmarks.recipe import plain_steps

    config = configuration(data, root, f"batch_size={batch}", experiment=experiment)
    taken = plain_steps(config, data_set(data, root, experiment), steps, bf16, device())
    return {"seconds": taken[WARM_UP:]}


def plain(data: str, root: str, batch: int, steps: int) -> dict[str, Any]:
    """Time the steps of the loop in the course report."""
    from benchmarks.common import device
    from benchmarks.reference import plain_loop

    dataset = data_set(data, root)
    pairs = dataset.train
    taken = plain_loop(dataset.pixels.to("cpu"), pairs.indices, pairs.labels, batch, steps, device())
    return {"seconds": taken[WARM_UP:]}


def template(data: str, root: str, batch: int, steps: int) -> dict[str, Any]:
    """Time the steps of a Lightning template."""
    from benchmarks.reference import template_loop
    from siamese.data.sources import image_root

    pairs = [(pair.image1, pair.image2, pair.label) for pair in data_set(data, root).train.pairs]
    with tempfile.TemporaryDirectory() as folder:
        taken = template_loop(image_root(configuration(data, root).data), pairs, batch, steps, Path(folder))
    return {"seconds": taken[WARM_UP:]}


def limits(data: str, experiment: str = "") -> dict[str, Any]:
    """Measure the limits of the machine (matrix products, copies) and count the operations of the network."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.common import device, has_bf16
    from siamese.models.build import network_of

    where = device()

    def best(work: Any, repeats: int = 7) -> float:
        taken = []
        for _ in range(repeats):
            started = time.perf_counter()
            work()
            if where.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - started)
        return min(taken)

    n = 8192 if where.type == "cuda" else 4096
    rates = {}
    for name, dtype in {"fp32": torch.float32, **({"bf16": torch.bfloat16} if has_bf16() else {})}.items():
        a, b = (torch.randn(n, n, device=where).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        rates[f"{name}_matrix_gflops"] = 2 * n**3 / best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out)) / 1e9
    source = torch.randn(2**26, device=where)
    target = torch.empty_like(source)
    # A copy reads and writes.
    rates["copy_gb_per_s"] = 2 * source.numel() * 4 / best(lambda: target.copy_(source)) / 1e9
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        config = configuration(data, "nowhere", "convolution=direct", experiment=experiment)
        x = torch.empty(4, config.data.channels, config.data.image_size, config.data.image_size)
        network_of(config).embed(x).sum().backward()
    return {**rates, "gflop_per_pair": counter.get_total_flops() / 2 / 1e9}


def profile(
    data: str, root: str, batch: int, precision: str, experiment: str = "", graphs: bool = False
) -> dict[str, Any]:
    """Measure the share of each operation, or on a GPU of each kernel, in the time of training steps.

    On a CPU, this puts a clock around each operation instead of using PyTorch's profiler, which keeps memory longer:
    half of the time that it shows are page faults of the growing heap.
    """
    from collections import defaultdict
    from contextlib import ExitStack
    from functools import partial

    import lightning as L
    from torch.utils._python_dispatch import TorchDispatchMode  # public, see PyTorch's note "Extending PyTorch"

    from benchmarks.common import device
    from siamese.models import kernels

    if device().type == "cuda":
        return _profile_gpu(data, root, batch, precision, experiment, graphs)
    taken: defaultdict[str, float] = defaultdict(float)

    def timed(name: str, function: Any, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = function(*args, **kwargs)
        taken[name] += time.perf_counter() - started
        return result

    class Clock(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return timed(str(func.overloadpacket), func, *args, **(kwargs or {}))

    class Clocked(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2 * WARM_UP:
                self.stack = ExitStack()
                self.stack.enter_context(Clock())
            if batch_idx == 2 * WARM_UP + 1:  # the first step includes the start of the clock
                taken.clear()
                self.started = time.perf_counter()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.total = time.perf_counter() - self.started
            self.stack.close()

    library = kernels.library()
    if library is not None:
        for name in kernels.FUNCTIONS:
            setattr(library, name, partial(timed, f"kernels.{name}", getattr(library, name)))
    clocked = Clocked()
    _, arithmetic = fit(data, root, batch, 2 * WARM_UP + 4, precision, clocked, experiment=experiment)
    taken["everything else"] = clocked.total - sum(taken.values())
    most = sorted(taken.items(), key=lambda item: -item[1])[:16]
    return {
        "shares": {name: seconds / clocked.total for name, seconds in most},
        "arithmetic": " ".join(arithmetic),
    }


def _profile_gpu(data: str, root: str, batch: int, precision: str, experiment: str, graphs: bool) -> dict[str, Any]:
    """Measure the share of each kernel, and of the time in which none runs, in ten training steps."""
    from collections import defaultdict

    import lightning as L
    import torch
    from torch.profiler import DeviceType, ProfilerActivity

    class Profiled(L.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 10:  # after the recording of a graph
                self.profiler = torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
                self.profiler.start()

        def on_train_end(self, *_: Any) -> None:
            torch.cuda.synchronize()
            self.profiler.stop()

    profiled = Profiled()
    _, arithmetic = fit(data, root, batch, 20, precision, profiled, experiment=experiment, graphs=graphs)
    kernels = [
        event
        for event in profiled.profiler.events() or ()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    shares = defaultdict[str, float](float)
    spans = sorted((event.time_range.start, event.time_range.end) for event in kernels)
    total = max(end for _, end in spans) - spans[0][0]
    for event in kernels:
        shares[event.name] += event.time_range.elapsed_us() / total
    busy = covered(spans)
    most = sorted(shares.items(), key=lambda item: -item[1])[:16]
    return {"shares": {"no kernel": 1 - busy / total, **dict(most)}, "arithmetic": " ".join(arithmetic)}


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union of intervals, sorted by their starts."""
    length, reached = 0.0, -float("inf")
    for start, end in spans:
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length


def scoring(data: str, root: str, repeats: int) -> dict[str, Any]:
    """Time the scoring of the test pairs: each image embedded once, and pair by pair as training code usually does."""
    import torch

    from benchmarks.common import device
    from siamese.data.dataset import to_float
    from siamese.models.build import network_of
    from siamese.scoring.device import exact_convolutions
    from siamese.scoring.precision import choose_arithmetic
    from siamese.scoring.scores import score_pairs

    config = configuration(data, root, "precision=32")
    dataset, where = data_set(data, root), device()
    torch.manual_seed(0)
    arithmetic = choose_arithmetic(config, where)

    network = network_of(config, arithmetic.dft).to(where).eval()
    pixels, indices = dataset.pixels.to(where), dataset.test.indices

    @torch.inference_mode()
    @exact_convolutions(where)
    def pairwise() -> Any:
        parts = [network(*(to_float(pixels[rows[:, side]]) for side in (0, 1))) for rows in indices.split(128)]
        return torch.cat(parts).cpu().numpy()

    taken: dict[str, list[float]] = {"once": [], "pairwise": []}
    scores = {}
    for _ in range(repeats):
        for name, score in (("once", lambda: score_pairs(network, pixels, indices, where)), ("pairwise", pairwise)):
            started = time.perf_counter()
            scores[name] = score()
            taken[name].append(time.perf_counter() - started)
    difference = float(abs(scores["once"] - scores["pairwise"]).max())
    return {
        "seconds": taken, "pairs": len(indices), "images": len(torch.unique(indices)),
        "largest_difference": difference, "largest_logit": float(abs(scores["once"]).max()),
    }  # fmt: skip


def growth(root: str, cache: str, seed: int) -> dict[str, Any]:
    """Time what a run of ``data=folder`` does before it trains, and reading random batches then."""
    import torch

    from siamese.runs.folder import RunFolder
    from siamese.scoring.run_data import load_run_data

    config = configuration(
        "folder", root, f"data.cache={cache}", "protocol=holdout", "protocol.setting=unrestricted", "objective=ntxent",
        "data.color=true", "data.image_size=112", f"data.split_seed={seed}",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as run:
        started = time.perf_counter()
        data = load_run_data(config, RunFolder(Path(run)))
        taken = time.perf_counter() - started
    rows = torch.randint(len(data.pixels), (64, 128), generator=torch.Generator().manual_seed(0))
    started = time.perf_counter()
    for batch in rows:
        data.pixels[batch]
    rate = rows.numel() / (time.perf_counter() - started)
    return {
        "seconds": taken, "images": len(data.pixels), "read_per_second": rate, "example": data.images.names[0]
    }  # fmt: skip


def decoding(data: str, root: str) -> dict[str, Any]:
    """Time the decoding of all images of View 1: without a cache, from the cache, and one by one with PIL."""
    from PIL import Image

    from siamese.data.dataset import load_dataset
    from siamese.data.sources import image_root, prepare_data

    with tempfile.TemporaryDirectory() as cache:
        report = {}
        for name in ("cold", "warm"):
            config = configuration(data, root, f"data.cache={cache}").data
            prepare_data(config)
            started = time.perf_counter()
            dataset = load_dataset(config)
            report[name] = time.perf_counter() - started
    folder, names = image_root(config), dataset.images.names
    started = time.perf_counter()
    for name in names:
        with Image.open(folder / name) as image:
            image.convert("L").resize((105, 105), Image.Resampling.BILINEAR).tobytes()
    report["one_by_one"] = time.perf_counter() - started
    return {**report, "images": len(names)}


def further_jobs(sweep: str, jobs: list[str]) -> dict[str, Any]:
    """See `benchmarks.recorded.further_jobs`."""
    from benchmarks import recorded

    return recorded.further_jobs(sweep, jobs)


def report_command(sweep: str) -> dict[str, Any]:
    """See `benchmarks.recorded.report_command`."""
    from benchmarks import recorded

    return recorded.report_command(sweep)


if __name__ == "__main__":
    main()
