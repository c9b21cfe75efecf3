from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VmallocRequest(_message.Message):
    __slots__ = ("session", "session_token", "request_id", "size_bytes", "caller", "cpu", "node", "huge")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    HUGE_FIELD_NUMBER: _ClassVar[int]
    session: int
    session_token: bytes
    request_id: str
    size_bytes: int
    caller: str
    cpu: int
    node: int
    huge: bool
    def __init__(self, session: _Optional[int] = ..., session_token: _Optional[bytes] = ..., request_id: _Optional[str] = ..., size_bytes: _Optional[int] = ..., caller: _Optional[str] = ..., cpu: _Optional[int] = ..., node: _Optional[int] = ..., huge: _Optional[bool] = ...) -> None: ...

class VmallocResponse(_message.Message):
    __slots__ = ("address", "pages")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    address: int
    pages: _containers.RepeatedCompositeFieldContainer[VmallocPages]
    def __init__(self, address: _Optional[int] = ..., pages: _Optional[_Iterable[_Union[VmallocPages, _Mapping]]] = ...) -> None: ...

class VmallocPages(_message.Message):
    __slots__ = ("node", "pages")
    NODE_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    node: int
    pages: int
    def __init__(self, node: _Optional[int] = ..., pages: _Optional[int] = ...) -> None: ...

class VfreeRequest(_message.Message):
    __slots__ = ("session", "session_token", "request_id", "address", "cpu")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    session: int
    session_token: bytes
    request_id: str
    address: int
    cpu: int
    def __init__(self, session: _Optional[int] = ..., session_token: _Optional[bytes] = ..., request_id: _Optional[str] = ..., address: _Optional[int] = ..., cpu: _Optional[int] = ...) -> None: ...

class VfreeResponse(_message.Message):
    __slots__ = ("freed_pages",)
    FREED_PAGES_FIELD_NUMBER: _ClassVar[int]
    freed_pages: int
    def __init__(self, freed_pages: _Optional[int] = ...) -> None: ...

class VmapRequest(_message.Message):
    __slots__ = ("session", "session_token", "request_id", "count_pages", "caller", "cpu")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    COUNT_PAGES_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    session: int
    session_token: bytes
    request_id: str
    count_pages: int
    caller: str
    cpu: int
    def __init__(self, session: _Optional[int] = ..., session_token: _Optional[bytes] = ..., request_id: _Optional[str] = ..., count_pages: _Optional[int] = ..., caller: _Optional[str] = ..., cpu: _Optional[int] = ...) -> None: ...

class VmapResponse(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: int
    def __init__(self, address: _Optional[int] = ...) -> None: ...

class VunmapRequest(_message.Message):
    __slots__ = ("session", "session_token", "request_id", "address")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    session: int
    session_token: bytes
    request_id: str
    address: int
    def __init__(self, session: _Optional[int] = ..., session_token: _Optional[bytes] = ..., request_id: _Optional[str] = ..., address: _Optional[int] = ...) -> None: ...

class VunmapResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class KmapRequest(_message.Message):
    __slots__ = ("session", "session_token", "request_id", "pfn", "atomic")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PFN_FIELD_NUMBER: _ClassVar[int]
    ATOMIC_FIELD_NUMBER: _ClassVar[int]
    session: int
    session_token: bytes
    request_id: str
    pfn: int
    atomic: bool
    def __init__(self, session: _Optional[int] = ..., session_token: _Optional[bytes] = ..., request_id: _Optional[str] = ..., pfn: _Optional[int] = ..., atomic: _Optional[bool] = ...) -> None: ...

class KmapResponse(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: int
    def __init__(self, address: _Optional[int] = ...) -> None: ...

class KunmapRequest(_message.Message):
    __slots__ = ("session", "session_token", "request_id", "pfn")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PFN_FIELD_NUMBER: _ClassVar[int]
    session: int
    session_token: bytes
    request_id: str
    pfn: int
    def __init__(self, session: _Optional[int] = ..., session_token: _Optional[bytes] = ..., request_id: _Optional[str] = ..., pfn: _Optional[int] = ...) -> None: ...

class KunmapResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class KmapAtomicRequest(_message.Message):
    __slots__ = ("session", "session_token", "request_id", "pfn", "cpu")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PFN_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    session: int
    session_token: bytes
    request_id: str
    pfn: int
    cpu: int
    def __init__(self, session: _Optional[int] = ..., session_token: _Optional[bytes] = ..., request_id: _Optional[str] = ..., pfn: _Optional[int] = ..., cpu: _Optional[int] = ...) -> None: ...

class KmapAtomicResponse(_message.Message):
    __slots__ = ("slot", "address")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    slot: int
    address: int
    def __init__(self, slot: _Optional[int] = ..., address: _Optional[int] = ...) -> None: ...

class KunmapAtomicRequest(_message.Message):
    __slots__ = ("session", "session_token", "request_id", "pfn", "cpu")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PFN_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    session: int
    session_token: bytes
    request_id: str
    pfn: int
    cpu: int
    def __init__(self, session: _Optional[int] = ..., session_token: _Optional[bytes] = ..., request_id: _Optional[str] = ..., pfn: _Optional[int] = ..., cpu: _Optional[int] = ...) -> None: ...

class KunmapAtomicResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
