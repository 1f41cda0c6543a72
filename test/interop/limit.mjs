import Redis from 'ioredis';

import { counterKey } from './codec.mjs';

// A client that sends a command once. ioredis would else send it again on a new connection when the reply was lost, and
// charge twice.
export function connect(url, timeoutMs = 50) {
  return new Redis(url, { autoResendUnfulfilledCommands: false, maxRetriesPerRequest: 0, commandTimeout: timeoutMs });
}

// Spends from the budget of a policy, for a subject as counterKey takes it. Without a cost it is the policy's. With an id
// of the request, the same call within 60 s gets the same row and charges nothing.
export async function limit(redis, policy, subject, { cost = '', id = '' } = {}) {
  const values = subject.map(([, value]) => value);
  const row = await redis.fcall('penstock_limit', 1, counterKey(policy, subject), policy, cost, id, ...values);
  const [allowed, limit, remaining, resetMs, retryAfterMs, limitName, reason] = row;
  return { allowed: allowed === 1, limit, remaining, resetMs, retryAfterMs, limitName, reason };
}
