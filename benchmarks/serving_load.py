"""Clients of a service that do not wait for one another: `python benchmarks/serving_load.py ADDRESS BODIES --rate 100`.

Requests come at random times of a mean rate, whether those before are answered or not, and the latency of each counts
from the moment it was to be sent. BODIES has a request's body per line. Prints one json object: sent, failed, and p50
and p99 in seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from pathlib import Path

HEAD = "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"
PATIENCE = 5.0  # seconds that an answer may take
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Clients:
    """Connections to a service, as many as are needed at a time."""

    def __init__(self, host: str, port: int, path: str) -> None:
        self.place, self.path = (host, port), path
        self.idle: list[Connection] = []

    async def ask(self, body: bytes) -> int:
        """The status of the answer, which is read to its end."""
        reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection(*self.place)
        writer.write(HEAD.format(self.path, len(body)).encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        self.idle.append((reader, writer))
        return int(head.split(b" ", 2)[1])


async def load(clients: Clients, bodies: list[bytes], rate: float, seconds: float) -> dict[str, float]:
    """What `rate` requests per second get."""
    draw = random.Random(0)
    latencies: list[float] = []
    failed = 0

    async def one(due: float, body: bytes) -> None:
        nonlocal failed
        try:
            status = await asyncio.wait_for(clients.ask(body), PATIENCE)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            status = 0
        failed += status != 200
        latencies.append(time.perf_counter() - due)

    asking = []
    due = begin = time.perf_counter()
    while due < begin + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        asking.append(asyncio.create_task(one(due, bodies[len(asking) % len(bodies)])))
        due += draw.expovariate(rate)
    await asyncio.gather(*asking)
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return {"rate": rate, "sent": len(asking), "failed": failed, "p50": cuts[49], "p99": cuts[98]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--path", default="/v1/recommend")
    options = parser.parse_args()
    host, _, port = options.address.removeprefix("http://").partition(":")
    clients = Clients(host, int(port), options.path)
    bodies = options.bodies.read_bytes().splitlines()
    print(json.dumps(asyncio.run(load(clients, bodies, options.rate, options.seconds))))


if __name__ == "__main__":
    main()
