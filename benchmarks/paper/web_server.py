"""The policy behind HTTP, as plainly as it can be done: starlette on uvicorn, one thread that evaluates.

``python -m benchmarks.paper.web_server POLICY`` prints its port. ``/raw`` takes and returns bytes of numbers, ``/json``
lists of numbers.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.paper.policy import BATCH, POLICIES, Policy


def application(policy: Policy) -> Starlette:
    device = ThreadPoolExecutor(1)

    def evaluate_raw(body: bytes) -> bytes:
        return policy.actions(np.frombuffer(body, dtype=np.float32).reshape(BATCH, -1)).tobytes()

    def evaluate_json(body: bytes) -> list[float]:
        actions: list[float] = policy.actions(np.array(json.loads(body), dtype=np.float32)).tolist()
        return actions

    async def raw(request: Request) -> Response:
        body = await request.body()
        return Response(await asyncio.get_running_loop().run_in_executor(device, evaluate_raw, body))

    async def as_json(request: Request) -> Response:
        body = await request.body()
        return JSONResponse(await asyncio.get_running_loop().run_in_executor(device, evaluate_json, body))

    return Starlette(routes=[Route("/raw", raw, methods=["POST"]), Route("/json", as_json, methods=["POST"])])


def main() -> None:
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it a small answer waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    print(listener.getsockname()[1], flush=True)
    # A client whose turn comes later keeps its connection.
    settings = uvicorn.Config(
        application(POLICIES[sys.argv[1]]), log_level="warning", lifespan="off", timeout_keep_alive=600
    )
    server = uvicorn.Server(settings)

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
