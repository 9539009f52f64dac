"""The file format of backups: what is written comes back, and whatever was changed is refused."""

import io
import subprocess
from datetime import UTC, datetime
from shutil import which
from typing import Any

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.backup import format as backup_format
from app.backup.format import BackupFileError, BackupReader, BackupWriter

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
VALUES = st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(max_size=50), st.none(), st.binary(max_size=200))
DOCUMENTS = st.fixed_dictionaries({"_id": VALUES}, optional={"a": VALUES, "b": st.lists(VALUES, max_size=4)})
SECTIONS = st.lists(st.tuples(NAMES, st.lists(DOCUMENTS, max_size=8)), max_size=5)


def written(sections: list[tuple[str, list[dict[str, Any]]]], header: dict[str, Any] | None = None) -> bytes:
    sink = io.BytesIO()
    writer = BackupWriter(sink.write)
    writer.begin(header or {"database": "fproxy"})
    for name, documents in sections:
        writer.begin_section(name, {"capped": False}, [{"name": "a_1", "key": {"a": 1}}])
        writer.documents(b"".join(bson.encode(document) for document in documents))
        writer.end_section()
    writer.finish(AT)
    assert writer.size == len(sink.getvalue())
    return sink.getvalue()


def read(content: bytes) -> tuple[dict[str, Any], list[tuple[str, list[dict[str, Any]]]]]:
    reader = BackupReader(io.BytesIO(content))
    verified = reader.verify()
    header, sections = reader.open()
    found = [
        (section.collection, [bson.decode(one) for batch in section.batches for one in batch])
        for section in sections
    ]
    assert header == verified
    assert reader.finished_at == AT
    return dict(header), found


SMALL = written([("users", [{"_id": "ann", "credits": 1.5}]), ("logs", [{"_id": n} for n in range(50)])])


@given(SECTIONS)
@settings(max_examples=60, deadline=None)
def test_what_is_written_comes_back(sections):
    assert read(written(sections, {"database": "x", "startedAt": AT})) == (
        {"database": "x", "startedAt": AT},
        sections,
    )


@given(st.integers(0, len(SMALL) - 1))
@settings(max_examples=100, deadline=None)
def test_a_file_cut_off_anywhere_is_refused(length):
    with pytest.raises(BackupFileError):
        read(SMALL[:length])


@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_a_byte_changed_anywhere_is_refused(position, change):
    changed = bytearray(SMALL)
    changed[position] ^= change
    with pytest.raises(BackupFileError):
        read(bytes(changed))


@given(st.binary(min_size=1, max_size=100))
@settings(max_examples=50, deadline=None)
def test_a_file_with_something_behind_its_end_is_refused(tail):
    with pytest.raises(BackupFileError):
        read(SMALL + tail)
    with pytest.raises(BackupFileError):
        read(SMALL + SMALL)


@given(st.binary(max_size=300))
@settings(max_examples=50, deadline=None)
def test_any_other_file_is_refused_as_no_backup(content):
    with pytest.raises(BackupFileError, match="no backup of Weir"):
        read(content)


def test_a_newer_format_is_refused_with_what_to_do():
    with pytest.raises(
        BackupFileError, match=r"format 2, .* reads formats up to 1: restore it with the version"
    ):
        read(SMALL.replace(b"weir backup 1\n", b"weir backup 2\n"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bson.encode({"database": "x"}),
        bson.encode({"database": "x"}) + bson.encode({"collection": "a"}),
        bson.encode({"database": "x"})
        + bson.encode({"collection": "a"})
        + bson.encode({"documents": {"a": 0}}),
        bson.encode({"database": "x"}) + bson.encode({"documents": {"a": 1}}),
        bson.encode({"database": "x"}) + bson.encode({"documents": {}}) + b"\0",
        bson.encode({"database": "x"}) + b"\xff\xff\xff\x7f" + bytes(100),
        bson.encode({"database": "x"}) + b"\x04\0\0\0" + bytes(100),
        bson.encode({"database": "x"}) + b"\x08\0\0\0\xff\xff\xff\0",
    ],
    ids=["empty", "no-end", "open-section", "open-section-2", "counts", "behind", "huge", "tiny", "garbage"],
)
def test_a_file_with_a_true_checksum_and_a_wrong_content_is_refused(content):
    sink = io.BytesIO()
    writer = BackupWriter(sink.write)
    writer._emit(backup_format._LEAD)
    writer._compress(content)
    writer._emit(writer._compressor.flush())
    writer._emit(backup_format._FOOT + writer._digest.digest())
    with pytest.raises(BackupFileError, match="damaged"):
        read(sink.getvalue())


def test_documents_larger_than_a_batch_and_many_small_ones_pass_in_batches():
    large = [{"_id": n, "text": "x" * 3_000_000} for n in range(3)]
    many = [{"_id": n} for n in range(2500)]
    content = written([("large", large), ("many", many)])
    assert read(content)[1] == [("large", large), ("many", many)]
    reader = BackupReader(io.BytesIO(content))
    reader.verify()
    sizes = [[len(batch) for batch in section.batches] for section in reader.open()[1]]
    assert sizes == [[2, 1], [1000, 1000, 500]]


def test_the_tools_of_zstandard_read_the_documents(tmp_path):
    tool = which("zstd")
    if tool is None:
        pytest.skip("zstd is not installed")
    path = tmp_path / "x"
    path.write_bytes(SMALL)
    content = subprocess.run([tool, "-dcq", path], check=True, capture_output=True).stdout
    assert bson.decode_all(content)[0] == {"database": "fproxy"}
