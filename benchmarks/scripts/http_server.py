"""A server to measure: `http_server.py ours FOLDER PORT`, or `http_server.py bare FOLDER PORT`.

`bare` is the same web framework and server answering a constant of the size of a real answer.
"""

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Response

from vitrina.serve import Settings, create_app
from vitrina.serve.app import uvicorn_options


def bare(constant: bytes) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None)

    @app.get("/v1/users/{user_id}/recommendations")
    async def recommendations(user_id: str) -> Response:  # noqa: ARG001
        return Response(constant, media_type="application/json")

    @app.get("/health/ready")
    async def ready() -> Response:
        return Response(b"{}", media_type="application/json")

    return app


def main() -> None:
    kind, folder, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    app = (
        bare((folder / "constant.json").read_bytes())
        if kind == "bare"
        else create_app(folder, Settings(clock="log"))
    )
    uvicorn.run(app, port=port, log_level="error", access_log=False, **uvicorn_options())


if __name__ == "__main__":
    main()
