"""Columns of the page of requests."""

from app.admin.request_views import DEFAULT_COLUMNS, chosen_columns


def test_columns_keep_their_order_and_are_known_ones():
    assert chosen_columns(["model", "cost", "<b>"]) == ["cost", "model"]
    assert chosen_columns([]) == chosen_columns(["no"]) == list(DEFAULT_COLUMNS)
