"""Each part's broker user may do what its part does, and nothing else: on the broker that the chart configures."""

import re
from collections.abc import Callable, Iterator

import httpx
import pika
import pytest
from brokers import Broker, declare_exchanges, running_broker
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker, ProbableAuthenticationError

PERSISTENT = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)


@pytest.fixture(scope="module")
def tutorial_broker() -> Iterator[Broker]:
    """A broker of its own, with the tutorial's user."""
    with running_broker({"broker": {"tutorialUser": {"enabled": True}}}) as running:
        yield running


def refused(broker: Broker, part: str, call: Callable[[BlockingChannel], object]) -> bool:
    """Whether the broker refuses a part's user this call."""
    with broker.channel(f"warren-{part}", broker.passwords[part]) as channel:
        channel.confirm_delivery()
        try:
            call(channel)
        except ChannelClosedByBroker as error:
            if error.reply_code != 403:
                raise
            return True
        return False


@pytest.mark.parametrize("part", ["producer", "worker", "operator"])
def test_everybody_may_look_at_a_queue(broker: Broker, work_queue: str, part: str) -> None:
    """A passive declare is how parts see the backlog, and that the operator has done its work.

    It needs one of the three rights on the queue, whichever.
    """
    assert not refused(broker, part, lambda channel: channel.queue_declare(work_queue, passive=True))


def test_a_producer_learns_that_a_queue_is_missing(broker: Broker, queue_name: str) -> None:
    """404, not 403: the difference between a wrong name and a wrong right."""
    with (
        broker.channel("warren-producer", broker.passwords["producer"]) as channel,
        pytest.raises(ChannelClosedByBroker) as refusal,
    ):
        channel.queue_declare(queue_name, passive=True)
    assert refusal.value.reply_code == 404


@pytest.mark.parametrize(
    ("exchange", "writers"),
    [
        ("warren.tasks", {"producer", "operator"}),
        ("warren.events", {"producer", "worker", "operator"}),
        ("warren.dead", {"worker", "operator"}),
        ("", {"operator"}),
    ],
)
def test_who_may_write(broker: Broker, work_queue: str, exchange: str, writers: set[str]) -> None:
    """Tasks come from producers, dead letters from workers, and the default exchange is a back door to both."""

    def publish(channel: BlockingChannel) -> None:
        channel.basic_publish(exchange, work_queue, b"x", PERSISTENT)

    assert {part for part in broker.passwords if not refused(broker, part, publish)} == writers


def test_who_may_read(broker: Broker, work_queue: str) -> None:
    """Tasks are the workers'; dead letters are for people, not for workers."""

    def readers(queue: str) -> set[str]:
        return {part for part in broker.passwords if not refused(broker, part, lambda at: at.basic_get(queue))}

    assert readers(work_queue) == {"worker", "operator"}
    assert readers(f"{work_queue}.dead") == {"operator"}


def test_who_may_declare(broker: Broker, work_queue: str) -> None:
    """The operator alone makes queues, exchanges and bindings."""

    def declarers(call: Callable[[BlockingChannel], object]) -> set[str]:
        return {part for part in broker.passwords if not refused(broker, part, call)}

    assert declarers(lambda channel: channel.queue_declare(f"{work_queue}-b", durable=True)) == {"operator"}
    assert declarers(lambda channel: channel.exchange_declare("other", "direct", durable=True)) == {"operator"}
    assert declarers(lambda channel: channel.queue_bind(work_queue, "warren.tasks", "other")) == {"operator"}
    assert declarers(lambda channel: channel.queue_purge(work_queue)) == {"worker", "operator"}, "a purge is a read"
    assert declarers(lambda channel: channel.queue_delete(work_queue)) == {"operator"}
    with broker.channel() as channel:
        channel.queue_delete(f"{work_queue}-b")
        channel.exchange_delete("other")


def test_a_producer_has_an_event_queue_of_its_own(broker: Broker) -> None:
    """It hears the events through an exclusive queue under its prefix."""
    with broker.channel() as channel:
        declare_exchanges(channel)

    def listen(channel: BlockingChannel) -> None:
        channel.queue_declare("warren.producer.x", exclusive=True, arguments={"x-max-length": 10})
        channel.queue_bind("warren.producer.x", "warren.events", "queue.#")
        channel.basic_consume("warren.producer.x", lambda *_: None)
        channel.basic_publish("warren.events", "queue.a", b"{}")

    assert not refused(broker, "producer", listen)
    assert refused(broker, "worker", listen)


def test_the_operator_may_set_policies_and_read_statistics(broker: Broker) -> None:
    """Through the management API, where the other parts may not even log in."""

    def call(part: str, method: str, path: str, body: object = None) -> int:
        url = f"http://{broker.host}:{broker.management_port}/api/{path}"
        answer = httpx.request(method, url, json=body, auth=(f"warren-{part}", broker.passwords[part]), timeout=10)
        return answer.status_code

    policy = {"pattern": "^nothing$", "definition": {"max-length": 5}, "apply-to": "quorum_queues"}
    assert call("operator", "PUT", "policies/%2F/test", policy) == 201
    assert call("operator", "GET", "queues") == 200
    assert call("operator", "DELETE", "policies/%2F/test") == 204
    assert call("operator", "PUT", "users/intruder", {"password": "x", "tags": ""}) in (401, 403)
    assert call("worker", "GET", "queues") in (401, 403)
    assert call("producer", "PUT", "policies/%2F/test", policy) in (401, 403)


def test_queues_without_a_type_are_quorum_queues(broker: Broker, work_queue: str) -> None:
    """What the tutorial's scripts declare is safe on disk, and matches what the operator declares."""
    types = dict(line.split("\t") for line in broker.ctl("list_queues", "name", "type").splitlines() if "\t" in line)
    assert types[work_queue] == "quorum"


def test_guest_cannot_log_in_by_default(broker: Broker) -> None:
    """Neither with the well-known password nor with none, even from the broker's own host."""
    for password in ("guest", ""):
        with pytest.raises(ProbableAuthenticationError), broker.channel("guest", password):
            pass
    answer = broker.ctl("eval", 'element(1, rabbit_access_control:check_user_pass_login(<<"guest">>, <<"guest">>)).')
    assert answer.strip() == "refused"


def test_the_tutorial_s_user_comes_from_the_broker_s_host_only(tutorial_broker: Broker) -> None:
    """Through a published port guest is a stranger; with the same password inside the container it is not."""
    with pytest.raises(ProbableAuthenticationError), tutorial_broker.channel("guest", "guest"):
        pass
    # ctl fails where the password is wrong.
    tutorial_broker.ctl("authenticate_user", "guest", "guest")
    check = 'rabbit_access_control:check_user_loopback(<<"guest">>, {127,0,0,1}).'
    assert tutorial_broker.ctl("eval", check).strip() == "ok"


def test_the_tutorial_s_user_may_do_what_the_tutorial_does(tutorial_broker: Broker) -> None:
    """Its rights, held against every call of new_task.py and worker.py, and against Warren's own names."""
    names = (
        "task_queue",
        "amq.default",
        "warren.tasks",
        "warren.events",
        "warren.dead",
        "amq.direct",
        "task_queue.dead",
    )
    listed = ", ".join(f'<<"{name}">>' for name in names)
    # What the broker itself asks before each call; an exception is a refusal.
    answer = tutorial_broker.ctl(
        "eval",
        '{ok, User} = rabbit_access_control:check_user_login(<<"guest">>, [{password, <<"guest">>}]),'
        f" [{{Name, Right}} || Name <- [{listed}], Right <- [configure, write, read],"
        ' Resource <- [rabbit_misc:r(<<"/">>, queue, Name)],'
        " ok =:= catch rabbit_access_control:check_resource_access(User, Resource, Right, #{})].",
    )
    allowed = set(re.findall(r'<<"([^"]+)">>,(\w+)', answer))
    assert allowed == {
        ("task_queue", "configure"),
        ("task_queue", "write"),
        ("task_queue", "read"),
        ("amq.default", "write"),
    }


def test_a_restart_keeps_tasks_and_mends_users() -> None:
    """The definitions are imported again at each start, over what is there: a new password in the Secret counts."""
    with running_broker() as before:
        with before.channel() as channel:
            channel.confirm_delivery()
            channel.queue_declare("kept", durable=True)
            channel.basic_publish("", "kept", b"task", PERSISTENT)
        before.ctl("change_password", "warren-worker", "something else")
        with before.restarted().channel("warren-worker", before.passwords["worker"]) as channel:
            _, _, body = channel.basic_get("kept", auto_ack=True)
    assert body == b"task"
