"""Logins of admin users through the real server: passwords are checked in threads, MongoDB is not."""

import base64
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.support.weir_process import WeirProcess


def test_a_flood_of_wrong_logins_leaves_the_worker_well(weir: WeirProcess) -> None:
    url = f"{weir.url}/api/admin/metrics"
    wrong = {"Authorization": "Basic " + base64.b64encode(b"nobody:x").decode()}
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: requests.get(url, headers=wrong, timeout=60), range(48)))
    assert {answer.status_code for answer in answers} == {401}
    token = (weir.data_dir / "admin-token").read_text().strip()
    right = requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=60)
    assert right.status_code == 200
