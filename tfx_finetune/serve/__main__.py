"""Serve the predictions of a bundle over HTTP with the REST protocol of TensorFlow Serving.

    python -m tfx_finetune.serve --bundle=runs/tux/bundle
    python -m tfx_finetune.serve --bundle=runs/tux/bundle --port=8080 --format=tflite_int8
    python -m tfx_finetune.serve --bundle=models/ --host=0.0.0.0
    curl -d '{"instances": [{"b64": "'$(base64 -w0 a.jpg)'"}]}' http://localhost:8501/v1/models/default:predict

--bundle is a bundle or a folder of bundles named 1, 2, ..., of which the highest number is served. A new number, or a
bundle that replaces the served one, is loaded without downtime after it reproduces its golden outputs. On SIGTERM,
/readyz returns 503, requests are answered for another --drain_timeout seconds, and the process ends. See
docs/how-to/serve.md. Exit status: 0 success, 2 user error.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfx_finetune.core import command, plugins, progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.extras import missing_package_error
from tfx_finetune.core.manifest import require_bundle_path
from tfx_finetune.core.options import option

if TYPE_CHECKING:
    import uvicorn

    from tfx_finetune.serve.service import Service


@dataclass(frozen=True)
class ServeOptions:
    """Options of the `serve` command."""

    bundle: str = option("", "the folder bundle/ of a finished run, or a folder of bundles named 1, 2, ...")
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0: all addresses of the machine")
    port: int = option(8501, "port to listen on; 0: any free port", low=0, high=65535)
    model_name: str = option("default", "name of the model in URLs")
    format: str = option("", "format of the file to serve; empty: the fastest verified file with float precision")
    batch_size: int = option(32, "maximum number of samples of concurrent requests per batch", low=1)
    max_queue_size: int = option(256, "maximum number of samples in progress; more are rejected with 503", low=1)
    max_request_bytes: int = option(16_000_000, "maximum size of a request in bytes; more is rejected with 413", low=1)
    max_pixels: int = option(
        40_000_000,
        "maximum number of pixels of an image; more are rejected with 400 (lower than in training by default, because "
        "clients are not trusted)",
        low=1,
    )
    poll_interval: float = option(1.0, "seconds between checks for a new version", low=0.05)
    drain_timeout: float = option(5.0, "seconds in which requests are still answered after SIGTERM", low=0)
    plugins: str = option("", plugins.HELP)


def serve(options: ServeOptions) -> None:
    """Serve a bundle until the process is stopped.

    Args:
        options: Options of the command.

    Raises:
        UserError: If a package is missing, the bundle cannot be served, or the port is in use.
    """
    try:
        import uvicorn

        from tfx_finetune.serve.routes import make_app
        from tfx_finetune.serve.service import RequestLimits, Service
    except ModuleNotFoundError as error:
        raise missing_package_error(str(error.name), "serve") from None
    plugins.load(options.plugins)
    folder = require_bundle_path(options.bundle)
    listener = _listen(options.host, options.port)
    limits = RequestLimits(options.max_request_bytes, options.max_pixels, options.max_queue_size, options.batch_size)
    service = Service(options.model_name, folder, options.format, limits)

    app = make_app(service)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off")
    server = _make_server(config, service, options.drain_timeout)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve_requests(server, listener, service, options.poll_interval))
    progress.log("stopped after all requests were answered")


def _make_server(config: "uvicorn.Config", service: "Service", drain_timeout: float) -> "uvicorn.Server":
    """Return a server that answers all accepted requests before it stops."""
    import uvicorn

    class Server(uvicorn.Server):
        """Server that stops at once on SIGINT, and after the drain timeout on SIGTERM."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, self.drain)
            loop.add_signal_handler(signal.SIGINT, self.stop)
            yield

        def drain(self) -> None:
            service.is_draining = True
            asyncio.get_running_loop().call_later(drain_timeout, self.stop)

        def stop(self) -> None:
            service.is_draining = self.should_exit = True

    return Server(config)


async def _serve_requests(
    server: "uvicorn.Server", listener: socket.socket, service: "Service", poll_interval: float
) -> None:
    """Serve requests and watch for new versions until the server stops."""
    watch_task = asyncio.create_task(service.watch_versions(poll_interval))
    host, port = listener.getsockname()[:2]
    progress.log(f"serves version {service.model_version.version} of {service.name} at http://{host}:{port}/v1/models/")
    await server.serve([listener])
    watch_task.cancel()


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # Nagle's algorithm would delay the second packet of a response by 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise UserError(
            "Cannot listen on this address and port",
            got=f"{host}:{port} ({error.strerror})",
            hint="Stop the process that uses the port, or choose another --port",
        ) from None


def main() -> None:
    """Run the command."""
    command.run(serve, ServeOptions(), __doc__ or "")


if __name__ == "__main__":
    main()
