"""host:port as people write it."""

import pytest

from obsray.core.protocol.addresses import is_address, is_loopback, join, normal, parse


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:6379", ("127.0.0.1", 6379)),
        ("localhost:0", ("127.0.0.1", 0)),
        ("[::1]:80", ("::1", 80)),
        ("machine.example.com:65535", ("machine.example.com", 65535)),
    ],
)
def test_an_address_is_read_and_written_back(text, found):
    assert parse(text) == found
    assert parse(join(*found)) == found and is_address(text)


@pytest.mark.parametrize("text", ["", "here", ":1", "a:", "a:b", "a:65536", "a:-1", "::1:80", "http://a:1", "a b:1"])
def test_what_is_no_address_is_refused_by_name(text):
    assert not is_address(text)
    with pytest.raises(ValueError, match="control="):
        parse(text, "control")


def test_equal_addresses_have_one_form_and_loopback_is_known():
    assert normal("localhost:1") == normal("127.0.0.1:1")
    assert is_loopback("localhost") and is_loopback("127.9.9.9") and is_loopback("::1")
    assert not is_loopback("0.0.0.0") and not is_loopback("machine") and not is_loopback("10.0.0.1")
