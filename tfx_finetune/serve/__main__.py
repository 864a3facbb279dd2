"""COMMAND: answers requests over HTTP with a bundle, by TensorFlow Serving's REST protocol.

    python -m tfx_finetune.serve --bundle=runs/tux/bundle
    python -m tfx_finetune.serve --bundle=runs/tux/bundle --port=8080 --format=tflite_int8
    python -m tfx_finetune.serve --bundle=models/ --host=0.0.0.0
    curl -d '{"instances": [{"b64": "'$(base64 -w0 a.jpg)'"}]}' http://localhost:8501/v1/models/default:predict

--bundle may also be a folder of bundles named 1, 2, ...: the highest number answers. A new number, or a bundle put in
the place of the one that answers, takes over without a request lost, once it gives its golden answers. SIGTERM: /readyz
says 503, what comes is still answered for --drain_timeout seconds, and the process ends. docs/deployment.md has the rest.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfx_finetune.core import command, plugins, progress
from tfx_finetune.core.config import option
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.extras import missing_package_error
from tfx_finetune.core.manifest import require_bundle_path

if TYPE_CHECKING:
    import uvicorn

    from tfx_finetune.serve.service import Service


@dataclass(frozen=True)
class ServeOptions:
    """Options of the command."""

    bundle: str = option("", "the folder bundle/ of a finished run, or a folder of bundles named 1, 2, ...")
    host: str = option("127.0.0.1", "address to listen at; 0.0.0.0 for every one of the machine")
    port: int = option(8501, "port to listen at; 0 for any that is free", low=0, high=65535)
    model_name: str = option("default", "name of the model in its addresses")
    format: str = option(
        "", "which of the bundle's files answers; by default the fastest here that is as exact as the trained model"
    )
    batch_size: int = option(32, "samples of concurrent requests that are predicted together", low=1)
    max_queue_size: int = option(256, "samples in work above which requests are refused with 503", low=1)
    max_request_bytes: int = option(16_000_000, "bytes of a request above which it is refused with 413", low=1)
    max_pixels: int = option(
        40_000_000,
        "pixels above which a picture is refused with 400; by default fewer than in training, as anybody may send one",
        low=1,
    )
    poll_interval: float = option(1.0, "seconds between two looks for a new version", low=0.05)
    drain_timeout: float = option(5.0, "seconds in which requests are still answered after SIGTERM", low=0)
    plugins: str = option("", plugins.HELP)


def serve(options: ServeOptions) -> None:
    """Serves until it is stopped.

    Raises:
        UserError: An extra is missing, the bundle cannot be used, or the port is taken.
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

    config = uvicorn.Config(
        make_app(service), log_level="warning", access_log=False, server_header=False, lifespan="off"
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(
            _serve_requests(
                _make_server(config, service, options.drain_timeout), listener, service, options.poll_interval
            )
        )
    progress.log("stopped, every request answered")


def _make_server(config: "uvicorn.Config", service: "Service", drain_timeout: float) -> "uvicorn.Server":
    import uvicorn

    class Server(uvicorn.Server):
        """Stops at once at SIGINT, and once others know of it at SIGTERM; in both cases with every answer given."""

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
    watching = asyncio.create_task(service.watch_versions(poll_interval))
    host, port = listener.getsockname()[:2]
    progress.log(
        f"version {service.model_version.version} of {service.name} answers at http://{host}:{port}/v1/models/"
    )
    await server.serve([listener])
    watching.cancel()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # Or the system would hold the second part of an answer back until the first one is acknowledged: 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        todo = "stop what listens there, or take another --port"
        received = f"{host}:{port} ({error.strerror})"
        raise UserError("cannot listen there", got=received, hint=todo) from None


def main() -> None:
    """Runs the command."""
    command.run(serve, ServeOptions(), __doc__ or "")


if __name__ == "__main__":
    main()
