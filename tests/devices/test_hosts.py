"""The hosts a person has named: kept, read back, and nothing in them that ssh or a shell could take for more."""

import pytest

from benchbench.core.errors import DeviceError
from benchbench.devices import hosts
from benchbench.devices.hosts import Host, parse_url
from benchbench.devices.resolve import resolve


def test_hosts_are_read_back_as_they_were_added_and_forgotten_when_removed():
    first = parse_url("ssh://me@orin:2222", name="jetson", python="~/a b/bin/python", folder='/x/"y"\\z')
    hosts.add_host(first)
    hosts.add_host(Host("orin2", "192.168.0.7"))
    assert hosts.load_hosts() == {"jetson": first, "orin2": Host("orin2", "192.168.0.7")}
    hosts.add_host(Host("jetson", "other"))
    assert hosts.load_hosts()["jetson"].address == "other"
    hosts.remove_host("jetson")
    assert list(hosts.load_hosts()) == ["orin2"]
    with pytest.raises(DeviceError, match="did you mean 'orin2'"):
        hosts.remove_host("orin3")


def test_the_file_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("BENCHBENCH_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert hosts.config_path() == tmp_path / "config" / "benchbench" / "hosts.toml"
    assert hosts.load_hosts() == {}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ssh://orin", ("orin", None, None)),
        ("me@orin", ("orin", "me", None)),
        ("ssh://me@[fe80::1%eth0]:22", ("fe80::1%eth0", "me", 22)),
        ("ssh://me@192.168.0.7:2222/", ("192.168.0.7", "me", 2222)),
    ],
)
def test_an_address_in_its_forms(url, expected):
    host = parse_url(url, name="h")
    assert (host.address, host.user, host.port) == expected
    assert parse_url(host.url, name="h") == host


@pytest.mark.parametrize(
    "url",
    [
        "ssh://-oProxyCommand=touch",
        "ssh://-l@orin",
        "ssh://orin;id",
        "ssh://orin id",
        "ssh://$(id)@orin",
        "ssh://me`id`@orin",
        "ssh://orin\n",
        "ssh://orin:port",
        "ssh://orin:70000",
        "ssh://me:secret@orin",
        "ssh://orin/folder",
        "http://orin",
        "ssh://",
        "",
    ],
)
def test_a_hostile_or_wrong_address_is_refused(url):
    with pytest.raises(DeviceError):
        parse_url(url, name="h")


@pytest.mark.parametrize("name", ["cpu", "cuda", "-x", "a b", "", "a;b", "a:b", "../x", "x.toml", "é", "a\n"])
def test_a_name_that_means_something_else_is_refused(name):
    with pytest.raises(DeviceError):
        Host(name, "orin")


@pytest.mark.parametrize("path", ["-c", "", " ", "a\nb", "a\0b"])
def test_a_path_that_would_be_an_option_or_two_lines_is_refused(path):
    with pytest.raises(DeviceError):
        Host("h", "orin", python=path)
    with pytest.raises(DeviceError):
        Host("h", "orin", folder=path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[jetson", "not valid TOML"),
        ("[jetson]\nuser = 'me'", "needs an address"),
        ("jetson = 3", "needs an address"),
        ("[jetson]\naddress = 'orin'\nprot = 3", "did you mean 'port'"),
        ("[jetson]\naddress = 3", "must be text"),
        ("[jetson]\naddress = '-x'", "is no address"),
        ("[jetson]\naddress = 'orin'\nport = 'x'", "is no port"),
        ("[cpu]\naddress = 'orin'", "cannot be called"),
    ],
)
def test_a_broken_file_is_one_line(text, message):
    hosts.config_path().write_text(text)
    with pytest.raises(DeviceError, match=message):
        hosts.load_hosts()


def test_a_configured_host_comes_before_a_prediction_and_before_profiles(tmp_path):
    assert resolve("jetson", root=tmp_path).profile
    hosts.add_host(Host("jetson", "orin"))
    hosts.add_host(Host("rtx-4090", "box"))
    for name, address in (("jetson", "orin"), ("rtx-4090", "box")):
        target = resolve(name, root=tmp_path, require_measured=True)
        assert target.host == Host(name, address)
        assert target.measured
        assert target.device.asked == name
    assert resolve("cpu", root=tmp_path).host is None
    with pytest.raises(DeviceError, match="did you mean"):
        resolve("jetsno", root=tmp_path)
