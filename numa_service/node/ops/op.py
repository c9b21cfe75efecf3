"""The base class of ops. An op is one synchronous step on one node: plain data that can be applied.

Everything about an op is in its class: its fields, the type of its result, :meth:`Op.apply`,
:meth:`Tagged.check` for ops from other nodes, :meth:`Op.text` for transcripts, :attr:`Op.payload` for its
size, and :attr:`Tagged.tag`, by which :func:`decode` finds the class. The log of a node is a sequence of ops.
"""

from __future__ import annotations

import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from typing import Any, ClassVar, Generic, TypeVar

import msgpack

from numa_service.node.state import NodeState

R = TypeVar("R")

#: Every op, and every request between nodes (``node/requests.py``), by its tag.
TAGGED: dict[str, type[Tagged[Any]]] = {}
#: Every op by its tag.
OPS: dict[str, type[Op[Any]]] = {}


class Tagged(ABC, Generic[R]):
    """Plain data that can be encoded, and that another node may ask for; its result is an `R`."""

    __slots__ = ()

    #: Its name when encoded: unique, and never reused for something else.
    tag: ClassVar[str]
    #: Whether another node may ask for it.
    asked: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "tag" in cls.__dict__:
            # a dataclass with slots is made twice, and the second class is the one in use
            other = TAGGED.get(cls.tag)
            assert other is None or other.__qualname__ == cls.__qualname__, f"two are {cls.tag}"
            TAGGED[cls.tag] = cls

    @abstractmethod
    def check(self, node: NodeState) -> None:
        """Raise InvalidRequest, naming the field, for values that must not reach :meth:`Op.apply`.

        Compiled kernels check no bounds. Whether the things that it names exist, and whose they are, is
        checked when it is applied.
        """

    def owed(self, heard: bool) -> bool:
        """Return whether the question, if it got no answer, has to be repeated until it is answered.

        `heard` is False if the question was not sent; otherwise the other node may have carried it out.
        """
        return False

    def undo(self, result: R) -> Tagged[Any] | None:
        """Return the question that undoes an answer that came too late to be used; None if none is needed."""
        return None


class Op(Tagged[R]):
    """One synchronous step on a node; applying it returns an `R`.

    Ops are immutable by convention. Alloc, Free, Spend, Remember, KmemAlloc and KmemFree, of which every
    request makes some, are dataclasses without ``frozen=True``, which makes construction five times as slow.
    """

    __slots__ = ()

    #: Name of the daemons that may have work after this op; "" for none.
    wakes: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        OPS[cls.tag] = cls

    @abstractmethod
    def apply(self, node: NodeState) -> R:
        """Carry out the step. An op that raises NodeError must have changed nothing."""

    @abstractmethod
    def text(self, node: NodeState, result: R) -> str:
        """Return the op and its result as a line of a transcript; "" for an op that transcripts leave out.

        `node` is in the state in which the op has left it.
        """

    @property
    def payload(self) -> int:
        """Bytes of its variable-sized fields, for the limit of the log's size."""
        return 0


def encode(op: Tagged[Any]) -> bytes:
    """Return an op, or a request between nodes, as msgpack: its tag, then its fields in order."""
    packed: bytes = msgpack.packb((op.tag, *(getattr(op, name) for name, _ in _codec(type(op)))))
    return packed


def decode(data: bytes) -> Tagged[Any]:
    """Return the op that :func:`encode` encoded; ValueError for bytes that are not an op."""
    try:
        tag, *values = msgpack.unpackb(data)
        kind = TAGGED[tag]
        codec = _codec(kind)
        if len(values) != len(codec):
            raise ValueError(f"{tag} has {len(codec)} fields, not {len(values)}")
        return kind(*(read(value) for (_, read), value in zip(codec, values, strict=True)))
    except (msgpack.UnpackException, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not an op: {error}") from None


@lru_cache(maxsize=256)
def _codec(kind: type[Tagged[Any]]) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """Return (name, reader) of each field of an op; see :func:`_reader`."""
    hints = typing.get_type_hints(kind)
    # every subclass is a dataclass, but Tagged itself is not, as mypy notes
    return tuple((field.name, _reader(hints[field.name])) for field in fields(kind))  # type: ignore[arg-type]


def _reader(hint: Any) -> Callable[[Any], Any]:
    """Return a function that converts a msgpack value to a field's type.

    Lists become tuples or NamedTuples. It raises ValueError or TypeError for a value of another type.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (_reader(arg) for arg in args if arg is not types.NoneType)
        return lambda value: None if value is None else inner(value)
    if origin is tuple and args[-1] is Ellipsis:
        inner = _reader(args[0])
        return lambda value: tuple(inner(item) for item in value)
    if origin is tuple:
        return _row(tuple, [_reader(arg) for arg in args])
    if isinstance(hint, type) and issubclass(hint, tuple):
        hints = typing.get_type_hints(hint)
        # a NamedTuple: there is no static type for these
        return _row(lambda items: hint(*items), [_reader(hints[name]) for name in hint._fields])  # type: ignore[attr-defined]
    if hint not in (int, bool, str, bytes):
        raise TypeError(f"an op cannot have a field of {hint}")
    return _exactly(hint)


def _row(make: Callable[[Any], Any], readers: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    return lambda value: make(tuple(read(item) for read, item in zip(readers, value, strict=True)))


def _exactly(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"{value!r:.40} is no {kind.__name__}")
        return value

    return read
