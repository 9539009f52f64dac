"""What end-to-end tests stand on: processes that die with the tests, a raw HTTP client, request builders."""

import pytest

# Here, because this runs before any of them is imported: failed assertions in them show their values.
pytest.register_assert_rewrite(
    "tests.support.lab", "tests.support.raw_http", "tests.support.users", "tests.support.weir_process"
)
