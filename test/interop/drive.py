"""Answers the tests of this folder as drive.mjs does."""

import base64
import json
import sys

from codec import counter_key


def keys(policy, subject):
    return {"key": counter_key(policy, subject)}


def calls(url):
    # The codec needs no packages, so what does is imported only here.
    from limit import connect, limit

    redis = connect(url, timeout=10)

    def answer(policy, subject, key=None, **options):
        if key:
            return redis.fcall("penstock_limit", 1, key, policy, "", "", *[entry[1] for entry in subject])
        allowed, most, remaining, reset, retry_after, name, reason = limit(redis, policy, subject, **options)
        return {"row": {"allowed": allowed, "limit": most, "remaining": remaining, "resetMs": reset,
                        "retryAfterMs": retry_after, "limitName": name, "reason": reason}}

    return answer


def part(value):
    return value if isinstance(value, str) else base64.b64decode(value["base64"])


answer = calls(sys.argv[1]) if len(sys.argv) > 1 else keys
for line in sys.stdin.buffer:
    question = json.loads(line)
    n, policy, subject = question.pop("n"), question.pop("policy"), question.pop("subject")
    try:
        reply = answer(policy, [tuple(map(part, entry)) for entry in subject], **question)
    except Exception as error:
        reply = {"error": str(error)}
    print(json.dumps({"n": n, **reply}), flush=True)
