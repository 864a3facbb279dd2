"""URLs of the server: the REST protocol of TensorFlow Serving, health checks and metrics.

    POST /v1/models/NAME:predict, NAME:classify, NAME/versions/V:predict, ...
    GET  /v1/models/NAME, NAME/metadata, NAME/versions/V, ...
    GET  /healthz    200 while the process lives      /readyz    200 while the server accepts requests, else 503
    GET  /metrics    metrics for Prometheus

Errors are returned as JSON: {"error": "..."}.
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

from tfx_finetune.serve.requests import REQUEST_PARSERS, RequestError
from tfx_finetune.serve.responses import make_metadata, make_status
from tfx_finetune.serve.service import BusyError, Service

_BODY_TIMEOUT = 60
# The rest of an oversized body is read and discarded: most clients read the response only after they sent the body.
_MAX_DISCARDED_BYTES = 1 << 30


def make_app(service: Service) -> FastAPI:
    """Return the FastAPI application of a service.

    Args:
        service: Model to serve.
    """
    app = FastAPI(title=f"tfx_finetune: {service.name}", docs_url=None, redoc_url=None)
    app.include_router(_make_model_router(service))
    app.include_router(_make_process_router(service))

    @app.exception_handler(HTTPException)
    async def handle_http_error(request: Request, error: HTTPException) -> Response:
        return _make_response(service, {"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def handle_exception(request: Request, error: Exception) -> Response:
        message = "The model failed. The log of the server has the reason."
        return _make_response(service, {"error": message}, HTTPStatus.INTERNAL_SERVER_ERROR)

    return app


def _make_response(
    service: Service, content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON response."""
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    # A draining server closes connections, so that clients send their next request to another server.
    connection = {"Connection": "close"} if service.is_draining else {}
    return Response(body, status, dict(headers or {}) | connection, media_type="application/json")


def _make_model_router(service: Service) -> APIRouter:
    """Return the routes of TensorFlow Serving."""
    router = APIRouter()

    def check_model(name: str, version: str = "") -> None:
        served_version = str(service.model_version.version)
        if name != service.name:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"Unknown model: {name}. Expected: {service.name}.")
        if version not in ("", served_version):
            message = f"Unknown version of {name}: {version}. Expected: {served_version}."
            raise HTTPException(HTTPStatus.NOT_FOUND, message)

    @router.post("/v1/models/{name}:{method}")
    @router.post("/v1/models/{name}/versions/{version}:{method}")
    async def answer(request: Request, name: str, method: str, version: str = "") -> Response:
        check_model(name, version)
        if method not in REQUEST_PARSERS:
            message = f"Unknown method: {method}. Expected: {', '.join(REQUEST_PARSERS)}."
            raise HTTPException(HTTPStatus.NOT_FOUND, message)
        return await _answer_request(service, request, method)

    @router.get("/v1/models/{name}/metadata")
    @router.get("/v1/models/{name}/versions/{version}/metadata")
    async def metadata(name: str, version: str = "") -> Response:
        check_model(name, version)
        return _make_response(service, make_metadata(name, service.model_version))

    @router.get("/v1/models/{name}")
    @router.get("/v1/models/{name}/versions/{version}")
    async def status(name: str, version: str = "") -> Response:
        check_model(name, version)
        return _make_response(service, make_status(service.model_version))

    return router


def _make_process_router(service: Service) -> APIRouter:
    """Return the routes of health checks and metrics."""
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
        text = prometheus_client.generate_latest(service.registry)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    return router


async def _answer_request(service: Service, request: Request, method: str) -> Response:
    """Answer a request of the model and record its status and duration."""
    start_time, status = time.perf_counter(), HTTPStatus.INTERNAL_SERVER_ERROR
    try:
        with service.admit():
            body = await _read_body(request, service.limits.max_request_bytes)
            response = _make_response(service, await service.answer(method, body))
        status = HTTPStatus.OK
        return response
    except RequestError as error:
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
        service.answer_seconds.labels(method).observe(time.perf_counter() - start_time)


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body of a request; reject bodies that are too large, too slow or incomplete."""
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
        message = f"The request took longer than {_BODY_TIMEOUT} s to arrive."
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, message, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "The request ended before its body was complete.") from None
    if size > max_bytes:
        message = f"The request is too large: {size} bytes. Expected: at most {max_bytes}."
        raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, {"Connection": "close"})
    return bytes(content)
