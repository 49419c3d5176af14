"""Links of other sites, such as Grafana, lead to a page through ``/go``, which says nothing and goes on by itself."""

from __future__ import annotations

from urllib.parse import quote

import pytest

ELSEWHERE = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
PLACE = "/tasks?where=submitted_at_ns%20%3E%3D%201700000000000000000&where=name%20contains%20f"


def test_a_link_of_another_site_arrives_without_data_and_goes_on(stranger):
    answer = stranger.get(f"/go?next={quote(PLACE, safe='')}", headers=ELSEWHERE)
    assert answer.status_code == 200
    assert f"url={PLACE.replace('&', '&amp;')}" in answer.text
    assert "set-cookie" not in answer.headers


def test_what_it_leads_to_still_needs_the_token(stranger, client):
    assert stranger.get(PLACE, headers=ELSEWHERE).status_code == 403
    assert client.get(PLACE).status_code == 200
    del stranger.headers["authorization"]
    assert stranger.get(PLACE).status_code == 401


@pytest.mark.parametrize(
    "place", ["//evil.test/", "https://evil.test/", "/\\evil.test", "javascript:alert(1)", '/"><script>', "/a\nb", ""]
)
def test_it_leads_nowhere_else(stranger, place):
    answer = stranger.get(f"/go?next={quote(place, safe='')}", headers=ELSEWHERE)
    assert 'content="0;url=/"' in answer.text
    assert "evil" not in answer.text and "script" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
        {"origin": "http://evil.test"},
    ],
)
def test_only_a_person_who_clicks_arrives(stranger, headers):
    assert stranger.get("/go?next=%2F", headers=headers).status_code == 403
