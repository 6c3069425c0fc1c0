"""Measures the job store beside its peers on one private Redis; scripts/bench-queue runs it. Needs only Python's own library.

Every system is a program of its own that is told one of four things: `work`; `push N` (jobs that do nothing, in bulk, as fast
as the system offers it; prints the seconds it took); `tick N` (50 a second, each with the time of its push); `hold N` (jobs of
100 ms that note their number at the end). What is left is read from Redis, CPU and memory from /proc: the same way for all.
"""

import argparse
import contextlib
import datetime
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
HOLD = 1000
HOLD_PATIENCE = 100


class Redis:
    """As much of a client as reading figures takes."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.file = self.socket.makefile("rb")

    def __call__(self, *words):
        words = [str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
        return self.reply()

    def reply(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self.file.read(size + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return rest

    def used_memory(self):
        return int(re.search(rb"used_memory:(\d+)", self("INFO", "memory"))[1])


class System:
    """One system and how it is run."""

    def __init__(self, key, name, program, work, left, jobs, env=None):
        self.key, self.name, self.program, self.work = key, name, program, work
        self.left, self.jobs, self.env = left, jobs, env or {}


def own_program(options):
    """Ours, the stock store and the bare loop."""
    return ROOT / options.examples / "bench_beside"


def systems(options):
    """All that can be run, and the names of those that cannot, with the reason."""
    built = own_program(options)
    n = options.jobs
    # More than this many due jobs at once end the stock worker for good.
    stock_jobs = min(n, 7000)
    found, skipped = [], []

    def own(key, name, store, processes, left, jobs):
        if not built.exists():
            skipped.append(f"{name} (not built)")
            return
        found.append(System(key, name, [built, store], [[built, store, "work"]] * processes, left, jobs))

    def stock_left(jobs):
        return lambda redis: jobs - redis("SCARD", "bench:done")

    def ours_left(_):
        return lambda redis: redis("HLEN", "aq:{bench}:jobs")

    own("ours", "**apalis-fred**, 2 processes", "ours", 2, ours_left, n)
    own("ours-single", "apalis-fred, 1 process", "ours", 1, ours_left, n)
    own("stock", "apalis-redis, defaults", "stock", 1, stock_left, stock_jobs)
    own("stock-bare", "apalis-redis, no locks, no events, 2 processes", "stock-bare", 2, stock_left, stock_jobs)

    python = options.peers / "celery" / "bin" / "python"
    if runs([python, "-c", "import celery, redis"]):
        version = output([python, "-c", "import celery; print(celery.__version__)"])
        base = [python, "-m", "celery", "-A", "celery_app", "worker", "--loglevel", "error"]
        env = {"PYTHONPATH": HERE, "PYTHONDONTWRITEBYTECODE": "1"}
        program = [python, HERE / "celery_app.py"]
        left = lambda _: lambda redis: redis("LLEN", "celery") + redis("HLEN", "unacked")
        few = max(n // 20, 100)
        found.append(System("celery", f"Celery {version}, prefork 2", program, [base + ["-c", "2"]], left, few, env))
        solo = [base + ["-P", "solo", "-n", f"solo{k}"] for k in range(2)]
        found.append(System("celery-solo", f"Celery {version}, solo, 2 processes", program, solo, left, few, env))
    else:
        skipped.append("Celery")

    module = options.peers / "bullmq" / "node_modules" / "bullmq" / "package.json"
    if module.exists() and runs(["node", "--version"]):
        version = re.search(r'"version": "([^"]+)"', module.read_text())[1]
        program = ["node", HERE / "bullmq.mjs"]
        left = lambda _: lambda redis: redis("LLEN", "bull:bench:wait") + redis("LLEN", "bull:bench:active")
        env = {"BENCH_MODULES": options.peers / "bullmq"}
        name = f"BullMQ {version}, 2 processes x 50"
        found.append(System("bullmq", name, program, [program + ["work"]] * 2, left, max(n // 4, 100), env))
    else:
        skipped.append("BullMQ")

    env = sidekiq_env(options.peers)
    version = output(["ruby", "-e", 'require "sidekiq"; print Sidekiq::VERSION'], env)
    if version:
        script = HERE / "sidekiq.rb"
        ruby = ["ruby", "-e", 'require "sidekiq/cli"; cli = Sidekiq::CLI.instance; cli.parse; cli.run', "--"]
        work = [ruby + ["-r", script, "-c", "10", "-q", "default"]] * 2
        left = lambda _: lambda redis: redis("LLEN", "queue:default")
        name = f"Sidekiq {version}, 2 processes x 10 threads"
        found.append(System("sidekiq", name, ["ruby", script], work, left, max(n // 4, 100), env))
    else:
        skipped.append("Sidekiq")
    if options.only:
        found = [system for system in found if system.key in options.only]
    return found, skipped


def sidekiq_env(peers):
    """Where scripts/bench-queue put the gems: a gem folder, or Debian's packages, unpacked."""
    unpacked = peers / "sidekiq" / "usr" / "share" / "rubygems-integration" / "all" / "gems"
    libraries = ":".join(str(path) for path in unpacked.glob("*/lib"))
    return {"RUBYLIB": libraries} if libraries else {"GEM_PATH": peers / "sidekiq"}


def runs(command):
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def output(command, env=None):
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment(env), cwd=ROOT)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def environment(extra):
    return {**os.environ, **{key: str(value) for key, value in (extra or {}).items()}}


def family(roots):
    """These processes and all that descend from them."""
    children = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = int(stat.parent.name), stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(rest[1]), []).append(pid)
    found, todo = [], list(roots)
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def memory_mb(pids):
    """Shared pages counted once."""
    total = 0
    for pid in pids:
        try:
            total += int(re.search(r"^Pss:\s+(\d+)", pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[1])
        except OSError:
            continue
    return total / 1024


class Bench:
    def __init__(self, system, options, redis, port, folder):
        self.system, self.options, self.redis, self.port = system, options, redis, port
        self.seen = folder / f"{system.key}.seen"
        self.log = open(folder / f"{system.key}.log", "ab")
        self.env = environment({**system.env, "BENCH_REDIS": f"redis://127.0.0.1:{port}/0", "BENCH_SEEN": self.seen})
        self.workers = []

    def start(self):
        self.workers = [
            subprocess.Popen([str(word) for word in command], env=self.env, cwd=ROOT, stdout=self.log, stderr=self.log)
            for command in self.system.work
        ]

    def stop(self, how=signal.SIGTERM):
        for pid in family([worker.pid for worker in self.workers]):
            try:
                os.kill(pid, how)
            except ProcessLookupError:
                pass
        for worker in self.workers:
            try:
                worker.wait(timeout=15)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self.workers = []

    def tell(self, word, n):
        command = [str(part) for part in [*self.system.program, word, n]]
        done = subprocess.run(command, env=self.env, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{self.system.name}: {word} failed: {done.stderr.strip().splitlines()[:1]}")
        return float(done.stdout.split()[-1])

    def notes(self):
        return self.seen.read_text().split() if self.seen.exists() else []

    def pids(self):
        return family([worker.pid for worker in self.workers])

    def drain(self):
        """Bytes a waiting job, jobs pushed a second, jobs done a second, CPU microseconds a job.

        The rate is that of the last nine tenths, so that starting up counts for nobody.
        """
        n = self.system.jobs
        self.redis("FLUSHALL")
        self.tell("push", 1)
        before = self.redis.used_memory()
        pushed = n / self.tell("push", n)
        each = (self.redis.used_memory() - before) / n
        left = self.system.left(n + 1)
        self.start()
        deadline = time.monotonic() + 180
        begun = None
        while (rest := left(self.redis)) > 0:
            if begun is None and rest <= n * 0.9:
                begun, first, cpu = time.perf_counter(), rest, cpu_seconds(self.pids())
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.system.name}: {rest} of {n} jobs left after 3 minutes")
            time.sleep(0.001)
        if begun is None:
            raise RuntimeError("drained before the first look: more jobs are needed")
        ended = time.perf_counter()
        return each, pushed, first / (ended - begun), (cpu_seconds(self.pids()) - cpu) * 1e6 / first

    def idle(self):
        """Commands a second that come over connections (not those inside of scripts), and per cent of one core."""
        time.sleep(3)
        watch = Redis(self.port)
        watch("MONITOR")
        cpu, until, commands = cpu_seconds(self.pids()), time.monotonic() + self.options.idle, 0
        while (wait := until - time.monotonic()) > 0:
            watch.socket.settimeout(wait)
            try:
                line = watch.socket.recv(1 << 16)
            except TimeoutError:
                break
            commands += sum(1 for text in line.split(b"\r\n") if text.startswith(b"+") and b" lua] " not in text)
        spent = cpu_seconds(self.pids()) - cpu
        return commands / self.options.idle, spent * 100 / self.options.idle

    def pickup(self):
        """p50 and p99 in ms from before the push to the handler's start, at 50 jobs a second."""
        self.seen.write_text("")
        n = self.options.ticks
        self.tell("tick", n)
        deadline = time.monotonic() + 90
        while len(self.notes()) < n and time.monotonic() < deadline:
            time.sleep(0.1)
        times = sorted(int(line) / 1e6 for line in self.notes())
        if not times:
            raise RuntimeError(f"{self.system.name}: no job was picked up")
        return times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)], n - len(times)

    def kill(self):
        """Ends all workers with kill -9 while they hold jobs, and starts new ones; what becomes of the jobs `lost` tells."""
        self.redis("FLUSHALL")
        self.seen.write_text("")
        self.tell("hold", HOLD)
        self.start()
        deadline = time.monotonic() + 60
        while len(self.notes()) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        self.stop(signal.SIGKILL)
        self.start()
        self.killed_at = time.time()

    def lost(self):
        """How many of the held jobs did not run to their end within HOLD_PATIENCE; None while that is not known."""
        missing = HOLD - len(set(self.notes()))
        if missing == 0:
            return f"all back in {self.seen.stat().st_mtime - self.killed_at:.0f} s"
        waited = time.time() - self.killed_at
        return f"{missing} of {HOLD} not back after {HOLD_PATIENCE} s" if waited > HOLD_PATIENCE else None

    def run(self):
        row = {}
        rounds = []
        try:
            for left in reversed(range(self.options.repeats)):
                rounds.append(self.drain())
                if left:
                    self.stop()
            row["bytes"], row["enqueue"], row["drain"], row["cpu"] = (statistics.median(part) for part in zip(*rounds))
            row["spread"] = (min(r[2] for r in rounds), max(r[2] for r in rounds))
            row["memory"] = memory_mb(self.pids())
            row["commands"], row["idle"] = self.idle()
            row["p50"], row["p99"], row["unseen"] = self.pickup()
            self.stop()
        finally:
            self.stop(signal.SIGKILL)
            self.log.close()
        return row


def floor(options, port, folder):
    """p50 and p99 in ms of what no job store can go below: one process pushes to a list, another one waits at it."""
    built = own_program(options)
    bench = Bench(System("floor", "LPUSH and BLPOP", [built, "floor"], [[built, "floor", "work"]], None, 0), options, Redis(port), port, folder)
    try:
        bench.start()
        time.sleep(1)
        return bench.pickup()[:2]
    finally:
        bench.stop(signal.SIGKILL)
        bench.log.close()


def all_lost(rows, options, folder):
    """What becomes of killed workers' jobs, each system on a Redis of its own: most of it is waiting, which they do together."""
    with contextlib.ExitStack() as stack:
        benches = {}
        for key, (system, _) in rows.items():
            port = stack.enter_context(private_redis(options, folder))
            bench = Bench(system, options, Redis(port), port, folder)
            stack.callback(bench.log.close)
            stack.callback(bench.stop, signal.SIGKILL)
            bench.kill()
            benches[key] = bench
        while benches:
            for key, bench in list(benches.items()):
                if told := bench.lost():
                    rows[key][1]["killed"] = told
                    bench.stop(signal.SIGKILL)
                    del benches[key]
            time.sleep(0.1)


@contextlib.contextmanager
def private_redis(options, folder):
    """The port of a Redis without persistence, which ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [options.redis, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                Redis(port)
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait()


def table(rows, bare):
    ours = rows.get("ours", (None, None))[1]

    def ratio(row, key, better_high):
        if not ours or row is ours:
            return "1" if ours else "-"
        value = ours[key] / row[key] if better_high else row[key] / ours[key]
        return f"{value:.0f}" if value >= 10 else f"{value:.1f}"

    lines = [
        "| system | drain jobs/s (spread) | ours is x times | bulk enqueue/s | ours is x times | pick-up p50 / p99 ms | its p50 is x times ours "
        "| and x times a bare loop's | bytes a waiting job | its bytes are x times ours | MB | CPU us a job | idle commands/s | idle CPU % | after kill -9 of all workers |",
        "|---|" + "---|" * 14,
    ]
    for system, row in rows.values():
        low, high = row["spread"]
        pickup = f"{row['p50']:.2f} / {row['p99']:.2f}" + (f" ({row['unseen']} never)" if row["unseen"] else "")
        lines.append(
            f"| {system.name} | {row['drain']:,.0f} ({low:,.0f}-{high:,.0f}) | {ratio(row, 'drain', True)} "
            f"| {row['enqueue']:,.0f} | {ratio(row, 'enqueue', True)} | {pickup} | {ratio(row, 'p50', False)} | {row['p50'] / bare[0]:.1f} "
            f"| {row['bytes']:.0f} | {ratio(row, 'bytes', False)} | {row['memory']:.0f} | {row['cpu']:.1f} "
            f"| {row['commands']:.1f} | {row['idle']:.1f} | {row['killed']} |"
        )
    return lines


def surroundings(options, load):
    cpu = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    versions = [
        output(["rustc", "--version"]).split(" (")[0],
        "Redis " + (re.search(r"v=(\S+)", output([options.redis, "--version"])) or ["", "?"])[1],
        "Node " + output(["node", "--version"]).lstrip("v"),
        output(["ruby", "--version"]).split("p")[0],
        output([options.peers / "celery" / "bin" / "python", "--version"]),
    ]
    changed = " with changes" if output(["git", "status", "--porcelain", "--untracked-files=no"]) else ""
    return (
        f"Measured on {datetime.date.today()} at commit {output(['git', 'rev-parse', '--short', 'HEAD'])}{changed}, profile {options.profile}, "
        f"{', '.join(version for version in versions if version)}, {cpu[1] if cpu else 'CPU unknown'}, {os.cpu_count()} cores shared by workers, "
        f"Redis and pushers; load of the machine before the run {load:.1f}. Medians of {options.repeats} rounds."
    )


def equal_and_not(rows, options, bare):
    counts = ", ".join(f"{system.key} {system.jobs:,}" for system, _ in rows.values())
    return f"""What is equal: the Redis (one, private, no persistence), the payload (100 bytes of JSON), jobs that do nothing, no result kept; how each figure is
taken. Drain is what left Redis over the last nine tenths of a full queue, so starting up counts for nobody. Enqueue is the fastest bulk call that the
system's own client has (Celery has none: one connection kept). Pick-up is the time from before the push call to the handler's first line, at 50
a second, {options.ticks} jobs; the bare loop is one process that pushes to a list and one that waits at it (LPUSH, BLPOP), at the same pace in the same run:
p50 {bare[0]:.2f} ms, p99 {bare[1]:.2f} ms. MB is memory of all worker processes after the drain with shared pages counted once. Commands are those that come over
connections. After kill -9: {HOLD} jobs of 100 ms, all worker processes killed when 20 had ended, new ones started at once, and
up to {HOLD_PATIENCE} s waited, for all systems together, each on a Redis of its own.

What is not: ours leases, fences and counts attempts for each job; Celery by default and Sidekiq's free edition take a job off Redis before it has run,
so that a killed worker takes it along (Celery with `acks_late` brings it back after an hour, apalis-redis after 5 minutes). apalis-redis is filled with 7,000 jobs at a time, because
more wedge it; by default its idle worker looks only every 30 s, and asked to look every 10 ms it soon stops looking. Systems run with the number of processes that their own documents advise for two cores.
Jobs a round: {counts}."""


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench-queue")
    # Where scripts/bench-queue has installed the peers and built the examples, and what it runs as Redis.
    parser.add_argument("--peers", type=pathlib.Path, required=True)
    parser.add_argument("--examples", type=pathlib.Path, required=True)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--jobs", type=int, default=200_000)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--profile", default="dist")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ticks", type=int, default=500)
    parser.add_argument("--idle", type=float, default=10)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    # So that an ended run takes its Redis and its workers along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load = os.getloadavg()[0]
    found, skipped = systems(options)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        with private_redis(options, folder) as port:
            bare = floor(options, port, folder)
            for system in found:
                print(f"measuring {system.key} ...", file=sys.stderr, flush=True)
                bench = Bench(system, options, Redis(port), port, folder)
                try:
                    rows[system.key] = (system, bench.run())
                    # So that a run that is ended early was not for nothing.
                    print(rows[system.key][1], file=sys.stderr, flush=True)
                except RuntimeError as error:
                    log = (folder / f"{system.key}.log").read_text(errors="replace")[-500:]
                    skipped.append(f"{system.name} ({error})")
                    print(f"{error}\n{log}", file=sys.stderr)
        print("killing workers ...", file=sys.stderr, flush=True)
        all_lost(rows, options, folder)
    text = [surroundings(options, load), "", *table(rows, bare), "", equal_and_not(rows, options, bare)]
    if skipped:
        text += ["", "Skipped: " + "; ".join(skipped) + "."]
    text = "\n".join(text)
    print(text)
    if options.out:
        options.out.write_text("# The job store beside its peers\n\n" + text + "\n")


if __name__ == "__main__":
    main()
