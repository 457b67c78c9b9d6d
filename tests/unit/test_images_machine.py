"""What of this machine's settings reaches the stages of a build that install."""

from pathlib import Path

from tools.images.machine import ca_bundle, pip_conf, pip_settings, proxies


def test_folders_and_files_of_the_machine_stay_out() -> None:
    listing = (
        "global.cert='/etc/ssl/own.crt'\nglobal.index-url='https://index.example/simple'\n"
        "global.timeout='15'\n:env:.find-links='/opt/wheels'\n:env:.default-timeout='180'\n"
        "global.trusted-host='a.example\\nb.example'\n"
    )
    assert pip_settings(listing) == {
        "index-url": "https://index.example/simple",
        "timeout": "180",
        "trusted-host": "a.example\n    b.example",
    }


def test_the_file_names_the_certificates_only_where_there_are_some() -> None:
    assert pip_conf({}, bundle=None) == "[global]\n"
    assert pip_conf({"retries": "9"}, bundle="/build/ca.crt") == "[global]\ncert = /build/ca.crt\nretries = 9\n"


def test_the_named_bundle_wins_if_it_is_there(tmp_path: Path) -> None:
    bundle = tmp_path / "own.crt"
    bundle.write_text("x")
    assert ca_bundle({"SSL_CERT_FILE": str(bundle)}) == bundle
    assert ca_bundle({"PIP_CERT": str(tmp_path / "gone"), "SSL_CERT_FILE": str(bundle)}) == bundle


def test_proxies_are_passed_in_both_spellings() -> None:
    environ = {"http_proxy": "a", "NO_PROXY": "b", "HTTPS_PROXY": "", "PROXY_SECRET": "c"}
    assert proxies(environ) == {"http_proxy": "a", "NO_PROXY": "b"}
