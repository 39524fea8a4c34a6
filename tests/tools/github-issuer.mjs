// An OIDC issuer with GitHub Actions' claims, on oauth2-mock-server: real discovery, real keys, real signatures.
//
//   node github-issuer.mjs FOLDER       FOLDER holds node_modules with oauth2-mock-server
//
// Listens on a free port of 127.0.0.1 and prints {"url"}. Then each line on standard input is one order, as JSON, and
// each line on standard output its answer. It ends when standard input does, so it never outlives its test.
//
//   {"op":"mint","claims":{},"drop":[],"header":{},"kid":"k1"}   -> {"token"}
//                                                                              no kid: the newest key signs
//   {"op":"rotate","alg":"ES256","kid":"k2","keep":true}         -> {"kids"}       keep: the old keys stay beside it
//   {"op":"requests"}                                            -> {"discovery","keys"}  how often each was fetched
//   {"op":"break","status":503}                                  -> {}             every fetch fails so; 0 mends it
import crypto from 'node:crypto';
import http from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';

const folder = path.resolve(process.argv[2]);
const module = createRequire(path.join(folder, 'package.json')).resolve('oauth2-mock-server');
const { OAuth2Issuer, OAuth2Service } = await import(pathToFileURL(module));

let issuer;
let service;
let newest;
let broken = 0;
const requests = { discovery: 0, keys: 0 };

async function start(alg, kid) {
  const next = new OAuth2Issuer();
  next.url = issuer?.url;
  await next.keys.generate(alg, { kid });
  service = new OAuth2Service(next);
  issuer = next;
  newest = kid;
}

function githubClaims() {
  const now = Math.floor(Date.now() / 1000);
  return {
    jti: crypto.randomUUID(),
    sub: 'repo:acme/widget:ref:refs/heads/main',
    aud: 'https://daypass.example',
    ref: 'refs/heads/main',
    ref_type: 'branch',
    ref_protected: 'true',
    sha: 'a'.repeat(40),
    repository: 'acme/widget',
    repository_id: '74',
    repository_owner: 'acme',
    repository_owner_id: '65',
    repository_visibility: 'private',
    run_id: '30433642',
    run_number: '10',
    run_attempt: '2',
    actor: 'octocat',
    actor_id: '12',
    workflow: 'release',
    workflow_ref: 'acme/widget/.github/workflows/release.yml@refs/heads/main',
    workflow_sha: 'a'.repeat(40),
    job_workflow_ref: 'acme/ci/.github/workflows/release.yml@refs/heads/main',
    job_workflow_sha: 'b'.repeat(40),
    head_ref: '',
    base_ref: '',
    event_name: 'push',
    environment: 'prod',
    runner_environment: 'github-hosted',
    iat: now,
    nbf: now - 300,
    exp: now + 300,
  };
}

const orders = {
  async mint({ claims = {}, drop = [], header = {}, kid }) {
    const token = await issuer.buildToken({
      kid: kid ?? newest,
      scopesOrTransform: (head, payload) => {
        Object.assign(payload, githubClaims(), claims);
        drop.forEach((name) => delete payload[name]);
        Object.assign(head, header);
      },
    });
    return { token };
  },
  async rotate({ alg = 'RS256', kid = crypto.randomUUID(), keep = true }) {
    if (keep) await issuer.keys.generate(alg, { kid });
    else await start(alg, kid);
    newest = kid;
    return { kids: issuer.keys.toJSON().map((key) => key.kid) };
  },
  requests: async () => requests,
  async break({ status }) {
    broken = status;
    return {};
  },
};

const server = http.createServer((request, response) => {
  const { pathname } = new URL(request.url, issuer.url);
  if (pathname === '/.well-known/openid-configuration') requests.discovery += 1;
  if (pathname === '/jwks') requests.keys += 1;
  if (broken) response.writeHead(broken).end();
  else service.requestHandler(request, response);
});

await start('RS256', 'k1');
server.listen(0, '127.0.0.1', () => {
  issuer.url = `http://127.0.0.1:${server.address().port}`;
  console.log(JSON.stringify({ url: issuer.url }));
});
for await (const line of readline.createInterface({ input: process.stdin })) {
  const { op, ...order } = JSON.parse(line);
  const answer = await orders[op](order).catch((error) => ({ error: String(error) }));
  console.log(JSON.stringify(answer));
}
process.exit(0);
