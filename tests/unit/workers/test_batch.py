import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.batch import BatchBuffer


def test_an_empty_buffer_is_never_due():
    buffer: BatchBuffer[int] = BatchBuffer(2, 1.0)

    assert not buffer.is_ready(1e9)
    assert buffer.next_deadline(0.0) is None
    assert buffer.first_at is None
    assert buffer.drain() == []
    assert (len(buffer), buffer.room) == (0, 2)


def test_due_by_size():
    buffer: BatchBuffer[int] = BatchBuffer(2, 1.0)
    buffer.append(1, 0.0)
    assert not buffer.is_ready(0.5)
    buffer.append(2, 0.5)
    assert buffer.is_ready(0.5)
    assert buffer.next_deadline(0.5) == 0.0
    assert buffer.room == 0


def test_due_by_the_age_of_the_first():
    buffer: BatchBuffer[int] = BatchBuffer(10, 1.0)
    buffer.append(1, 5.0)
    buffer.append(2, 5.9)

    assert buffer.next_deadline(5.25) == 0.75
    assert not buffer.is_ready(5.9)
    assert buffer.is_ready(6.0)
    assert repr(buffer) == "BatchBuffer(2/10)"


def test_more_than_fits_is_kept():
    buffer: BatchBuffer[int] = BatchBuffer(1, 1.0)
    buffer.append(1, 0.0)
    buffer.append(2, 0.0)
    assert buffer.room == 0
    assert buffer.drain() == [1, 2]
    assert not buffer.is_ready(9.0)


def test_a_batch_of_nothing_makes_no_sense():
    with pytest.raises(ValueError, match="at least one"):
        BatchBuffer(0, 1.0)


@given(st.lists(st.floats(0, 10), min_size=1), st.floats(0, 20), st.integers(1, 5))
def test_the_deadline_and_readiness_agree(moments, now, size):
    buffer: BatchBuffer[float] = BatchBuffer(size, 1.0)
    for moment in sorted(moments):
        buffer.append(moment, moment)
    deadline = buffer.next_deadline(now)
    assert deadline is not None
    assert (deadline == 0.0) == buffer.is_ready(now) or deadline > 0.0
    assert buffer.drain() == sorted(moments)
