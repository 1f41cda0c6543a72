// Answers the tests of this folder, line by line in JSON. A question has a number n, a policy and a subject, whose parts
// are strings or {"base64": "..."}. Without a URL of a Redis as the argument the answer is the counter's key, and with one
// the row, or the error as an application sees it. A question with a key has that sent in place of the counter's.

import { createInterface } from 'node:readline';

import { counterKey } from './codec.mjs';

const [url] = process.argv.slice(2);
const answer = url ? await calls() : keys;

function keys(policy, subject) {
  return { key: counterKey(policy, subject) };
}

// The codec needs no packages, so what does is imported only here.
async function calls() {
  const { connect, limit } = await import('./limit.mjs');
  const redis = connect(url, 10_000);
  redis.on('error', () => {}); // the call that failed tells, too
  process.stdin.on('end', () => redis.disconnect());
  return async (policy, subject, { key, ...options }) => {
    if (key) {
      return redis.fcall('penstock_limit', 1, key, policy, '', '', ...subject.map(([, value]) => value));
    }
    return { row: await limit(redis, policy, subject, options) };
  };
}

const bytes = (part) => (typeof part === 'string' ? part : Buffer.from(part.base64, 'base64'));

createInterface({ input: process.stdin }).on('line', async (line) => {
  const { n, policy, subject, ...options } = JSON.parse(line);
  let reply;
  try {
    reply = await answer(policy, subject.map((entry) => entry.map(bytes)), options);
  } catch (error) {
    reply = { error: error.message };
  }
  process.stdout.write(`${JSON.stringify({ n, ...reply })}\n`);
});
