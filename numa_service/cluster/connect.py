"""Connects this process, as a driver, to a Ray cluster: the local one, or one at a given address."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numa_service.cluster import local
from numa_service.cluster.actor_names import NAMESPACE
from numa_service.cluster.errors import ClusterError, reason

PROBE_SECONDS = 5.0

_log = logging.getLogger(__name__)


def attach(address: str) -> None:
    """Connect this process to the cluster at host:port, or "auto". ClusterError when that fails.

    The authentication token of the local Ray is in its state directory; for another cluster it comes from
    Ray's own settings (RAY_AUTH_MODE, RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH).
    """
    here = local.find()
    ours = here is not None and here.address == address
    if here and ours:
        os.environ.update(here.env)
    # without this Ray prints a warning that its default is going to change
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address != "auto":
        _probe(address)
    try:
        with warnings.catch_warnings(), _uninterrupted():
            warnings.simplefilter("ignore")
            _join(address, ours)
    except Exception as error:
        raise ClusterError(f"cannot join the Ray cluster at {address}: {reason(error)}") from None


def _join(address: str, ours: bool) -> None:
    import ray  # not earlier: it reads the environment, set above, while it is imported

    if ray.is_initialized():
        if ray.get_runtime_context().gcs_address == address:
            return
        ray.shutdown()
    if ours:
        _read_environment_again()
    # Ray prints its own warnings on stdout, where they would corrupt the output of --json.
    ray._private.worker.print_to_stdstream = _to_log
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")


def _read_environment_again() -> None:
    """Have Ray read the environment again, if it was imported, or joined another local Ray, before."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled, without stubs

    ray_constants.ENABLE_RAY_CLUSTER = False
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _to_log(data: dict[str, Any], ignore_prefix: bool) -> None:
    _log.info("%s: %s", data.get("pid"), " ".join(data.get("lines", [])))


def detach() -> None:
    """Disconnect from Ray, if connected."""
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay a Ctrl-C until the body has ended: a process that is interrupted while it joins Ray crashes."""
    if threading.current_thread() is not threading.main_thread():
        yield  # KeyboardInterrupt is raised in the main thread only
        return
    pressed = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed.is_set():
        raise KeyboardInterrupt


def _probe(address: str) -> None:
    """Check that something listens at the address. ClusterError; Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ClusterError(f"address {address!r}: host:port of a Ray head, or auto, is expected")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"no Ray cluster answers at {address}: {error.strerror or error}") from None
