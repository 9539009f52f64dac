"""What end-to-end tests stand on: processes that die with the tests, a raw HTTP client, request builders."""
