"""Logins of admin users through the real server: passwords are checked in threads, MongoDB is not."""

import base64
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.support.weir_process import WeirProcess


def test_a_flood_of_wrong_logins_leaves_the_worker_well(weir: WeirProcess) -> None:
    url = f"{weir.url}/api/admin/metrics"

    def wrong(number: int) -> requests.Response:
        name = f"nobody-{number % 12}" if number < 48 else "everybody"
        basic = base64.b64encode(f"{name}:x".encode()).decode()
        return requests.get(url, headers={"Authorization": f"Basic {basic}"}, timeout=60)

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(wrong, range(96)))
    assert {answer.status_code for answer in answers[:48]} == {401}
    # A minute may end in between, and begin with five more tries.
    refused = [answer for answer in answers[48:] if answer.status_code == 429]
    assert 38 <= len(refused) <= 43
    assert all(1 <= int(answer.headers["Retry-After"]) <= 60 for answer in refused)
    token = (weir.data_dir / "admin-token").read_text().strip()
    right = requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=60)
    assert right.status_code == 200
