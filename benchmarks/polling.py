"""200 clients that poll while a job trains: errors and latency.

.venv/bin/python benchmarks/polling.py [--clients 200] [--seconds 60] [--every 2]

Starts `tunestone serve` on a fresh folder with the embedded model, creates a job through its
OpenAI-compatible door, waits until it trains, then lets each client ask for the job, its events and
its checkpoints in turn, at random moments, once per `--every` seconds on average. A connection
stays open, as it does in the real clients. Writes benchmarks/results/polling.json.
"""

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2
from openai import OpenAI

from tunestone.recipes import load_recipe

RESULTS = Path(__file__).parent / "results" / "polling.json"
GRADER = {
    "type": "string_check",
    "name": "has_marker",
    "input": "{{ sample.output_text }}",
    "reference": "####",
    "operation": "like",
}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    log = (folder / "server.log").open("wb")
    command = [sys.executable, "-m", "tunestone.cli", "serve", "--port", str(port)]
    server = subprocess.Popen([*command, "--data", str(folder / "data")], stderr=log)
    for _ in range(100):
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/healthz").status_code == 200:
                return server
        except httpx2.HTTPError:
            pass
        time.sleep(0.1)
    raise SystemExit("the server did not start; see " + str(folder))


def create_job(client: OpenAI, folder: Path) -> str:
    """A job that trains; returns its id once its first step is done."""
    splits = load_recipe("word_problems").generate(0)
    ids = {}
    for name, count in (("train", 320), ("validation", 32)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in splits[name][:count]))
        ids[name] = client.files.create(file=path, purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(
        model="o4-mini-2025-04-16",
        training_file=ids["train"],
        validation_file=ids["validation"],
        method={"type": "reinforcement", "reinforcement": {"grader": GRADER}},  # type: ignore[typeddict-item]
        extra_body={"tunestone": {"max_completion_tokens": 40, "epochs": 20}},
    )
    while not any(e.type == "metrics" for e in client.fine_tuning.jobs.list_events(job.id)):
        time.sleep(0.5)
        assert client.fine_tuning.jobs.retrieve(job.id).status != "failed"
    return job.id


async def poll(
    client: httpx2.AsyncClient, paths: list[str], *, until: float, every: float
) -> list[float]:
    """Seconds of each request of one client; an error ends the benchmark."""
    seconds = []
    await asyncio.sleep(random.random() * every)
    while time.monotonic() < until:
        begun = time.perf_counter()
        response = await client.get(random.choice(paths))
        seconds.append(time.perf_counter() - begun)
        response.raise_for_status()
        await asyncio.sleep(random.random() * 2 * every)
    return seconds


async def poll_all(port: int, job: str, options: argparse.Namespace) -> list[float]:
    path = f"/v1/fine_tuning/jobs/{job}"
    paths = [path, f"{path}/events?limit=20", f"{path}/checkpoints"]
    address = f"http://127.0.0.1:{port}"
    # All are made before the first one asks: making one takes milliseconds of this process.
    clients = [httpx2.AsyncClient(base_url=address, timeout=30) for _ in range(options.clients)]
    until = time.monotonic() + options.seconds
    tasks = (poll(client, paths, until=until, every=options.every) for client in clients)
    return [value for some in await asyncio.gather(*tasks) for value in some]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        server = start(folder, port)
        try:
            client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
            job = create_job(client, folder)
            seconds = sorted(asyncio.run(poll_all(port, job, options)))
            state = client.fine_tuning.jobs.retrieve(job).status
            assert state == "running", f"the job was {state} at the end"
        finally:
            server.terminate()
            server.wait(120)
    quantiles = statistics.quantiles(seconds, n=100)
    result = {
        "clients": options.clients,
        "seconds": options.seconds,
        "requests": len(seconds),
        "requests_per_second": len(seconds) / options.seconds,
        "errors": 0,
        "p50_ms": 1000 * quantiles[49],
        "p95_ms": 1000 * quantiles[94],
        "p99_ms": 1000 * quantiles[98],
        "worst_ms": 1000 * seconds[-1],
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
