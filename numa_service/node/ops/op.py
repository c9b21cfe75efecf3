"""What an op is: one synchronous step on one node, as plain data that knows how it is carried out.

All that concerns an op stands in its class: fields, result, :meth:`Op.apply`, :meth:`Op.check` of what came
from outside, :meth:`Op.text` for transcripts, the size of its :attr:`Op.payload`, and its :attr:`Op.tag`, by
which :func:`decode` finds it again. The log of a node is a sequence of these.
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

#: Everything that has a tag.
TAGGED: dict[str, type[Tagged[Any]]] = {}
#: Every op by its tag.
OPS: dict[str, type[Op[Any]]] = {}


class Tagged(ABC, Generic[R]):
    """What can be logged, and asked of another node: plain data with a tag; `R` is what it leads to."""

    __slots__ = ()

    #: Its name in logs, on the wire and in transcripts; never given to another one.
    tag: ClassVar[str]
    #: Whether another node may ask for it.
    asked: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "tag" in cls.__dict__:
            # a dataclass with slots is made twice: the second class is the one that stays
            other = TAGGED.get(cls.tag)
            assert other is None or other.__qualname__ == cls.__qualname__, f"two are {cls.tag}"
            TAGGED[cls.tag] = cls

    @abstractmethod
    def check(self, node: NodeState) -> None:
        """Raise InvalidRequest, with the field, for values that must not be carried out.

        Kernels check no bounds. Whether what it names exists, and who owns it, is found out later.
        """

    def owed(self, heard: bool) -> bool:
        """Whether it is asked again until it is answered; `heard`: the other node may have carried it out."""
        return False

    def undo(self, result: R) -> Op[Any] | None:
        """What takes back an answer that came too late to be used; None: nothing has to be."""
        return None


class Op(Tagged[R]):
    """One step; `R` is what applying it returns.

    Ops are immutable by convention. Alloc, Free and Spend, of which every request makes some, skip
    ``frozen=True``: it makes construction five times as slow.
    """

    __slots__ = ()

    #: Name of the daemons that may have something to do when it has been applied.
    wakes: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        OPS[cls.tag] = cls

    @abstractmethod
    def apply(self, node: NodeState) -> R:
        """Carry it out. An op that raises NodeError has changed nothing."""

    @abstractmethod
    def text(self, node: NodeState, result: R) -> str:
        """The op and its result as a line of a transcript; "" for one that only accounts for time.

        `node` is as the op has left it.
        """

    @property
    def payload(self) -> int:
        """Bytes of page numbers and indexes that it carries."""
        return 0


def encode(op: Tagged[Any]) -> bytes:
    """An op, or a request of another node, as msgpack: its tag, and its fields in order."""
    packed: bytes = msgpack.packb((op.tag, *(getattr(op, name) for name, _ in _codec(type(op)))))
    return packed


def decode(data: bytes) -> Tagged[Any]:
    """Inverse of :func:`encode`; ValueError for what is no op."""
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
    """Names of an op's fields, and what makes a field of what msgpack has read."""
    hints = typing.get_type_hints(kind)
    # every op is a dataclass; Tagged, which they have in common, is not
    return tuple((field.name, _reader(hints[field.name])) for field in fields(kind))  # type: ignore[arg-type]


def _reader(hint: Any) -> Callable[[Any], Any]:
    """What gives a msgpack value the type of a field: lists become tuples, and tuples with names."""
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
        # a tuple with names: no type says so
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
