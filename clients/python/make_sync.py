"""Makes numa_client/_sync.py, the blocking client, from the asyncio one: the same text without its awaits.

Run ``python clients/python/make_sync.py`` after every change of ``_aio.py``; a test compares. What the two
clients do differently, beside the caller, is written twice in ``_background.py``.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
ASYNC = HERE / "numa_client" / "_aio.py"
SYNC = HERE / "numa_client" / "_sync.py"
RUFF = Path(sysconfig.get_path("scripts")) / "ruff"

#: Regular expressions and what they become, from top to bottom.
RULES = (
    (
        r'\A""".*"""\n',
        '"""The blocking client. Safe to use from several threads.\n\n'
        'Made from ``_aio.py`` by ``make sync``: change that one.\n"""\n',
    ),
    (r"import grpc\.aio\n", ""),
    (r"grpc\.aio\.AioRpcError", "grpc.RpcError"),
    (r"grpc\.aio\.", "grpc."),
    (r"channel\.close\(None\)", "channel.close()"),
    (r"async_channel", "blocking_channel"),
    (r"await asyncio\.sleep", "time.sleep"),
    (r"Awaitable\[(\w+)\]", r"\1"),
    (r"AsyncGenerator\[(.*), None\]", r"Generator[\1, None, None]"),
    (r"AsyncGenerator, AsyncIterable", "Generator, Iterable"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\bAsync(?=[A-Z])|Async(?=Stub\b)", ""),
    (r"\b(async|await) ", ""),
    # in words
    (r"\ban (async )?context manager", "a context manager"),
    (r"background task", "background thread"),
    (r"loop blocked", "process stopped"),
)


def blocking(text: str) -> str:
    """The blocking client's text. SystemExit if a rule has nothing to do, or something is left to be done."""
    for pattern, replacement in RULES:
        text, made = re.subn(pattern, replacement, text)
        if not made:
            raise SystemExit(f"nothing in {ASYNC.name} is {pattern!r} any more")
    for command in (("check", "--fix-only", "--quiet", "--select", "I,F401"), ("format", "--quiet")):
        text = subprocess.run(
            [RUFF, *command, "--stdin-filename", SYNC, "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    code = text.split('"""\n', 1)[1]
    if left := re.search(r".*(async|await|\baio\b).*", code, re.IGNORECASE):
        raise SystemExit(f"no rule makes this blocking: {left[0].strip()}")
    return text


if __name__ == "__main__":
    SYNC.write_text(blocking(ASYNC.read_text()))
    print(SYNC.relative_to(HERE), file=sys.stderr)
