"""Generates the blocking client from the asyncio one: the same text without await.

Run ``python clients/python/make_sync.py`` after every change of ``_aio.py`` or an ``_aio_*.py``
beside it; a test checks that it was run. What runs in the background, in a task or in a thread, is
written for each client in ``_background.py``.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: The asyncio client's files, each with the blocking one's that is made of it.
MADE = {
    HERE / "numa_client" / "_aio.py": HERE / "numa_client" / "_sync.py",
    HERE / "numa_client" / "_aio_session.py": HERE / "numa_client" / "_sync_session.py",
    HERE / "numa_client" / "_aio_region.py": HERE / "numa_client" / "_sync_region.py",
    HERE / "numa_client" / "_aio_task.py": HERE / "numa_client" / "_sync_task.py",
}
RUFF = Path(sysconfig.get_path("scripts")) / "ruff"

#: (regular expression, replacement), applied from top to bottom.
RULES = (
    (
        r'\A"""(.*) (asyncio client.*?)\. .*"""\n',
        r'"""\1 \2. Safe to use from several threads.\n\n'
        'Made by ``make sync`` from the asyncio one: change that.\n"""\n',
    ),
    (r"\A(.*) asyncio ", r"\1 blocking "),
    (r"import grpc\.aio\n", ""),
    (r"\b_aio", "_sync"),
    (r"grpc\.aio\.AioRpcError", "grpc.RpcError"),
    (r"grpc\.aio\.", "grpc."),
    (r"channel\.close\(None\)", "channel.close()"),
    (r"async_channel", "blocking_channel"),
    (r"await asyncio\.sleep", "time.sleep"),
    (r"Awaitable\[(\w+)\]", r"\1"),
    (r"AsyncGenerator\[(.*), None\]", r"Generator[\1, None, None]"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\bAsync(?=[A-Z])|Async(?=Stub\b)", ""),
    (r"\b(async|await) ", ""),
    # words in docstrings
    (r"\ban (async )?context manager", "a context manager"),
    (r"background task", "background thread"),
    (r"loop blocked", "process stopped"),
)


def blocking(texts: list[str]) -> list[str]:
    """The blocking client's texts. SystemExit if a rule matches nothing, or something stays asynchronous."""
    for pattern, replacement in RULES:
        done = [re.subn(pattern, replacement, text) for text in texts]
        if not any(made for _, made in done):
            raise SystemExit(f"nothing in the asyncio client is {pattern!r} any more")
        texts = [text for text, _ in done]
    return [_checked(_tidied(text)) for text in texts]


def _tidied(text: str) -> str:
    for command in (("check", "--fix-only", "--quiet", "--select", "I,F401"), ("format", "--quiet")):
        text = subprocess.run(
            [RUFF, *command, "--stdin-filename", HERE / "numa_client" / "_sync.py", "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return text


def _checked(text: str) -> str:
    code = text.split('"""\n', 1)[1]
    if left := re.search(r".*(async|await|\baio\b).*", code, re.IGNORECASE):
        raise SystemExit(f"no rule makes this blocking: {left[0].strip()}")
    return text


if __name__ == "__main__":
    for path, text in zip(MADE.values(), blocking([path.read_text() for path in MADE]), strict=True):
        path.write_text(text)
        print(path.relative_to(HERE), file=sys.stderr)
