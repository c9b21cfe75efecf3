"""Questions about pages, and their answers, as messages of NodeService (ReadPages)."""

from __future__ import annotations

from numa_client._gen.numa.v1 import node_service_pb2 as pb2

from numa_service.node.owners import Owner
from numa_service.node.page_state import Answer, Ask, FramesOf, Question


def question_message(question: Question) -> pb2.ReadPagesRequest:
    """The message of a question."""
    return pb2.ReadPagesRequest(
        what=pb2.ReadPagesRequest.What.Name(question.what),
        first=question.first,
        count=question.pages,
        pid=question.pid,
        owner=_owner_message(question.owner),
        frames=question.frames,
    )


def question_of(message: pb2.ReadPagesRequest) -> Question:
    """Inverse of :func:`question_message`."""
    return Question(
        Ask(message.what),
        message.first,
        message.count,
        message.pid,
        _owner(message.owner),
        message.frames,
    )


def answer_message(answer: Answer) -> pb2.ReadPagesResponse:
    """The message of an answer."""
    return pb2.ReadPagesResponse(
        words=answer.words,
        counts=answer.counts,
        kinds=answer.kinds,
        others=[
            pb2.FramesOfOwner(node=of.nid, owner=_owner_message(of.owner), at=of.at, frames=of.frames)
            for of in answer.others
        ],
    )


def answer_of(message: pb2.ReadPagesResponse) -> Answer:
    """Inverse of :func:`answer_message`."""
    others = tuple(FramesOf(of.node, _owner(of.owner), of.at, of.frames) for of in message.others)
    return Answer(message.words, message.counts, message.kinds, others)


def _owner_message(owner: Owner) -> pb2.PageOwner:
    return pb2.PageOwner(node=owner.nid, lineage=owner.lineage, id=owner.id)


def _owner(message: pb2.PageOwner) -> Owner:
    return Owner(message.node, message.lineage, message.id)
