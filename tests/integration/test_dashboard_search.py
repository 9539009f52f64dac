"""What the palette finds over a real database, and where it leads."""

from unittest.mock import ANY

import pytest

from app.admin import Page
from app.admin.request_pages import request_pages
from app.admin.resources import resource_pages
from app.api.admin.request_logs import export_response
from app.keys.key_pool import SharedKeyPool
from app.management.administration import build_administration
from app.management.audit import Actor
from app.management.users import NewUser
from app.pricing.model_table import ModelTable
from app.records.request_logs import RequestLogStore
from app.settings import Settings
from app.store.connection import ensure_indexes
from app.store.key_cipher import KeyCipher
from app.store.paging import beginning_with
from tests.support.dashboard import NOON, DashboardWorld, SetClock

ID = "01a2089d-519d-732b-9e73-471bca6dc54d"


@pytest.fixture
def world(database, tmp_path):
    made = DashboardWorld(database)
    settings = Settings(data_dir=tmp_path)
    administration = build_administration(settings, database, KeyCipher("a secret of the tests"))
    logs = RequestLogStore(database)
    _, made.key = administration.users.add(Actor("ann", "cli"), NewUser("acme-corp"))
    administration.users.add(Actor("ann", "cli"), NewUser("Acme2"))
    administration.client_keys.change(Actor("ann", "cli"), made.key.key_id, {"keyName": "Production backend"})
    made.keys = SharedKeyPool(["sk-upstream-first-0123456789"]).snapshot()
    database.request_logs.insert_many(
        [
            {"_id": ID, "createdAt": NOON, "outcome": "ok", "userId": "acme-corp", "costNanoUsd": 5},
            {"_id": ID[:-1] + "e", "createdAt": NOON, "outcome": "rejected"},
        ]
    )
    requests = request_pages(logs, ModelTable(()), export_response, SetClock(), NOON.tzinfo)
    made.more_pages = [
        Page("Requests", "Requests", "requests.table", requests),
        *resource_pages(administration, made.customers(administration), made.upstream),
    ]
    return made


def found(world, text: str) -> list[tuple[str, str, str]]:
    answer = world.admin().get("/search", query_string={"find": text}, headers={"Accept": "application/json"})
    return [(hit["kind"], hit["title"], hit["url"]) for hit in answer.json["hits"]]


def test_a_page_that_is_not_there_leads_to_finding(world) -> None:
    answer = world.admin().get("/customers/nobody")
    assert answer.status_code == 404
    assert '<a class="button" href="/admin/search">Find a user' in answer.text


def test_an_id_a_key_and_a_name_are_found_by_their_beginning(world) -> None:
    assert found(world, ID) == [("request", ID, f"/admin/requests/{ID}")]
    assert [title for _, title, _ in found(world, ID[:13].upper())] == [ID[:-1] + "e", ID]
    assert found(world, ID[:5]) == []
    key = [("client key", f"Production backend ({world.key.hint})", f"/admin/keys/{world.key.key_id}")]
    for text in (
        world.key.key_id,
        world.key.key_id[:12],
        world.key.hint,
        world.key.secret[-4:],
        "production",
    ):
        assert [hit for hit in found(world, text) if hit[0] == "client key"] == key, text
    assert found(world, "acme") == [
        ("user", "Acme2", "/admin/customers/Acme2"),
        ("user", "acme-corp", "/admin/customers/acme-corp"),
    ]
    assert found(world, "GPT-d") == [("model", "gpt-dear", "/admin/requests?model=gpt-dear")]
    assert found(world, "env-") == [("upstream key", "env-1", ANY)]
    assert found(world, "client k") == [("page", "Client keys", "/admin/keys")]


def test_a_sentence_leads_to_a_form_for_each_user_it_may_mean(world) -> None:
    credit, other = found(world, "give credit acme 25.5 for tea")
    assert credit == ("action", "Give 25.5 USD to Acme2", ANY)
    assert other[2] == "/admin/customers/acme-corp?amount=25.5&reason=tea#credit"
    page = world.admin().get("/customers/acme-corp?amount=25.5&reason=tea").text
    assert 'value="25.5"' in page
    assert 'value="tea"' in page
    assert world.database.credit_ledger.count_documents({"reason": "tea"}) == 0
    (taken,) = found(world, "take 5 from acme-corp")
    assert taken[1:] == ("Take 5 USD from acme-corp", "/admin/customers/acme-corp?amount=5&debit=1#debit")
    page = world.admin().get("/customers/acme-corp?amount=5&debit=1").text
    assert page.count('value="5"') == 1
    assert page.index('id="debit"') < page.index('value="5"'), "it is in the form that takes, not that gives"
    assert found(world, "new key for acme-corp") == [
        ("action", "New key for acme-corp", "/admin/customers/acme-corp#new-key")
    ]
    assert found(world, "new user bob") == [
        ("action", "New user bob", "/admin/customers?username=bob#new-user")
    ]
    assert found(world, "go to client keys") == [("page", "Client keys", "/admin/keys")]


def test_the_page_finds_the_same_and_escapes_it(world) -> None:
    page = world.admin().get("/search?find=acme-corp").text
    assert 'href="/admin/customers/acme-corp"' in page
    assert "<b>x" not in world.admin().get("/search?find=<b>x").text
    assert "give credit acme 25" in world.admin().get("/search").text


@pytest.mark.parametrize("text", ["\x00", "a" * 5000, "$where", '{"$gt": ""}', "..", "%", "\U0010ffff"])
def test_odd_texts_find_nothing_and_break_nothing(world, text) -> None:
    assert world.admin().get("/search", query_string={"find": text}).status_code == 200


def test_a_search_is_answered_by_indexes(world) -> None:
    database = world.database
    ensure_indexes(database, 0)
    for collection, field, text in (
        ("usersNew", "_id", "acme"),
        ("user_keys", "_id", "wk_"),
        ("user_keys", "keyName", "prod"),
        ("request_logs", "_id", ID[:8]),
    ):
        plan = database[collection].find({"$or": beginning_with(field, text)}).explain()
        assert "COLLSCAN" not in str(plan["queryPlanner"]["winningPlan"]), field
    plan = database.user_keys.find({"hint": {"$in": ["a", "b"]}}).explain()
    assert "COLLSCAN" not in str(plan["queryPlanner"]["winningPlan"])
