"""Open-loop load: `http_load.py KIND FOLDER RATE SECONDS` starts a server and asks it at a constant rate.

Requests leave at fixed moments whether or not earlier ones were answered, and a latency counts from the
moment at which the request was due: a server that stalls is charged for all who had to wait (no coordinated
omission).
Prints p50, p99, p99.9 and the largest latency in milliseconds, and the server's CPU time a request.
"""

import asyncio
import json
import random
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil

HERE = Path(__file__).parent
N_CONNECTIONS = 64
WARM_S = 2.0


async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> int:
    """One request on a kept-alive connection; the status."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


async def load(port: int, users: list[object], rate: float, seconds: float) -> tuple[np.ndarray, int]:
    """Latencies in seconds, and how many answers were not 200."""
    idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(N_CONNECTIONS):
        idle.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    draw = random.Random(1)
    latencies, failed = [], 0

    async def request(due: float, path: str) -> None:
        nonlocal failed
        connection = await idle.get()
        status = await one(*connection, path)
        latencies.append(time.perf_counter() - due)
        failed += status != 200
        idle.put_nowait(connection)

    began = time.perf_counter()
    tasks = []
    for at in range(int(rate * seconds)):
        due = began + at / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(
            asyncio.create_task(request(due, f"/v1/users/{draw.choice(users)}/recommendations?k=20"))
        )
    await asyncio.gather(*tasks)
    while not idle.empty():
        idle.get_nowait()[1].close()
    return np.array(latencies), failed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    kind, folder, rate, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    users = json.loads((folder / "users.json").read_text())
    port = free_port()
    server = subprocess.Popen([sys.executable, str(HERE / "http_server.py"), kind, str(folder), str(port)])
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        asyncio.run(load(port, users, rate, WARM_S))
        process = psutil.Process(server.pid)
        before = process.cpu_times()
        latencies, failed = asyncio.run(load(port, users, rate, seconds))
        after = process.cpu_times()
    finally:
        server.terminate()
        server.wait()
    p50, p99, p999 = np.percentile(latencies, (50, 99, 99.9)) * 1000
    cpu_s = after.user + after.system - before.user - before.system
    print(
        json.dumps(
            {
                "seconds": seconds,
                "n": len(latencies),
                "failed": failed,
                "p50_ms": round(p50, 3),
                "p99_ms": round(p99, 3),
                "p999_ms": round(p999, 3),
                "max_ms": round(float(latencies.max()) * 1000, 3),
                "cpu_ms": round(cpu_s / len(latencies) * 1000, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
