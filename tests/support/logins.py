"""Guards of logins, without threads and databases."""

from collections.abc import Callable
from typing import Any


class Inline:
    """Derives passwords where it is asked to; `queued` is how many are said to wait."""

    def __init__(self) -> None:
        self.queued = 0

    def __len__(self) -> int:
        return self.queued

    def apply(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return function(*args)


class PlainGuard:
    """Knows one token, and asks `verify` about passwords; limits nothing."""

    def __init__(self, token: str, verify: Callable[[str, str], str | None] = lambda *_: None) -> None:
        self._token = token.encode()
        self._verify = verify

    def is_token(self, given: bytes) -> bool:
        return bool(self._token) and given == self._token

    def check_token(self, given: bytes, address: str | None) -> bool:
        return bool(self._token) and given == self._token

    def check_password(self, name: str, password: str, address: str | None) -> str | None:
        return self._verify(name, password)

    def count_unknown_key(self, address: str | None) -> None:
        pass
