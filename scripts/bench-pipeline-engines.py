"""Two engines of scripts/bench-pipeline. Arguments: ENGINE JOB SECONDS OUT_DIR|- FILE...   ENGINE: pillow or pyvips"""
import io
import json
import os
import re
import resource
import sys
import time
from pathlib import Path

os.environ["VIPS_CONCURRENCY"] = "1"
engine, job, seconds, out, *files = sys.argv[1:]
# `avif1-quality50`: the quality that makes it as much like the original as the others are.
kind, _, avif_quality = job.partition("-quality")
sizes = {"thumb": [320], "avif1": [1024]}.get(kind, [2048, 1024, 320])
suffix = {"webp3": "webp", "avif1": "avif"}.get(kind, "jpg")
keeps_alpha = suffix != "jpg"

if engine == "pillow":
    import PIL
    from PIL import Image, ImageOps

    version = f"Pillow {PIL.__version__}"

    def run(data):
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (sizes[0], sizes[0]))
        orientation = image.getexif().get(0x0112, 1)
        made = []
        for size in sizes:
            image.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
            if orientation != 1:
                image.getexif()[0x0112] = orientation
                image, orientation = ImageOps.exif_transpose(image), 1
            if image.mode == "RGBA" and not keeps_alpha:
                flat = Image.new("RGB", image.size, (255, 255, 255))
                flat.paste(image, mask=image.getchannel("A"))
            else:
                flat = image
            buffer = io.BytesIO()
            if suffix == "webp":
                flat.save(buffer, "WEBP", quality=80, method=4)
            elif suffix == "avif":
                flat.save(buffer, "AVIF", quality=int(avif_quality), speed=6, max_threads=1)
            else:
                flat.save(buffer, "JPEG", quality=82)
            made.append(buffer.getvalue())
        return made
else:
    import pyvips

    pyvips.cache_set_max(0)
    version = f"pyvips {pyvips.__version__}, libvips {pyvips.version(0)}.{pyvips.version(1)}.{pyvips.version(2)}"

    def run(data):
        # Hand-tuned: decoded once at the scale of the largest, then from each to the next smaller, in memory.
        made = []
        image = pyvips.Image.thumbnail_buffer(data, sizes[0], height=sizes[0], size="down").copy_memory()
        for size in sizes:
            if size != sizes[0]:
                image = image.thumbnail_image(size, height=size, size="down").copy_memory()
            flat = image.flatten(background=255) if image.hasalpha() and not keeps_alpha else image
            if suffix == "webp":
                made.append(flat.webpsave_buffer(Q=80, effort=4, keep="none"))
            elif suffix == "avif":
                made.append(flat.heifsave_buffer(Q=int(avif_quality), effort=4, compression="av1", keep="none"))
            else:
                made.append(flat.jpegsave_buffer(Q=82, keep="none"))
        return made


inputs = [(Path(file).stem, Path(file).read_bytes()) for file in files]
if out != "-":
    for name, data in inputs:
        for size, made in zip(sizes, run(data)):
            Path(out, f"{name}_{size}.{suffix}").write_bytes(made)
else:
    def cpu():
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    run(inputs[0][1])
    started, before, images = time.monotonic(), cpu(), 0
    while time.monotonic() - started < float(seconds):
        run(inputs[images % len(inputs)][1])
        images += 1
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024
    print(json.dumps({"version": version, "images": images, "cpu_ms": (cpu() - before) * 1000 / images, "peak_mb": peak / 1e6}))
