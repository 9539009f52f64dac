"""What is known of something the upstream keeps under an id."""

from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from app.records.records import NOT_ATTRIBUTED, Attribution

KEPT_AT_LEAST: Final = timedelta(days=30)
"""How long an id is known at least: vendors keep what has one as long."""

MAX_PARTS: Final = 512
"""How many ids of parts are remembered with an object: items of a response, the container it ran in."""


class UpstreamObject(msgspec.Struct, frozen=True):
    """A response, conversation, batch or the like, which only the key that made it can see.

    `key` is that key, by the id under which the pool's states are stored; `user_id`, `user_key_id` and
    `request_id` say whose request made it; `model` is the canonical id, `parts` are ids that came with it and
    belong to the same key. `is_background`: it goes on after the request that made it, which was not charged
    for it; `estimate_nano` is what it may cost, and `until` when it will have ended or never will.
    `is_settled`: its cost is known and charged to somebody. `attribution` is what the request that made it
    said of itself.
    """

    object_id: str
    key: str
    user_id: str
    user_key_id: str
    request_id: str
    endpoint: str
    api_format: str
    created_at: datetime
    model: str | None = None
    parts: tuple[str, ...] = ()
    is_background: bool = False
    is_settled: bool = False
    estimate_nano: int = 0
    until: datetime | None = None
    attribution: Attribution = NOT_ATTRIBUTED

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids by which it is found."""
        return (self.object_id, *self.parts)

    def to_document(self) -> dict[str, Any]:
        """Return what is stored when it is first heard of, but for `ids`, which may grow."""
        document: dict[str, Any] = {
            "upstreamKey": self.key,
            "userId": self.user_id,
            "userKeyId": self.user_key_id,
            "requestId": self.request_id,
            "endpoint": self.endpoint,
            "apiFormat": self.api_format,
            "model": self.model,
            "createdAt": self.created_at,
            **self.attribution.to_document(),
        }
        if self.is_background:
            document["isBackground"] = True
        return document

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "UpstreamObject":
        """Read a stored one; raises KeyError or TypeError for what is none."""
        object_id = document["_id"]
        return cls(
            object_id=object_id,
            key=document["upstreamKey"],
            user_id=document["userId"],
            user_key_id=document["userKeyId"],
            request_id=document["requestId"],
            endpoint=document["endpoint"],
            api_format=document["apiFormat"],
            created_at=document["createdAt"],
            model=document.get("model"),
            parts=tuple(found for found in document.get("ids", ()) if found != object_id),
            is_background=document.get("isBackground", False),
            is_settled="settledBy" in document,
            estimate_nano=int(document.get("estimateNanoUsd", 0)),
            until=document.get("until"),
            attribution=Attribution.from_document(document),
        )
