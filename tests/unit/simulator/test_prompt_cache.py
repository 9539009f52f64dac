"""The simulator's cache of prompts: what each key has seen, and for how long."""

from typing import Any

from simulator.prompt_cache import PromptCache


class Now:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def said(*texts: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts], **more}


LONG = "a" * 8000


def test_each_key_knows_the_beginnings_it_has_seen() -> None:
    cache = PromptCache()
    assert cache.read("k1", "m", said(LONG), 300) == (2007, 0)
    assert cache.read("k2", "m", said(LONG), 300) == (2007, 0)
    tokens, cached = cache.read("k1", "m", said(LONG, "and more"), 300)
    assert (tokens > 2007, cached) == (True, 1920)
    assert cache.read("k1", "other", said(LONG), 300)[1] == 0
    assert cache.read("k1", "m", said(LONG, tools=[1]), 300)[1] == 0
    assert cache.read("k1", "m", said("a" * 3000), 300)[1] == 0, "too short a beginning"


def test_what_is_read_lives_on_and_what_is_not_is_forgotten() -> None:
    now = Now()
    cache = PromptCache(now)
    for _ in range(3):
        cache.read("k1", "m", said(LONG), 300)
        now.s += 200
    assert cache.read("k1", "m", said(LONG), 300)[1] == 1920
    now.s += 301
    assert cache.read("k1", "m", said(LONG), 300)[1] == 0


def test_marks_are_no_part_of_a_prompt() -> None:
    cache = PromptCache()
    part = {"type": "text", "text": LONG}
    for mark in ({"cache_control": {"type": "ephemeral"}}, {}):
        found = cache.read("k1", "m", {"messages": [{"role": "user", "content": [{**part, **mark}]}]}, 300)
    assert found[1] == 1920


TOLD = "cache=300,out=7"


def told(usage: dict[str, Any]) -> tuple[int, int]:
    """How much was read from the cache, and how much written to it."""
    if "input_tokens" in usage:
        return usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
    details = usage["prompt_tokens_details"]
    return details["cached_tokens"], details["cache_write_tokens"]


def test_chats_tell_what_was_cached(client: Any) -> None:
    for key, cached in (("k1", 0), ("k1", 1920), ("k2", 0)):
        headers = {"Authorization": f"Bearer {key}"}
        asked = {"model": f"gpt-sim:{TOLD}", **said(LONG)}
        usage = client.post("/v1/chat/completions", asked, headers=headers).json["usage"]
        assert (usage["prompt_tokens"], told(usage)) == (2007, (cached, 0))


def test_messages_tell_what_was_cached_where_it_was_asked_for(client: Any) -> None:
    part = {"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}
    marked = {"messages": [{"role": "user", "content": [part]}]}
    for asked, wanted in (
        (said(LONG), (0, 0)),
        (marked, (0, 2013)),
        (marked, (1920, 93)),
        (said("hi"), (0, 0)),
    ):
        assert told(client.message(f"claude-sim:{TOLD}", **asked).json["usage"]) == wanted
