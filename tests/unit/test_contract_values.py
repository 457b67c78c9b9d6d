"""The contract's small values: durations, names, ids, backoff, settings."""

import itertools
import time
import uuid
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren_contract.backoff import Backoff
from warren_contract.durations import DurationError, format_duration, parse_duration
from warren_contract.ids import TaskIdError, check_task_id, new_task_id
from warren_contract.names import QueueNameError, check_queue_name, dead_queue
from warren_contract.settings import BrokerSettings, SettingError, duration, one_of, setting, whole_number


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30), ("25m", 1500), ("1h30m", 5400), ("1.5h", 5400), ("0s", 0)]
)
def test_a_duration_is_read_as_kubernetes_users_write_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1d", "1 s", "1s ", "5m3", "١s", "1e3s", "1s\n"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(DurationError, match="1h30m"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**12))
def test_a_formatted_duration_reads_back_to_the_millisecond(milliseconds: int) -> None:
    text = format_duration(milliseconds / 1000)
    assert parse_duration(text) == pytest.approx(milliseconds / 1000, abs=0.0005)


def test_a_negative_duration_is_not_written() -> None:
    with pytest.raises(DurationError):
        format_duration(-1)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_:-]{0,199}", fullmatch=True))
def test_usable_queue_names_pass(name: str) -> None:
    assert check_queue_name(name) == name
    assert dead_queue(name) == name + ".dead"


@pytest.mark.parametrize(
    "name",
    ["", "a" * 201, "a b", "a/b", "ä", ".a", "-a", "amq.x", "warren.tasks", "x.dead", "a\n", "a#", "a*"],
)
def test_other_queue_names_are_refused(name: str) -> None:
    with pytest.raises(QueueNameError):
        check_queue_name(name)


def test_the_longest_name_leaves_room_for_its_dead_letter_queue() -> None:
    assert len(dead_queue(check_queue_name("q" * 200)).encode()) <= 255


def test_task_ids_are_uuid7_and_sort_by_time() -> None:
    before = time.time_ns() // 1_000_000
    first = new_task_id()
    while time.time_ns() // 1_000_000 == before or time.time_ns() // 1_000_000 == uuid.UUID(first).int >> 80:
        pass
    second = new_task_id()
    for text in (first, second):
        value = uuid.UUID(text)
        assert (value.version, value.variant) == (7, uuid.RFC_4122)
        assert before <= value.int >> 80 <= time.time_ns() // 1_000_000
    assert first < second


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255))
def test_what_is_visible_is_a_task_id(text: str) -> None:
    assert check_task_id(text) == text


@pytest.mark.parametrize("text", ["", "a b", "a\n", "ä", "\x7f", "a" * 256])
def test_other_task_ids_are_refused(text: str) -> None:
    with pytest.raises(TaskIdError, match="write 1 to 255 visible ASCII characters"):
        check_task_id(text)


def test_fresh_task_ids_may_be_given_again() -> None:
    assert check_task_id(new_task_id())


def test_task_ids_do_not_repeat() -> None:
    assert len({new_task_id() for _ in range(10_000)}) == 10_000


@given(
    st.floats(min_value=0.01, max_value=5),
    st.floats(min_value=5, max_value=60),
    st.integers(min_value=0, max_value=2**32),
)
def test_backoff_grows_to_its_cap_and_never_spins(first: float, longest: float, seed: int) -> None:
    delays = list(itertools.islice(Backoff(first=first, longest=longest).delays(Random(seed)), 20))
    ceiling = first
    for delay in delays:
        assert ceiling / 2 <= delay <= ceiling
        ceiling = min(longest, ceiling * 2)


def test_clients_do_not_come_back_in_step() -> None:
    assert next(Backoff().delays(Random(1))) != next(Backoff().delays(Random(2)))


def test_a_setting_is_parsed_or_has_its_default() -> None:
    assert setting({"N": "7"}, "N", whole_number(1, 9), 3) == 7
    assert setting({"N": ""}, "N", whole_number(1, 9), 3) == 3
    assert setting({"D": "1m"}, "D", duration) == 60


@pytest.mark.parametrize(
    ("environ", "parse", "words"),
    [
        ({}, str, "N is not set"),
        ({"N": "0"}, whole_number(1, 9), "N='0' is wrong: write a whole number from 1 to 9"),
        ({"N": "²"}, whole_number(1, 9), "whole number"),
        ({"N": "7" * 5000}, whole_number(1, 9), "N='7{100}…' is wrong: write a whole number from 1 to 9"),
        ({"N": "0s"}, duration, "longer than zero"),
        ({"N": "8785h"}, duration, "at most 8784h, a year"),
        ({"N": "9" * 400 + "h"}, duration, "N='9{100}…' is wrong: write a duration of at most"),
        ({"N": "caf\udce9"}, str, r"N='caf\\udce9' is wrong: it is not UTF-8"),
        ({"N": "x"}, one_of("a", "b"), "write one of a, b"),
    ],
)
def test_a_wrong_setting_is_named_with_the_remedy(environ: dict[str, str], parse: object, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        setting(environ, "N", parse)  # type: ignore[arg-type]  # a list of parsers of several types


def write(folder: Path, **files: str) -> dict[str, str]:
    """Broker settings as a mounted Secret; returns the environment that names it."""
    for name, text in files.items():
        (folder / name.replace("_", "-")).write_text(text)
    return {"WARREN_BROKER_DIR": str(folder)}


def test_broker_settings_come_from_the_mounted_files(tmp_path: Path) -> None:
    environ = write(
        tmp_path, host="mq\n", username="me", password="secret words", vhost="/v", management_url="http://mq:15672/"
    )
    settings = BrokerSettings.load(environ)
    assert (settings.host, settings.port, settings.vhost, settings.username) == ("mq", 5672, "/v", "me")
    assert settings.management_url == "http://mq:15672"
    assert not settings.tls
    assert settings.ca_file is None


def test_a_variable_wins_over_its_file_and_files_are_read_anew(tmp_path: Path) -> None:
    environ = write(tmp_path, host="mq", username="me", password="old")
    assert BrokerSettings.load({**environ, "WARREN_BROKER_HOST": "other"}).host == "other"
    write(tmp_path, password="new")
    assert BrokerSettings.load(environ).password == "new"


def test_tls_changes_the_port_and_takes_the_mounted_authority(tmp_path: Path) -> None:
    environ = write(tmp_path, host="mq", username="me", password="x", tls="true")
    (tmp_path / "ca.crt").write_text("pem")
    settings = BrokerSettings.load(environ)
    assert (settings.port, settings.ca_file) == (5671, tmp_path / "ca.crt")


def test_the_password_shows_nowhere(tmp_path: Path) -> None:
    environ = write(tmp_path, host="mq", username="me", password="hunter2")
    assert "hunter2" not in repr(BrokerSettings.load(environ))


def test_what_is_missing_is_named_with_both_ways_to_give_it(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"host is missing: set WARREN_BROKER_HOST or write it to .*host"):
        BrokerSettings.load({"WARREN_BROKER_DIR": str(tmp_path)})
    with pytest.raises(SettingError, match="WARREN_BROKER_HOST or WARREN_BROKER_DIR"):
        BrokerSettings.load({})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("host", "amqp://mq", "host name or an address alone"),
        ("host", "a..b", "host name or an address alone"),
        ("host", "x" * 64, "host name or an address alone"),
        ("host", "mq\x01", "host name or an address alone"),
        ("vhost", "é" * 128, "at most 255 bytes"),
    ],
)
def test_what_no_broker_can_have_is_refused_at_once(tmp_path: Path, name: str, value: str, words: str) -> None:
    with pytest.raises(SettingError, match=f"{name} is wrong: .*{words}"):
        BrokerSettings.load(write(tmp_path, **{"host": "mq", "username": "me", "password": "x", name: value}))


@pytest.mark.parametrize("host", ["mq", "mq.warren.svc.cluster.local.", "10.0.0.1", "::1", "bücher.example", "my_host"])
def test_hosts_of_all_kinds_are_taken(tmp_path: Path, host: str) -> None:
    assert BrokerSettings.load(write(tmp_path, host=host, username="me", password="x")).host == host


def test_a_password_that_cannot_be_sent_is_named_and_not_shown(tmp_path: Path) -> None:
    environ = write(tmp_path, host="mq", username="me")
    with pytest.raises(SettingError, match="WARREN_BROKER_PASSWORD is wrong: it is not UTF-8") as raised:
        BrokerSettings.load({**environ, "WARREN_BROKER_PASSWORD": "hunter\udcff"})
    assert "hunter" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "amqp://me:hunter2@mq:5672/v"),
        ("host", "me:hunter2@mq"),
        ("host", f"amqp://{'me' * 100}:hunter2@mq"),
        ("host", "amqp://me:hunter2@hunter2@mq"),
        ("port", "amqp://me:hunter2@mq"),
        ("management_url", "http://me:hunter2@mq:15672"),
        ("management_url", "me:hunter2@mq:15672"),
    ],
)
def test_a_password_within_an_address_is_not_shown(tmp_path: Path, name: str, value: str) -> None:
    environ = write(tmp_path, **{"host": "mq", "username": "me", "password": "x", name: value})
    with pytest.raises(SettingError, match=r"is wrong: '…@mq") as raised:
        BrokerSettings.load(environ)
    assert "hunter2" not in str(raised.value)
    with pytest.raises(SettingError, match=r"is wrong: ") as raised:
        BrokerSettings.load({**environ, f"WARREN_BROKER_{name.upper()}": value})
    assert "hunter2" not in str(raised.value)


def test_a_password_within_any_other_setting_is_not_shown() -> None:
    for value in ("http://me:hunter2@x", "http://me:hunter2@\udcff"):
        with pytest.raises(SettingError, match=r"WARREN_X='…@") as raised:
            setting({"WARREN_X": value}, "WARREN_X", whole_number(1, 2))
        assert "hunter2" not in str(raised.value)


def test_a_wrong_port_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"port is wrong: '99999': write a whole number from 1 to 65535"):
        BrokerSettings.load(write(tmp_path, host="mq", username="me", password="x", port="99999"))
