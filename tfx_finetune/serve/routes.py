"""The addresses of a served model, those of TensorFlow Serving and those of its keepers.

    POST /v1/models/NAME:predict, NAME:classify, NAME/versions/V:predict, ...
    GET  /v1/models/NAME, NAME/metadata, NAME/versions/V, ...
    GET  /healthz    200 while the process lives      /readyz    200 while requests are welcome, else 503
    GET  /metrics    for Prometheus

Whatever is wrong is said as JSON: {"error": "..."}.
"""

import asyncio
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
import prometheus_client
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tfx_finetune.serve import rest
from tfx_finetune.serve.service import BusyError, Service

_BODY_TIMEOUT = 60
# A body that is too large is read on so far and thrown away; a sender does not hear why until it has sent all.
_MAX_DISCARDED_BYTES = 1 << 30


def make_app(service: Service) -> FastAPI:
    """Returns the application that answers for a model."""
    made = FastAPI(title=f"tfx_finetune: {service.name}", docs_url=None, redoc_url=None)
    made.include_router(_make_model_router(service))
    made.include_router(_make_process_router(service))

    @made.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        return _make_response(service, {"error": error.detail}, error.status_code, error.headers)

    @made.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        what = "the model failed; the server's log says why"
        return _make_response(service, {"error": what}, HTTPStatus.INTERNAL_SERVER_ERROR)

    return made


def _make_response(
    service: Service, content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    # Who is told so sends its next request elsewhere, before this process ends.
    closing = {"Connection": "close"} if service.is_draining else {}
    return Response(body, status, dict(headers or {}) | closing, media_type="application/json")


def _make_model_router(service: Service) -> APIRouter:
    """The addresses of TensorFlow Serving."""
    router = APIRouter()

    def found(name: str, version: str = "") -> None:
        served = str(service.model_version.version)
        if name != service.name:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"no model {name} here; there is {service.name}")
        if version not in ("", served):
            raise HTTPException(HTTPStatus.NOT_FOUND, f"no version {version} of {name} here; there is {served}")

    @router.post("/v1/models/{name}:{method}")
    @router.post("/v1/models/{name}/versions/{version}:{method}")
    async def answer(request: Request, name: str, method: str, version: str = "") -> Response:
        found(name, version)
        if method not in rest.REQUEST_PARSERS:
            raise HTTPException(
                HTTPStatus.NOT_FOUND, f"no method {method}; there are {', '.join(rest.REQUEST_PARSERS)}"
            )
        return await _answer_request(service, request, method)

    @router.get("/v1/models/{name}/metadata")
    @router.get("/v1/models/{name}/versions/{version}/metadata")
    async def metadata(name: str, version: str = "") -> Response:
        found(name, version)
        return _make_response(service, rest.make_metadata(name, service.model_version))

    @router.get("/v1/models/{name}")
    @router.get("/v1/models/{name}/versions/{version}")
    async def status(name: str, version: str = "") -> Response:
        found(name, version)
        return _make_response(service, rest.make_status(service.model_version))

    return router


def _make_process_router(service: Service) -> APIRouter:
    """The addresses of those who keep the server running."""
    router = APIRouter()

    @router.get("/healthz")
    async def health() -> Response:
        return _make_response(service, {"status": "alive"})

    @router.get("/readyz")
    async def ready() -> Response:
        if service.is_draining:
            return _make_response(service, {"status": "stopping"}, HTTPStatus.SERVICE_UNAVAILABLE)
        return _make_response(service, {"status": "ready"})

    @router.get("/metrics")
    async def metrics() -> Response:
        found = prometheus_client.generate_latest(service.registry)
        return Response(found, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    return router


async def _answer_request(service: Service, request: Request, method: str) -> Response:
    """Answers a request of the model, counted and timed."""
    started, status = time.perf_counter(), HTTPStatus.INTERNAL_SERVER_ERROR
    try:
        with service.admit():
            told = _make_response(
                service, await service.answer(method, await _read_body(request, service.limits.max_request_bytes))
            )
        status = HTTPStatus.OK
        return told
    except rest.RequestError as error:
        status = HTTPStatus.BAD_REQUEST
        raise HTTPException(status, str(error)) from None
    except BusyError as error:
        status = HTTPStatus.SERVICE_UNAVAILABLE
        raise HTTPException(status, str(error), {"Retry-After": "1"}) from None
    except HTTPException as error:
        status = HTTPStatus(error.status_code)
        raise
    finally:
        service.answer_counter.labels(method, status.value).inc()
        service.answer_seconds.labels(method).observe(time.perf_counter() - started)


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body of a request."""
    content, size = bytearray(), 0
    try:
        async with asyncio.timeout(_BODY_TIMEOUT):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= max_bytes:
                    content += chunk
                elif size > _MAX_DISCARDED_BYTES:
                    break
    except TimeoutError:
        error = f"the request took more than {_BODY_TIMEOUT} s to come"
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, error, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "the request ended before its body") from None
    if size > max_bytes:
        error = f"a request of {size} bytes; allowed: {max_bytes}"
        raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error, {"Connection": "close"})
    return bytes(content)
