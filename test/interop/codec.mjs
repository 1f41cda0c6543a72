import { createHash } from 'node:crypto';

// The key under which a policy, '<namespace>/<name>', counts a subject: [key, value] of each of its descriptors, in its
// order, as strings or Buffers. Where a descriptor has `shared: true`, its pattern is the third: [key, value, pattern].
export function counterKey(policy, subject) {
  const hash = createHash('sha256');
  for (const [key, value, pattern = value] of subject) {
    for (const part of [key, pattern]) {
      const bytes = Buffer.from(part);
      hash.update(`${bytes.length}:`).update(bytes);
    }
  }
  return `rl:{${hash.digest().subarray(0, 16).toString('base64url')}}:${policy}`;
}
