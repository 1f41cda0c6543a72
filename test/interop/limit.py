from collections import namedtuple

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from codec import counter_key

Row = namedtuple("Row", "allowed limit remaining reset_ms retry_after_ms limit_name reason")


def connect(url, timeout=0.05):
    """A client that sends a command once. Newer versions of redis-py would else send it again when the reply was lost,
    and charge twice."""
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=timeout, decode_responses=True)


def limit(redis, policy, subject, cost="", id=""):
    """Spends from the budget of a policy, for a subject as counter_key takes it. Without a cost it is the policy's. With
    an id of the request, the same call within 60 s gets the same row and charges nothing."""
    values = [entry[1] for entry in subject]
    row = redis.fcall("penstock_limit", 1, counter_key(policy, subject), policy, cost, id, *values)
    return Row(row[0] == 1, *row[1:7])
