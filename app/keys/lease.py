"""An upstream key, lent to a request."""

from datetime import datetime

import msgspec

from app.upstream.transport import ProviderKey


class OnlyKey(msgspec.Struct, frozen=True, gc=False):
    """The one key that a request may go to, by the id under which its state is stored.

    `is_free`: nothing is generated, so that a key may serve that is out of money or at a limit.
    """

    store_id: str
    is_free: bool = False


class Lease(msgspec.Struct, frozen=True, eq=False):
    """An upstream key lent to one attempt of a client, for a model, from `sent_at` until it is released.

    `client` is whose request it is, by the user's id: evidence against a key counts by account, so that
    several client keys of one user confirm nothing. `is_probe` says that the key was exhausted and this is
    the trial whether it still is.
    """

    key: ProviderKey
    sent_at: datetime
    is_probe: bool = False
    client: str = ""
    model: str = ""
