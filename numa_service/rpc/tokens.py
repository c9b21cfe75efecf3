"""Session tokens: a request may act for a session if it has the token that OpenSession returned."""

from __future__ import annotations

import secrets
from hmac import compare_digest
from typing import Any

from numa_service.node.errors import InvalidRequest
from numa_service.node.node import Node
from numa_service.node.owners import unknown_session
from numa_service.node.session_state import TOKEN_BYTES


def new_token() -> bytes:
    """A new random token. The model has no randomness; the token enters its log with the OpenSession op."""
    return secrets.token_bytes(TOKEN_BYTES)


def session_of(node: Node, request: Any) -> int:
    """The id of the session that a request names, once its token is checked.

    InvalidRequest when the request names no session. NotFound when the session lives and the token is wrong:
    the same error as for a session that does not exist. A session that is not open passes: the request may be
    the repeat of one that was answered while the session lived, and gets its first reply.
    """
    id: int = request.session
    session = node.sessions.get(id)
    if session is None:
        if not id:
            raise InvalidRequest("session", "is not set")
    elif not compare_digest(session.token, request.session_token):
        raise unknown_session(node.nid, node.lineage, id)
    return id
