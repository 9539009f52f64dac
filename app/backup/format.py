"""The file format of backups, version 1. Pure: bytes in, bytes out; docs/backup.md describes it.

    skippable frame   "weir backup 1\\n"
    Zstandard frame   BSON documents, one after the other:
                        the header
                        per section: {collection, options?, indexes?}, its documents, an empty document
                        the trailer: {documents: {collection: count}, finishedAt}
    skippable frame   SHA-256 of all bytes before it

Zstandard's tools skip the first and the last frame, so `zstd -dc FILE` writes the documents. A collection may
have several sections; its options and indexes are in the first one.
"""

import hashlib
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, BinaryIO

import bson
import zstandard
from bson.codec_options import CodecOptions
from bson.errors import BSONError

VERSION = 1

Document = Mapping[str, Any]

_NAME = b"weir backup "
_SKIPPABLE = struct.Struct("<II")
_SKIPPABLE_MAGIC = 0x184D2A50
_LENGTH = struct.Struct("<i")
_OPTIONS: "CodecOptions[dict[str, Any]]" = CodecOptions(tz_aware=True, tzinfo=UTC)

_END_OF_SECTION = bson.encode({})
_SMALLEST = len(_END_OF_SECTION)
# What MongoDB takes from clients, and what it allows itself beyond that.
_LARGEST = 16 * 1024 * 1024 + 64 * 1024

_LEAD = _SKIPPABLE.pack(_SKIPPABLE_MAGIC, len(_NAME) + 2) + _NAME + b"%d\n" % VERSION
_FOOT = _SKIPPABLE.pack(_SKIPPABLE_MAGIC + 14, hashlib.sha256().digest_size)
_FOOT_SIZE = len(_FOOT) + hashlib.sha256().digest_size

_LEVEL = 3
_PIECE = 256 * 1024
_BATCH_BYTES = 4 * 1024 * 1024
_BATCH_DOCUMENTS = 1000


class BackupFileError(Exception):
    """The file cannot be used; the text is one line fit for an operator."""


@dataclass(slots=True)
class Section:
    """Documents of one collection; `batches` has to be read to its end before the next section comes."""

    collection: str
    options: Document
    indexes: list[dict[str, Any]]
    batches: Iterator[list[bytes]]


@dataclass(slots=True)
class BackupWriter:
    """Writes a backup piece by piece; `write` must take all of what it is given, or raise."""

    write: Callable[[bytes], object]
    counts: Counter[str] = field(default_factory=Counter)
    size: int = 0
    _collection: str = ""
    _digest: Any = field(default_factory=hashlib.sha256)
    _compressor: Any = field(
        default_factory=lambda: zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False).compressobj()
    )

    def begin(self, header: Document) -> None:
        """Write what stands before the first section."""
        self._emit(_LEAD)
        self._compress(bson.encode(header))

    def begin_section(
        self, collection: str, options: Document | None = None, indexes: Sequence[Document] = ()
    ) -> None:
        """Begin a section; the options and indexes go with a collection's first section."""
        self._collection = collection
        self.counts[collection] += 0
        begin: dict[str, Any] = {"collection": collection}
        if options:
            begin["options"] = options
        if indexes:
            begin["indexes"] = list(indexes)
        self._compress(bson.encode(begin))

    def documents(self, raw: bytes) -> int:
        """Write encoded documents, one after the other; return how many there are."""
        count = count_documents(raw)
        self._compress(raw)
        self.counts[self._collection] += count
        return count

    def end_section(self) -> None:
        """End the section."""
        self._compress(_END_OF_SECTION)

    def finish(self, finished_at: datetime) -> None:
        """Write the trailer and the checksum: without them the file is no backup."""
        self._compress(bson.encode({"documents": dict(self.counts), "finishedAt": finished_at}))
        self._emit(self._compressor.flush())
        self._emit(_FOOT + self._digest.digest())

    def _compress(self, content: bytes) -> None:
        self._emit(self._compressor.compress(content))

    def _emit(self, piece: bytes) -> None:
        if piece:
            self._digest.update(piece)
            self.size += len(piece)
            self.write(piece)


class BackupReader:
    """Reads a backup. `verify` comes first: until it has returned, nothing in the file is to be believed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = 0
        self.counts: dict[str, int] = {}
        self.finished_at: datetime | None = None

    def verify(self, progress: Callable[[int], object] = lambda _: None) -> Document:
        """Read the whole file and return its header; raises `BackupFileError`.

        `progress` is told, again and again, how many more bytes were looked at: twice the file's size in all.
        """
        self._verify_checksum(progress)
        header, sections = self.open(progress)
        for section in sections:
            for _ in section.batches:
                pass
        return header

    def open(self, progress: Callable[[int], object] = lambda _: None) -> tuple[Document, Iterator[Section]]:
        """Return the header and the sections, in the file's order; both raise `BackupFileError`."""
        documents = _Documents(_Part(self._file, len(_LEAD), self._end, progress))
        return _decoded(documents.next()), self._sections(documents)

    def _verify_checksum(self, progress: Callable[[int], object]) -> None:
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        lead = self._file.read(len(_LEAD))
        if lead != _LEAD:
            raise BackupFileError(_unknown(lead))
        self._end = size - _FOOT_SIZE
        if self._end < len(_LEAD):
            raise BackupFileError("the file is cut off: it is no complete backup")
        digest = hashlib.sha256(lead)
        for piece in _Part(self._file, len(_LEAD), self._end, progress).pieces():
            digest.update(piece)
        if self._file.read(_FOOT_SIZE) != _FOOT + digest.digest():
            raise BackupFileError("the file is cut off or damaged: its checksum does not match its content")

    def _sections(self, documents: "_Documents") -> Iterator[Section]:
        counts: Counter[str] = Counter()
        while True:
            begin = _decoded(documents.next())
            name = begin.get("collection")
            if name is None:
                break
            counts[name] += 0
            batches = documents.batches(lambda count, name=name: counts.update({name: count}))  # type: ignore[misc]
            yield Section(str(name), begin.get("options", {}), begin.get("indexes", []), batches)
        if begin.get("documents") != dict(counts) or not documents.is_at_end():
            raise BackupFileError("the file is damaged: it does not hold what it says at its end")
        self.counts, self.finished_at = dict(counts), begin.get("finishedAt")


class _Part:
    """A part of a file, as something to read from."""

    def __init__(self, file: BinaryIO, start: int, end: int, progress: Callable[[int], object]) -> None:
        file.seek(start)
        self._file = file
        self._left = end - start
        self._progress = progress

    def read(self, size: int = _PIECE) -> bytes:
        """Return the next bytes; none at the part's end, also if the file has become shorter."""
        piece = self._file.read(min(size, self._left))
        self._left -= len(piece)
        self._progress(len(piece))
        return piece

    def pieces(self) -> Iterator[bytes]:
        """Yield all pieces of the part."""
        while piece := self.read():
            yield piece


class _Documents:
    """The documents in a compressed part of a file, one after the other."""

    def __init__(self, part: _Part) -> None:
        self._stream = zstandard.ZstdDecompressor().stream_reader(part)  # type: ignore[arg-type]
        self._buffer = b""
        self._at = 0

    def next(self) -> bytes:
        """Return the next document; raises `BackupFileError` when there is none."""
        if not self._has(_LENGTH.size):
            raise BackupFileError("the file is damaged: it ends too early")
        size = _size_at(self._buffer, self._at)
        if not self._has(size):
            raise BackupFileError("the file is damaged: it ends within a document")
        document = self._buffer[self._at : self._at + size]
        self._at += size
        return document

    def batches(self, note: Callable[[int], object]) -> Iterator[list[bytes]]:
        """Yield the documents up to the end of the section; `note` is told how many are in each batch."""
        while True:
            batch, size = [], 0
            while (document := self.next()) != _END_OF_SECTION:
                batch.append(document)
                size += len(document)
                if size >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
                    break
            if batch:
                note(len(batch))
                yield batch
            if document == _END_OF_SECTION:
                return

    def is_at_end(self) -> bool:
        """Tell whether nothing is left."""
        return not self._has(1)

    def _has(self, size: int) -> bool:
        """Tell whether `size` bytes are left, having read them."""
        while len(self._buffer) - self._at < size:
            try:
                piece = self._stream.read(_PIECE)
            except zstandard.ZstdError:
                raise BackupFileError("the file is damaged: it cannot be decompressed") from None
            if not piece:
                return False
            self._buffer = self._buffer[self._at :] + piece
            self._at = 0
        return True


def count_documents(raw: bytes) -> int:
    """Count the encoded documents in `raw`, one after the other; raises `BackupFileError`."""
    at = count = 0
    while at < len(raw):
        at += _size_at(raw, at)
        count += 1
    return count


def _size_at(raw: bytes, at: int) -> int:
    size: int = _LENGTH.unpack_from(raw, at)[0]
    if not _SMALLEST <= size <= _LARGEST:
        raise BackupFileError("the file is damaged: a document has an impossible size")
    return size


def _decoded(document: bytes) -> dict[str, Any]:
    try:
        return bson.decode(document, _OPTIONS)
    except BSONError:
        raise BackupFileError("the file is damaged: a document cannot be read") from None


def _unknown(lead: bytes) -> str:
    name = lead[_SKIPPABLE.size :]
    version = name.removeprefix(_NAME).strip()
    if name.startswith(_NAME) and version.isdigit() and int(version) > VERSION:
        return (
            f"the backup has format {int(version)}, and this version of Weir reads formats up to {VERSION}: "
            "restore it with the version that made it, or a newer one"
        )
    return "the file is no backup of Weir"
