// Asks for a job's identity as an action does: with GitHub's own client, from what the runner put into the environment.
//
//   node actions-token.mjs FOLDER AUDIENCE       FOLDER holds node_modules with @actions/core
//
// The last line on standard output is the token. Exits with 1 and the client's own words when there is none.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [folder, audience] = process.argv.slice(2);
const home = path.resolve(folder, 'node_modules/@actions/core');
const { main } = JSON.parse(fs.readFileSync(path.join(home, 'package.json')));
const { getIDToken } = await import(pathToFileURL(path.join(home, main)));

try {
  console.log(await getIDToken(audience));
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
