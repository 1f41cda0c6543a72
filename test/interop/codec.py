from base64 import urlsafe_b64encode
from hashlib import sha256


def counter_key(policy, subject):
    """The key under which a policy, "<namespace>/<name>", counts a subject: (key, value) of each of its descriptors, in
    its order, as str or bytes. Where a descriptor has `shared: true`, its pattern is the third: (key, value, pattern)."""
    digest = sha256()
    for key, value, *pattern in subject:
        for part in (key, *(pattern or [value])):
            data = part.encode() if isinstance(part, str) else part
            digest.update(b"%d:%b" % (len(data), data))
    return "rl:{%s}:%s" % (urlsafe_b64encode(digest.digest()[:16]).decode().rstrip("="), policy)
