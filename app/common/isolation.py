"""Finding the items of a batch that are refused, without giving up the others."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def isolate(
    pieces: deque[Sequence[T]],
    apply: Callable[[Sequence[T]], None],
    is_refusal: Callable[[Exception], bool],
    set_aside: Callable[[T, Exception], None],
) -> None:
    """Apply each piece, in order; `pieces` is empty afterwards.

    One that raises what `is_refusal` takes for the fault of an item is cut in half and the halves are applied
    instead, until the item is alone: then it goes to `set_aside` with the error. So one bad item of n costs
    about 2 log2(n) further calls. Anything else that `apply` or `set_aside` raises ends this; `pieces` then
    holds what has not been applied, and a further call goes on from there.
    """
    while pieces:
        piece = pieces[0]
        try:
            apply(piece)
        except Exception as error:
            if not is_refusal(error):
                raise
            if len(piece) > 1:
                middle = len(piece) // 2
                pieces.popleft()
                pieces.extendleft((piece[middle:], piece[:middle]))
                continue
            set_aside(piece[0], error)
        pieces.popleft()
