/** The files of the folder: scripts that call `explorer(NAME, VALUE)`, added when their value is needed. */

import type { Pieces } from "./contract";
import { Problem } from "./problem";

declare global {
  var explorer: (name: string, value: unknown) => void;
}

const arrived = new Map<string, unknown>();
globalThis.explorer = (name, value) => arrived.set(name, value);

/** The value of the file NAME.js. Throws a Problem that names it if it does not come. */
export function load<T>(name: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `${encodeURI(name)}.js`;
    script.onerror = () => {
      script.remove();
      reject(new Problem((words) => words.missingFile(`${name}.js`)));
    };
    script.onload = () => {
      if (!arrived.has(name)) return script.onerror!("");
      script.remove();
      resolve(arrived.get(name) as T);
      arrived.delete(name); // programs are large
    };
    document.head.append(script);
  });
}

export function bytesOf(base64: string): Uint8Array<ArrayBuffer> {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** What was compressed and split into pieces. `onBytes` hears of each piece that has come. Throws a Problem. */
export async function loadPieces({ name, bytes }: Pieces, onBytes: (count: number) => void): Promise<ArrayBuffer> {
  if (!("DecompressionStream" in globalThis)) throw new Problem((words) => words.noDecompression);
  let piece = 0;
  let missing: unknown = null; // what pulling threw, which the stream may wrap
  const compressed = new ReadableStream<Uint8Array<ArrayBuffer>>({
    async pull(controller) {
      if (piece === bytes.length) return controller.close();
      const text = await load<string>(`${name}.${piece}`).catch((error) => Promise.reject((missing = error)));
      controller.enqueue(bytesOf(text));
      onBytes(bytes[piece++]);
    },
  });
  try {
    return await new Response(compressed.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  } catch {
    throw missing ?? new Problem((words) => words.damagedFile(`${name}.${Math.max(piece - 1, 0)}.js`));
  }
}
