"""Paths written a little differently."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.server.client_paths import corrected_path
from tests.support.growth import assert_grows_linearly

SLIPS = ["/v1{}", "//v1{}", "/v1/{}", "/v1//{}", "/v1/v1{}", "/v1//v1{}", "/v1/v1/v1{}", "{}", "/{}"]
SLIPS += ["/v1{}/", "/v1{}//", "/V1{}", "/v1{} ", "/v1{}/\t"]
SLIPS += ["/openai/v1{}", "/anthropic/v1{}", "/anthropic{}", "/v1/openai{}"]
ENDPOINTS = ["/chat/completions", "/messages", "/messages/count_tokens", "/models"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("written", SLIPS)
def test_an_endpoint_is_found_by_a_path_with_a_slip(endpoint: str, written: str) -> None:
    assert corrected_path(written.format(endpoint)) == f"/v1{endpoint}"
    assert corrected_path(written.format(endpoint.replace("/", "//"))) == f"/v1{endpoint}"
    assert corrected_path(written.format(endpoint.upper())) == f"/v1{endpoint}"


@pytest.mark.parametrize("endpoint", ENDPOINTS[:3])
@pytest.mark.parametrize("written", ["/v1{0}{0}", "/v1{0}/v1{0}", "{0}{0}", "/v1{0}//V1{0}/"])
def test_a_base_url_may_be_the_endpoints_own(endpoint: str, written: str) -> None:
    assert corrected_path(written.format(endpoint)) == f"/v1{endpoint}"


@pytest.mark.parametrize("endpoint", ENDPOINTS[:3])
def test_a_parameter_of_a_path_is_overlooked(endpoint: str) -> None:
    assert corrected_path(f"/v1{endpoint};jsessionid=1") == f"/v1{endpoint}"


@pytest.mark.parametrize(
    ("written", "corrected"),
    [
        ("/v1/models/Vendor/Model;1", "/v1/models/Vendor/Model;1"),
        ("//Models//Vendor/Model/", "/v1/models/Vendor/Model"),
        ("/v1/models/v1/models", "/v1/models/v1/models"),
        ("/v1/models/models", "/v1/models/models"),
        ("/v1/messages/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/v1//responses", "/v1/responses"),
        ("/V1/Realtime/", "/v1/Realtime"),
        ("/v1/", "/v1"),
        ("//v1", "/v1"),
        ("/messages/batches", "/v1/messages/batches"),
    ],
)
def test_what_is_under_the_api_becomes_plain(written: str, corrected: str) -> None:
    assert corrected_path(written) == corrected


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "//",
        "/health",
        "//admin//log/",
        "/v10/models",
        "/api/v1/models",
        "/x/chat/completions",
        "/openai",
        "/openai/x",
        "*",
        ";",
    ],
)
def test_other_paths_are_left_alone(path: str) -> None:
    assert corrected_path(path) == path


@given(st.text("/v1;VmMoOdDeElLsS \t.", max_size=40))
def test_correcting_twice_changes_nothing(path: str) -> None:
    once = corrected_path(path)
    assert corrected_path(once) == once


@pytest.mark.parametrize("part", ["/", "/v1", ";", " ", "/models", "/messages", "/openai", "a"])
def test_correcting_is_quick(part: str) -> None:
    assert_grows_linearly(lambda size: corrected_path(part * size + "\n"), 50_000)
