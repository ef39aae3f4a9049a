/** Where the network runs: in a worker of this page, or on the server that the page came from. */

import type { Description, ServerAnswer } from "./contract";
import { load, loadPieces } from "./loading";
import { Problem } from "./problem";
import type { Answer, Message, Outputs } from "./runtime/messages";

const LARGE = 10_000_000; // parameters from which WebGPU is worth its files, and only one step is kept in memory

export interface Backend {
  where: "wasm" | "webgpu" | "server";
  transfers: boolean; // outputs cross a connection, so only those that are shown are asked for
  /** Get ready to run the network at a step. Throws a Problem. */
  load(step: number): Promise<void>;
  /** Outputs of stored images [N, size, size, 3] at a step, `links` open (1) or cut (0). Throws a Problem. */
  run(step: number, images: Uint8Array, links: number[], outputs: string[]): Promise<Outputs>;
}

export interface Progress {
  loaded: number; // bytes
  total: number;
}

type OnProgress = (progress: Progress | null) => void; // null: nothing is being loaded

export async function openBackend(description: Description, onProgress: OnProgress): Promise<Backend> {
  if (description.backend === "server") return new Server();
  // A function with one SIMD instruction; runtimes that lack it cannot compile it.
  const simd = [
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
  ];
  if (!("WebAssembly" in globalThis) || !WebAssembly.validate(Uint8Array.from(simd)))
    throw new Problem((words) => words.noSimd);
  const large = description.parameters > LARGE && "webgpu" in description.runtime;
  const adapter = large ? await navigator.gpu?.requestAdapter().catch(() => null) : null;
  const fast = adapter && !adapter.info.isFallbackAdapter; // one in software is slower than WebAssembly
  return new Browser(description, onProgress, fast ? "webgpu" : "wasm");
}

class Browser implements Backend {
  transfers = false;
  private worker: Worker | null = null;
  private loaded = new Set<number>(); // steps
  private last: Promise<unknown> = Promise.resolve(); // the answer to the last message

  constructor(
    private description: Description,
    private onProgress: OnProgress,
    public where: "wasm" | "webgpu",
  ) {}

  load(step: number): Promise<void> {
    return this.inTurn(() => this.prepare(step));
  }

  run(step: number, images: Uint8Array, links: number[], outputs: string[]): Promise<Outputs> {
    const { size } = this.description.image;
    const shape = [images.length / (size * size * 3), size, size, 3];
    return this.inTurn(async () => {
      await this.prepare(step);
      return this.ask({ kind: "run", step, images, shape, links, outputs });
    });
  }

  /** Do one thing after another, the first time that WebGPU fails again without it. */
  private inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.last.then(async () => {
      try {
        return await work();
      } catch (error) {
        if (error instanceof Problem || this.where === "wasm") throw error;
      }
      this.worker?.terminate();
      this.worker = null;
      this.where = "wasm";
      return work();
    });
    this.last = done.catch(() => {});
    return done.catch((error) => {
      throw error instanceof Problem ? error : new Problem((words) => words.networkFailed(String(error)));
    });
  }

  /** Load what is not there yet of the runtime and of the network at a step. */
  private async prepare(step: number): Promise<void> {
    if (this.worker && this.loaded.has(step)) return;
    const { steps, runtime, parameters } = this.description;
    const program = steps.find((each) => each.step === step)!.program!;
    const needed = this.worker ? [program] : [runtime[this.where], program];
    const total = needed.flatMap(({ bytes }) => bytes).reduce((sum, count) => sum + count, 0);
    let loaded = 0;
    const onBytes = (count: number) => this.onProgress({ loaded: (loaded += count), total });
    onBytes(0);
    try {
      if (!this.worker) {
        const main = await load<() => void>(`runtime/${this.where}`);
        const wasm = await loadPieces(runtime[this.where], onBytes);
        this.worker = new Worker(URL.createObjectURL(new Blob([`(${main})()`], { type: "text/javascript" })));
        this.loaded.clear();
        await this.ask({ kind: "open", wasm }, [wasm]);
      }
      const content = await loadPieces(program, onBytes);
      const keep = parameters <= LARGE;
      if (!keep) this.loaded.clear();
      await this.ask({ kind: "program", step, program: content, keep }, [content]);
      this.loaded.add(step);
    } finally {
      this.onProgress(null);
    }
  }

  private ask(message: Message, transfer: Transferable[] = []): Promise<Outputs> {
    const worker = this.worker!;
    return new Promise((resolve, reject) => {
      worker.onmessage = ({ data }: MessageEvent<Answer>) =>
        "outputs" in data ? resolve(data.outputs) : reject(new Error(data.error));
      worker.onerror = (event) => reject(new Error(event.message || "the worker does not start"));
      worker.postMessage(message, transfer);
    });
  }
}

class Server implements Backend {
  where = "server" as const;
  transfers = true;

  async load(): Promise<void> {}

  async run(step: number, images: Uint8Array, links: number[], outputs: string[]): Promise<Outputs> {
    const query = new URLSearchParams({ step: String(step), links: links.join(","), outputs: outputs.join(",") });
    let response: Response;
    try {
      response = await fetch(`api/run?${query}`, { method: "POST", body: images as Uint8Array<ArrayBuffer> });
    } catch {
      throw new Problem((words) => words.serverGone);
    }
    if (!response.ok) {
      const detail = await response.json().then(
        (answer) => String(answer.detail),
        () => response.statusText,
      );
      throw new Problem((words) => words.serverRefused(detail));
    }
    return unpack(await response.arrayBuffer());
  }
}

function unpack(body: ArrayBuffer): Outputs {
  const length = new DataView(body).getUint32(0, true);
  const header: ServerAnswer = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, length)));
  const outputs: Outputs = {};
  let at = 4 + length;
  for (const { name, shape } of header.outputs) {
    const count = shape.reduce((product, side) => product * side, 1);
    outputs[name] = { shape, data: new Float32Array(body.slice(at, at + 4 * count)) };
    at += 4 * count;
  }
  return outputs;
}
