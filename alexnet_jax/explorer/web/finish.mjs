/** The last step of `npm run build`: the runtimes' WebAssembly, compressed, and what all of it was built from. */

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";

const BUILT = "../built/";
const WASM = { wasm: "ort-wasm-simd-threaded.wasm", webgpu: "ort-wasm-simd-threaded.asyncify.wasm" };

for (const [kind, file] of Object.entries(WASM)) {
  const path = `node_modules/onnxruntime-web/dist/${file}`;
  const compressed = execFileSync("xz", ["-9", "--extreme", "--threads=1", "--stdout", path], { maxBuffer: 2 ** 26 });
  writeFileSync(`${BUILT}runtime/${kind}.wasm.xz`, compressed);
}

// tests/test_explorer_built.py computes the same, to see whether `built` belongs to the sources.
const sources = readdirSync(".", { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map(({ parentPath, name }) => `${parentPath}/${name}`.replace(/^\.\//, ""))
  .filter((path) => !/^(node_modules\/|\.)|\.test\./.test(path))
  .sort();
const hash = createHash("sha256");
for (const path of sources) hash.update(`${path}\0`).update(readFileSync(path)).update("\0");
writeFileSync(`${BUILT}sources.sha256`, `${hash.digest("hex")}\n`);
