"""Runs every server of scripts/bench-realtime under the same load and prints the report. Start it through that script."""
import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "scripts/bench-realtime.d"
SERVER_CORE, LOAD_CORE = "0", "1"
SECRET = "a secret that is long enough for a bench"
LEAST_CONNECTIONS = 1000
# Of one peer at one number of connections: the slowest needs 80 s on a quiet machine, and one that hangs must not cost the others their rows.
PATIENCE_SECONDS = 150

parser = argparse.ArgumentParser()
parser.add_argument("--bench", type=Path, required=True)
parser.add_argument("--examples", type=Path, required=True)
parser.add_argument("--redis", required=True)
parser.add_argument("--connections", type=int, default=10_000)
parser.add_argument("--only", action="append")
parser.add_argument("--out", type=Path)
parser.add_argument("--profile", default="dist")
parser.add_argument("--alone", action="store_true")
parser.add_argument("--churn", type=int, default=100_000)
options = parser.parse_args()

examples = ROOT / options.examples
python, node_modules = options.bench / "py/bin", options.bench / "node/node_modules"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


redis_port = free_port()
redis_url = f"redis://127.0.0.1:{redis_port}"


class Server:
    """How a server is started, how it is spoken to, and who publishes to it where a plain PUBLISH does not."""

    def __init__(self, title, kind, command, publisher=(), needs=None, packages=(), **env):
        self.title, self.kind, self.command, self.publisher = title, kind, command, publisher
        self.needs, self.packages, self.env = needs or examples / "peer_load", packages, env

    def version(self):
        return ", ".join(f"{name} {version_of(name)}" for name in self.packages) or f"commit {commit()}"


def channels(title, layer, *command):
    packages = ("Django", "channels", "channels_redis", "redis", Path(command[0]).name)
    publisher = [python / "python", SOURCES / "channels_publish.py"]
    return Server(title, "channels", command, publisher, needs=Path(command[0]), packages=packages, CHANNEL_LAYER=layer)


def node(title, kind, script, packages, publisher=()):
    # Node looks for modules beside a script, not beside whoever calls it.
    for name in (script, *publisher):
        shutil.copy(SOURCES / name, options.bench / "node" / name)
    run = lambda name: ["node", options.bench / "node" / name]  # noqa: E731
    publisher = [part for name in publisher for part in run(name)]
    return Server(title, kind, [*run(script), "PORT"], publisher, node_modules / packages[0], packages, NODE_ENV="production")


def oneiro(title, kind):
    env = {
        "STORAGE_URL": "memory:///",
        "WS_ADDR": "127.0.0.1:PORT",
        "RUST_LOG": "warn",
        "ONEIRO_REALTIME_HANDSHAKES_PER_SECOND_PER_ADDRESS": "0",
        "ONEIRO_REALTIME_IDLE_TIMEOUT_SECONDS": "3600",
    }
    return Server(title, kind, [examples.parent / "ws"], **env)


SERVERS = {
    "oneiro": oneiro("Oneiro", "oneiro"),
    "oneiro-stored": oneiro("Oneiro, every event stored for replay", "oneiro-stored"),
    "daphne": channels(
        "Channels, core layer, Daphne", "core",
        # Its five seconds for a handshake are too few where many come at once.
        python / "daphne", "-v", "0", "--websocket_connect_timeout", "60", "-b", "127.0.0.1", "-p", "PORT", "channels_app:application",
    ),
    "uvicorn": channels(
        "Channels, pubsub layer, uvicorn", "pubsub",
        python / "uvicorn", "--lifespan", "off", "--log-level", "error", "--no-access-log", "--port", "PORT", "channels_app:application",
    ),
    "socketio": node(
        "Socket.IO 4, Redis adapter", "socketio", "socketio.mjs",
        ("socket.io", "@socket.io/redis-adapter", "bufferutil"), ["socketio-publish.mjs"],
    ),
    "ws": node("ws and ioredis", "ws", "ws.mjs", ("ws", "ioredis", "bufferutil")),
}


def output_of(*command):
    """Nothing where there is no such program."""
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def commit():
    return output_of("git", "rev-parse", "--short", "HEAD")


def version_of(package):
    if (manifest := node_modules / package / "package.json").exists():
        return json.loads(manifest.read_text())["version"]
    return output_of(python / "python", "-c", f"from importlib.metadata import version; print(version('{package}'))")


def cpu():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


@contextlib.contextmanager
def running(core, command, env=None):
    # What servers say of clients that leave at the end is no news.
    with (options.bench / f"{Path(command[0]).name}.log").open("w") as out:
        command = ["taskset", "-c", core, *map(str, command)]
        process = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(port, process, seconds=30):
    """Waits until something listens there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port} (see the logs in {options.bench})")


def under_load(server, load, seconds):
    """What the load program prints; raises where it fails or takes longer. `load` is given the server's port and process."""
    subprocess.run(["redis-cli", "-p", str(redis_port), "flushall"], check=True, stdout=subprocess.DEVNULL)
    port = free_port()
    env = {"JWT_SECRET": SECRET, "REDIS_URL": redis_url, "PYTHONPATH": str(SOURCES), **server.env}
    env = {name: value.replace("PORT", str(port)) for name, value in env.items()}
    command = [str(port) if part == "PORT" else part for part in server.command]
    with running(SERVER_CORE, command, env) as process:
        answers(port, process)
        command = ["taskset", "-c", LOAD_CORE, *map(str, load(port, process.pid))]
        done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=seconds, check=False)
        if done.returncode != 0:
            # A panic's place, and what it says.
            raise RuntimeError(" ".join(done.stderr.split("\n")[:3]).strip() or "the load failed")
        return done.stdout


def run(server, connections):
    """The figures of one server at so many connections; raises where it does not hold them."""
    load = lambda port, pid: [examples / "peer_load", server.kind, port, pid, connections, redis_url, *server.publisher]  # noqa: E731
    return json.loads(under_load(server, load, PATIENCE_SECONDS))


def measure(server):
    """At the wanted number of connections, or at the largest half, quarter, ... that the server holds."""
    connections = options.connections
    while True:
        try:
            return run(server, connections)
        except subprocess.TimeoutExpired:
            print(f"{server.title} at {connections} connections: not done in {PATIENCE_SECONDS} s", flush=True)
            return None
        except RuntimeError as error:
            print(f"{server.title} at {connections} connections: {error}", flush=True)
            if connections // 2 < LEAST_CONNECTIONS:
                return None
            connections //= 2


COLUMNS = {
    "connections": lambda f: f"{f['connections']:,}",
    "connects/s": lambda f: f"{f['connects_per_s']:,.0f}",
    "KiB per idle connection": lambda f: ", ".join(f"{kib:.1f} at {at:,}" for at, kib in f["kib"]),
    "broadcast deliveries/s": lambda f: f"{f['broadcast_per_s']:,.0f}",
    "CPU us a delivery": lambda f: f"{f['broadcast_cpu_us']:.1f}",
    "one broadcast to all, p99 ms": lambda f: f"{f['broadcast_p99_ms']:,.0f}",
    "unicast events/s": lambda f: f"{f['unicast_per_s']:,.0f}",
    "CPU us a unicast": lambda f: f"{f['unicast_cpu_us']:.1f}",
    "unicast p50 / p99 ms at 500/s": lambda f: f"{f['unicast_p50_ms']:.2f} / {f['unicast_p99_ms']:.2f}",
    "lost: broadcast, unicast, burst of 2,000": lambda f: f"{f['broadcast_lost']:,}, {f['unicast_lost']:,}, {f['burst_lost']:,}",
}
# Read as: so many times better is Oneiro.
RATIOS = {
    "connects/s": lambda ours, peer: ours["connects_per_s"] / peer["connects_per_s"],
    "memory": lambda ours, peer: peer["kib"][-1][1] / ours["kib"][-1][1],
    "broadcast rate": lambda ours, peer: ours["broadcast_per_s"] / peer["broadcast_per_s"],
    "broadcast CPU": lambda ours, peer: peer["broadcast_cpu_us"] / ours["broadcast_cpu_us"],
    "broadcast p99": lambda ours, peer: peer["broadcast_p99_ms"] / ours["broadcast_p99_ms"],
    "unicast rate": lambda ours, peer: ours["unicast_per_s"] / peer["unicast_per_s"],
    "unicast p99": lambda ours, peer: peer["unicast_p99_ms"] / ours["unicast_p99_ms"],
}


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


METHOD = """\
One core for the server, the other for load, Redis and the publisher; one process each. Every connection brings a JWT of its own, is in a channel that all share
and in one of its own, and reads; events have 310 bytes. Publishing never runs further ahead of what has arrived than a window (64 broadcasts or one second's worth,
512 unicasts), so rates are those of a server that keeps up, and one that writes several waiting frames at once may; the burst of 2,000 to one connection is let
loose. Not equal: Oneiro's connections are in five channels and their inbox is read; Channels and Socket.IO publish through their own libraries, in a process that
shares the second core; only the row with stored events keeps them for replay, which no peer can."""


def compared(figures):
    yield METHOD
    yield "Versions: " + "; ".join(f"{SERVERS[name].title}: {SERVERS[name].version()}" for name in figures) + "."
    yield table(["server", *COLUMNS], [[SERVERS[name].title, *(form(f) for form in COLUMNS.values())] for name, f in figures.items()])
    peers = {name: f for name, f in figures.items() if not name.startswith("oneiro")}
    if peers and (ours := figures.get("oneiro")):
        yield "How many times better Oneiro is (at different numbers of connections where the first table says so):"
        yield table(["than", *RATIOS], [[SERVERS[name].title, *(f"{ratio(ours, f):.1f}" for ratio in RATIOS.values())] for name, f in peers.items()])


def main():
    names = [] if options.alone else options.only or list(SERVERS)
    if unknown := set(names) - set(SERVERS):
        raise SystemExit(f"unknown: {', '.join(unknown)} (there are {', '.join(SERVERS)})")
    before = output_of("cut", "-d ", "-f1-3", "/proc/loadavg")
    figures, skipped, alone = {}, [], ""
    with tempfile.TemporaryDirectory() as folder:
        command = [options.redis, "--port", redis_port, "--save", "", "--appendonly", "no", "--dir", folder]
        # As config/redis.conf has it.
        command += ["--client-output-buffer-limit", "pubsub 256mb 64mb 60"]
        with running(LOAD_CORE, command) as redis:
            answers(redis_port, redis)
            for name in names:
                server = SERVERS[name]
                if not server.needs.exists():
                    skipped.append(f"{server.title} (not installed)")
                elif measured := measure(server):
                    figures[name] = measured
                else:
                    skipped.append(f"{server.title} (no figures at {LEAST_CONNECTIONS} connections or more)")
            if options.alone:
                alone = run_alone()
    made = (
        f"Written by `scripts/bench-realtime` on {datetime.now(timezone.utc):%Y-%m-%d} at commit {commit()}, profile {options.profile}. {cpu()};"
        f" {output_of('rustc', '--version')}, {output_of(options.redis, '--version').split(' sha')[0]},"
        f" {output_of(python / 'python', '--version') or 'no Python peers'}, node {output_of('node', '--version')}. Load before: {before}; at the end:"
        f" {output_of('cut', '-d ', '-f1-3', '/proc/loadavg')}."
    )
    report = ["# Socket tier", made, alone] if options.alone else ["# Socket tier against its peers", made, *compared(figures)]
    if skipped:
        report.append("Skipped: " + "; ".join(skipped) + ".")
    text = "\n\n".join(report) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


def run_alone():
    """Oneiro's own measurement, which knows its protocol."""
    load = lambda port, pid: [examples / "realtime_bench", port, pid, options.connections, redis_url, options.churn]  # noqa: E731
    return f"| {options.connections} connections | |\n|---|---|\n" + under_load(SERVERS["oneiro"], load, 1_800)


main()
