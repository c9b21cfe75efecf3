"""Who may speak for a session: whoever has the token that its opening was answered with."""

from __future__ import annotations

import secrets
from hmac import compare_digest
from typing import Any

from numa_service.node.errors import InvalidRequest
from numa_service.node.node import Node
from numa_service.node.owners import unknown_session
from numa_service.node.session import TOKEN_BYTES


def new_token() -> bytes:
    """A token that nobody can guess. Made here: the model has no dice, and its log carries what came up."""
    return secrets.token_bytes(TOKEN_BYTES)


def session_of(node: Node, request: Any) -> int:
    """The session that a request names, if it has the session's token. InvalidRequest when it names none.

    Without the token a session that lives is as unknown as one that never was: NotFound. Of one that is no
    more nothing is said here: the request may be the repeat of one that was answered while it lived.
    """
    id: int = request.session
    session = node.sessions.get(id)
    if session is None:
        if not id:
            raise InvalidRequest("session", "is not set")
    elif not compare_digest(session.token, request.session_token):
        raise unknown_session(node.nid, node.lineage, id)
    return id
