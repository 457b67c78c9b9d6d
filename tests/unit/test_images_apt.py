"""Which repository the stand-ins are made from."""

import pytest

from tools.images.apt import codename, mirror, proxies, settings

DEBIAN = """\
http://vendor.example/apt/|cloud-sdk-bookworm|main|vendor
http://security.example/debian-security/|bookworm-security|main|Debian
http://mirror.example/debian/|bookworm-updates|main|Debian
http://mirror.example/debian/|bookworm|contrib|Debian
http://mirror.example/debian/|bookworm|main|Debian
"""


def test_the_main_component_of_debian_itself_is_taken() -> None:
    assert mirror(DEBIAN, "bookworm") == "http://mirror.example/debian"


def test_before_the_first_update_the_suite_decides() -> None:
    targets = DEBIAN.replace("|Debian", "|")
    assert mirror(targets, "bookworm") == "http://mirror.example/debian"
    assert mirror(targets, "") is None


@pytest.mark.parametrize(
    "targets",
    [
        "",
        "http://archive.example/ubuntu/|noble|main|Ubuntu\n",
        "cdrom://disc/|bookworm|main|Debian\n",
        "warning: nothing\n",
    ],
)
def test_without_debian_there_is_no_mirror(targets: str) -> None:
    assert mirror(targets, "noble") is None


def test_only_harmless_settings_are_kept() -> None:
    dump = (
        'Acquire "";\nAcquire::Check-Valid-Until "false";\nAcquire::Retries "";\n'
        'Acquire::http::Proxy "http://user:secret@proxy.example:3128";\nAcquire::https::Proxy "DIRECT";\n'
    )
    assert settings(dump) == 'Acquire::Check-Valid-Until "false";\n'
    assert proxies(dump) == {"http_proxy": "http://user:secret@proxy.example:3128"}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ID=debian\nVERSION_CODENAME=bookworm\n", "bookworm"),
        ('VERSION_CODENAME="noble"\n', "noble"),
        ("ID=arch\n", ""),
    ],
)
def test_the_code_name_is_read_from_os_release(text: str, name: str) -> None:
    assert codename(text) == name
