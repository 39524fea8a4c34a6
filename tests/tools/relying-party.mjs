// A relying party of JWTs, on jose: discovery over HTTP, a key set that is cached for as long as Cache-Control says and no longer.
//
//   node relying-party.mjs FOLDER       FOLDER holds node_modules with jose
//
// Each line on standard input is one order, as JSON, and each line on standard output its answer. It ends when standard input does.
//
//   {"op":"verify","issuer":"http://…","audience":"demo","token":"…"}  -> {"claims","header","fetched","age"} or {"refused"}
//                                                   fetched: how often the key set was fetched so far; age: the cache's, in seconds
import { createRequire } from 'node:module';
import path from 'node:path';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';

const folder = path.resolve(process.argv[2]);
const module = createRequire(path.join(folder, 'package.json')).resolve('jose');
const { createLocalJWKSet, jwtVerify } = await import(pathToFileURL(module));

const caches = new Map();

async function fetched(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  return answer;
}

async function keysOf(issuer) {
  const cached = caches.get(issuer);
  if (cached && Date.now() < cached.until) return cached;
  const discovery = await (await fetched(`${issuer}/.well-known/openid-configuration`)).json();
  if (discovery.issuer !== issuer) throw new Error(`discovery names ${discovery.issuer}`);
  const answer = await fetched(discovery.jwks_uri);
  const maxAge = Number(/max-age=(\d+)/.exec(answer.headers.get('cache-control'))[1]);
  const cache = {
    keys: createLocalJWKSet(await answer.json()),
    algorithms: discovery.id_token_signing_alg_values_supported,
    at: Date.now(),
    until: Date.now() + maxAge * 1000,
    fetched: (cached?.fetched ?? 0) + 1,
  };
  caches.set(issuer, cache);
  return cache;
}

async function verify({ issuer, audience, token }) {
  const { keys, algorithms, at, fetched } = await keysOf(issuer);
  try {
    const requiredClaims = ['iss', 'sub', 'aud', 'exp', 'nbf', 'iat', 'jti'];
    const { payload, protectedHeader } = await jwtVerify(token, keys, { issuer, audience, algorithms, requiredClaims, typ: 'JWT' });
    return { claims: payload, header: protectedHeader, fetched, age: (Date.now() - at) / 1000 };
  } catch (error) {
    return { refused: error.code ?? String(error) };
  }
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = await verify(JSON.parse(line));
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
