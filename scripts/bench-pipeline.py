"""Runs all engines of scripts/bench-pipeline on the same inputs and prints a report. Start it through that script."""
import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy
import piexif
import skimage
from PIL import Image, ImageOps
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

Image.MAX_IMAGE_PIXELS = None
ROOT = Path(__file__).resolve().parent.parent
SAMPLES = Path(skimage.__file__).parent / "data"
parser = argparse.ArgumentParser()
parser.add_argument("--bench", type=Path, required=True)
parser.add_argument("--examples", type=Path, required=True)
parser.add_argument("--seconds", type=float, default=3)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--avif", action="store_true")
parser.add_argument("--out", type=Path)
arguments = parser.parse_args()
INPUTS = arguments.bench / "in"
OURS = [str(arguments.examples / "pipeline_bench")]
ENGINES = {
    "Oneiro": OURS,
    "Oneiro, effort 2": OURS,
    "sharp, clone()": ["node", "scripts/bench-pipeline-sharp.mjs"],
    "libvips, hand-tuned cascade": [sys.executable, "scripts/bench-pipeline-engines.py", "pyvips"],
    "Pillow": [sys.executable, "scripts/bench-pipeline-engines.py", "pillow"],
}
JOBS = [
    ("three JPEG of 12 Mpx", "jpeg3", ["a12.jpg", "b12.jpg"]),
    ("three JPEG of 24 Mpx", "jpeg3", ["c24.jpg"]),
    ("three JPEG of 12 Mpx progressive", "jpeg3", ["p12.jpg"]),
    ("one 320 px JPEG of 12 Mpx", "thumb", ["a12.jpg", "b12.jpg"]),
    ("three WebP of 12 Mpx", "webp3", ["a12.jpg", "b12.jpg"]),
    ("three WebP of 24 Mpx", "webp3", ["c24.jpg"]),
    ("three JPEG of a 12 Mpx PNG with alpha", "jpeg3", ["t12.png"]),
]
AVIF_JOB = ("one 1024 px AVIF of 12 Mpx", "avif1", ["a12.jpg", "b12.jpg"])
SIZES = {"thumb": [320], "avif1": [1024]}
SUFFIXES = {"webp3": "webp", "avif1": "avif"}


def collage(names, width, height):
    """Four photographs, enlarged, with grain, so that a pixel costs as many bytes as a camera's."""
    image = Image.new("RGB", (width, height))
    for index, name in enumerate(names):
        part = Image.open(SAMPLES / name).convert("RGB").resize((width // 2, height // 2), Image.Resampling.LANCZOS)
        image.paste(part, (index % 2 * width // 2, index // 2 * height // 2))
    samples = numpy.asarray(image).astype(numpy.float32)
    samples += numpy.random.default_rng(3).normal(0, 4, samples.shape).astype(numpy.float32)
    return Image.fromarray(samples.clip(0, 255).astype(numpy.uint8))


def make_inputs():
    INPUTS.mkdir(parents=True, exist_ok=True)
    if (INPUTS / "t12.png").exists():
        return
    exif = piexif.dump({"0th": {piexif.ImageIFD.Orientation: 6}})
    first = collage(["coffee.png", "hubble_deep_field.jpg", "chelsea.png", "rocket.jpg"], 4000, 3000)
    names = ["astronaut.png", "retina.jpg", "coffee.png", "motorcycle_left.png"]
    second, large = collage(names, 4000, 3000), collage(names, 6000, 4000)
    for name, image, options in [("a12", first, {}), ("b12", second, {}), ("c24", large, {}), ("p12", first, {"progressive": True})]:
        image.save(INPUTS / f"{name}.jpg", quality=90, subsampling=2, exif=exif, **options)
    ramp = Image.linear_gradient("L").resize(first.size)
    first.putalpha(ramp)
    first.save(INPUTS / "t12.png", compress_level=6)


def command(engine, job, threads, seconds, out, files):
    paths = [str(INPUTS / file) for file in files]
    if ", effort " in engine:
        job += f"-effort{engine[-1]}"
    middle = [job, str(threads), str(seconds), out] if engine.startswith("Oneiro") else [job, str(seconds), out]
    return ENGINES[engine] + middle + paths


def measure(jobs, rounds, seconds, files):
    """Runs every engine once a round, each in a process of its own on one core: a machine that is slow for a while is so for all of them.
    Of each engine the run with the median of CPU time, and the median of its ratios to the first engine in the same round."""
    runs = {engine: [] for engine in jobs}
    for _ in range(rounds):
        for engine, job in jobs.items():
            line = ["taskset", "-c", "0"] + command(engine, job, 1, seconds, "-", files)
            runs[engine].append(json.loads(subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True).stdout))
    first = runs[next(iter(jobs))]
    return {
        engine: (
            sorted(own, key=lambda run: run["cpu_ms"])[rounds // 2],
            statistics.median(run["cpu_ms"] / base["cpu_ms"] for run, base in zip(own, first)),
        )
        for engine, own in runs.items()
    }


def quality(engine, job, files):
    """Bytes, SSIM and PSNR of the variants against a full decode resampled with Lanczos."""
    out = arguments.bench / "out" / engine.split()[0].strip(",").lower()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    subprocess.run(command(engine, job, 1, 0, str(out), files), cwd=ROOT, check=True, capture_output=True)
    scores = {}
    for file in files:
        whole = ImageOps.exif_transpose(Image.open(INPUTS / file))
        if whole.mode == "RGBA":
            white = Image.new("RGBA", whole.size, "white")
            white.alpha_composite(whole)
            whole = white
        whole = whole.convert("RGB")
        kind = job.partition("-quality")[0]
        for size in SIZES.get(kind, [2048, 1024, 320]):
            made = Image.open(out / f"{Path(file).stem}_{size}.{SUFFIXES.get(kind, 'jpg')}")
            ideal = numpy.asarray(whole.resize(made.size, Image.Resampling.LANCZOS))
            got = numpy.asarray(made.convert("RGB"))
            ssim = structural_similarity(ideal, got, channel_axis=2)
            scores.setdefault(size, []).append((os.path.getsize(made.filename), ssim, peak_signal_noise_ratio(ideal, got)))
    return {size: tuple(statistics.mean(column) for column in zip(*rows)) for size, rows in scores.items()}


def quality_for(engine, job, files, likeness):
    """The lowest quality with which the engine comes within .0005 of this mean SSIM: a number for quality means something else to each."""
    low, high = 20, 98
    while low < high:
        middle = (low + high) // 2
        scores = quality(engine, f"{job}-quality{middle}", files)
        if statistics.mean(ssim for _, ssim, _ in scores.values()) >= likeness - 0.0005:
            high = middle
        else:
            low = middle + 1
    return low


def main():
    seconds = arguments.seconds
    make_inputs()
    versions, blocks = {}, []
    for title, job, files in JOBS + [AVIF_JOB] * arguments.avif:
        rows, likeness = [], None
        if job == "avif1":
            scores = quality("sharp, clone()", "avif1-quality50", files)
            likeness = statistics.mean(ssim for _, ssim, _ in scores.values())
        jobs = {}
        for engine in ENGINES:
            if ", effort " in engine and job != "webp3":
                continue
            jobs[engine] = f"{job}-quality{quality_for(engine, job, files, likeness)}" if likeness else job
        measured = measure(jobs, arguments.rounds, seconds, files)
        for engine, own_job in jobs.items():
            run, ratio = measured[engine]
            versions[engine] = run.get("version", "this commit")
            scores = quality(engine, own_job, files)
            told = "; ".join(f"{size}: {b / 1000:.1f} kB {s:.4f} {p:.2f}" for size, (b, s, p) in scores.items())
            label = f"{engine} (its default, effort 4: equal setting)" if (engine, job) == ("Oneiro", "webp3") else engine
            if likeness:
                label += f", at its quality {own_job.partition('-quality')[2]}"
            rows.append(f"| {label} | {run['cpu_ms']:.1f} | {ratio:.2f} | {1000 / run['cpu_ms']:.1f} | {run['peak_mb']:.0f} | {told} |")
            print(title, "|", rows[-1], file=sys.stderr, flush=True)
        head = "| engine | CPU ms an image | times ours | images/s/core | peak MB | size px: bytes, SSIM, PSNR dB |\n|---|---|---|---|---|---|"
        blocks.append(f"## {title[0].upper()}{title[1:]}\n\n{head}\n" + "\n".join(rows))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    rustc = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), platform.machine())
    load = os.getloadavg()
    text = f"""# Image pipeline against its peers

Written by `scripts/bench-pipeline` on {datetime.now(timezone.utc):%Y-%m-%d} at commit {commit}. {model}, {rustc}; load of the machine at the end
{load[0]:.1f} {load[1]:.1f} {load[2]:.1f} (CPU time suffers from other load, ratios much less). {"; ".join(f"{engine}: {version}" for engine, version in versions.items())}.

CPU time is the median of {arguments.rounds} runs of {seconds:g} s, every engine in a process of its own, one thread, pinned to one core, inputs in
memory; the engines take turns, and "times ours" is the median of the ratios of one turn. Inputs are collages of real photographs with grain, quality 90, 4:2:0, EXIF orientation 6, about 2.4 MB for 12 megapixels.
Variants: 2048, 1024 and 320 px, JPEG quality 82 or WebP quality 80 with effort 4; AVIF with the
lowest quality of each engine that comes within .0005 of the mean SSIM of sharp's at 50, effort 4 where an engine has one, else speed 6. Equal: sizes, quality setting, orientation applied,
metadata stripped. Not equal: the row with effort 2 trades bytes for time; peak memory of sharp, pyvips and Pillow includes their interpreters. SSIM and PSNR
are against a full decode resampled with Lanczos.

""" + "\n\n".join(blocks) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


main()
