"""A proxy that has served real requests of several users, for those who look at its dashboard."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import requests

from simulator.launcher import PATIENCE_S, wait_until
from tests.support.upstream_process import UpstreamProcess
from tests.support.users import User, add_user
from tests.support.weir_process import WeirProcess

KEYS = ("sk-upstream-first-0123456789", "sk-upstream-second-012345678", "sk-upstream-third-0123456789")
CHAT_MODEL, MESSAGES_MODEL = "gpt-5", "claude-sonnet-4-5"

ZONES = (ZoneInfo("Asia/Ho_Chi_Minh"), ZoneInfo("America/Bogota"))
"""Half a day apart, and neither changes its clocks: in one of them midnight is far."""

_FAR = timedelta(hours=3)


def zone_of_one_day(now: datetime) -> ZoneInfo:
    """The first of `ZONES` whose day goes on for hours: what is of yesterday or this month stays so."""
    first, other = ZONES
    return first if (now + _FAR).astimezone(first).date() == now.astimezone(first).date() else other


class Site:
    """The proxy, the upstream, two users, and what they have sent so far."""

    def __init__(self, directory: Path, upstream: UpstreamProcess) -> None:
        self.upstream = upstream
        self.zone = zone_of_one_day(datetime.now(UTC))
        self.weir = WeirProcess(
            directory,
            upstream.url,
            OHMYGPT_API_KEYS=",".join(KEYS),
            MODELS_FILE="models.toml",
            STATS_TIMEZONE=self.zone.key,
            ABORT_DRAIN_S="1",  # what is broken off is over soon after
        )
        self.ids: list[str] = []
        self.users: list[User] = []

    def prepare(self) -> None:
        """Users, and requests of every kind: good ones, a retried, a refused, a failed and a cut one."""
        self.users = [add_user(self.weir, credits="5"), add_user(self.weir, credits="0.5")]
        first, second = self.users
        self.upstream.behave(CHAT_MODEL, "prompt=1200,cached=1000,out=240,chunks=8,delay_ms=4", times=6)
        for number in range(6):
            self.chat(first, stream=number % 2 == 0)
        self.upstream.behave(MESSAGES_MODEL, "prompt=1800,cached=1400,write=300,out=180,chunks=8", times=4)
        for number in range(4):
            self.messages(second, stream=number % 2 == 0)
        self.upstream.key(KEYS[0], "exhausted")
        for _ in range(3):
            self.chat(first)
        self.upstream.behave(CHAT_MODEL, "fault=cut,chunks=8,after=4", times=1)
        self.chat(first, stream=True)
        self.chat(second, model="no-such-model")
        self.upstream.behave(MESSAGES_MODEL, "fault=400", times=1)
        self.messages(second)
        self.settle()

    def chat(self, user: User, *, stream: bool = False, **members: Any) -> str:
        """A request in OpenAI's format, read to its end whatever comes; its id."""
        body = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        return self._send("/v1/chat/completions", user, body | members)

    @contextmanager
    def streaming(self, user: User) -> Iterator[str]:
        """A streamed request under way: its id. It is broken off at the end."""
        body = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}
        headers = {"Authorization": f"Bearer {user.key}", "Content-Type": "application/json"}
        url = f"{self.weir.url}/v1/chat/completions"
        with requests.post(url, data=json.dumps(body), headers=headers, timeout=60, stream=True) as answer:
            self.ids.append(answer.headers["x-request-id"])
            yield self.ids[-1]

    def messages(self, user: User, *, stream: bool = False) -> str:
        """A request in Anthropic's format; its id."""
        body = {"model": MESSAGES_MODEL, "max_tokens": 500, "messages": [{"role": "user", "content": "hi"}]}
        return self._send("/v1/messages", user, body | ({"stream": True} if stream else {}))

    def settle(self) -> None:
        """Wait until all of them are booked."""
        logs = self.weir.database["request_logs"]
        wait_until(lambda: logs.count_documents({"_id": {"$in": self.ids}}) == len(self.ids), what="records")
        sums = self.weir.database["request_rollups"]

        def are_summed() -> bool:
            return sum(document.get("requests", 0) for document in sums.find()) >= len(self.ids)

        wait_until(are_summed, what="hourly sums")

    @property
    def token(self) -> str:
        """The admin token."""
        return self.weir.admin_token

    def api(self, path: str, **query: str) -> Any:
        """What the admin API says."""
        answer = requests.get(
            f"{self.weir.url}/api/admin/{path}",
            params=query,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=PATIENCE_S,
        )
        answer.raise_for_status()
        return answer.json()

    def _send(self, path: str, user: User, body: dict[str, Any]) -> str:
        headers = {"Authorization": f"Bearer {user.key}", "Content-Type": "application/json"}
        answer = requests.post(
            self.weir.url + path, data=json.dumps(body), headers=headers, timeout=PATIENCE_S, stream=True
        )
        try:
            _ = answer.content
        except requests.exceptions.ChunkedEncodingError:
            pass  # the upstream's answer was cut, and so is ours
        finally:
            answer.close()
        self.ids.append(answer.headers["x-request-id"])
        return self.ids[-1]
